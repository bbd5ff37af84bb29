"""What the runner knows of where cells are computed: slots that take cells and send messages.

Messages are dictionaries with a kind:

    progress  share (0 to 1), phase: a sign of life
    done      seconds, memory (peak, mebibytes, or None): the record is in the store
    failed    reason, traceback, retire (whether the process must not take another cell)
    fatal     parts (the four of a StoreError): the store cannot be written, nobody can go on
    gone      reason, log: the process died, for a reason of the cell or its own
    lost      reason: the machine or the way to it is gone; the cell can be given out again

With the last two, short says that it was killed because memory ran out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from .cell import Cell

Message = dict[str, Any]


class Slot:
    """One place where a cell can be.

    Attributes:
        number: from 0.
        cell: what it is at, None if it is free.
        cut: how many times fewer pictures than planned the cell begins with.
        model: whose weights it has loaded, "" if unknown.
        share: done of the cell, 0 to 1; phase: what it is at.
        began: when the cell was given, monotonic seconds; heard: the last sign of life.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.cell: Cell | None = None
        self.cut = 1
        self.model, self.share, self.phase, self.began, self.heard = "", 0.0, "starting", 0.0, 0.0

    def take(self, cell: Cell, cut: int = 1) -> None:
        """Note that a cell begins here."""
        self.cut = cut
        self.cell, self.model, self.share, self.phase = cell, cell.model, 0.0, "starting"
        self.began = self.heard = time.monotonic()

    def silent(self) -> float:
        """Seconds since the last sign of life."""
        return time.monotonic() - self.heard


class Engine(Protocol):
    """Where cells are computed."""

    @property
    def slots(self) -> Sequence[Slot]:
        """Every place; their number is that of the cells computed at once."""
        ...

    def give(self, slot: Slot, cell: Cell) -> None:
        """Start a cell in a free slot."""
        ...

    def listen(self, seconds: float) -> list[tuple[Slot, Message]]:
        """What busy slots have said; waits for it at most so long."""
        ...

    def end(self, slot: Slot, dump: bool = False) -> str:
        """Stop what a slot is at, now; its log, with where it was at if `dump` and that can be known."""
        ...

    def close(self) -> None:
        """Stop everything and free it."""
        ...
