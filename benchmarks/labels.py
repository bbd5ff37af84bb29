"""Where truth comes from: a data set's own, or what a predictor says of its pictures. Imports no torch."""

from __future__ import annotations

from generators.errors import UserError, unknown

from .needs import EXACT


def predicted(data: str, labels: str) -> bool:
    """Whether a label source is a predictor, not something that the data set brings."""
    from .data import describe

    return labels != EXACT and labels not in describe(data).labels


def check_labels(data: str, labels: str, intrinsic: str) -> None:
    """Raise UserError unless a data set has truth of an intrinsic from this source."""
    from .data import describe
    from .predictors.registry import PREDICTORS, describe_predictor, refuse_broken

    spec = describe(data)
    sources = (*spec.labels, *(name for name in PREDICTORS if name not in spec.labels))
    if labels not in sources:
        refuse_broken(labels)
        raise unknown(f"label source of data set {data!r}", labels, sources)
    known = spec.intrinsics if labels in spec.labels else describe_predictor(labels).intrinsics
    if intrinsic not in known:
        raise UserError(
            f"intrinsic {intrinsic!r} of data set {data!r}, labels {labels!r}",
            "this source does not have it",
            f"it has: {', '.join(known) or 'none'}",
            "name another label source; see: intrinsic-bench ls predictors",
        )
    if labels not in spec.labels and intrinsic == "depth" and describe_predictor(labels).depth == "affine":
        raise UserError(
            f"depth of data set {data!r}, labels {labels!r}",
            "what it says is neither meters nor relative depth: its zero and its unit are unknown",
            "the method 'predictor' scores it, aligned by scale and shift",
            "label depth with a metric predictor; see: intrinsic-bench ls predictors",
        )


def world_of(data: str, labels: str, train_data: str = "", train_labels: str = "") -> str:
    """What changes whenever a pixel or a label of a cell may have changed.

    The data set's fingerprint, the predictor's identity where it labels, and the same of the training
    pictures where they are others.
    """
    test = _world(data, labels)
    if not train_data and not train_labels:
        return test
    return f"{test} trained on {_world(train_data or data, train_labels or labels)}"


def _world(data: str, labels: str) -> str:
    from .data import describe
    from .predictors.registry import identity

    found = describe(data).fingerprint
    return f"{found}+{identity(labels)}" if predicted(data, labels) else found
