"""What every training of the zoo shares: it logs, saves, stops when it is told to, and knows its own state.

The file is the state: `folder/state.pt` says which run it belongs to, and no other run goes on from it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UserError

NOT_FINISHED = 4  # exit status of a training that was stopped and can go on
# What may differ where a training is continued on purpose; everything else makes it another training.
EXTENDABLE = ("steps", "batch", "processes", "stock")
STATE, LOG = "state.pt", "log.jsonl"

Stages = Mapping[int, Callable[[Any], None]]


class Unfinished(SystemExit):
    """A training stopped before its end, its state saved; what it says was printed."""

    def __init__(self, sentence: str) -> None:
        super().__init__(NOT_FINISHED)
        self.sentence = sentence


class Trainer(Protocol):
    """What `drive` trains; `average` is what stages keep."""

    step: int

    @property
    def average(self) -> Any:
        """The network whose stages are kept."""

    def advance(self) -> Mapping[str, Tensor | float]:
        """Do one step, count it; the terms to log."""

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""


@dataclass(frozen=True)
class Session:
    """How the command that is running wants its trainings.

    Attributes:
        ends: time.monotonic() after which to stop, None for never.
        every: seconds between two states.
        made_of: what a training depends on beside its seed and its batch, name to value.
        extend: whether to go on from a state whose EXTENDABLE facts differ.
    """

    ends: float | None = None
    every: float = 120.0
    made_of: Mapping[str, str | int] = field(default_factory=dict)
    extend: bool = False


_SESSION: ContextVar[Session] = ContextVar("session")


@contextmanager
def session(asked: Session) -> Iterator[None]:
    """Trainings within this block go as `asked`."""
    token = _SESSION.set(asked)
    try:
        yield
    finally:
        _SESSION.reset(token)


def _session() -> Session:
    return _SESSION.get(Session())


def world() -> tuple[int, int]:
    """(rank, processes) of data-parallel training; (0, 1) where there is one process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def save_state(path: Path, state: Mapping[str, object]) -> None:
    """Write a state whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def check_finite(terms: Mapping[str, float], step: int) -> None:
    """Raise FloatingPointError where a loss is NaN or infinite."""
    if not all(math.isfinite(value) for value in terms.values()):
        raise FloatingPointError(f"losses are {dict(terms)} at step {step}; lower the rates")


def _check_run(path: Path, saved: Mapping[str, Any], facts: Mapping[str, Any], extend: bool) -> None:
    """Raise UserError unless a state belongs to the run that is asked for."""
    wrong = [name for name, value in facts.items() if saved.get(name) != value]
    if not [name for name in wrong if not (extend and name in EXTENDABLE and name in saved)]:
        return
    other = ", ".join(f"{name} {saved.get(name, 'not known')}, not {facts[name]}" for name in wrong)
    raise UserError(
        f"to continue the training in {path.parent}",
        f"its {path.name} belongs to another run: {other}",
        f"with --extend it goes on with other {', '.join(EXTENDABLE)}; the stages it has kept stay",
        f"ask for the same again, or delete {path} to begin anew",
    )


def _resume(trainer: Trainer, folder: Path, facts: Mapping[str, Any]) -> None:
    """Go on from the folder's state, if there is one; the log keeps the lines up to there.

    The state is loaded to the CPU: Adam keeps its counts of steps where they are loaded, reads them in every
    step, and would wait for the GPU each time. `load_state_dict` brings all else to its parameter's device.
    """
    path, log = folder / STATE, folder / LOG
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        _check_run(path, state.get("run", {}), facts, _session().extend)
        trainer.restore(state)
    if log.exists() and world()[0] == 0:
        lines = log.read_text().splitlines(keepends=True)
        log.write_text("".join(line for line in lines if _logged(line) <= trainer.step))


def _logged(line: str) -> float:
    """Step of a line of a log; infinite where the line was cut off."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Names of the signals to stop that came; the second one interrupts at once."""
    came: list[str] = []

    def note(number: int, frame: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():  # Python gives signals to the main thread
        yield came
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(came: list[str], device: str) -> str:
    """Why to stop now, "" for not at all; all processes stop at the same step."""
    ends = _session().ends
    why = came[0] if came else "time is up" if ends is not None and time.monotonic() >= ends else ""
    if world()[1] > 1:
        flag = torch.tensor(float(bool(why)), device=device)
        torch.distributed.all_reduce(flag)
        why = why or ("another process was stopped" if flag.item() else "")
    return why


def drive(
    trainer: Trainer,
    folder: Path,
    last: int,
    batch: int,
    seed: int,
    device: str = "cpu",
    stages: Stages | None = None,
    log_every: int = 50,
    digits: int = 5,
) -> None:
    """Advance to step `last`, going on from `folder/state.pt`; the session says when to save and to stop.

    Args:
        batch: pictures a step, over all processes.
        stages: step -> called with the trainer's average when that step is done.
        log_every: steps between two lines (JSON) of `folder/log.jsonl`.
        digits: of the logged terms after the point.

    Raises:
        UserError: the state belongs to another run.
        Unfinished: SIGINT, SIGTERM or the session's end came first; the state is saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"batch": batch, "seed": seed, "processes": world()[1], **_session().made_of}
    _resume(trainer, folder, facts)
    started = saved = time.monotonic()
    with _signals() as came:
        while trainer.step < last:
            terms = trainer.advance()
            done, ended = trainer.step, trainer.step == last
            why = "" if ended else _stop(came, device)
            if world()[0] == 0:  # the first process alone writes
                if stages and done in stages:
                    stages[done](trainer.average)
                if done % log_every == 0 or ended:
                    seconds = round(time.monotonic() - started, 1)
                    _log(folder / LOG, done, batch, terms, digits, seconds)
                if ended or why or time.monotonic() - saved > _session().every:
                    save_state(folder / STATE, {**trainer.state(), "step": done, "run": facts})
                    saved = time.monotonic()
            if why:
                raise _unfinished(folder, done, last, why)


def _log(path: Path, step: int, batch: int, terms: Mapping[str, Any], digits: int, seconds: float) -> None:
    line: dict[str, float] = {"step": step, "pictures": step * batch}
    line |= {name: round(float(value), digits) for name, value in terms.items()}
    with path.open("a") as log:
        log.write(json.dumps(line | {"seconds": seconds}) + "\n")


def _unfinished(folder: Path, step: int, last: int, why: str) -> Unfinished:
    sentence = f"{folder.name}: stopped at step {step:,} of {last:,} ({why}); run the same command to go on"
    if world()[0] == 0:
        print(sentence, file=sys.stderr)
    return Unfinished(sentence)
