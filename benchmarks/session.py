"""What one worker keeps between cells: the model at hand, and everything frozen that was computed for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from generators import registry
from generators.base import Denoiser, Generator
from generators.errors import UserError
from generators.random_init import blend_noise
from probes.intrinsics import Intrinsic
from probes.task import Examples, seed_for

from .cache import Cache
from .cell import NO_MODEL, Cell
from .data import describe, samples
from .data.load import Pictures, load_pictures

TRAIN_STRIDE = 100_000  # seed s trains on the pictures from s * TRAIN_STRIDE on
BATCH = 32


def split_rows(cell: Cell, split: str) -> range:
    """Scenes of a split a cell uses; only the training pictures depend on the seed."""
    if split == "train":
        return range(cell.seed * TRAIN_STRIDE, cell.seed * TRAIN_STRIDE + cell.train)
    return range(getattr(cell, split))


class Session:
    """Models and frozen tensors; the last of each kind stay in memory, all of them on disk."""

    def __init__(self, cache: Cache, device: str = "cpu") -> None:
        self.cache, self.device = cache, device
        self._generator: tuple[Any, Generator] | None = None
        self._memory: dict[str, tuple[str, Any]] = {}

    def generator(self, cell: Cell) -> Generator | None:
        """The cell's generator, noise blended in and timestep set; None if the cell has no model."""
        if cell.model == NO_MODEL:
            return None
        noise = float(cell.options.get("noise", 0.0))
        timestep = cell.options.get("timestep")
        key = (cell.model, cell.weights, noise, cell.seed if noise else 0, timestep, self.device)
        if self._generator is None or self._generator[0] != key:
            self._generator = None  # free it before the next one is loaded
            self._generator = (key, self._load(cell, noise, timestep))
        generator = self._generator[1]
        if isinstance(generator, Denoiser):
            asks = generator.spec.asks
            generator.ask(**{name: cell.options.get(name, value) for name, value in asks.items()})
        return generator

    def forget_generator(self) -> None:
        """Load the model anew for the next cell: this one may not be as it was."""
        self._generator = None

    def _load(self, cell: Cell, noise: float, timestep: int | None) -> Generator:
        if registry.identity(cell.model) != cell.weights:
            raise UserError(
                f"model {cell.model}",
                f"its weights are {registry.identity(cell.model)} now, the plan was made for {cell.weights}",
                "",
                "run the suite again: it plans anew",
            )
        generator = registry.load(cell.model, self.device)
        if timestep is not None:
            if not 0 <= timestep < generator.spec.diffusion_steps:
                raise UserError(
                    f"timestep {timestep} of {cell.model}",
                    f"it has {generator.spec.diffusion_steps} timesteps",
                    f"0 to {generator.spec.diffusion_steps - 1}",
                    "leave the option out for the model's own protocol",
                )
            generator.timestep = timestep  # type: ignore[attr-defined]
        if noise:
            blend_noise(generator.network, noise, seed_for(cell.seed, "noise"), generator.spec.head)
        return generator

    def _remembered(self, slot: str, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The last value of a slot if its key is the same, else a new one."""
        name = repr(sorted(key.items()))
        if self._memory.get(slot, ("", None))[0] != name:
            self._memory[slot] = (name, compute())
        return self._memory[slot][1]

    def pictures(self, cell: Cell, split: str) -> Pictures:
        """The cell's pictures of a split with their truth."""
        rows = split_rows(cell, split)
        key = {
            "kind": "pictures",
            "data": cell.data,
            "world": cell.world,
            "split": split,
            "rows": [rows.start, rows.stop],
            "size": cell.size,
        }

        def compute() -> Pictures:
            made: list[Pictures] = []

            def render() -> dict[str, Tensor]:
                made.append(load_pictures(cell.data, split, rows, cell.size))
                return made[0].tensors()

            return Pictures.from_tensors(self.cache.get(key, render), ())

        found: Pictures = self._remembered(f"pictures {split}", key, compute)
        return found

    def examples(self, cell: Cell, split: str, intrinsic: Intrinsic) -> Examples:
        """Pictures, truth, codes and encoded targets of a split for the cell's model."""
        if describe(cell.data).own:
            return self._own(cell, split, intrinsic)
        pictures, generator = self.pictures(cell, split), self.generator(cell)
        plain = Examples(pictures.pictures, pictures.maps, pictures.mask)
        if generator is None:
            return plain
        frozen = {
            "model": registry.frozen_identity(cell.model),
            "data": cell.data,
            "world": cell.world,
            "split": split,
            "rows": [split_rows(cell, split).start, split_rows(cell, split).stop],
            "size": cell.size,
        }
        code = self._tensors(f"code {split}", {"kind": "codes"} | frozen, pictures.pictures, generator.embed)
        if split != "train":
            return replace(plain, code=code)

        def encode(maps: Tensor) -> dict[str, Tensor]:
            return {"output": generator.encode(intrinsic.to_picture(maps))}

        key = {"kind": "targets", "intrinsic": intrinsic.name} | frozen
        output = self._tensors("targets", key, pictures.maps[intrinsic.name], encode)["output"]
        return replace(plain, code=code, output=output)

    def _own(self, cell: Cell, split: str, intrinsic: Intrinsic) -> Examples:
        """The model's own pictures with their codes, and the predictor's maps for the truth."""
        generator, rows = self.generator(cell), split_rows(cell, split)
        if generator is None:
            raise TypeError(f"data set {cell.data} needs a model")
        drawn = {
            "kind": "samples",
            "model": cell.model,
            "weights": cell.weights,
            "split": split,
            "rows": [rows.start, rows.stop],
        }

        def compute() -> dict[str, Tensor]:
            found = samples.draw(generator, split, rows)
            return found | samples.label(found["pictures"])

        key = drawn | {"labels": cell.labels, "world": cell.world}
        seen = samples.examples(self._remembered(f"own {split}", key, lambda: self.cache.get(key, compute)))
        if split != "train":
            return seen
        return replace(seen, output=generator.encode(intrinsic.to_picture(seen.maps[intrinsic.name])).cpu())

    def _tensors(
        self,
        slot: str,
        key: Mapping[str, Any],
        inputs: Tensor,
        function: Callable[[Tensor], Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """A function of pictures, in batches, from memory, disk, or computed."""

        def compute() -> dict[str, Tensor]:
            parts: list[Mapping[str, Tensor]] = []
            with torch.no_grad():
                for start in range(0, len(inputs), BATCH):
                    parts.append(function(inputs[start : start + BATCH].to(self.device)))
            return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}

        found: dict[str, Tensor] = self._remembered(slot, key, lambda: self.cache.get(key, compute))
        return found
