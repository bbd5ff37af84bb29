"""One file of weights onto this machine: resumed, verified, atomic, by one process at a time.

What was fetched lies in one folder, beside each file a JSON file of the same name that says where it
came from.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import UserError
from ..sources import Source as Source
from .transfer import (
    CACHE_VARIABLE,
    CHUNK,
    HTTPS,
    Network,
    Origin,
    Part,
    Progress,
    Refused,
    Say,
    beside,
    check_space,
    from_origin,
    megabytes,
    read_json,
    write_json,
)

WEIGHTS_VARIABLE = "INTRINSIC_BENCH_WEIGHTS"  # a folder of the user's own files, always looked at first
SUFFIXES = (".pkl", ".safetensors", ".ckpt", ".pt", ".pth")  # in the order in which they are looked for
SETTINGS = ".yaml"  # what a checkpoint that needs settings has beside it, under its own name


def _ignore(*_: object) -> None:
    """Tell nobody."""


# Where files are.


def weights_folder() -> Path:
    """Where `fetch` puts files: `weights` in the cache, which INTRINSIC_BENCH_CACHE may name."""
    given = os.environ.get(CACHE_VARIABLE)
    return (Path(given) if given else Path.home() / ".cache" / "intrinsic-bench") / "weights"


def checked_name(name: str) -> str:
    """The name, if it can be that of a file in a folder; raises UserError for one that would leave it."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) and ".." not in name and len(name) < 100:
        return name
    known = "letters, digits, dots, hyphens and underscores, as in 'stylegan2.ffhq256'"
    raise UserError(f"weights of {name!r}", "this cannot be the name of a model", known, "see: fetch --list")


def own_path(name: str) -> Path | None:
    """NAME and one of SUFFIXES, or NAME/, in the folder INTRINSIC_BENCH_WEIGHTS."""
    given = os.environ.get(WEIGHTS_VARIABLE)
    if not given:
        return None
    folder = Path(given) / checked_name(name)
    return _file(Path(given), name) or (folder if folder.is_dir() else None)


def fetched_path(name: str) -> Path | None:
    """What `fetch` put into its folder for a name."""
    return _file(weights_folder(), name)


