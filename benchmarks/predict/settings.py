"""What decides a map, beside the picture: model, adapter, intrinsic and how all is done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.devices import check_device
from generators import registry
from generators.errors import UserError, unknown
from generators.hub import hash_files
from probes.methods import RELATIVE

from .layout import POLICIES
from .writing import Shown

if TYPE_CHECKING:
    from generators.base import GeneratorSpec
    from probes.adapters import AdapterFacts

PRECISIONS = ("float32", "bfloat16", "float16")
WHITE = (255, 255, 255)


def threads() -> int:
    """How many read, and how many write: a GPU is faster than one of them."""
    return max(2, min(8, os.cpu_count() or 1))


@dataclass(frozen=True)
class Settings:
    """How maps are made.

    Attributes:
        resize: a key of layout.POLICIES; None: "keep", or "square" for models of one size.
        shown: how they are written.
        sheet: whether sheets are made, too.
        background: sRGB, 8 bits, seen through transparent pixels.
        precision: float32, or what autocast computes in.
        asks: how a model that samples is asked, where it is not its default (spec.asks).
        batch: pictures, or tiles, of the same size that the model is shown at once.
        device: as torch names it.
        readers, writers: threads.
    """

    resize: str | None = None
    shown: Shown = field(default_factory=Shown)
    sheet: bool = False
    background: tuple[int, int, int] = WHITE
    precision: str = "float32"
    asks: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 4
    device: str = "cpu"
    readers: int = field(default_factory=threads)
    writers: int = field(default_factory=threads)

    def check(self) -> None:
        """Raise UserError for what nobody can be asked for."""
        self.shown.check()
        if self.resize is not None and self.resize not in POLICIES:
            raise unknown("resize policy", self.resize, POLICIES)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        for name in ("batch", "readers", "writers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}", "nothing would be done", "at least 1")
        check_device(self.device)


@dataclass(frozen=True)
class Question:
    """Which model is asked what, with which adapter."""

    spec: GeneratorSpec
    intrinsic: str
    adapter: Path
    facts: AdapterFacts
    asks: Mapping[str, Any]


def find_question(
    adapter: str | Path | None, model: str | None, intrinsic: str | None, asks: Mapping[str, Any]
) -> Question:
    """The adapter's facts, and that what was asked for agrees with them; raises UserError."""
    from probes.adapters import check_base, read_facts
    from probes.intrinsics import INTRINSICS

    if adapter is None:
        raise UserError(
            "predict without an adapter",
            "a pretrained model draws pictures; what draws maps is an adapter trained for one intrinsic",
            "every LoRA cell of a suite leaves one: results/SUITE/adapters/HASH",
            "intrinsic-bench run SUITE, or intrinsic-bench adapter import FILE; then --adapter DIR",
        )
    folder = Path(adapter)
    facts = read_facts(folder)
    spec = registry.spec(model or facts.model)
    if intrinsic is not None and intrinsic not in INTRINSICS:
        raise unknown("intrinsic", intrinsic, INTRINSICS)
    if intrinsic not in (None, facts.intrinsic):
        raise UserError(
            f"intrinsic {intrinsic!r} with the adapter {folder}",
            f"it was trained for {facts.intrinsic}",
            "one adapter answers one question",
            f"leave --intrinsic out, or name an adapter for {intrinsic}",
        )
    if spec.takes == "seeds":
        raise UserError(
            f"predict with {spec.name}",
            "it makes its pictures from seeds and cannot be shown any",
            "models that take pictures: intrinsic-bench ls models",
            "use an adapter of such a model",
        )
    check_base(facts, spec.name)
    trained = {k: v for k, v in facts.options.items() if k in spec.asks}
    return Question(spec, facts.intrinsic, folder, facts, dict(spec.asks) | trained | _asks(spec, asks))


def _asks(spec: GeneratorSpec, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given as `--set key=value`, texts read as values of the default's type."""
    found = {}
    for key, value in given.items():
        if key not in spec.asks:
            known = ", ".join(f"{k}={v}" for k, v in spec.asks.items()) or "it is asked in one way only"
            raise UserError(f"--set {key}={value} with {spec.name}", "it has no such option", known)
        found[key] = _as(spec.asks[key], key, value)
    return found


def _as(default: Any, key: str, value: Any) -> Any:
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        return value if default is None else kind(value)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--set {key}={value}", f"it is no {kind.__name__}", f"the default is {default!r}"
        ) from error


def adapter_hash(folder: Path) -> str:
    """Hash of an adapter's weights and of what says how they are used."""
    from probes.adapters import CONFIG, weights_file

    config = folder / CONFIG
    return hash_files([weights_file(folder), *([config] if config.is_file() else [])])


def identity(question: Question, settings: Settings, policy: str) -> dict[str, Any]:
    """Every value that decides a map; a map made with others is not taken for this one."""
    shown = settings.shown
    depth: dict[str, Any] = {"colormap": shown.colormap, "colors_over": shown.limits}
    if question.facts.alignment == RELATIVE:
        depth |= {"depth": "relative"}
    turned = question.facts.axes != "ours"
    return {
        "model": question.spec.name,
        "weights": registry.identity(question.spec.name),
        "adapter": adapter_hash(question.adapter),
        "intrinsic": question.intrinsic,
        "asks": dict(question.asks),
        "timestep": question.facts.options.get("timestep"),
        "resolution": question.spec.resolution,
        "resize": policy,
        "background": list(settings.background),
        "precision": settings.precision,
        "formats": sorted(shown.formats),
        "sheet": settings.sheet,
        **(depth if question.intrinsic == "depth" else {}),
        **({"drawn_axes": question.facts.axes} if turned else {}),
    }


def depth_unit(facts: AdapterFacts) -> str:
    """What a depth of 1 is: the adapter's training data know."""
    if facts.alignment == RELATIVE:
        return "none: the adapter draws relative depth; full scale is the nearest point, 0 the farthest"
    if facts.cell is None:
        return "meters along the view axis, as its import was told or took for granted"
    trained_on = facts.cell.get("train_data") or facts.cell.get("data")
    return f"meters along the view axis, as in the data set {trained_on} it was trained on"
