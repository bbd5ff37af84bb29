"""Which store is meant by what is written after `report`, `status` and `verify`."""

from __future__ import annotations

from pathlib import Path

from .plan import default_store
from .suite import load_suite, shipped


def is_store(folder: Path) -> bool:
    """Whether a folder holds what a store does."""
    return (folder / "suite.json").is_file() or (folder / "records").is_dir()


def named_store(what: str) -> str | Path:
    """Where the store is: at a URL, in a folder, or a suite's own.

    A folder that holds no store does not hide the shipped suite of its name.

    Raises:
        UserError: neither a folder nor a suite.
    """
    if "://" in what:
        return what
    folder = Path(what)
    if is_store(folder) or (folder.is_dir() and what not in shipped()):
        return folder
    return default_store(load_suite(what))
