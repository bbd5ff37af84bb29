"""Models that are a folder: of this package, of the user's own, or fetched from the hub; safely read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .base import GeneratorSpec
from .errors import UserError, not_installed

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS_VARIABLE = "INTRINSIC_BENCH_WEIGHTS"  # a folder with one folder per model name
BLOCK = 1 << 22  # bytes read at once


def local_folder(spec: GeneratorSpec) -> Path | None:
    """The folder of a model's weights if it is on this machine by the user's own word.

    A model that is another one asked in another way (`options["base"]`) is found in that one's folder, too.
    """
    given = os.environ.get(WEIGHTS_VARIABLE)
    for name in (spec.name, spec.options.get("base")):
        if given and name and (Path(given) / name).is_dir():
            return Path(given) / str(name)
    return Path(spec.source) if spec.source and Path(spec.source).is_dir() else None


def find_folder(spec: GeneratorSpec, patterns: Sequence[str], layout: str) -> Path:
    """The model's folder, fetched from the hub where it is not on this machine.

    Args:
        patterns: files to fetch, as the hub's client matches them.
        layout: whose layout the folder has, for the error.

    Raises:
        UserError: an embedded model's folder is missing, or the hub gives none.
    """
    folder = local_folder(spec)
    if folder is not None:
        return folder
    if spec.embedded:
        raise not_installed(spec.name, _below_zoo(spec))
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(str(spec.source), revision=spec.revision, allow_patterns=list(patterns))
    except Exception as error:  # the hub's client has no common base class for what the network can do
        raise UserError(
            f"model {spec.name!r}",
            f"its weights could not be fetched from the hub: {type(error).__name__}: {str(error)[:200]}",
            f"source {spec.source}, licence {spec.licence}",
            f"connect to the network, or set {WEIGHTS_VARIABLE} to a folder that holds {spec.name}/ "
            f"in the layout of {layout}",
        ) from error
    return Path(found)


def on_machine(spec: GeneratorSpec, files: Sequence[str]) -> bool:
    """Whether a model's folder, or these files of it in the hub's cache, are on this machine."""
    from huggingface_hub import try_to_load_from_cache

    if spec.embedded or local_folder(spec) is not None:
        return True
    asked = (try_to_load_from_cache(str(spec.source), file, revision=spec.revision) for file in files)
    return all(isinstance(found, str) for found in asked)


def _below_zoo(spec: GeneratorSpec) -> str:
    return (spec.source or "").rpartition("zoo/weights/")[2]


def hash_files(paths: Iterable[Path]) -> str:
    """Hash of the names, sizes and contents of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()[:16]


@contextmanager
def reading(spec: GeneratorSpec, folder: Path, needs: str) -> Iterator[None]:
    """Whatever goes wrong while a model's files are read becomes a UserError that names the folder."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # safetensors, json and transformers each raise their own for a broken file
        raise UserError(
            f"model {spec.name!r}",
            f"its files cannot be read: {type(error).__name__}: {str(error)[:300]}",
            f"folder {folder}, needs {needs}",
            "fetch the folder again; a truncated download looks like this",
        ) from error
