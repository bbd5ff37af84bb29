"""What a timing is set against: peak memory, and the fastest matrix product this device makes."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

# Sides of the square matrices whose best rate counts as the device's peak.
SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}


def wait(device: str) -> None:
    """Until everything asked of a CUDA device is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def matmul_peak(device: str, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of square matrix products, the best of sizes and repeats (2 n^3 for one)."""
    best = 0.0
    for side in SIDES[device.split(":")[0]]:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        for _ in range(repeats + 1):
            wait(device)
            start = time.perf_counter()
            a @ b
            wait(device)
            best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best


@dataclass
class Peak:
    """The most memory at once, in bytes; set when the context of `peak_memory` is left."""

    bytes: int = 0


def resident_peak() -> int:
    """The most memory of this process that was resident at once, in bytes (VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("the system tells no VmHWM: peak memory on the CPU is known on Linux alone")
    return int(found[1]) * 1024


def forget_resident_peak() -> None:
    """Count the resident peak anew: freed memory is given back, then 5 written to clear_refs (proc(5))."""
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
    peak.bytes = resident_peak()
