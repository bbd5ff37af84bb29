"""Claims: who computes a cell, and whether that process is still there.

Of a process of this machine (see `machine`) the system knows. A runner elsewhere is known by its pulse: a
file beside the claims that it writes again and again while it runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PULSE = 15.0  # seconds between two pulses of a runner
LEASE = 180.0  # seconds without one after which a runner of another machine is believed dead


_FIRST = "pid:[4026531836]"  # the kernel's name for the processes of a machine that are in no container


def machine() -> str:
    """Name of this machine in claims and temporary files: of one name all processes can be asked for.

    The host's name; in a container, which has process numbers of its own, and where the host is called
    localhost as others are, with eight digits that no other has until this one starts anew.
    """
    host, own = socket.gethostname(), _told(lambda: os.readlink("/proc/self/ns/pid"))
    if own in ("", _FIRST) and host.partition(".")[0] not in ("", "localhost"):
        return host
    boot = _told(lambda: Path("/proc/sys/kernel/random/boot_id").read_text())
    return f"{host}-{hashlib.sha256(f'{boot} {own}'.encode()).hexdigest()[:8]}"


def _told(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except OSError:  # not Linux
        return ""


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


def pid_here(writer: str) -> int | None:
    """The process that HOST.PID names, if it runs, or ran, on this machine, else None."""
    found = re.fullmatch(rf"{re.escape(machine())}\.([0-9]{{1,9}})", writer)
    return int(found[1]) if found else None


def is_gone(writer: str) -> bool:
    """Whether HOST.PID names a process of this machine that is gone; of others nothing is known."""
    pid = pid_here(writer)
    return pid is not None and not alive(pid)


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
        return Claim(os.getpid(), machine(), _started(os.getpid()), now_text())

    @property
    def here(self) -> bool:
        """Whether the owner runs, or ran, on this machine."""
        return self.host == machine()

    @property
    def dead(self) -> bool:
        """Whether the owner is known to be gone; of another machine's processes nothing is known."""
        return self.here and not (alive(self.pid) and _started(self.pid) == self.started)

    @property
    def mine(self) -> bool:
        """Whether the owner is this process."""
        return self.here and self.pid == os.getpid() and self.started == _started(self.pid)

    @property
    def pulse(self) -> str:
        """Name of the file that its owner writes while it is alive; it is hidden among the claims."""
        return f".{self.host}.{self.pid}.pulse"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Watch:
    """Whether runners of other machines are alive, judged by their pulses and this machine's clock alone.

    Args:
        read: what the pulse of a claim's owner says, "" where there is none.
    """

    def __init__(self, read: Callable[[Claim], str]) -> None:
        self._read = read
        # By pulse: what it says, since when, and whether it has said something else before.
        self._known: dict[str, tuple[str, float, bool]] = {}

    def alive(self, owner: Claim) -> bool | None:
        """Whether a new pulse was seen lately, or none for LEASE seconds; None: too early to say."""
        now, text = time.monotonic(), self._read(owner)
        before, since, changed = self._known.get(owner.pulse, (text, now, False))
        if text not in ("", before):
            since, changed = now, True
        self._known[owner.pulse] = text, since, changed
        if now - since > LEASE:
            return False
        return True if changed and now - since <= 3 * PULSE else None
