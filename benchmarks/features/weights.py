"""Which weights a feature space has: hashes of files. No torch."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from generators.errors import UserError

from . import LARGE, SMALL, describe, inception_file


def rooms_hash() -> str:
    """Of the rooms' supervised network."""
    from benchmarks.methods import network_hash

    return network_hash()


def hub_hash(model: str) -> str:
    """Of the files of a DINOv2's folder."""
    from generators import registry
    from generators.dinov2 import FILES, hub_folder
    from generators.hub import hash_files

    folder = hub_folder(registry.spec(model))
    return hash_files(sorted(path for pattern in FILES for path in folder.glob(pattern)))


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    from generators.checkpoints.download import sha256_of

    return sha256_of(path)


def file_sha256(path: Path) -> str:
    """Hash of a file, 64 hexadecimal digits; read once for each size and time of change."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def weights_hash(name: str) -> str:
    """Hash of a feature space's weights, as its results state it; they must be on this machine."""
    if describe(name).name == "rooms":
        return rooms_hash()
    if name == "inception":
        path = inception_file()
        return file_sha256(path) if path is not None else "absent"
    return hub_hash(LARGE if name == "dinov2" else SMALL)


def found_inception(path: Path, sha256: str | None) -> str:
    """Hash of a file of weights; raises UserError if it is not there or not the one expected."""
    asked = f"Inception's weights {path}"
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UserError(f"--sha256 {sha256}", "a sha256 has 64 hexadecimal digits", "", "give all of them")
    if not path.is_file():
        raise UserError(asked, "there is no such file", "", "intrinsic-bench fetch inception")
    found = file_sha256(path)
    if sha256 is not None and found != sha256.lower():
        raise UserError(asked, f"its sha256 is {found}", f"expected is {sha256.lower()}", "fetch it again")
    return found
