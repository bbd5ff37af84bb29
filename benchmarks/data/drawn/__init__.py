"""Pictures that a model drew, as a data set for models that are shown pictures: "drawn:MODEL".

The paper asks its diffusion models about one set of 1,000 synthetic pictures with various prompts (appendix
D). Nobody knows the truth of them: labels are a predictor's.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.data import ABSENT, DataSpec
from benchmarks.needs import Need, model_need

from .sampler import COUNTS, parse


def spec(name: str) -> DataSpec:
    """Facts about what a model draws; raises UserError if it draws nothing."""
    drawn = parse(name)
    model, need = drawn.spec, model_need(drawn.model)
    here = need is None or need.here
    said = "".join(f", {key} {value:g}" for key, value in drawn.arguments.items())
    return DataSpec(
        drawn.name,
        f"pictures that {model.title} drew{said}",
        drawn.fingerprint() if here else ABSENT,
        model.domain,
        ("normal", "depth", "albedo", "shading"),
        tuple(COUNTS),
        labels=(),
        resolution=model.resolution,
        counts=COUNTS,
        licence=model.licence,
    )


def needs(name: str, splits: Sequence[str] = (), intrinsics: Sequence[str] = ()) -> tuple[Need, ...]:
    """The weights of the model that draws, whatever is asked."""
    need = model_need(parse(name).model)
    return () if need is None else (need,)
