"""What a predictor is: facts without torch, where its files are, and a function from pictures to maps."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from generators.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_VARIABLE = "INTRINSIC_BENCH_WEIGHTS"  # a folder with one folder, or file, per name
ABSENT = "absent"  # identity of a predictor whose weights are not on this machine
BLOCK = 1 << 22  # bytes read at once
OTHER = "|"  # between names of which one has to be there; the first is the one that is fetched

Predict = Callable[["Tensor"], "dict[str, Tensor]"]


@dataclass(frozen=True)
class PredictorSpec:
    """Facts about a predictor, known without loading it and without importing torch.

    Attributes:
        module: "package.module" or "package.module:function"; the function (`load` where none is named)
            takes a device and returns a Predict: pictures (b 3 h w) in [-1, 1], sRGB, to intrinsic -> map
            (b c h w) in natural units and our axes, of the pictures' size.
        source: "owner/name" on the hub, the https address of a file, or "" for weights of this package.
        revision: of the hub's repository, or None for its newest.
        sha256: of the one file of weights; "" where there are more, or nobody published it.
        bytes: of the download; None if unknown.
        files: what a folder needs, relative to it; "a|b" for either. Of an embedded predictor the
            files of this package that decide its maps, relative to this folder.
        depth: what its depth is: "metric" (meters), "affine" (a d + b meters, a > 0, a and b unknown) or
            "disparity" (proportional to 1 / depth); "" if it gives none.
        convention: what its own output is before it is converted.
        input_size: pixels of the side the network is shown.
        options: what else decides its maps; part of its identity.
        embedded: whether the weights come with this package.
    """

    name: str
    title: str
    module: str
    intrinsics: tuple[str, ...]
    source: str
    licence: str
    convention: str
    input_size: int
    citation: str
    revision: str | None = None
    sha256: str = ""
    bytes: int | None = None
    files: tuple[str, ...] = ()
    non_commercial: bool = False
    depth: Literal["", "metric", "affine", "disparity"] = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    embedded: bool = False
    note: str = ""

    @property
    def on_hub(self) -> bool:
        """Whether its weights are a folder of the hub."""
        return bool(self.source) and not self.source.startswith("https://")


# Folders: the user's own, then the hub's cache.


def lacking(folder: Path, files: Iterable[str]) -> list[str]:
    """Files a folder should have and has not."""
    return [name for name in files if not any((folder / each).is_file() for each in name.split(OTHER))]


def own_folder(spec: PredictorSpec) -> Path | None:
    """The folder NAME in INTRINSIC_BENCH_WEIGHTS, if there is one."""
    given = os.environ.get(WEIGHTS_VARIABLE)
    folder = Path(given) / spec.name if given else None
    return folder if folder is not None and folder.is_dir() else None


def cached_folder(spec: PredictorSpec) -> Path | None:
    """The folder of the hub's cache that has what a predictor needs; no network is asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    found: str | None
    try:
        found = snapshot_download(spec.source, revision=spec.revision, local_files_only=True)
    except LocalEntryNotFoundError as error:
        # Newer clients raise it, with the folder, where any file of the repository is missing: of those that
        # no predictor reads, all are.
        found = getattr(error, "snapshot_path", None)
    return None if found is None or lacking(Path(found), spec.files) else Path(found)


def required_folder(spec: PredictorSpec) -> Path:
    """The folder of a predictor's weights; raises UserError, which says how to get it, if it is not whole."""
    own = own_folder(spec)
    if own is None:
        cached = cached_folder(spec)
        if cached is None:
            raise _absent(spec, "its weights are not on this machine")
        return cached
    missing = lacking(own, spec.files)
    if missing:
        raise _absent(
            spec, f"{own} lacks {missing[0]}" + (f" and {len(missing) - 1} more files" * (len(missing) > 1))
        )
    return own


def _absent(spec: PredictorSpec, wrong: str) -> UserError:
    known = f"{spec.source}, licence {spec.licence}"
    todo = f"intrinsic-bench fetch {spec.name}, or set {WEIGHTS_VARIABLE} to a folder that holds {spec.name}/"
    return UserError(f"predictor {spec.name!r}", wrong, known, todo)


def fetch_folder(spec: PredictorSpec) -> Path:
    """The predictor's folder, fetched from the hub where it is not on this machine; raises UserError."""
    own = own_folder(spec)
    if own is not None:
        return required_folder(spec)
    from huggingface_hub import snapshot_download

    patterns = [name.split(OTHER)[0] for name in spec.files]
    try:
        found = Path(snapshot_download(spec.source, revision=spec.revision, allow_patterns=patterns))
    except Exception as error:  # the hub's client has no common base class for what the network can do
        wrong = f"its weights could not be fetched from the hub: {type(error).__name__}: {str(error)[:200]}"
        raise _absent(spec, wrong) from error
    if lacking(found, spec.files):
        raise _absent(spec, f"the hub's folder lacks {lacking(found, spec.files)[0]}")
    return found


@contextmanager
def reading(spec: PredictorSpec, place: Path) -> Iterator[None]:
    """Whatever goes wrong while a predictor's files are read becomes a UserError that names them."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # safetensors, json and transformers each raise their own for a broken file
        raise UserError(
            f"predictor {spec.name!r}",
            f"its files cannot be read: {type(error).__name__}: {str(error)[:300]}",
            str(place),
            f"fetch it again (intrinsic-bench fetch {spec.name}); a truncated download looks like this",
        ) from error


def check_names(spec: PredictorSpec, place: Path, info: Mapping[str, Any]) -> None:
    """Raise UserError unless a file held just the network's tensors: transformers makes up missing ones."""
    kinds = {"missing_keys": "lacks", "unexpected_keys": "holds unknown", "mismatched_keys": "has misshapen"}
    for kind, verb in kinds.items():
        names = sorted(str(name) for name in info.get(kind, ()))
        if names:
            raise UserError(
                f"predictor {spec.name!r}",
                f"its file {verb} {len(names)} tensors, first {names[0]!r}",
                str(place),
                f"fetch it again: intrinsic-bench fetch {spec.name}",
            )


# Identity.


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file, 64 hexadecimal digits; the same file is read once by a process."""
    stat = path.stat()
    return _digest(path, stat.st_size, stat.st_mtime_ns)


def folder_digest(folder: Path, files: Iterable[str]) -> str:
    """sha256 of the names and contents of what a predictor reads in a folder."""
    present = [each for name in files for each in name.split(OTHER) if (folder / each).is_file()]
    listed = "\n".join(f"{name} {file_digest(folder / name)}" for name in sorted(present))
    return hashlib.sha256(listed.encode()).hexdigest()


# Resizing.


def fitted_size(h: int, w: int, target: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Height and width of a picture resized to one of two sides of a target, both a multiple of a number.

    The side is the one that changes the picture less (DPT, Ranftl et al. 2021: the ratio is kept).
    """
    scales = target[0] / h, target[1] / w
    scale = scales[1] if abs(1 - scales[1]) < abs(1 - scales[0]) else scales[0]
    return max(multiple, round(scale * h / multiple) * multiple), max(
        multiple, round(scale * w / multiple) * multiple
    )
