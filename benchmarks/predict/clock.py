"""Seconds by phase, from several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PHASES = ("reading", "embed", "forward", "decode", "back", "writing", "waiting")


class Clock:
    """Adds up what each phase takes.

    Args:
        wait: called before the time is taken in phases on the device, so that what was queued there
            counts where it was asked for; None not to slow it down.
    """

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.wait, self._lock = wait, threading.Lock()

    @contextmanager
    def phase(self, name: str, device: bool = False) -> Iterator[None]:
        """Time a phase; `device` for work that is only queued when a call returns."""
        started = time.perf_counter()
        try:
            yield
            if device and self.wait is not None:
                self.wait()
        finally:
            with self._lock:
                self.seconds[name] += time.perf_counter() - started
