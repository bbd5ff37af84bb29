"""What a cell may hold, as data: everything is checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from generators import registry
from generators.base import GeneratorSpec
from generators.errors import UserError, unknown
from probes.methods import method

from .cell import NO_INTRINSIC, NO_MODEL, Cell
from .features import SPACES
from .labels import check_labels, predicted
from .metrics.catalog import ALIGNMENTS, check_alignment

SIDE = 8  # pictures' sides are multiples of this, so that every decoder's scale divides them
# Least values.
COUNTS: Mapping[str, int] = {"train": 1, "validation": 1, "test": 1, "size": SIDE, "test_size": 0, "seed": 0}
# Option of any method -> least and greatest value; None: unbounded.
RANGES: Mapping[str, tuple[float, float | None]] = {
    "steps": (1, None),
    "batch": (1, None),
    "rate": (1e-12, None),
    "timestep": (0, 999),
    "noise": (0, 1),
    "rank": (1, None),
    "patch": (1, None),
    "samples": (2, None),
    "reference": (2, None),
    "guidance": (0, None),
    "sampler_steps": (1, 1000),
    "image_guidance": (0, None),
    "rescale": (0, 1),
    "strength": (0.01, 1),
    "noise_seed": (0, None),
    "decay": (0, None),
    "dropped": (0, 1 / 3),
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "variant": ("lora", "dora", "rslora"),
    "labels": ("true", "shuffled"),
    "space": ("w+", "style"),
    "precision": ("float32", "bfloat16"),
    "schedule": ("cosine", "constant"),
    "init": ("kaiming", "gaussian"),
    "second": ("", *(name for name in SPACES if name != "rooms")),
}


def allowed_range(low: float, high: float | None) -> str:
    """Least and greatest value, in words."""
    return f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"


def check_number(name: str, value: Any, low: float, high: float | None = None) -> None:
    """Raise UserError unless a number lies in its range."""
    if value < low or (high is not None and value > high):
        raise UserError(f"{name} = {value!r}", "it is out of range", f"allowed: {allowed_range(low, high)}")


def check_count(name: str, value: Any) -> None:
    """Raise UserError unless a count is a whole number of allowed size."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(
            f"{name} = {value!r}", f"it has the type {type(value).__name__}", "a whole number", ""
        )
    check_number(name, value, COUNTS[name])


def _check_options(cell: Cell, spec: GeneratorSpec | None) -> None:
    targets = {"all", *spec.target_sets} if spec else {"all"}
    choices = {**CHOICES, "targets": tuple(sorted(targets))}
    for name, value in cell.options.items():
        if name in RANGES and value is not None:
            check_number(f"option {name} of method {cell.method}", value, *RANGES[name])
        if name in choices and value not in choices[name]:
            raise unknown(f"value of option {name} of method {cell.method}", value, choices[name])
    if cell.options.get("patch", 1) % 2 == 0:
        asked = f"option patch = {cell.options['patch']} of method {cell.method}"
        raise UserError(asked, "a patch without a middle pixel", "odd sides: 1, 3, 5")
    if cell.options.get("labels") == "shuffled" and cell.train < 2:
        asked = f"option labels = 'shuffled' with train = {cell.train}"
        raise UserError(asked, "there is no other picture whose map it could learn", "", "train = 2 or more")


def _check_able(cell: Cell, spec: GeneratorSpec) -> None:
    """Options that not every model has: a timestep, checkpoints, conditions to drop."""
    last, timestep = spec.diffusion_steps - 1, cell.options.get("timestep")
    asked, todo = f"option timestep = {timestep} of {spec.name}", "leave the option out"
    if timestep is not None and not spec.diffusion_steps:
        raise UserError(asked, "it is no diffusion model", _models(lambda s: s.diffusion_steps), todo)
    if timestep is not None and (timestep != int(timestep) or timestep > last):
        raise UserError(asked, "it is none of its timesteps", f"whole numbers from 0 to {last}", "choose one")
    if cell.options.get("checkpointing") and not _may_checkpoint(spec):
        asked = f"option checkpointing = true of {spec.name}"
        wrong = "its network cannot compute its blocks again"
        raise UserError(asked, wrong, _models(lambda s: s.diffusion_steps), todo)
    if "dropped" in cell.options and not spec.asks:
        asked = f"option dropped = {cell.options['dropped']} of {spec.name}"
        wrong = "it answers in one step, and is trained with no condition dropped"
        raise UserError(asked, wrong, _models(lambda s: s.asks), todo)


def _may_checkpoint(spec: GeneratorSpec) -> bool:
    """Whether a network may compute its blocks again: diffusers' can; a plugin's tells when it is trained."""
    return bool(spec.diffusion_steps) or registry.family_module(spec.name).__name__ not in registry.FAMILIES


