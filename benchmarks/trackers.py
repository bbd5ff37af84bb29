"""What is told to TensorBoard or Weights & Biases while a cell is computed: losses, phases, scores.

A tracker hears and changes nothing: a cell gives the same numbers with and without one. Files are below
STORE/tracks/HASH, one folder for each cell, begun anew with every attempt.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from generators.errors import UserError, unknown

if TYPE_CHECKING:
    from .cell import Cell, Record
    from .store import Store

TRACKS = "tracks"  # folder of a store
PROJECT = "intrinsic-bench"  # at Weights & Biases


class Tracker:
    """What hears how a cell goes; this one keeps nothing."""

    def loss(self, step: int, value: float) -> None:
        """Take the loss of a training step, of which the first is 1."""

    def phase(self, name: str, seconds: float) -> None:
        """Take that a phase begins, so many seconds after the cell did."""

    def scores(self, record: Record) -> None:
        """Take what came of the cell."""

    def close(self) -> None:
        """Write everything out."""


class TensorBoard(Tracker):
    """Event files that `tensorboard --logdir STORE/tracks` shows."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))
        self.writer.add_text("cell", f"```\n{json.dumps(cell.facts(), indent=1)}\n```", 0)

    def loss(self, step: int, value: float) -> None:
        """See Tracker."""
        self.writer.add_scalar("loss", value, step)

    def phase(self, name: str, seconds: float) -> None:
        """See Tracker."""
        self.writer.add_text("phase", f"{name} after {seconds:.1f} s", round(seconds))

    def scores(self, record: Record) -> None:
        """See Tracker."""
        for name, value in _numbers(record).items():
            self.writer.add_scalar(name, value, 0)

    def close(self) -> None:
        """See Tracker."""
        self.writer.close()


class WeightsAndBiases(Tracker):
    """One run of the project PROJECT with the cell for its configuration.

    Offline unless the environment's WANDB_MODE says otherwise: `wandb sync STORE/tracks/*/wandb/offline-*`
    sends what was kept.
    """

    def __init__(self, cell: Cell, folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=PROJECT,
            name=str(cell),
            group=cell.model,
            config=cell.facts() | {"hash": cell.hash},
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",  # a worker computes many cells
            settings={"console": "off", "silent": True},  # what is written is in the log of the cell
        )

    def loss(self, step: int, value: float) -> None:
        """See Tracker."""
        self.run.log({"loss": value}, step=step)

    def phase(self, name: str, seconds: float) -> None:
        """See Tracker."""
        self.run.summary[f"phases/{name}"] = seconds

    def scores(self, record: Record) -> None:
        """See Tracker."""
        for name, value in _numbers(record).items():
            self.run.summary[name] = value

    def close(self) -> None:
        """See Tracker."""
        self.run.finish()


# Name -> what tracks, the package it needs, and the extra that brings it.
TRACKERS: Mapping[str, tuple[Callable[[Cell, Path], Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (WeightsAndBiases, "wandb"),
}
_current: ContextVar[Tracker] = ContextVar("tracker", default=Tracker())  # noqa: B039 (it has no state)


def _numbers(record: Record) -> dict[str, float]:
    """Scores and seconds of a record by the names trackers show them under."""
    scores = {f"scores/{name}": value for name, value in record.scores.items()}
    return scores | {f"seconds/{name}": value for name, value in record.seconds.items()}


def check(track: str) -> None:
    """Raise UserError unless there is a tracker of this name and its package is here; "" is none."""
    if not track:
        return
    if track not in TRACKERS:
        raise unknown("tracker", track, TRACKERS, "leave --track out for none")
    package = TRACKERS[track][1]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"--track {track}",
            f"the package {package} is not installed",
            "it comes with an extra of this package",
            f"pip install 'intrinsic-bench[{track}]'",
        )


def current() -> Tracker:
    """The tracker of the cell that is being computed here."""
    return _current.get()


@contextmanager
def begin(cell: Cell, store: Store, track: str) -> Iterator[Tracker]:
    """A tracker at work while a cell is computed, which `current` gives; one that keeps nothing for "".

    Raises UserError as `check`.
    """
    check(track)
    tracker = Tracker()
    if track:
        folder = store.root.folder / TRACKS / cell.hash
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt
        tracker = TRACKERS[track][0](cell, folder)
    token = _current.set(tracker)
    try:
        yield tracker
    finally:
        _current.reset(token)
        tracker.close()


def hearing(tell: Callable[[float, str], None]) -> Callable[[float, str], None]:
    """A listener to progress that lets the current tracker hear of each phase when it begins, too."""
    tracker, began, last = current(), time.monotonic(), ""

    def listener(share: float, phase: str) -> None:
        nonlocal last
        if phase != last:
            last = phase
            tracker.phase(phase, time.monotonic() - began)
        tell(share, phase)

    return listener
