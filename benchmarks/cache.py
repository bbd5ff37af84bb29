"""What is frozen is computed once: tensors on disk, named by the content they were made from."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .cell import canonical

VARIABLE = "INTRINSIC_BENCH_CACHE"


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

    def path(self, key: Mapping[str, Any]) -> Path | None:
        """File of a key."""
        if self.folder is None:
            return None
        digest = hashlib.sha256(canonical(key).encode()).hexdigest()[:24]
        return self.folder / str(key["kind"]) / f"{digest}.safetensors"

    def get(self, key: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of a key, read or computed; a broken file is reported and computed again."""
        path = self.path(key)
        if path is None:
            return dict(compute())
        if path.exists():
            try:
                return _read(path, canonical(key))
            except (SafetensorError, OSError, ValueError) as error:
                print(f"cache: {path.name} cannot be used ({error}); computed again", file=sys.stderr)
        found = {name: tensor.contiguous() for name, tensor in compute().items()}
        _write(path, found, canonical(key))
        return found


def _read(path: Path, key: str) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get("key") != key:
            raise ValueError("it was written for another key")
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def _write(path: Path, tensors: dict[str, Tensor], key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, str(temporary), metadata={"key": key})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
