"""What is frozen is computed once: tensors on disk, named by the content they were made from.

An entry is a safetensors file with two texts in its metadata: the key, and a checksum of the whole file (the
CRC-32 of its bytes, those of the checksum itself taken as zeros). CRC-32 sees every single flipped bit and
every damaged run of up to 32 bits, and one in four thousand million other damages escapes it; what it and
stronger digests cost is in results/speed/checksum.txt. A damaged entry is reported and computed again, and so
is one without a checksum, from before there were any: damage could have taken it away.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import sys
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .cell import canonical
from .claims import is_gone, machine
from .files import StoreError, is_forgotten

VARIABLE = "INTRINSIC_BENCH_CACHE"
_BLANK = "0" * 8
_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{8})"')


def cache_folder() -> Path:
    """Where the cache is: the environment's INTRINSIC_BENCH_CACHE, or a folder of the user's."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "intrinsic-bench"


class Cache:
    """Tensors by key; a key is everything that decides them.

    Args:
        folder: None for no cache: everything is computed anew.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._swept: set[Path] = set()

    def path(self, key: Mapping[str, Any]) -> Path | None:
        """File of a key."""
        if self.folder is None:
            return None
        digest = hashlib.sha256(canonical(key).encode()).hexdigest()[:24]
        return self.folder / str(key["kind"]) / f"{digest}.safetensors"

    def get(self, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of a key, read or computed; a broken file is reported and computed again.

        Raises StoreError if what was computed cannot be written, whatever the reason.
        """
        path = self.path(key)
        if path is None:
            return dict(compute())
        if path.exists():
            try:
                return _read(path, canonical(key))
            except (SafetensorError, OSError, ValueError) as error:
                print(f"cache: {path.name} cannot be used ({error}); computed again", file=sys.stderr)
        found = {name: tensor.contiguous() for name, tensor in compute().items()}
        try:
            self._write(path, found, canonical(key))
        except (SafetensorError, OSError) as error:  # safetensors has an error of its own for a full disk
            raise _unwritable(path, error) from error
        return found

    def _write(self, path: Path, tensors: dict[str, Tensor], key: str) -> None:
        """Write an entry under a name of this process and thread, then rename it: the last writer wins."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in self._swept:
            self._swept.add(path.parent)
            sweep(path.parent)
        writer = f"{machine()}.{os.getpid()}-{threading.get_native_id()}"
        temporary = path.with_name(f".{path.name}.{writer}.tmp")
        try:
            save_file(tensors, str(temporary), metadata={"key": key, "checksum": _BLANK})
            _seal(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the temporary files of dead processes of this machine, and those nobody has touched for long."""
    for path in folder.glob(".*.tmp"):
        writer = path.name.partition(".safetensors.")[2].rpartition("-")[0]  # without the thread
        if is_gone(writer) or is_forgotten(path):
            path.unlink(missing_ok=True)  # another process may have swept or renamed it meanwhile


def checksum(data: mmap.mmap | bytes) -> tuple[int, str, str]:
    """Where the checksum of an entry stands, what it says and what it should say.

    Args:
        data: the whole file.

    Raises:
        ValueError: it is cut off, or has no checksum.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 + length:
        raise ValueError("it is cut off")
    found = _CHECKSUM.search(data[8 : 8 + length])
    if found is None:
        raise ValueError("it has no checksum: an earlier version wrote it, or it is damaged")
    at = 8 + found.start(1)
    with memoryview(data) as view, view[:at] as before, view[at + len(_BLANK) :] as after:
        value = zlib.crc32(after, zlib.crc32(_BLANK.encode(), zlib.crc32(before)))
    return at, found.group(1).decode(), f"{value:08x}"


def _seal(path: Path) -> None:
    """Put the checksum of an entry, as it is on the disk, in its place."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, _, right = checksum(data)
        file.seek(at)
        file.write(right.encode())


def _check(path: Path) -> None:
    """Raise ValueError unless an entry is what was written, to the bit."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise ValueError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _, said, right = checksum(data)
    if said != right:
        raise ValueError(f"it is damaged: its checksum is {right}, written was {said}")


def _read(path: Path, key: str) -> dict[str, Tensor]:
    _check(path)
    try:
        opened = safe_open(path, "pt")
    except RuntimeError as error:  # somebody has removed it since
        raise OSError(str(error)) from error
    with opened as file:
        if (file.metadata() or {}).get("key") != key:
            raise ValueError("it was written for another key")
        # Copied to where PyTorch aligns memory: in the file it is not, and products of unaligned tensors
        # differ in the last bit, so that a cell would come to other numbers with a cache than without.
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)


def _unwritable(path: Path, error: Exception) -> StoreError:
    """The cache is on a full or read-only disk: without it every cell would pay for what is frozen."""
    return StoreError(
        f"write {path}",
        f"the cache cannot be written: {error}",
        f"it is in {path.parent.parent}, {VARIABLE} says where; what is recorded is whole and stays as it is",
        f"free some space, or name a folder with more of it: {VARIABLE}=DIR; then run the same command again",
    )
