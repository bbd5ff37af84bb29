"""What a record says of where it was measured, and what its file of maps holds."""

import mmap
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import execute as executing
from benchmarks import make_cell, peak
from benchmarks.execute import environment
from benchmarks.store import Store

git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    environment.cache_clear()
    yield
    environment.cache_clear()


def committed(folder: Path) -> str:
    """A repository with one commit, whose hash is returned."""
    asked = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x"]
    for more in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "x"]):
        subprocess.run([*asked, *more], check=True)
    return subprocess.check_output([*asked, "rev-parse", "HEAD"], text=True).strip()


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = environment("cpu")
    assert found["commit"] == "" and found["torch"]


def test_the_peak_of_a_cell_is_its_own() -> None:
    peak.begin("cpu")
    start = peak.peak("cpu")["peak_memory_mib"]
    with mmap.mmap(-1, 200 << 20) as held:  # what is freed to an allocator may stay with the process
        for _ in range(200):
            held.write(b"x" * (1 << 20))
        assert peak.peak("cpu")["peak_memory_mib"] > start + 150
    peak.begin("cpu")
    assert peak.peak("cpu")["peak_memory_mib"] < start + 50


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_is_begun_with_before_its_memory_is_counted_anew(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """In a fresh process PyTorch refuses the second call before the first where the device has a number."""
    called: list[object] = []
    monkeypatch.setattr(torch.cuda, "init", lambda: called.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", called.append)
    peak.begin(device)
    assert called == ["init", device]


@git
@pytest.mark.parametrize("inside", [".", ".venv/lib/site-packages"])
def test_the_commit_is_that_of_the_packages_own_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inside: str
) -> None:
    commit = committed(tmp_path)
    package = tmp_path / inside / "benchmarks"
    package.mkdir(parents=True)
    monkeypatch.setattr(executing, "__file__", str(package / "execute.py"))
    assert environment("cpu")["commit"] == (commit if inside == "." else "")


@git
def test_a_checkout_without_a_commit_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(executing, "__file__", str(tmp_path / "benchmarks" / "execute.py"))
    (tmp_path / "benchmarks").mkdir()
    assert environment("cpu")["commit"] == ""


def test_maps_are_kept_without_an_array_that_nobody_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before NumPy 2.2 every keyword is an array."""

    def save(file: Any, **arrays: np.ndarray) -> None:
        assert all(isinstance(array, np.ndarray) for array in arrays.values()), arrays.keys()
        saved(file, **arrays)

    saved = np.savez_compressed
    monkeypatch.setattr(np, "savez_compressed", save)
    store = Store(tmp_path)
    store.prepare()
    cell = make_cell("none", "normal", "constant", train=2, validation=2, test=2)
    executing.execute(cell, store, lambda share, phase: None)
    with np.load(tmp_path / "maps" / f"{cell.hash}.npz", allow_pickle=False) as maps:
        assert sorted(maps.files) == ["error", "picture", "prediction", "truth"]
