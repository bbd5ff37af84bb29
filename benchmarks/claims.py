"""Claims: who computes a cell, and whether that process is still there."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path


def now_text() -> str:
    """The time, UTC, as ISO 8601 has it; to be shown, never to be reckoned with."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _stat(pid: int) -> list[str]:
    """State, ..., start time (20th) of a process; empty where the system does not tell (not Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # no such process, or no /proc: then the pid alone has to do
        return []


def _started(pid: int) -> str:
    """When a process of this machine started, "" where the system does not tell."""
    return (_stat(pid) or [""] * 20)[19]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists and is another user's
        return True
    return _stat(pid)[:1] not in (["Z"], ["X"])  # killed, though nobody has asked for its exit status


@dataclass(frozen=True)
class Claim:
    """Who computes a cell: a process, its start (against reused pids), its host, and since when."""

    pid: int
    host: str
    started: str
    since: str

    @staticmethod
    def own() -> Claim:
        """A claim of this process."""
        return Claim(os.getpid(), socket.gethostname(), _started(os.getpid()), now_text())

    @property
    def here(self) -> bool:
        """Whether the owner runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    @property
    def dead(self) -> bool:
        """Whether the owner is known to be gone; of another machine's processes nothing is known."""
        return self.here and not (alive(self.pid) and _started(self.pid) == self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"
