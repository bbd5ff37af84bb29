"""The model at work: pieces of pictures of equal size together, as many as a batch holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from probes import memory

from .clock import Clock
from .layout import Layout, Size, join

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from generators.base import Generator
    from probes.intrinsics import Intrinsic

    from .inputs import Source

ASKED = "draw maps"
HELD = 4  # batches of pieces that wait for others of their size, at most


@dataclass(eq=False)  # a picture is itself and no other
class Job:
    """One picture on its way through the model.

    Attributes:
        facts: of the file, for the sidecar.
        canvas: (3 H W) in [-1, 1].
        seen: (h w 3) for the sheet, None without one: large pictures are not kept longer than needed.
        parts: what the model drew of each box of the layout, None as long as it has not.
        reason: why it failed, "" if it did not.
        left: whether it was given on already.
    """

    source: Source
    layout: Layout
    facts: Mapping[str, Any]
    notes: tuple[str, ...]
    canvas: NDArray[np.float32]
    seen: NDArray[np.uint8] | None
    parts: list[Tensor | None] = field(default_factory=list)
    reason: str = ""
    left: bool = False

    def __post_init__(self) -> None:
        self.parts = [None] * len(self.layout.boxes)

    def piece(self, number: int) -> Tensor:
        """One box of the canvas (3 h w)."""
        top, left, h, w = self.layout.boxes[number]
        return torch.from_numpy(self.canvas[:, top : top + h, left : left + w])

    @property
    def complete(self) -> bool:
        """Whether every box was drawn, or one could not be."""
        return bool(self.reason) or all(part is not None for part in self.parts)


class Batches:
    """Collects pieces until a batch of one size is full."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.waiting: dict[Size, list[tuple[Job, int]]] = {}

    def add(self, job: Job) -> Iterator[list[tuple[Job, int]]]:
        """Take a picture in; gives every batch that is due."""
        for number, (_, _, h, w) in enumerate(job.layout.boxes):
            pieces = self.waiting.setdefault((h, w), [])
            pieces.append((job, number))
            if len(pieces) == self.batch:
                yield self.waiting.pop((h, w))
        # Pictures of many sizes would pile up, each waiting for its like.
        while sum(map(len, self.waiting.values())) > HELD * self.batch:
            yield self.waiting.pop(max(self.waiting, key=lambda size: len(self.waiting[size])))

    def rest(self) -> Iterator[list[tuple[Job, int]]]:
        """What is left at the end."""
        while self.waiting:
            yield self.waiting.pop(next(iter(self.waiting)))


class Artist:
    """A generator with its adapter, asked for one intrinsic.

    Args:
        precision: float32, or what autocast computes in.
    """

    def __init__(
        self, generator: Generator, intrinsic: Intrinsic, precision: str, device: str, clock: Clock
    ) -> None:
        self.generator, self.intrinsic, self.device, self.clock = generator, intrinsic, device, clock
        self.precision = precision

    def _casting(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.split(":")[0], getattr(torch, self.precision))

    @torch.no_grad()
    def draw(self, pictures: Tensor) -> Tensor:
        """Pictures (b 3 h w) in [-1, 1] to their maps as the model draws them (b 3 h w)."""
        with self._casting():
            with self.clock.phase("embed", device=True):
                code: Mapping[str, Tensor] = self.generator.embed(pictures.to(self.device))
            with self.clock.phase("forward", device=True):
                output = self.generator.forward(code, self.intrinsic.name)
            with self.clock.phase("decode", device=True):
                return self.generator.decode(output)

    def work(self, batch: list[tuple[Job, int]]) -> list[Job]:
        """Draw a batch of pieces; gives the pictures that are complete now, each once.

        Where memory runs out there are fewer at once, in later batches, too. Pieces of a size of which not
        even one fits fail their own pictures only.
        """
        wanted = [(job, number) for job, number in batch if not job.reason]

        def some(rows: slice) -> Tensor:
            return self.draw(torch.stack([job.piece(number) for job, number in wanted[rows]]))

        size = min(len(wanted), memory.at_once().get(ASKED, len(wanted)))
        try:
            for rows, drawn in memory.portions(len(wanted), size, some, ASKED):
                for (job, number), part in zip(wanted[rows], drawn, strict=True):
                    job.parts[number] = part
        except memory.OutOfMemory as error:
            for job, number in wanted:
                if job.parts[number] is None:
                    job.reason = f"not enough memory for it ({error.wrong}): try --resize tile"
        complete = [job for job in dict.fromkeys(job for job, _ in batch) if job.complete and not job.left]
        for job in complete:
            job.left = True
        return complete

    def natural(self, job: Job) -> NDArray[np.float32] | None:
        """The whole map (h w c) in natural units; None if it is not finite."""
        with self.clock.phase("back"), torch.no_grad():
            parts = [part for part in job.parts if part is not None]
            whole = join(job.layout, parts)[None]
            found = self.intrinsic.from_picture(whole)[0]
            values: NDArray[np.float32] = found.permute(1, 2, 0).float().cpu().contiguous().numpy()
        return values if np.isfinite(values).all() else None
