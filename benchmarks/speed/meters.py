"""Rounds by turns, and what a timing is set against: peak memory, the fastest matrix product of a device."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch

from benchmarks.peak import resident

T = TypeVar("T")
# Sides of the square matrices whose best rate counts as the device's peak.
SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}


@dataclass(frozen=True)
class Timed(Generic[T]):
    """What one way took.

    Attributes:
        seconds: of the processor, round by round.
        result: what the last round gave.
    """

    seconds: list[float]
    result: T

    @property
    def median(self) -> float:
        """Of the rounds' seconds."""
        return statistics.median(self.seconds)


def in_turns(
    ways: Mapping[str, Callable[[], T]], rounds: int, warm: Iterable[Callable[[], object]] | None = None
) -> dict[str, Timed[T]]:
    """Every way once a round, so that what else the machine does falls on all of them.

    Args:
        rounds: at least 1.
        warm: what runs before them and is not timed; None for each way once.
    """
    for way in ways.values() if warm is None else warm:
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, T] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            results[name] = way()
            seconds[name].append(time.process_time() - start)
    return {name: Timed(seconds[name], results[name]) for name in ways}


def spread(values: Iterable[float], digits: str = ".2f") -> str:
    """Least and greatest, as in 1.20-1.31."""
    known = sorted(values)
    return f"{known[0]:{digits}}-{known[-1]:{digits}}"


def wait(device: str) -> None:
    """Until everything asked of a CUDA device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def matmul_peak(device: str, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of square matrix products, the best of sizes and repeats (2 n^3 for one).

    Those of float32 on a GPU with TF32, as torch convolves there by default: nothing of a network is faster.
    """
    best, products = 0.0, torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, True
    try:
        for side in SIDES[device.split(":")[0]]:
            a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
            for _ in range(repeats + 1):
                wait(device)
                start = time.perf_counter()
                a @ b
                wait(device)
                best = max(best, 2 * side**3 / (time.perf_counter() - start))
    finally:
        products.allow_tf32 = before
    return best


@dataclass
class Peak:
    """The most memory at once, in bytes; set when the context of `peak_memory` is left."""

    bytes: int = 0


def forget_resident_peak() -> None:
    """Count `benchmarks.peak.resident` anew, freed memory given back; raises OSError where that cannot be."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """Peak memory in the context: allocated on a CUDA device, resident of the process on a CPU."""
    peak = Peak()
    if device.startswith("cuda"):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    forget_resident_peak()
    yield peak
    peak.bytes = resident()
