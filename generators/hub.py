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
ZOO = Path(__file__).parent / "zoo" / "weights"
INDEX = ".index.json"  # what weights in many files have instead of the one
BLOCK = 1 << 22  # bytes read at once


def local_folder(spec: GeneratorSpec) -> Path | None:
    """The folder of a model's weights if it is on this machine by the user's own word.

    A model that is another one asked in another way (`options["base"]`) is found in that one's folder, too.
    """
    given = os.environ.get(WEIGHTS_VARIABLE)
    for name in (spec.name, spec.options.get("base")):
        if given and name and (Path(given) / name).is_dir():
            return Path(given) / str(name)
    place = zoo_place(spec) if spec.embedded else Path(spec.source or "")
    return place if spec.source and place.is_dir() else None


def zoo_place(spec: GeneratorSpec) -> Path:
    """Where the weights of an embedded model are, or would be.

    A model's folder that `zoo train` wrote below $INTRINSIC_BENCH_WEIGHTS stands for the package's, and as a
    whole: a stage that it lacks is missing, not the package's.
    """
    place, given = Path(str(spec.source)), os.environ.get(WEIGHTS_VARIABLE)
    if given and place.is_relative_to(ZOO):
        below = place.relative_to(ZOO)
        return Path(given) / below if (Path(given) / below.parts[0]).is_dir() else place
    return place


def address(spec: GeneratorSpec) -> str:
    """ "SOURCE@COMMIT" of a model of the hub; of one that was never fetched "SOURCE@REVISION".

    The hub's cache keeps branch and tag as a file refs/NAME that holds the commit; a commit is its own name.
    """
    return f"{spec.source}@{_revision(spec)}"


def _revision(spec: GeneratorSpec) -> str:
    """What is loaded and fetched: the commit that the cache has of a branch, else the revision asked for."""
    asked, known = _asked(spec)
    return known.read_text(encoding="utf-8").strip() if os.path.isfile(known) else asked


def _asked(spec: GeneratorSpec) -> tuple[str, Path]:
    """The revision asked for, and the cache's file that holds its commit if it was fetched."""
    from huggingface_hub import constants

    asked, folder = spec.revision or constants.DEFAULT_REVISION, f"models--{spec.source}".replace("/", "--")
    return asked, Path(constants.HF_HUB_CACHE) / folder / "refs" / asked


def find_folder(spec: GeneratorSpec, patterns: Sequence[str], layout: str) -> Path:
    """The model's folder, fetched from the hub where it is not on this machine.

    A model that was fetched once stays at its commit (see `address`), however the hub's goes on.

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
        raise lacking(spec, zoo_place(spec))
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(str(spec.source), revision=_revision(spec), allow_patterns=list(patterns))
    except Exception as error:  # the hub's client has no common base class for what the network can do
        wrong, todo = _refusal(spec, error)
        raise UserError(
            f"model {spec.name!r}",
            f"its weights could not be fetched from the hub: {wrong}: {str(error)[:200]}",
            f"source {spec.source}, licence {spec.licence}",
            f"{todo}, or set {WEIGHTS_VARIABLE} to a folder that holds a copy as {spec.name}/ "
            f"in the layout of {layout}",
        ) from error
    return Path(found)


def _refusal(spec: GeneratorSpec, error: Exception) -> tuple[str, str]:
    """What the hub's client met, and what to do about it beside using a copy on this machine."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    met = (error, error.__cause__)  # of a snapshot that is there in part the client tells only the cause
    if any(isinstance(one, GatedRepoError) for one in met):  # a RepositoryNotFoundError, too
        todo = f"accept the licence on the hub's page of {spec.source} and log in (hf auth login)"
        return "the repository is gated", todo
    if any(isinstance(one, RepositoryNotFoundError) for one in met):
        todo = "log in if you have access to it (hf auth login)"
        return "the repository was removed or renamed, or is private", todo
    if any(isinstance(one, RevisionNotFoundError) for one in met):
        return _gone(spec)
    return type(error).__name__, "connect to the network"


def _gone(spec: GeneratorSpec) -> tuple[str, str]:
    """A revision that the hub does not have; of a branch it is the commit that was fetched once."""
    asked, known = _asked(spec)
    if not known.is_file():
        return f"it has no revision {asked}", "name a branch, a tag or a commit that it has"
    todo = f"delete {known} to fetch the commit that {asked} is now, which is another identity"
    return f"it no longer has the commit {_revision(spec)}, which {asked} was when it was fetched", todo


def on_machine(spec: GeneratorSpec, files: Sequence[str]) -> bool:
    """Whether a model's folder, or these files of it in the hub's cache, are on this machine.

    Of an embedded model's folder these are asked for one by one: a training may not have got so far.
    """
    from huggingface_hub import try_to_load_from_cache

    folder = local_folder(spec)
    if spec.embedded:
        return folder is not None and not lost(folder, files)
    if folder is not None:
        return True
    asked = (try_to_load_from_cache(str(spec.source), file, revision=spec.revision) for file in files)
    return all(isinstance(found, str) for found in asked)


def lost(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of some files and subfolders that a folder lacks; of weights in many files the index stands."""
    return [name for name in names if not any(_holds(folder / f"{name}{end}") for end in ("", INDEX))]


def _holds(path: Path) -> bool:
    return path.is_file() or any(below.is_file() for below in path.rglob("*"))


def whole_folder(spec: GeneratorSpec, names: Sequence[str]) -> Path | None:
    """`local_folder`; raises UserError if an embedded model's lacks one of these files and subfolders."""
    folder = local_folder(spec)
    if spec.embedded:
        place = folder or zoo_place(spec)
        for name in lost(place, names):
            raise lacking(spec, place / name)
    return folder


def lacking(spec: GeneratorSpec, path: Path) -> UserError:
    """The error for a file or a part that a folder of this machine lacks: the cure is its owner's."""
    if spec.embedded and path.is_relative_to(str(spec.source)):
        return not_installed(spec.name, path.as_posix().rpartition("zoo/weights/")[2])
    whose, cure = ("package", "train that stage") if spec.embedded else ("hub", "put it there")
    return UserError(
        f"model {spec.name!r}",
        f"the folder that stands for the {whose}'s weights lacks it: {WEIGHTS_VARIABLE} is set",
        f"expected: {path}",
        f"{cure}, too, or unset the variable",
    )


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
