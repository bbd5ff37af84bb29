"""What a method is given and what it gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from generators.base import Generator

from .intrinsics import Intrinsic

Remember = Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]


def seed_for(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose of a cell, so that a new draw moves no other."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU random generator for one purpose of a cell."""
    return torch.Generator().manual_seed(seed_for(seed, purpose))


@dataclass(frozen=True)
class Examples:
    """Pictures with all that is known about them, n of each.

    Attributes:
        pictures: (n 3 h w) in [-1, 1].
        maps: intrinsic -> (n c h w) in natural units.
        mask: (n 1 h w) bool, where the maps are valid.
        code: the generator's code of the pictures, empty for controls without a model.
        output: the asked map in the generator's output space (n c h' w'), None without a model.
        valid: where the output is valid (n 1 h' w') bool, None where everywhere.
        groups: one name for each picture; pictures of one group are no independent draws. () if all are.
    """

    pictures: Tensor
    maps: Mapping[str, Tensor]
    mask: Tensor
    code: Mapping[str, Tensor] = field(default_factory=dict)
    output: Tensor | None = None
    valid: Tensor | None = None
    groups: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass
class Task:
    """One question to one generator.

    Attributes:
        generator: frozen; None for the controls that look at pictures only.
        options: every option of the method, and of a model that samples.
        method: its name.
        progress: called with the share done, 0 to 1, of fitting, and then of predicting.
        parts: gives the training pictures with their maps, some at a time, where they are too many to be in
            memory together: `train` has no pixel of theirs then. None where `train` has them all.
        remember: (key, compute) -> tensors computed once for the same generator and training data.
        watch: called after each step of training with the number of steps done; it may look, and change
            nothing.
        track: called with the number of steps done and the loss of the last of them, in order; on a CUDA
            device some steps later. It may keep them, and change nothing.
        device: where a method without a generator computes, as torch names it; the examples are on the CPU.
    """

    generator: Generator | None
    intrinsic: Intrinsic
    train: Examples
    validation: Examples
    options: Mapping[str, Any]
    seed: int
    progress: Callable[[float], None] = lambda share: None
    remember: Remember = lambda key, compute: compute()
    method: str = ""
    parts: Callable[[], Iterator[Examples]] | None = None
    watch: Callable[[int], None] = lambda step: None
    track: Callable[[int, float], None] = lambda step, loss: None
    device: str = "cpu"

    @property
    def model(self) -> Generator:
        """The generator; raises TypeError if this task has none."""
        if self.generator is None:
            raise TypeError("this method asks a generator, and the task has none")
        return self.generator


class Probe(Protocol):
    """What a fitted method can do.

    Attributes:
        parameters: trainable parameters.
        details: facts found while fitting that must be the same on every run of the cell.
        steps_per_second: of training, None where there were no steps.
    """

    parameters: int
    details: dict[str, Any]
    steps_per_second: float | None

    def predict(self, examples: Examples) -> Tensor:
        """Maps (n c h w) in natural units."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was trained."""
        ...

    def release(self) -> None:
        """Give the generator back as it was."""
        ...