def _models(have: Callable[[GeneratorSpec], Any]) -> str:
    return "models that have it: " + ", ".join([s.name for s in registry.specs() if have(s)][:30])


def _check_seeds(cell: Cell, spec: GeneratorSpec | None) -> None:
    """A method that moves latents asks no model whose code is made of pictures: that has none."""
    if method(cell.method).seeds and spec and spec.takes != "seeds":
        raise UserError(
            f"model {spec.name!r} with method {cell.method!r}",
            "it makes its code from pictures, and has no latents",
            "models that draw from seeds: "
            + (", ".join([s.name for s in registry.specs() if s.takes == "seeds"][:30]) or "none is here"),
            "leave it out of this grid",
        )


def _check_asks(cell: Cell, spec: GeneratorSpec | None) -> None:
    """An editing method needs a model that edits; a model that samples is asked at all its timesteps."""
    needed = method(cell.method).asks
    if needed and spec and needed not in spec.asks:
        raise UserError(
            f"model {spec.name!r} with method {cell.method!r}",
            f"it has no option {needed!r}",
            "models that have: " + ", ".join([s.name for s in registry.specs() if needed in s.asks][:30]),
            "ask one of these",
        )
    if spec and spec.asks and cell.options.get("timestep") is not None:
        raise UserError(
            f"option timestep = {cell.options['timestep']} of {spec.name}",
            "it samples in steps, from the last timestep to the first",
            f"its own options: {', '.join(spec.asks)}",
            "leave the option out",
        )


def _check_draws(cell: Cell, spec: GeneratorSpec | None) -> None:
    """A method that measures what a model draws asks no model that only sees."""
    if method(cell.method).needs == "samples" and spec and not spec.draws:
        raise UserError(
            f"model {spec.name!r} with method {cell.method!r}",
            "it draws no pictures: it was made to see them",
            "models that draw: " + ", ".join([s.name for s in registry.specs() if s.draws][:30]),
            "leave it out of this grid",
        )


def _check_needs(cell: Cell) -> None:
    """A method that asks a model needs one, a control that looks at pictures has none."""
    from benchmarks import data

    needs, asked = method(cell.method).needs, f"model {cell.model!r} with method {cell.method!r}"
    own = data.own_pictures(cell.data)
    if needs == "picture" and not own and cell.model != NO_MODEL:
        raise UserError(
            asked, "this control asks no model", f"its model is {NO_MODEL!r}", "give it a grid of its own"
        )
    if (needs != "picture" or own) and cell.model == NO_MODEL:
        wrong = f"data set {cell.data!r} is the model's own" if own else "this method needs a model"
        raise UserError(asked, wrong, "see: intrinsic-bench ls models", "name one")
    if own and (needs == "samples" or cell.method == "supervised"):
        wrong = "it compares with renders" if needs == "samples" else "its maps are the labels there"
        raise UserError(f"method {cell.method!r} on data set {cell.data!r}", wrong, "", "use data = 'rooms'")
    asked = f"intrinsic {cell.intrinsic!r} with method {cell.method!r}"
    if needs == "samples" and cell.intrinsic != NO_INTRINSIC:
        wrong = "it measures what a model draws, which has no intrinsic"
        raise UserError(asked, wrong, "", "leave out intrinsics in its grid")
    if needs != "samples" and cell.intrinsic == NO_INTRINSIC:
        raise UserError(asked, "this method needs an intrinsic", "see: intrinsic-bench ls data", "name one")


def _check_world(cell: Cell) -> None:
    """What a model draws is compared with renders of an embedded world: they alone have captions."""
    from benchmarks.data.rooms.worlds import WORLDS

    if method(cell.method).needs == "samples" and cell.data not in WORLDS:
        raise UserError(
            f"method {cell.method!r} on data set {cell.data!r}",
            "it compares with renders of an embedded world",
            f"embedded worlds: {', '.join(WORLDS)}",
            "use data = 'rooms'",
        )


def _check_drawn_size(cell: Cell, spec: GeneratorSpec) -> None:
    """What a model draws is compared with renders of the same size."""
    if method(cell.method).needs == "samples" and spec.resolution != cell.size:
        wrong = f"the pictures that {spec.name!r} draws have {spec.resolution} pixels a side"
        raise UserError(f"size = {cell.size}", wrong, "", f"size = {spec.resolution}")


def _check_predictor(cell: Cell) -> None:
    """The predictor that is scored gives the intrinsic."""
    from .predictors.registry import PREDICTORS, describe_predictor

    if "predictor" not in cell.options:
        return
    name = str(cell.options["predictor"])
    known = describe_predictor(name).intrinsics
    if cell.intrinsic not in known:
        able = [each for each, spec in PREDICTORS.items() if cell.intrinsic in spec.intrinsics]
        raise UserError(
            f"intrinsic {cell.intrinsic!r} of predictor {name!r}",
            "it does not give it",
            f"it gives: {', '.join(known)}; predictors that give {cell.intrinsic!r}: {', '.join(able)}",
            "ask one of these",
        )