def _file(folder: Path, name: str) -> Path | None:
    paths = (folder / f"{checked_name(name)}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def local_path(name: str) -> Path | None:
    """The weights of a model on this machine: the user's own first, then what `fetch` put there."""
    return own_path(name) or fetched_path(name)


def required_path(name: str, published: bool = True) -> Path:
    """As `local_path`; raises UserError, which says how to get them, if they are not there.

    Args:
        published: whether there is an address to fetch them from.
    """
    found = local_path(name)
    if found is not None:
        return found
    own = os.environ.get(WEIGHTS_VARIABLE)
    fetching = f"intrinsic-bench fetch {name}{'' if published else ' --from PATH'}"
    todo = f"{fetching}, or set {WEIGHTS_VARIABLE} to a folder that holds {name}.pkl"
    places = [f"{WEIGHTS_VARIABLE}={own}" if own else f"{WEIGHTS_VARIABLE} (not set)", str(weights_folder())]
    wrong = "its weights are not on this machine"
    raise UserError(f"model {name!r}", wrong, f"looked in {' and '.join(places)}", todo)


def part_bytes(name: str) -> int:
    """Bytes of a file that `fetch` has begun and not finished."""
    parts = (weights_folder() / f"{checked_name(name)}{suffix}.part" for suffix in SUFFIXES)
    return sum(path.stat().st_size for path in parts if path.is_file())


def provenance(path: Path) -> dict[str, Any]:
    """What the JSON file beside a fetched file says about it; {} if there is none or it is broken."""
    return read_json(beside(path))


def sha256_of(path: Path) -> str:
    """Hash of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# All addresses.


def _on_hub(repository: str, path: str | None, source: Source) -> Origin:
    """A file of a hub repository at its present commit; raises Refused if it cannot be found there."""
    from huggingface_hub import HfApi, hf_hub_url

    wanted = path or urlsplit(source.urls[0]).path.rpartition("/")[2]
    try:
        info = HfApi().model_info(repository, files_metadata=True)
    except Exception as error:  # the hub's client has no common base class for what the network can do
        raise Refused(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}") from error
    all_files = info.siblings or []
    files = [f for f in all_files if wanted == (f.rfilename if path else f.rfilename.split("/")[-1])]
    if len(files) != 1:
        raise Refused(f"it holds {len(files)} files named {wanted}")
    known = files[0].lfs.sha256 if files[0].lfs else None
    url = hf_hub_url(repository, files[0].rfilename, revision=info.sha)
    return Origin(url, source.sha256 or known, source.bytes or files[0].size)


def _places(source: Source) -> Iterator[tuple[str, Callable[[], Origin]]]:
    for url in source.urls:
        yield url, partial(Origin, url, source.sha256, source.bytes)
    for repository, path in source.mirrors:
        yield f"hub:{repository}", partial(_on_hub, repository, path, source)


def _download(
    name: str, source: Source, part: Part, network: Network, progress: Progress, say: Say
) -> tuple[str, str]:
    """Address and hash of what then is the whole part, from the first address that gives it."""
    failures = []
    for place, find in _places(source):
        say(f"from {place}")
        try:
            origin = find()
            return origin.url, from_origin(origin, part, network, progress, say)
        except Refused as error:
            failures.append(f"{place}: {error}")
            say(f"refused: {error}")
    kept = f"; {megabytes(part.size())} are kept" if part.size() else ""
    todo = f"try again later{kept}, or give a local file: intrinsic-bench fetch {name} --from PATH"
    raise UserError(f"fetch {name}", "no address gives the file: " + "; ".join(failures), source.note, todo)


# A local file.


def _copy(name: str, source: Source, given: Path, part: Part, progress: Progress) -> str:
    """Hash of the part, which then is a copy of a local file; raises UserError if it is another one."""
    size = given.stat().st_size
    check_space(part.path.parent, size, 0)
    part.begin(url=None, validator=None, total=size)  # a copy is not resumed
    digest, done = hashlib.sha256(), 0
    try:
        with given.open("rb") as file, part.path.open("wb") as copy:
            while chunk := file.read(CHUNK):
                copy.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(done, size)
    except OSError:
        part.remove()
        raise
    if source.sha256 in (None, digest.hexdigest()):
        return digest.hexdigest()
    part.remove()
    own = f"a file of your own goes as {name}{given.suffix} into the folder {WEIGHTS_VARIABLE} names"
    raise UserError(
        f"fetch {name} --from {given}",
        f"it is not the published file: its sha256 is {digest.hexdigest()}",
        f"expected is {source.sha256}",
        f"give another file; {own}",
    )


def _checked_files(name: str, source: Source, given: Path) -> tuple[Path, Path | None]:
    """The file of weights, and of settings where the model needs some, of a local path."""
    if source.settings and (given.is_dir() or given.suffix == ".ckpt") and given.exists():
        from .taming import taming_files

        weights, *settings = taming_files(given)
        return _checked_file(name, weights), settings[0] if settings else None
    return _checked_file(name, given), None


def _checked_file(name: str, given: Path) -> Path:
    asked = f"fetch {name} --from {given}"
    if not given.is_file():
        wrong = "it is a folder" if given.is_dir() else "there is no such file"
        raise UserError(asked, wrong, f"a file is needed: {', '.join(SUFFIXES)}", "give the path of a file")
    if given.suffix not in SUFFIXES:
        wrong = f"weights do not end in {given.suffix!r}"
        raise UserError(asked, wrong, f"known endings: {', '.join(SUFFIXES)}", "rename the file")
    return given


def _check_place(name: str, source: Source, given: Path | None) -> None:
    if given is None and not source.urls and not source.mirrors:
        todo = f"get the file where you have a right to, then: intrinsic-bench fetch {name} --from PATH"
        raise UserError(f"fetch {name}", "no public address of its weights is known", source.note, todo)


# All of it.


def check_licence(name: str, source: Source, accepted: bool) -> None:
    """Raises UserError if the licence must be accepted and was not."""
    if source.non_commercial and not accepted:
        raise UserError(
            f"fetch {name}",
            "its weights may not be used commercially, and the licence was not accepted",
            f"{source.licence} {source.licence_address}".strip(),
            f"read it, and if you agree: intrinsic-bench fetch {name} --accept-licence",
        )


def fetch(
    name: str,
    source: Source,
    *,
    accept_licence: bool,
    from_path: Path | None = None,
    progress: Progress = _ignore,
    say: Say = _ignore,
    network: Network = HTTPS,
) -> Path:
    """Get the weights of a model and say where they are; what is there already is only verified.

    Args:
        accept_licence: whether the user accepts the licence; needed for non-commercial ones.
        from_path: a local file to copy instead of downloading one; of a model with settings a checkpoint
            whose YAML file lies where it was published, or the folder of both.
        progress: called with the bytes there and the bytes in all.
        say: called with a line of what goes on.

    Raises UserError: licence, disk, hash, or no address gives the file.
    """
    own = own_path(name)
    if own is not None and from_path is None:
        say(f"your own file is used ({WEIGHTS_VARIABLE}); nothing was fetched or verified")
        return own
    given, settings = _checked_files(name, source, from_path) if from_path is not None else (None, None)
    if fetched_path(name) is None:
        _check_place(name, source, given)
        check_licence(name, source, accept_licence)
        say(f"{name}: licence: {source.licence} {source.licence_address}".rstrip())
        if source.note:
            say(f"note: {source.note}")
    folder = weights_folder()
    with _disk_errors(name), _alone(folder, name, say):
        found = fetched_path(name)
        if found is not None:
            return _verified(name, source, found, given)
        target = folder / f"{name}{given.suffix if given else _suffix(source)}"
        part = Part(target, "copy" if given else "part")
        if given is not None:
            address, sha256 = f"local file {given}", _copy(name, source, given, part, progress)
        else:
            address, sha256 = _download(name, source, part, network, progress, say)
        if settings is not None:
            _copy_settings(settings, target.with_suffix(SETTINGS))
        return _finish(part, target, _facts(name, source, address, sha256, part.size(), accept_licence))


def _copy_settings(settings: Path, target: Path) -> None:
    """The YAML file of a checkpoint under the checkpoint's name, in place before the checkpoint is."""
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(settings.read_bytes())
    os.replace(part, target)


def _suffix(source: Source) -> str:
    named = source.urls[0] if source.urls else str(source.mirrors[0][1])
    suffix = Path(urlsplit(named).path).suffix
    return suffix if suffix in SUFFIXES else ".pkl"


def _facts(
    name: str, source: Source, address: str, sha256: str, size: int, accepted: bool | None
) -> dict[str, Any]:
    return {
        "name": name,
        "source": address.partition("?")[0],
        "sha256": sha256,
        "verified": source.sha256 is not None,
        "hash": "as published" if source.sha256 else "unverified: none is published to compare it with",
        "bytes": size,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": source.licence,
        "licence_accepted": accepted,
    }


def _finish(part: Part, target: Path, facts: Mapping[str, Any]) -> Path:
    """Bring a whole part into place: first what is said about it, so that no file goes without."""
    with part.path.open("rb") as file:
        os.fsync(file.fileno())
    write_json(beside(target), facts)
    os.replace(part.path, target)
    for rest in (part, Part(target)):
        rest.remove()
    return target


def _verified(name: str, source: Source, path: Path, given: Path | None) -> Path:
    """A file that was fetched before, if it still is the expected one, and the given one."""
    said, found = provenance(path), sha256_of(path)
    expected = source.sha256 or said.get("sha256")
    if expected not in (None, found):
        known = f"expected is {expected}" + ("" if source.sha256 else ", as when it was fetched")
        todo = f"delete {path}, then fetch it again"
        raise UserError(f"fetch {name}", f"{path} is there and has sha256 {found}", known, todo)
    if given is not None and sha256_of(given) != found:
        todo = f"delete {path} to replace it"
        raise UserError(f"fetch {name} --from {given}", "another file is there", f"{path}: {found}", todo)
    if said.get("sha256") != found:  # put there by hand
        size = path.stat().st_size
        write_json(beside(path), _facts(name, source, "unknown: found in place", found, size, None))
    return path


@contextmanager
def _alone(folder: Path, name: str, say: Say) -> Iterator[None]:
    """One process at a time for one name; the kernel frees the lock when its holder dies."""
    import fcntl  # not there on Windows

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is fetching it; waiting for that one")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _disk_errors(name: str) -> Iterator[None]:
    """Tell in four parts what the disk refuses; failures of the network never get here."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        wrong = "the disk is full" if full else f"{type(error).__name__}: {error}"
        kept = "free some space, then run it again: it continues where it stopped"
        todo = kept if full else f"mend it, or name another folder: {CACHE_VARIABLE}"
        raise UserError(f"fetch {name}", wrong, f"folder {weights_folder()}", todo) from error
