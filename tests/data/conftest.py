"""A small tree of DIODE."""

import shutil
from pathlib import Path

import pytest

from tests.data.diode_tree import EACH, write_tree


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for DIODE, and a cache of its own."""
    monkeypatch.setenv("INTRINSIC_BENCH_DATA", str(tmp_path))
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "diode").mkdir()
    return tmp_path / "diode"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    write_tree(folder, EACH)
    return folder


@pytest.fixture
def full(root: Path, template: Path) -> Path:
    """All of a small tree."""
    shutil.copytree(template, root, dirs_exist_ok=True)
    return root
