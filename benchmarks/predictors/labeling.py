"""Pictures labeled by a predictor: in memory, and as a method of cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators.errors import UserError
from probes.intrinsics import INTRINSICS, RELATIVE_DEPTH, Intrinsic
from probes.memory import portions
from probes.task import Examples, Task

from .base import ABSENT, Predict, PredictorSpec
from .registry import describe_predictor, identity
from .registry import load as load_predictor

BATCH = 4  # pictures a predictor sees at once
Progress = Callable[[float], None]


def _ignore(share: float) -> None:
    """Tell nobody."""


@lru_cache(maxsize=1)
def _loaded(name: str, device: str, weights: str) -> Predict:
    """The last predictor used stays in memory: three splits are labeled by one."""
    return load_predictor(name, device)


def forget() -> None:
    """Give back the memory of the last predictor used."""
    _loaded.cache_clear()


def check_asked(name: str, intrinsics: Sequence[str]) -> PredictorSpec:
    """The predictor's spec; raises UserError for an unknown one, or an intrinsic it does not give."""
    spec = describe_predictor(name)
    missing = [each for each in intrinsics if each not in spec.intrinsics]
    if missing or not intrinsics:
        raise UserError(
            f"{', '.join(missing) or 'no intrinsic'} by predictor {name!r}",
            "it does not give this" if missing else "nothing is asked for",
            f"it gives: {', '.join(spec.intrinsics)}",
            "ask for one of these, or another predictor: intrinsic-bench ls predictors",
        )
    if "depth" in intrinsics and spec.depth == "disparity":
        raise UserError(
            f"depth by predictor {name!r}",
            "it gives disparity up to scale and shift, from which no depth follows",
            f"its convention: {spec.convention}",
            "ask for another predictor: intrinsic-bench ls predictors",
        )
    return spec


def _checked(
    name: str, found: dict[str, Tensor], intrinsics: Sequence[str], shown: Tensor
) -> dict[str, Tensor]:
    """The asked maps of a batch on the CPU; raises UserError if a predictor breaks its contract."""
    maps = {}
    for intrinsic in intrinsics:
        value = found.get(intrinsic)
        shape = (len(shown), INTRINSICS[intrinsic].channels, *shown.shape[2:])
        got = None if value is None else tuple(value.shape)
        if value is None or got != shape or not value.isfinite().all():
            wrong = "no map" if value is None else f"the shape {got}" if got != shape else "NaN or infinity"
            known = f"expected is {shape}, finite"
            raise UserError(
                f"{intrinsic} by predictor {name!r}", f"it gave {wrong}", known, "mend the predictor"
            )
        maps[intrinsic] = value.float().cpu()
    return maps


def label_pictures(
    predictor: str,
    pictures: Tensor,
    intrinsics: Sequence[str],
    device: str = "cpu",
    progress: Progress = _ignore,
    batch: int = BATCH,
) -> dict[str, Tensor]:
    """Maps a predictor sees in pictures: intrinsic -> (n c h w), float32, on the CPU, of the pictures' size.

    Normals are unit vectors in our axes, albedo and shading linear RGB, depth is in meters, or, of a
    predictor whose spec.depth is "affine", without unit. How a picture is brought to the network's size,
    and a map back, is in the docstring of the predictor's module.

    Args:
        pictures: (n 3 h w), uint8 or in [-1, 1], sRGB.
        progress: called with the share done.
        batch: pictures at once; fewer where memory runs out.

    Raises:
        UserError: an unknown predictor, or one that does not give an intrinsic; its weights are missing or
            broken; or it gives something else than it should. OutOfMemory: one picture is too much.
    """
    check_asked(predictor, intrinsics)
    shape = {name: (0, INTRINSICS[name].channels, *pictures.shape[2:]) for name in intrinsics}
    if not len(pictures):
        return {name: torch.empty(size) for name, size in shape.items()}
    predict = _loaded(predictor, device, identity(predictor))

    @torch.no_grad()
    def some(rows: slice) -> dict[str, Tensor]:
        given = pictures[rows]
        shown = given.float() / 127.5 - 1 if given.dtype == torch.uint8 else given.float()
        return _checked(predictor, predict(shown), intrinsics, shown)

    parts: list[dict[str, Tensor]] = []
    for rows, found in portions(len(pictures), batch, some, f"predict by {predictor}"):
        parts.append(found)
        progress(rows.stop / len(pictures))
    return {name: torch.cat([part[name] for part in parts]) for name in intrinsics}


def near_is_one(depth: Tensor) -> Tensor:
    """Affine depth (n 1 h w) as relative depth: per picture 1 at its least, 0 at its greatest; 1 if flat."""
    low, high = depth.amin((2, 3), keepdim=True), depth.amax((2, 3), keepdim=True)
    return 1 - (depth - low) / torch.where(high > low, high - low, 1)


# The method "predictor": what the source of the labels itself reaches against the truth.


class PredictorProbe:
    """A predictor's maps as a method's: nothing is trained.

    Args:
        device: where the predictor computes.
        progress: called with the share of the pictures that it has seen.

    Attributes:
        meters: whether its depth is in meters.
        turned: whether affine depth is asked for as relative depth.
    """

    parameters, steps_per_second = 0, None

    def __init__(
        self, intrinsic: Intrinsic, name: str, device: str = "cpu", progress: Progress = _ignore
    ) -> None:
        spec = check_asked(name, [intrinsic.name])
        self.device, self.progress = device, progress
        self.intrinsic, self.name, self.meters = intrinsic, name, spec.depth == "metric"
        self.turned = intrinsic is RELATIVE_DEPTH and not self.meters
        self.details: dict[str, Any] = {"predictor": name, "identity": identity(name)}
        if intrinsic.name == "depth":
            self.details["depth"] = spec.depth

    def predict(self, examples: Examples) -> Tensor:
        """Maps (n c h w) in natural units.

        Affine depth stays without unit (score it aligned by scale and shift), or becomes relative depth
        where that is asked for: 1 at the nearest pixel of a picture, 0 at the farthest.
        """
        asked = self.intrinsic.name
        maps = label_pictures(self.name, examples.pictures, [asked], self.device, self.progress)
        found = maps[asked]
        return near_is_one(found) if self.turned else found

    def save(self, folder: Path) -> None:
        """The weights are the predictor's; there is nothing to keep."""
        folder.mkdir(parents=True, exist_ok=True)

    def release(self) -> None:
        """There is no generator."""


def fit(task: Task) -> PredictorProbe:
    """The predictor that task.options["predictor"] names; nothing is fitted.

    Raises UserError if it does not give the intrinsic, or its weights are not those it was planned with.
    """
    name, planned = str(task.options["predictor"]), str(task.options.get("identity", ""))
    now = identity(name)
    if planned and planned not in (now, ABSENT):
        raise UserError(
            f"predictor {name!r}",
            "its weights are others than when the cell was planned",
            f"{planned} then, {now} now",
            "run the suite again: it plans anew",
        )
    return PredictorProbe(task.intrinsic, name, task.device, task.progress)
