"""A lock file that names its owner, so that a dead one is noticed and taken over.

Compiling is guarded by it: after Ctrl-C, or with several processes at once, nobody waits for nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

POLL = 0.1  # seconds between two looks at a lock that somebody holds
PATIENCE = 1800.0  # seconds after which an owner is given up: no build takes half an hour
OUTSIDE = "pid:[4026531836]"  # the kernel's name for the processes of a machine that are in no container


def machine() -> str:
    """Name of this machine in locks: of one name all processes can be looked at; as benchmarks.claims has it.

    Containers may share a host's name, and machines the name localhost; process numbers they do not share.
    """
    host, own = socket.gethostname(), ""
    with contextlib.suppress(OSError):  # not Linux
        own = os.readlink("/proc/self/ns/pid")
    apart = own not in ("", OUTSIDE) or host.partition(".")[0] in ("", "localhost")
    return f"{host}-{_boot()}-{own}" if apart else host


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: a process is its pid AND its start, since pids are given out again."""

    host: str
    pid: int
    start: str
    since: float  # seconds of the epoch

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        return cls(machine(), os.getpid(), process_start(os.getpid()) or "", time.time())

    def is_here(self) -> bool:
        """Whether it is a process of this machine, so that it can be looked at."""
        return self.host == machine()

    def is_dead(self) -> bool:
        """Whether it cannot be working any more; of another machine's process only time tells."""
        if not self.is_here():
            return time.time() - self.since > PATIENCE
        return process_start(self.pid) != self.start

    def __str__(self) -> str:
        return f"process {self.pid} on {'this machine' if self.is_here() else self.host}"


class Unreadable(Owner):
    """Of a lock file that is torn: nobody writes one in two steps, so nobody is behind it."""

    def is_dead(self) -> bool:
        """Always."""
        return True

    def __str__(self) -> str:
        return "a process that left an unreadable lock"


class LockTimeout(TimeoutError):
    """A live owner did not finish in time."""


def process_start(pid: int) -> str | None:
    """When a process of this machine started, with the boot it belongs to; None if there is none."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # proc(5): what follows the name is state (3), ..., starttime (22); Z and X have ended.
        return None if fields[0] in "ZX" else f"{_boot()}:{fields[19]}"
    listed = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() or None


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="utf-8").strip()[:8] if path.exists() else ""


def owner(path: Path) -> Owner | None:
    """Who holds the lock `path`; None if nobody."""
    try:
        return _parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None


def _parse(text: str) -> Owner:
    try:
        fields = json.loads(text)
        return Owner(str(fields["host"]), int(fields["pid"]), str(fields["start"]), float(fields["since"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return Unreadable("", 0, "", 0.0)


@contextlib.contextmanager
def held(path: Path, say: Callable[[str], None], patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock `path`; wait for a live owner, take over from a dead one.

    Args:
        say: gets one sentence when a live owner is waited for, and one when a dead one is replaced.
        patience: seconds to wait for a live owner.

    Raises:
        LockTimeout: if it did not finish within that time.
    """
    mine = Owner.me()
    _acquire(path, mine, say, patience)
    try:
        yield
    finally:
        if owner(path) == mine:
            path.unlink()


def _acquire(path: Path, mine: Owner, say: Callable[[str], None], patience: float) -> None:
    waited_for, started = None, time.monotonic()
    while not _create(path, mine):
        other = owner(path)
        if other is None:
            continue  # released just now
        if other.is_dead() or (other.pid, other.host, other.start) == (mine.pid, mine.host, mine.start):
            if _remove_dead(path, other):
                say(f"the lock {path} belongs to {other}, which is gone: taken over")
            continue
        if waited_for != other:
            say(f"{other} is compiling; waiting for it (lock {path})")
            waited_for = other
        if time.monotonic() - started > patience:
            raise LockTimeout(f"{other} has held {path} for {time.time() - other.since:.0f} seconds")
        time.sleep(POLL)


def _create(path: Path, mine: Owner) -> bool:
    """Make the lock, whole from its first moment; False if it is there already."""
    whole = path.with_name(f"{path.name}.{mine.pid}.{secrets.token_hex(4)}")
    whole.write_text(json.dumps(asdict(mine)), encoding="utf-8")
    try:
        os.link(whole, path)
    except FileExistsError:
        return False
    finally:
        whole.unlink()
    return True


def _remove_dead(path: Path, dead: Owner) -> bool:
    """Remove the lock if it still is that of `dead`: between two who want to, only the first does."""
    with _one_at_a_time(path.with_name(f"{path.name}.guard")):
        if owner(path) != dead:
            return False
        path.unlink()
        return True


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """For moments only; the kernel releases it when its holder dies."""
    import fcntl  # not there on Windows, where nothing is compiled

    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