def check_cell(cell: Cell) -> None:
    """Raise UserError unless a cell can be computed; nothing is loaded."""
    spec = None if cell.model == NO_MODEL else registry.spec(cell.model)
    _check_needs(cell)
    for name in COUNTS:
        check_count(name, getattr(cell, name))
    for name in ("size", "test_size"):
        if getattr(cell, name) % SIDE:
            asked = f"{name} = {getattr(cell, name)}"
            raise UserError(asked, f"it is no multiple of {SIDE}", "8, 16, 24, ...")
    if cell.intrinsic != NO_INTRINSIC:
        check_alignment(cell.intrinsic, cell.alignment)
    elif cell.alignment not in ALIGNMENTS:
        raise unknown("alignment", cell.alignment, ALIGNMENTS)
    for split in ("train", "validation", "test"):
        _check_split(cell, split)
    _check_world(cell)
    _check_options(cell, spec)
    _check_predictor(cell)
    if spec:
        _check_able(cell, spec)
    _check_seeds(cell, spec)
    _check_draws(cell, spec)
    _check_asks(cell, spec)
    if spec:
        _check_drawn_size(cell, spec)
    if spec and method(cell.method).needs != "samples":
        _check_pictures(cell, spec)


def _check_split(cell: Cell, split: str) -> None:
    """The pictures of a split exist, are enough, and have truth of the intrinsic from the label source."""
    from benchmarks import data

    if split != "test" and method(cell.method).needs == "samples":
        return
    name, labels, _ = cell.asked_of(split)
    world = data.describe(name)
    if cell.intrinsic == NO_INTRINSIC:
        return
    if cell.intrinsic not in world.intrinsics and not predicted(name, labels):
        raise unknown(f"intrinsic of data set {name!r}", cell.intrinsic, world.intrinsics)
    check_labels(name, labels, cell.intrinsic)
    if split not in world.splits:
        raise UserError(
            f"split {split!r} of data set {name!r}",
            "it does not exist",
            f"it has: {', '.join(world.splits)}",
            "train on another data set: train_data = ..." if split != "test" else "use another data set",
        )


def _draws_its_own(spec: GeneratorSpec) -> bool:
    """Whether a model can be shown what it has drawn: it needs seeds alone, or captions of a known world."""
    from benchmarks import data

    if spec.takes != "images":
        return True
    return spec.draws and not spec.asks and (spec.domain in data.DATA or not spec.diffusion_steps)


def _check_pictures(cell: Cell, spec: GeneratorSpec) -> None:
    """A model made from seeds is asked about its own pictures, one of pictures about those it is shown.

    A model that takes both can be asked both: its codes are drawn, or encoded from given pictures.
    """
    from benchmarks import data

    own = data.own_pictures(cell.data)
    if own != data.own_pictures(cell.train_data or cell.data) or (own and cell.test_size):
        raise UserError(
            f"training on {cell.train_data or cell.data!r} at size {cell.size} and testing on {cell.data!r} "
            f"at {cell.test_size or cell.size}",
            "a model's own pictures come with codes that nothing else has",
            "",
            "train and test on its own pictures at their own size, or on given pictures",
        )
    asked = f"model {spec.name!r} on data set {cell.data!r}"
    if spec.takes == "seeds" and not own:
        known = ", ".join([s.name for s in registry.specs() if s.takes != "seeds"][:30])
        wrong = "it makes its pictures from seeds and cannot be shown any"
        todo = "ask it about its own pictures: data = 'samples', labels = 'rooms-network'"
        raise UserError(asked, wrong, f"models that take pictures: {known}", todo)
    if own and not _draws_its_own(spec):
        known = ", ".join([s.name for s in registry.specs() if _draws_its_own(s)][:30])
        wrong = "it takes pictures, and draws none of an embedded world by itself"
        todo = "use a data set of pictures" + (f", as drawn:{spec.name}" if spec.draws else "")
        raise UserError(asked, wrong, f"models that draw their own: {known}", todo)
    if own and spec.resolution != cell.size:
        wrong = f"its own pictures have {spec.resolution} pixels a side"
        raise UserError(f"size = {cell.size}", wrong, "", f"size = {spec.resolution}")
    if own and cell.options.get("noise"):
        raise UserError(
            f"option noise = {cell.options['noise']} of {spec.name}",
            "its own pictures would change with its weights",
            "models that take pictures can be blended with noise",
            "leave the option out",
        )
