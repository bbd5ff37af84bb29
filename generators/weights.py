"""Where a model's own file of weights is, and which weights they are: for families that read one file.

The file belongs to this package (the zoo), to the user, or was fetched; see checkpoints.download.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from .base import GeneratorSpec
from .hub import ZOO as ZOO
from .hub import lacking, zoo_place


@cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    """Hash of a file that has this size and time of change; asked once for each."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def file_hash(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file."""
    stat = path.stat()
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


def zoo_file(spec: GeneratorSpec) -> Path:
    """The file of a trained zoo model."""
    return zoo_place(spec) / f"{spec.options['stage']}.safetensors"


def weights_file(spec: GeneratorSpec) -> Path | None:
    """The file a model is loaded from, None for random initialization or where it is not on this machine."""
    from .checkpoints.download import local_path

    if spec.options.get("random_seed") is not None:
        return None
    if spec.embedded:
        return zoo_file(spec) if zoo_file(spec).exists() else None
    return local_path(spec.name)


def weights_identity(spec: GeneratorSpec, also: str = "", files: tuple[Path, ...] = ()) -> str:
    """Hash of the weights, or of the configuration and the seed; the address where there is no file yet.

    An embedded model has no address: UserError where its file is missing.

    Args:
        also: what else decides the pictures, put behind a hash.
        files: those that hold the model, where it is not one file; () asks `weights_file`.
    """
    seed = spec.options.get("random_seed")
    if seed is not None:
        made = json.dumps(spec.options["config"], sort_keys=True)
        return f"{hashlib.sha256(made.encode()).hexdigest()[:16]}-seed{seed}{also}"
    if not files:
        path = weights_file(spec)
        files = (path,) if path else ()
    if not files and spec.embedded:
        raise lacking(spec, zoo_file(spec))
    if not files:
        return f"{spec.source or 'a local file'}@{spec.options.get('sha256') or 'unverified'}"
    return "-".join(file_hash(path) for path in files) + also


def find_weights(spec: GeneratorSpec) -> Path:
    """The file a model is loaded from; raises UserError and says how to get it."""
    path = weights_file(spec)
    if path is not None:
        return path
    if spec.embedded:
        raise lacking(spec, zoo_file(spec))
    from .checkpoints.download import required_path

    return required_path(spec.name, published=spec.source is not None)
