"""What is done when memory runs out: fewer pictures at once, and a plain word where one is too many.

Here is what an allocator refuses. A system that kills processes when memory is short (Linux does, where it
promises more than it has) asks nobody first: the runner notices, and the next process begins with `cut`.
"""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from generators.errors import UserError

T = TypeVar("T")
GIB, MIB = 2**30, 2**20
REFUSED = "could not create a primitive"
# How those say it that raise a plain RuntimeError: PyTorch's allocators, C++, cuBLAS, cuDNN, oneDNN. Of
# oneDNN's words the real cause is not known; with less memory asked for they go away, or are reported.
SAID = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "out of memory",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # others fill the device: no memory for a handle
    "unable to find an engine to execute this computation",  # cuDNN: no plan has room for its workspace
    "ALLOCATION_FAILED",  # of the device or of the host, since cuDNN 9
    REFUSED,
    "could not create a memory",
    "could not execute a primitive",
    "can't start new thread",
)
_at_once: dict[str, int] = {}  # see `at_once`
_cut = 1  # see `cut`
_aside = False  # see `_in_new_thread`


class OutOfMemory(UserError, MemoryError):
    """There is not enough memory for a single picture; as a MemoryError it also retires its process."""


@dataclass(frozen=True)
class Short:
    """That memory ran out, in the allocator's own words."""

    said: str


def is_short(error: BaseException) -> bool:
    """Whether an error means that an allocator had no memory left."""
    if isinstance(error, OutOfMemory):  # somebody has tried with less already
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


def _words(error: BaseException) -> str:
    """The first line of what was said; the rest of CUDA's is advice about its allocator."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def attempt(compute: Callable[[], T]) -> T | Short:
    """What `compute` gives, or that memory was short; whatever else goes wrong is raised.

    When it returns Short, what the attempt had made is freed.
    """
    global _aside
    try:
        return _in_new_thread(compute) if _aside else compute()
    except (RuntimeError, MemoryError) as error:
        if not is_short(error):
            raise
        said = _words(error)
    # Only now: the error held the frames of the attempt, and they the tensors.
    _give_back()
    if REFUSED not in said or _aside:
        return Short(said)
    _aside = True
    return attempt(compute)


def _in_new_thread(compute: Callable[[], T]) -> T:
    """What `compute` gives in a thread of its own, in the modes of this one.

    oneDNN that ran out of memory while it made a kernel may refuse to make any other in the same thread,
    however little that needs (seen with 175 MiB to spare, in one process of ten); in a new thread it does.
    """
    threads, grad, casts = torch.get_num_threads(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    kind = torch.get_autocast_dtype("cpu")

    def there() -> T:
        torch.set_num_threads(threads)
        with torch.set_grad_enabled(grad), torch.autocast("cpu", kind, casts):
            return compute()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(there).result()


def _give_back() -> None:
    """Free what nothing refers to, and what allocators keep for later."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library's
    if trim is not None:
        trim(0)


def _in_words(count: int) -> str:
    """Bytes in words."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def available() -> str:
    """Memory that is free now, in words: the machine's, what limits leave of it, and the GPU's."""
    told = []
    free = _kibibytes(Path("/proc/meminfo"), "MemAvailable")
    if free is not None:
        told.append(f"{_in_words(free)} free on this machine")
    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], _kibibytes(Path("/proc/self/status"), "VmSize")
    if limit != resource.RLIM_INFINITY and used is not None:
        told.append(f"this process may take {_in_words(limit - used)} more (ulimit -v)")
    if torch.cuda.is_initialized():
        left, total = torch.cuda.mem_get_info()
        told.append(f"{_in_words(left)} of {_in_words(total)} free on {torch.cuda.get_device_name()}")
    return "; ".join(told)


def _kibibytes(path: Path, name: str) -> int | None:
    """A value of a file of /proc in bytes; None where the system does not tell (not Linux)."""
    if not path.exists():
        return None
    lines = (line.split() for line in path.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[:1] == [f"{name}:"]), None)


def out_of_memory(asked: str, said: str, when: str = "with one picture at a time") -> OutOfMemory:
    """The error in four parts: what the allocator was asked for, and what there is."""
    return OutOfMemory(
        asked,
        f"memory ran out {when}: {said}",
        available(),
        "free some memory (fewer workers, other programs), take a device with more, "
        "or try the options precision = 'bfloat16' and checkpointing = true",
    )


@contextmanager
def explained(asked: str) -> Iterator[None]:
    """Raise OutOfMemory instead of what an allocator says, where nothing can be done with less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_short(error):
            raise
        raise out_of_memory(asked, _words(error), "where it cannot be done in parts") from error


def portions(count: int, size: int, compute: Callable[[slice], T], asked: str) -> Iterator[tuple[slice, T]]:
    """Rows and what `compute` gives for them, of `count` rows, so many at a time as memory allows.

    What runs out of memory is done again with half as many, and so is all that follows.

    Args:
        size: rows at a time to begin with.
        compute: a pure function of rows: it may be called for some of them again.
        asked: what is computed, for `at_once` and the error.

    Raises:
        OutOfMemory: one row is too much.
    """
    start = 0
    if _cut > 1:
        size = _at_once[asked] = max(1, min(size, count) // _cut)
    while start < count:
        rows = slice(start, min(start + size, count))
        found = attempt(lambda: compute(rows))  # noqa: B023 (called at once)
        if not isinstance(found, Short):
            yield rows, found
            start = rows.stop
            continue
        if rows.stop - rows.start == 1:
            raise out_of_memory(asked, found.said)
        size = (rows.stop - rows.start + 1) // 2
        _at_once[asked] = size


def at_once() -> dict[str, int]:
    """Pictures at a time of what did not run as planned since `forget` was called; {} of most cells."""
    return dict(_at_once)


def shortages() -> list[str]:
    """`at_once` in words, a line each."""
    return [f"memory ran out: {asked}, {size} at a time" for asked, size in _at_once.items()]


def forget() -> None:
    """Begin `at_once` anew: another cell begins."""
    _at_once.clear()


def cut(times: int) -> None:
    """Begin everything with so many times fewer pictures at once: an attempt was killed for memory."""
    global _cut
    _cut = times


@dataclass
class Parts:
    """In how many parts the batches of a training run: in one (see `cut`) until memory runs out.

    Attributes:
        size: rows that run together, 0 for all there are.
        count: parts of the batch that was last cut.
        since: step, from 0, that was the first to run so.
    """

    size: int = 0
    count: int = field(default_factory=lambda: _cut)
    since: int = 0

    def of(self, rows: int) -> list[slice]:
        """The parts of a batch, sizes as equal as may be."""
        count = -(-rows // self.size) if self.size else min(rows, self.count)
        return [slice(rows * k // count, rows * (k + 1) // count) for k in range(count)]

    def halve(self, rows: int, step: int, asked: str, said: str) -> None:
        """Let half as many rows run together from a step on; raises OutOfMemory if it is one already."""
        largest = max(part.stop - part.start for part in self.of(rows))
        if largest <= 1:
            raise out_of_memory(asked, said)
        self.size, self.since = (largest + 1) // 2, step
        self.count = len(self.of(rows))

    def facts(self) -> dict[str, dict[str, int]]:
        """For a record's details; {} where memory sufficed."""
        return {"parts": {"parts": self.count, "since_step": self.since}} if self.count > 1 else {}
