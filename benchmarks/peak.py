"""The most memory that was held since a moment: by this process, and on the GPU it computes on."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch


def begin(device: str) -> None:
    """Count anew from here on; where the system cannot (Linux can), from the start of the process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.startswith("cuda"):
        torch.cuda.init()  # the next line does not, where the device is told by its number
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: str) -> dict[str, int]:
    """MiB since `begin`: `peak_memory_mib` of the machine's memory, and of a GPU's `gpu_memory_mib`."""
    found = {"peak_memory_mib": round(resident() / 2**20)}
    if device.startswith("cuda"):
        found["gpu_memory_mib"] = round(torch.cuda.max_memory_reserved(device) / 2**20)
    return found


def resident() -> int:
    """Bytes of this process that were in memory at once."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
