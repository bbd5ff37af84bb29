"""One door for every layout of a network file: look at its first bytes, read it, say what is wrong."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import bare_state, nvidia, tensorflow
from .network_file import NetworkFile
from .records import Malformed, Reading, brief
from .restricted import unpickle

PROTO = 0x80  # first byte of every pickle since protocol 2
SIGNATURES = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it",
    b"\x1f\x8b": "a gzip archive",
    b"<": "a web page",
    b"version https://git-lfs": "a Git LFS pointer",
}
LAYOUTS = (
    "a network file is NVIDIA's pickle of a dict with G_ema, a TensorFlow StyleGAN2 pickle of three "
    "networks, or safetensors with the constructor's arguments in its metadata"
)
AGAIN = "compare its size and sha256 with the source's, download it again, or name another file"


def read_network(path: Path | str, which: str = "G_ema") -> NetworkFile:
    """Read one network of a file of any known layout, executing and importing nothing named in it.

    Args:
        path: an NVIDIA pickle, a TensorFlow StyleGAN2 pickle, or a safetensors state dict.
        which: the network of a pickle: "G_ema", the average to sample from, "G", or another of its names.

    Raises:
        UserError: the file cannot be opened, is none of these, or breaks a rule of its layout; says at
            which byte.
    """
    path = Path(path)
    try:
        return _read(path, mapped(path), which)
    except OSError as error:
        wrong = error.strerror or str(error)
        raise UserError(f"read the network in {path}", wrong, LAYOUTS, "name a file that exists") from None
    except Malformed as error:
        raise _user_error(str(path), error) from None


def read_pickle(data: bytes | memoryview, which: str = "G_ema", name: str = "bytes") -> NetworkFile:
    """Read one network of a pickle that is in memory, as `read_network` does; the name is for errors."""
    try:
        return _from_pickle(memoryview(data), which)
    except Malformed as error:
        raise _user_error(name, error) from None


def _user_error(name: str, error: Malformed) -> UserError:
    return UserError(f"read the network in {name}", error.wrong, error.known or LAYOUTS, error.todo or AGAIN)


def mapped(path: Path) -> memoryview:
    """The bytes of a file, read from the disk as they are looked at; raises Malformed or OSError."""
    if path.exists() and not path.is_file():
        raise Malformed("it is a folder, a pipe or a device")  # opening a pipe would wait for ever
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            raise Malformed("the file is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read(path: Path, view: memoryview, which: str) -> NetworkFile:
    if view[0] == PROTO and not bare_state.is_safetensors(view):
        return _from_pickle(view, which)
    if bare_state.is_safetensors(view):
        return bare_state.read_state(path)
    start = bytes(view[:32])
    kind = next((what for mark, what in SIGNATURES.items() if start.startswith(mark)), None)
    raise Malformed(f"it is {kind}" if kind else f"it starts with {start[:8]!r}, which no layout does")


def _from_pickle(view: memoryview, which: str) -> NetworkFile:
    reading = Reading(len(view))
    top: Any = unpickle(view, reading)
    if isinstance(top, dict):
        return nvidia.network(top, which, reading)
    if isinstance(top, list | tuple):
        return tensorflow.network(top, which, reading)
    raise Malformed(f"the pickle holds {brief(top)}")
