"""One reading under watch: what it gave or raised, its time, its memory, and what else it did.

Memory: while it reads, the process may take no more address space than it has and ALLOWED bytes, so a
bomb ends in a MemoryError or, in a library that knows none, in the process's death, which its parent sees.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generators.errors import UserError

ALLOWED = 1 << 30  # bytes
SECONDS = 10.0  # of processor time
LONGEST = 4000  # characters of an error's text

# Audit events that reading never causes.
_NEVER = (
    "builtins.breakpoint", "builtins.input", "exec", "ftplib.", "marshal.", "os.exec", "os.fork",
    "os.posix_spawn",
    "os.spawn", "os.system", "pickle.find_class", "pty.", "smtplib.", "socket.bind", "socket.connect",
    "socket.getaddrinfo", "subprocess.", "urllib.",
    "webbrowser.",
)  # fmt: skip
# Events that change files: of these paths are looked at.
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown",
            "os.truncate", "shutil.")  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass
class _Watch:
    """What is forbidden now."""

    folders: tuple[str, ...]
    found: list[str] = field(default_factory=list)

    def inside(self, path: Any) -> bool:
        if isinstance(path, int):  # a descriptor that is open already
            return True
        place = os.path.abspath(os.fsdecode(path))
        return place == os.devnull or any(place == f or place.startswith(f + os.sep) for f in self.folders)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_NEVER):
            self.found.append(f"{event} {arguments!r:.200}")
        elif event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & _WRITES
            if path is not None and (writes or (mode and set("wax+") & set(mode))) and not self.inside(path):
                self.found.append(f"writes {path!r:.200}")
        elif event.startswith(_CHANGES):
            outside = [
                a for a in arguments if isinstance(a, str | bytes | os.PathLike) and not self.inside(a)
            ]
            if outside:
                self.found.append(f"{event} {outside!r:.200}")


_watch: _Watch | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _watch is not None:
        _watch.hear(event, arguments)


def listen() -> None:
    """Begin to hear audit events; once in a process, for there is no way back."""
    sys.addaudithook(_hear)


def space() -> int:
    """Bytes of address space the process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@contextmanager
def limited(extra: int) -> Iterator[None]:
    """No more address space than there is and so much."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (space() + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def watched(
    read: Callable[[], object],
    folders: tuple[str, ...],
    errors: tuple[type[Exception], ...],
    names: tuple[str, ...],
) -> tuple[str, str]:
    """How a reading ended: ("value" | "refused" | "wrong", what is wrong or was said).

    Args:
        folders: where it may write.
        errors: what it may raise.
        names: texts one of which a UserError has to hold.
    """
    global _watch
    watch, started = _Watch(folders), time.process_time()
    ended, said = "value", ""
    try:
        with limited(ALLOWED):
            _watch = watch
            try:
                read()
            finally:
                _watch = None
    except errors as error:
        ended, said = "refused", str(error)
        fault = _fault(error, names)
        if fault:
            return "wrong", f"{fault}: {said[:600]}"
    except BaseException as error:  # a Rust panic is a BaseException
        if isinstance(error, KeyboardInterrupt):
            raise
        return "wrong", f"raised {type(error).__name__}: {str(error)[:300]}\n{_where(error)}"
    seconds = time.process_time() - started
    if watch.found:
        return "wrong", f"it did: {'; '.join(watch.found[:3])}"
    if seconds > SECONDS:
        return "wrong", f"it took {seconds:.1f} seconds of the processor"
    return ended, said


def _fault(error: Exception, names: tuple[str, ...]) -> str:
    """What is wrong with an error itself."""
    text = str(error)
    if not isinstance(error, UserError):
        return ""
    if not error.asked or not error.wrong:
        return "an error without its parts"
    if len(text) > LONGEST:
        return f"an error of {len(text)} characters"
    return "" if any(name in text for name in names) else f"an error that names none of {names}"


def _where(error: BaseException) -> str:
    """The last places of the project, and the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if any(part in f.filename for part in ("/benchmarks/", "/generators/", "/probes/"))
    ]
    shown = [*own[-3:], *frames[-1:]]
    return "\n".join(f"  {Path(f.filename).name}:{f.lineno} {f.name}: {f.line}" for f in shown)
