"""NPY and NPZ files as arrays: never more memory than the file, or its archive, can fill, and no objects."""

from __future__ import annotations

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from numpy.lib import format as npy

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 1 << 30  # bytes that an archive may unpack to
MEMBERS = 100  # arrays an archive may hold
# What numpy, zipfile and zlib raise on damage, beside ValueError.
_DAMAGE = (
    EOFError, KeyError, MemoryError, NotImplementedError, OSError, OverflowError, RecursionError,
    RuntimeError, SyntaxError, TypeError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(f"{type(error).__name__}: {str(error)[:200]}") from error


def read_npy(path: Path) -> NDArray[Any]:
    """The array of an NPY file; raises OSError, or ValueError if it is damaged or holds objects."""
    with path.open("rb") as file, _reading():
        return _array(file, os.fstat(file.fileno()).st_size)


def read_npz(path: Path, most: int = LARGEST) -> dict[str, NDArray[Any]]:
    """The arrays of an NPZ file by name.

    Args:
        most: bytes they may have together.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, unpacks to more, or holds anything but arrays of numbers and texts.
    """
    with path.open("rb") as file, _reading(), zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if len(members) > MEMBERS or unpacked > most:
            raise ValueError(f"it unpacks to {len(members):,} members of {unpacked:,} bytes")
        found = {}
        for member in members:
            with archive.open(member) as stream:
                found[member.filename.removesuffix(".npy")] = _array(stream, member.file_size)
        return found


def _array(stream: IO[bytes], size: int) -> NDArray[Any]:
    """The array of a stream of so many bytes; its header is believed only as far as they reach."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version is {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = read(stream)
    if kind.hasobject:
        raise ValueError("it holds Python objects, which are never loaded (allow_pickle=False)")
    needed, there = math.prod(shape) * kind.itemsize, size - stream.tell()
    if any(side < 0 for side in shape) or needed > there:
        raise ValueError(f"it says it holds {shape} of {kind}, but has only {there:,} bytes")
    stream.seek(0)
    found: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return found
