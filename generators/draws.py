"""What a training step draws at random: for the whole batch, of which this process has some rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Draws for every picture of a batch; each gives this process's rows alone.

    The stream moves on by the whole batch, so what a picture is given does not depend on how many
    processes share it.

    Attributes:
        random: generator on the CPU.
        batch: pictures in the whole batch.
        rows: which of them are here; None for all.
    """

    random: torch.Generator
    batch: int
    rows: slice | None = None

    def _mine(self, drawn: Tensor) -> Tensor:
        return drawn if self.rows is None else drawn[self.rows]

    def integers(self, below: int) -> Tensor:
        """Whole numbers (b) from 0 to below - 1."""
        import torch

        return self._mine(torch.randint(below, (self.batch,), generator=self.random))

    def uniform(self) -> Tensor:
        """Numbers (b) in [0, 1)."""
        import torch

        return self._mine(torch.rand(self.batch, generator=self.random))

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers (b, *shape)."""
        import torch

        return self._mine(torch.randn((self.batch, *shape), generator=self.random))
