"""What a reader does while it reads: forbidden events, time, memory. Used on ours and on unsafe ones."""

import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

FORBIDDEN = (
    "builtins.breakpoint", "builtins.input", "code.", "compile", "ctypes.", "exec", "fcntl.", "ftplib.",
    "import", "marshal.", "open", "os.", "pickle.", "pty.", "shutil.", "signal.", "smtplib.", "socket.",
    "subprocess.", "sys.", "syslog.", "tempfile.", "urllib.", "webbrowser.", "winreg.",
)  # fmt: skip  # beginnings of the names of Python's audit events
SECONDS = 5.0  # of CPU time a small file may take: a hang takes for ever
PER_BYTE, CONSTANT = 4, 32 << 20  # bytes of memory a file may take

_watching: list[str] | None = None


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is not None and event.startswith(FORBIDDEN):
        _watching.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_hear)  # for the life of the process: there is no way to take it off


@dataclass
class Conduct:
    """What happened in one reading.

    Args:
        events: audit events that reading must not cause.
        seconds: CPU time.
        peak: bytes of memory at most, 0 when it was not traced.
    """

    events: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0

    def check(self, size: int) -> None:
        """Assert that a file of so many bytes was read quietly, quickly and in little memory."""
        assert self.events == []
        assert self.seconds < SECONDS
        assert self.peak <= PER_BYTE * size + CONSTANT


@contextmanager
def watched(traced: bool = False) -> Iterator[Conduct]:
    """Record what happens inside."""
    global _watching
    conduct = Conduct()
    if traced:
        tracemalloc.start()
    _watching, started = conduct.events, time.process_time()
    try:
        yield conduct
    finally:
        _watching, conduct.seconds = None, time.process_time() - started
        if traced:
            conduct.peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()


def conduct_of(
    read: Callable[[], object], expected: type[Exception], traced: bool = False
) -> tuple[Conduct, Any]:
    """What a reader did, and what it returned or the expected error; another error is passed on."""
    with watched(traced) as conduct:
        try:
            result: object = read()
        except expected as error:
            result = error
    return conduct, result
