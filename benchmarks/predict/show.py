"""What `predict` shows while it works: a bar on a terminal, a line per picture elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO


class Show:
    """A line per picture, for logs and pipes; `stream` None for nothing at all."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream, self.count, self.total = stream, 0, 0

    def start(self, total: int, finished: int) -> None:
        """Begin: number of pictures to do, and of those that are done already."""
        self.total = total
        self.say(f"{total} pictures" + (f", {finished} more are finished" if finished else ""))

    def done(self, name: str, reason: str = "") -> None:
        """One picture is written, or failed for a reason."""
        self.count += 1
        width = len(str(self.total))
        self.say(f"[{self.count:{width}}/{self.total}] " + (f"failed  {name}: {reason}" if reason else name))

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.stream is not None:
            print(text, file=self.stream, flush=True)

    def stop(self) -> None:
        """End, whatever the state."""


class Bar(Show):
    """A bar with the rate and the time to the finish."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        from rich import progress
        from rich.console import Console

        columns: list[Any] = [
            progress.TextColumn("pictures"),
            progress.BarColumn(bar_width=28),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}", markup=False),
            progress.TimeRemainingColumn(),
        ]
        self.progress = progress.Progress(*columns, console=Console(file=stream))

    def start(self, total: int, finished: int) -> None:
        """Draw the bar."""
        self.task = self.progress.add_task("pictures", total=total, rate="")
        if finished:
            self.say(f"{finished} more pictures are finished")
        self.started = time.monotonic()  # the model is loaded by now
        self.progress.start()

    def done(self, name: str, reason: str = "") -> None:
        """Move the bar; say why where one failed."""
        self.count += 1
        if reason:
            self.say(f"failed  {name}: {reason}")
        rate = self.count / max(1e-9, time.monotonic() - self.started)
        self.progress.update(self.task, completed=self.count, rate=f"{rate:.2f}/s")

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.progress.console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """Take the bar away."""
        self.progress.stop()


def show(stream: TextIO | None = None) -> Show:
    """A bar on a terminal, lines elsewhere; on standard error unless told otherwise."""
    chosen = stream or sys.stderr
    return Bar(chosen) if chosen.isatty() else Show(chosen)
