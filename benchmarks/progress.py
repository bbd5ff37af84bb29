"""What a run shows: bars on a terminal, a line per cell elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from .cell import Cell
from .plan import duration

REFRESH = 4  # times a second that bars are drawn anew: ten take 0.7 % of a processor more


class Display(Protocol):
    """What the runner tells; workers are numbered from 0."""

    def start(self, total: int, left: Callable[[], float]) -> None:
        """Begin: number of cells, and the expected seconds to the finish whenever asked."""
        ...

    def working(self, worker: int, cell: Cell, share: float, phase: str) -> None:
        """A worker is at a cell: 0 to 1, and what it does."""
        ...

    def finished(self, worker: int, cell: Cell, seconds: float, reason: str = "") -> None:
        """A cell is done, or failed for a reason."""
        ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def stop(self) -> None:
        """End, whatever the state."""
        ...


def first_line(reason: str) -> str:
    """One line of a reason: of the four parts, what is wrong."""
    lines = reason.splitlines()
    wrong = [line.partition(":")[2].strip() for line in lines if line.startswith("wrong:")]
    return (wrong or lines or [""])[0]


class Silent:
    """Shows nothing."""

    def start(self, total: int, left: Callable[[], float]) -> None:
        """Nothing to see."""

    def working(self, worker: int, cell: Cell, share: float, phase: str) -> None:
        """Nothing to see."""

    def finished(self, worker: int, cell: Cell, seconds: float, reason: str = "") -> None:
        """Nothing to see."""

    def say(self, text: str) -> None:
        """Nothing to see."""

    def stop(self) -> None:
        """Nothing to see."""


class Lines(Silent):
    """A line per finished cell, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def start(self, total: int, left: Callable[[], float]) -> None:
        """Begin to count."""
        self.total, self.left, self.count = total, left, 0
        self.say(f"{total} cells to compute, about {duration(left())}")

    def finished(self, worker: int, cell: Cell, seconds: float, reason: str = "") -> None:
        """One line: count, outcome, cell, seconds, time to the finish."""
        self.count += 1
        outcome = f"failed  {cell}: {first_line(reason)}" if reason else f"done    {cell}  {seconds:.1f} s"
        width = len(str(self.total))
        self.say(f"[{self.count:{width}}/{self.total}] {outcome}  ({duration(self.left())} to finish)")

    def say(self, text: str) -> None:
        """Print at once, so that a log can be followed."""
        print(text, file=self.stream, flush=True)


class Bars:
    """One bar for the run with its time to finish, one line per worker."""

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(file=stream, width=width),
            transient=True,
            refresh_per_second=REFRESH,
        )
        self.tasks: dict[int, Any] = {}

    def start(self, total: int, left: Callable[[], float]) -> None:
        """Draw the bars."""
        self.left, self.total, self.count, self.failed = left, total, 0, 0
        self.all = self.progress.add_task("all cells", total=total, note="")
        self._overall()
        self.progress.start()

    def _overall(self) -> None:
        failed = f", {self.failed} failed" if self.failed else ""
        note = f"{self.count}/{self.total}{failed}, about {duration(self.left())} to finish"
        self.progress.update(self.all, completed=self.count, note=note)

    def _bar(self, worker: int) -> Any:
        """A worker's line; a cluster has as many workers as it has."""
        if worker not in self.tasks:
            self.tasks[worker] = self.progress.add_task("-", total=1.0, note="waiting")
        return self.tasks[worker]

    def working(self, worker: int, cell: Cell, share: float, phase: str) -> None:
        """Move a worker's bar."""
        self.progress.update(self._bar(worker), description=str(cell), completed=share, note=phase)
        self._overall()

    def finished(self, worker: int, cell: Cell, seconds: float, reason: str = "") -> None:
        """Count the cell; say why if it failed."""
        self.count, self.failed = self.count + 1, self.failed + bool(reason)
        if reason:
            self.say(f"failed: {cell}: {first_line(reason)}")
        note = "failed" if reason else f"done in {seconds:.1f} s"
        self.progress.update(self._bar(worker), completed=1.0, note=note)
        self._overall()

    def say(self, text: str) -> None:
        """A line above the bars."""
        self.progress.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """Take the bars away."""
        self.progress.stop()


def display(stream: TextIO | None = None) -> Display:
    """Bars on a terminal, lines elsewhere; on standard error unless told otherwise."""
    chosen = stream or sys.stderr
    return Bars(chosen) if chosen.isatty() else Lines(chosen)
