"""Whether the facts of a plugin's predictor can be true; looked at when they are read. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .base import PredictorSpec

INTRINSICS = ("normal", "depth", "albedo", "shading")
DEPTHS = ("metric", "affine", "disparity")
_TEXTS = ("name", "title", "module", "source", "licence", "convention", "citation", "sha256", "depth", "note")
_FLAGS = ("non_commercial", "embedded")


def check_facts(spec: PredictorSpec) -> None:
    """Raise ValueError that says what is wrong if facts contradict each other, or mean nothing."""
    _check_types(spec)
    unknown = [name for name in spec.intrinsics if name not in INTRINSICS]
    if unknown or not spec.intrinsics:
        wrong = f"there is no intrinsic {unknown[0]!r}" if unknown else "it gives no intrinsic"
        raise ValueError(f"{wrong}; known are {', '.join(INTRINSICS)}")
    _check_depth(spec)
    _check_source(spec)


def _check_types(spec: PredictorSpec) -> None:
    for name in _TEXTS:
        _expect(spec, name, isinstance(getattr(spec, name), str), "a text")
    for name in _FLAGS:
        _expect(spec, name, isinstance(getattr(spec, name), bool), "True or False")
    for name in ("intrinsics", "files"):
        value = getattr(spec, name)
        listed = isinstance(value, (tuple, list)) and all(isinstance(each, str) for each in value)
        _expect(spec, name, listed, "a tuple of texts")
    for name in ("name", "module"):
        _expect(spec, name, bool(getattr(spec, name)), "a text that is not empty")
    _expect(spec, "input_size", type(spec.input_size) is int and spec.input_size > 0, "a number of pixels")
    known = spec.bytes is None or (type(spec.bytes) is int and spec.bytes >= 0)
    _expect(spec, "bytes", known, "a number of bytes, or None")
    _expect(spec, "revision", spec.revision is None or isinstance(spec.revision, str), "a text or None")
    _expect(spec, "options", isinstance(spec.options, Mapping), "a mapping")
    json.dumps(dict(spec.options), sort_keys=True)  # they are part of its identity


def _expect(spec: PredictorSpec, name: str, fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"{name} = {getattr(spec, name)!r} is not {what}")


def _check_depth(spec: PredictorSpec) -> None:
    """What depth means is never guessed: without it meters and depth without unit would look the same."""
    known = ", ".join(repr(name) for name in DEPTHS)
    if "depth" in spec.intrinsics and spec.depth not in DEPTHS:
        raise ValueError(f"it gives depth, and depth = {spec.depth!r} does not say which: {known}")
    if "depth" not in spec.intrinsics and spec.depth:
        raise ValueError(f"depth = {spec.depth!r}, but depth is none of its intrinsics")


def _check_source(spec: PredictorSpec) -> None:
    """A local path is none: it differs between machines, and the hub's client raises."""
    if spec.embedded and spec.source:
        raise ValueError(f'source = {spec.source!r}, but embedded = True: weights that come along have ""')
    if not spec.embedded and not spec.source:
        raise ValueError('source = "" is for weights that come along: say embedded = True')
    if spec.on_hub and not _is_hub_id(spec.source):
        kinds = '"owner/name" on the hub, an https address, or "" with embedded = True'
        raise ValueError(f"source = {spec.source!r} is none of {kinds}")


def _is_hub_id(source: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return "/" in source
