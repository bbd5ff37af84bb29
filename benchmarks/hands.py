"""Worker processes of this machine: one cell each at a time, one thread each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from .cell import Cell
from .engine import Message, Slot
from .store import Store
from .worker import Settings, death, environment

_GRACE = 2.0  # seconds a process has to end by itself


class Hand(Slot):
    """The runner's side of one worker; its process starts with its first cell and is replaced if it dies."""

    def __init__(self, number: int, store: Store, settings: Settings) -> None:
        super().__init__(number)
        self.arguments = (store.address, settings.to_json())
        self.environment = _environment(settings)
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0  # for lack of memory on this machine, when its cell began

    def _start(self) -> None:
        self.connection, theirs = Pipe()
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process lives)
        code = f"from benchmarks.worker import main; main({theirs.fileno()}, *{self.arguments!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            env=self.environment,
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C reaches the runner only
        )
        theirs.close()

    def give(self, cell: Cell) -> None:
        """Start a cell."""
        if self.process is None:
            self._start()
        self.kills = memory_kills()
        job = json.dumps({"cell": plain(cell), "cut": self.cut}).encode()
        try:
            self.connection.send_bytes(job)
        except (BrokenPipeError, ConnectionResetError):  # it died idle: a fresh one takes the cell
            self.close()
            self._start()
            self.connection.send_bytes(job)

    def hear(self) -> Message:
        """The next message; "gone" if the process is."""
        try:
            message: Message = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):  # at its end, or amid a message
            said, status = self.said(), self.close()
            short = status == -signal.SIGKILL and memory_kills() > self.kills
            return {"kind": "gone", "reason": death(status), "log": said, "short": short}
        if message["kind"] == "failed":
            message["traceback"] += self.said()
        return message

    def said(self) -> str:
        """The end of what the process wrote outside of its cells' logs."""
        self.output.seek(max(0, self.output.seek(0, os.SEEK_END) - 8000))
        return self.output.read().decode(errors="replace")

    def close(self, dump: bool = False) -> int:
        """End the process, whatever it is at; its exit status.

        Args:
            dump: whether it tells its threads' tracebacks (faulthandler, at SIGABRT) as it goes.
        """
        if self.process is None:
            return 0
        if dump:
            self.process.send_signal(signal.SIGABRT)
        else:
            self.connection.close()
        try:
            status = self.process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.connection.close()
        self.output.close()
        self.process, self.model = None, ""
        return status


def memory_kills() -> int:
    """Processes that the system has killed for lack of memory since it started; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:  # not Linux
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def plain(cell: Cell) -> dict[str, Any]:
    """A cell as JSON takes it, from which Cell(**...) makes it again."""
    return cell.facts() | {"options": dict(cell.options)}


def _environment(settings: Settings) -> dict[str, str]:
    """The worker's: one thread, and the same import path as here."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return os.environ | environment(settings) | {"PYTHONPATH": path}


class LocalEngine:
    """So many worker processes on this machine."""

    def __init__(self, workers: int, store: Store, settings: Settings) -> None:
        self.hands = [Hand(number, store, settings) for number in range(workers)]

    @property
    def slots(self) -> Sequence[Hand]:
        """The workers."""
        return self.hands

    def give(self, slot: Slot, cell: Cell) -> None:
        """Start a cell."""
        self.hands[slot.number].give(cell)

    def listen(self, seconds: float) -> list[tuple[Slot, Message]]:
        """One message of each worker that has one, or is gone."""
        busy = [hand for hand in self.hands if hand.cell and hand.process]
        ready = wait([hand.connection for hand in busy], seconds)
        found: list[tuple[Slot, Message]] = []
        for hand in busy:
            if hand.connection in ready or (hand.process and hand.process.poll() is not None):
                found.append((hand, hand.hear()))
        for slot, message in found:
            if message["kind"] == "failed" and message["retire"]:
                self.hands[slot.number].close()
        return found

    def end(self, slot: Slot, dump: bool = False) -> str:
        """Kill a worker; with `dump` its threads' tracebacks are in the cell's log (faulthandler)."""
        hand = self.hands[slot.number]
        if hand.process is None:
            return ""
        said = hand.said()
        hand.close(dump)
        return said

    def close(self) -> None:
        """End every worker."""
        for hand in self.hands:
            hand.close()
