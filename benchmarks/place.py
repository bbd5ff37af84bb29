"""Files at a URL (s3://bucket/folder, gs://, file://, ...), each whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from generators.errors import UserError

from .files import StoreError, sweep_temporary, sync_all, sync_folder, temporary_name

_TRIES = 4  # of a transfer; seconds between them double, from _PAUSE
_PAUSE = 0.5
_FINAL = (PermissionError, IsADirectoryError, NotADirectoryError)
Result = TypeVar("Result")


class Place:
    """Files below a URL, each whole or not there, by their relative names.

    Args:
        url: any that fsspec knows; options of the file system are fsspec's own configuration.

    Raises UserError for a scheme nobody knows, or whose package is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self._made: set[str] = set()  # folders that are there
        try:
            self.files, self.folder = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            known = "file://, memory://, and what is installed for fsspec: s3fs, gcsfs, adlfs, sshfs ..."
            todo = "pip install the package for it (s3:// is s3fs, gs:// is gcsfs), or --store DIR"
            raise UserError(f"the store {url}", f"{error}", known, todo) from error

    def _at(self, name: str) -> str:
        return f"{self.folder.rstrip('/')}/{name}"

    def _try(self, what: str, name: str, call: Callable[[], Result]) -> Result:
        """The result of a transfer, tried again when it fails; StoreError when it keeps failing."""
        for attempt in range(_TRIES):
            try:
                with _plainly():
                    return call()
            except (FileExistsError, FileNotFoundError):
                raise
            except OSError as error:
                if attempt == _TRIES - 1 or isinstance(error, _FINAL):
                    asked, wrong = f"{what} {self.url}/{name}", f"{type(error).__name__}: {error}"
                    known = "everything recorded so far is whole and stays as it is"
                    todo = "look at the connection and your rights there, then run the same command again"
                    raise StoreError(asked, wrong, known, todo) from error
            time.sleep(_PAUSE * 2**attempt)
        raise AssertionError("the last try returns or raises")

    def list(self, folder: str) -> dict[str, tuple[int, int]]:
        """Name to stamp of the files in a folder; a stamp changes whenever the file is replaced."""
        self.files.invalidate_cache()
        try:
            found = self._try("list", folder, lambda: self.files.ls(self._at(folder), detail=True))
        except FileNotFoundError:
            return {}
        entries = [entry for entry in found if entry["type"] == "file"]
        return {entry["name"].rpartition("/")[2]: _stamp(entry) for entry in entries}

    def stamp(self, name: str) -> tuple[int, int] | None:
        """The stamp of one file, as `list` has it; None if it is not there."""
        self.files.invalidate_cache()
        try:
            return _stamp(self._try("look at", name, lambda: self.files.info(self._at(name))))
        except FileNotFoundError:
            return None

    def get(self, name: str) -> bytes:
        """The bytes of a file; raises FileNotFoundError."""

        def read() -> bytes:
            found: bytes = self.files.cat_file(self._at(name))
            return found

        return self._try("read", name, read)

    def get_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """Those of many files that are there, by name; read at once where the file system can."""
        paths = {self.files._strip_protocol(self._at(name)): name for name in names}

        def read() -> dict[str, bytes]:
            found = self.files.cat(list(paths), on_error="return")
            for error in found.values():
                if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
                    raise error
            return {paths[path]: data for path, data in found.items() if isinstance(data, bytes)}

        return self._try("read", f"{names[0]} ...", read) if names else {}

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that is not there yet; False if it is, unless it was this call that wrote it.

        Of two at once one wins on local disks, in memory and on object stores that know "create"; elsewhere
        fsspec looks first and writes then.
        """
        tried = 0

        def write() -> None:
            nonlocal tried
            tried += 1
            self._write(name, data, "create")

        try:
            self._try("write", name, write)
        except FileExistsError:
            return tried > 1 and self._holds(name, data)  # the first answer was lost, not the request
        return True

    def put(self, name: str, data: bytes) -> None:
        """Write a file, replacing what is there."""
        self._try("write", name, lambda: self._write(name, data, "overwrite"))

    def write_once(self, name: str, data: bytes) -> None:
        """Write a file, replacing what is there; once, and without waiting for a disk; raises OSError."""
        with _plainly():
            self._write(name, data, "overwrite", lasting=False)

    def upload(self, path: Path, name: str) -> None:
        """Write a file, or a folder with all that is in it, under a name that nobody else writes."""
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            inside = f"{name}/{file.relative_to(path).as_posix()}" if path.is_dir() else name
            if file.is_file():
                self._make_room(inside)
                self._try("write", inside, partial(self._put_file, file, inside))

    def _put_file(self, file: Path, name: str) -> None:
        self.files.put_file(str(file), self._at(name))
        if self.local:
            sync_all(Path(self._at(name)))
            sync_folder(Path(self._at(name)).parent)

    def download(self, name: str, path: Path) -> None:
        """Read a file, or a folder with all that is in it; raises FileNotFoundError.

        StoreError, with nothing written, at a name that leads out of it: an object's name may be any text.
        """
        found = self._try("list", name, lambda: self.files.find(self._at(name)))
        if not found:
            raise FileNotFoundError(f"{self.url}/{name}")
        root = self._at(name)
        targets = {file: path / self._inside(file, root) for file in found}
        for file, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._try("read", name, partial(self.files.get_file, file, str(target)))

    def _inside(self, file: str, root: str) -> str:
        """Name of a file relative to the folder it is in; raises StoreError if it leads out of it."""
        inside = file[len(root) + 1 :]
        if inside.startswith("/") or ".." in inside.split("/"):
            wrong = f"an object there is called {file!r}, which leads out of the folder it would be kept in"
            known = "nothing of it was written here; the records are unaffected"
            todo = "look at who put it there, then delete it: nothing here ever writes such a name"
            raise StoreError(f"read {self.url}", wrong, known, todo)
        return inside

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it, if it is there."""
        with suppress(FileNotFoundError):
            self._try("delete", name, lambda: self.files.rm(self._at(name), recursive=True))

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return self.get(name) == data
        except FileNotFoundError:
            return False

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine, where a file that is being written can be seen."""
        from fsspec.implementations.local import LocalFileSystem

        return isinstance(self.files, LocalFileSystem)

    def sweep(self) -> None:
        """Remove what killed writers of this machine left half-written, where that can be seen."""
        if self.local:
            sweep_temporary(Path(self.folder))

    def _make_room(self, name: str) -> None:
        folder = self._at(name).rpartition("/")[0]
        if folder not in self._made:
            self.files.makedirs(folder, exist_ok=True)
            if self.local and "/" in name:
                sync_folder(Path(folder).parent)
            self._made.add(folder)

    def _write(self, name: str, data: bytes, mode: str, lasting: bool = True) -> None:
        path = self._at(name)
        self._make_room(name)
        if not self.local:  # an object is there when it is whole
            self.files.pipe_file(path, data, mode=mode)
            return
        target = Path(path)
        temporary = temporary_name(target.with_name(f"{target.name}.{secrets.token_hex(4)}"))
        try:
            self.files.pipe_file(str(temporary), data)
            if lasting:
                sync_all(temporary)
            if mode == "create":
                os.link(temporary, target)
            else:
                os.replace(temporary, target)
            if lasting:
                sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _plainly() -> Iterator[None]:
    """Raise OSError for whatever a file system raises: many have errors of their own (of botocore ...)."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


# What a file system tells of a file that changes with its content, by its names for it. Of the first that it
# has, the rest is not asked: a listing and a look at one file tell times of different precision.
_TOLD: tuple[tuple[str, ...], ...] = (
    ("generation",),
    ("ETag",),
    ("etag",),
    ("md5Hash",),
    ("content_md5",),
    ("mtime", "ino"),
    ("LastModified",),
    ("last_modified",),
    ("updated",),
    ("created",),
)


def _stamp(entry: dict[str, Any]) -> tuple[int, int]:
    """Of a file's description: a number of what changes with its content, and its size."""
    names = next((names for names in _TOLD if entry.get(names[0]) is not None), ())
    text = json.dumps([str(entry.get(name)) for name in names])
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16), int(entry.get("size") or 0)
