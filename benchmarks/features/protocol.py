"""How features were measured; two sets are compared only if it was in one way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from generators.errors import UserError

UNDECLARED = ""  # weights of statistics that somebody else made and did not say


@dataclass(frozen=True)
class Protocol:
    """Everything beside the pictures that decides their features.

    Attributes:
        features: name of the feature space.
        extractor: the network in words.
        weights: sha256 of its weights, hexadecimal digits; UNDECLARED if nobody said.
        resize: filter before the extractor's own, one of resize.FILTERS.
        size: "HxW" in pixels after it.
        crop: whether the square in the middle was cut out first.
    """

    features: str
    extractor: str
    weights: str
    resize: str
    size: str
    crop: bool

    @classmethod
    def read(cls, stored: Any) -> Protocol:
        """A protocol from JSON; raises ValueError if it is none."""
        kinds = {field.name: str for field in fields(cls)} | {"crop": bool}
        if not isinstance(stored, dict) or {k: type(v) for k, v in stored.items()} != kinds:
            raise ValueError(f"a protocol has {', '.join(kinds)}")
        return cls(**stored)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def differences(a: Protocol, b: Protocol) -> list[str]:
    """Where two protocols differ, in words; weights that nobody declared differ from none."""
    found = [(name, value, getattr(b, name)) for name, value in asdict(a).items()]
    undeclared = UNDECLARED in (a.weights, b.weights)
    return [
        f"{name} is {first!r} and {second!r}"
        for name, first, second in found
        if first != second and not (name == "weights" and undeclared)
    ]


def check_same(a: Protocol, b: Protocol, asked: str) -> None:
    """Raise UserError, which names the differences, unless two sets were measured in one way."""
    found = differences(a, b)
    if found:
        raise UserError(
            asked,
            "the two sets were measured in different ways, and their distance would mean nothing: "
            + "; ".join(found),
            "one protocol: features, weights, resize filter, size and crop",
            "measure both sets with the same options",
        )


DECLARED = ("features", "resize", "size", "crop", "count")  # what foreign statistics must be said to be


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def declared_protocol(given: Mapping[str, str], extractor: str, asked: str) -> tuple[Protocol, int]:
    """Protocol and number of pictures of statistics that do not say it themselves.

    Args:
        given: features, resize, size (as "256", "256x256"), crop (yes or no) and count; perhaps weights.
        extractor: words of the declared feature space.

    Raises:
        UserError: something is not declared, or cannot be.
    """
    known = f"needed: {', '.join(DECLARED)}; possible: weights (sha256)"
    todo = "--declare features=inception --declare resize=none --declare size=256 --declare crop=no ..."
    missing = [name for name in DECLARED if name not in given]
    unknown = [name for name in given if name not in (*DECLARED, "weights")]
    if missing or unknown:
        what = f"not declared: {', '.join(missing)}" if missing else f"unknown: {', '.join(unknown)}"
        raise UserError(asked, f"the file does not say how it was measured; {what}", known, todo)
    sides = [_whole(side) for side in given["size"].split("x")]
    count, crop = _whole(given["count"]), given["crop"]
    if len(sides) > 2 or not all(sides) or count < 2 or crop not in ("yes", "no"):
        wrong = f"size {given['size']!r}, crop {crop!r}, count {given['count']!r} cannot be"
        raise UserError(asked, wrong, "size in pixels, crop yes or no, count of at least 2", todo)
    size = f"{sides[0]}x{sides[-1]}"
    weights = given.get("weights", UNDECLARED)
    return Protocol(given["features"], extractor, weights, given["resize"], size, crop == "yes"), count
