"""`doctor` on machines and disks that have something wrong: it says what, why, and how to mend it."""

import json
import os
import shutil
import struct
import sys
import tempfile
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import claims, health, health_stores
from benchmarks.doctor import on_disk
from generators.finding import FAILED, OK, SKIPPED, WARNING
from generators.ops import diagnose
from tests.cli.told import HERE, doctor, empty, one
from tests.runner.fakes import ROOT

GB = 2**30


# Versions


NEEDED = ["torch>=2.11", "peft>=0.17", "OpenEXR>=3.3; extra == 'exr'"]


@pytest.mark.parametrize(
    ("there", "mark", "says"),
    [
        ({"torch": "2.11.0+cpu", "peft": "0.17"}, OK, "all 2 packages are new enough"),
        ({"torch": "2.10.1", "peft": "0.17"}, FAILED, "version of torch: is 2.10.1; >=2.11 is needed"),
        ({"torch": "2.12.0"}, FAILED, "version of peft: is not installed"),
        ({"torch": "2.12.0.dev20260101+cu130", "peft": "1.0rc1"}, OK, "new enough"),
    ],
)
def test_versions(there: dict[str, str], mark: str, says: str) -> None:
    found = one(health.versions(NEEDED, there.get), mark, says)
    assert mark == OK or "pip install '" in found.cure


def test_versions_of_this_machine() -> None:
    one(health.versions(health.requirements()), OK, "intrinsic-bench")


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PACKAGE", "no-such-package")
    one(health.versions(health.requirements()), WARNING, "no-such-package is not installed")
    one(health.python_version(), OK, sys.prefix)


def test_python() -> None:
    one(health.python_version(">=3.11", (3, 10, 4)), FAILED, "3.10.4; >=3.11 is needed")
    one(health.python_version(">=3.11", (3, 14, 0)), OK, "3.14.0")


def test_extras() -> None:
    installed = {"OpenEXR": "3.2", "ray": "2.50"}
    found = {finding.what: finding for finding in health.extras(NEEDED, installed.get)}
    assert {name: found[name].mark for name in found} == {
        "OpenEXR": WARNING, "ray": OK, "tensorboard": SKIPPED, "wandb": SKIPPED
    }  # fmt: skip
    assert "pip install 'OpenEXR>=3.3'" in found["OpenEXR"].cure and "pip install" in found["wandb"].cure


@pytest.mark.parametrize(
    ("driver", "built", "works", "mark", "says"),
    [
        (None, None, False, SKIPPED, "no NVIDIA driver"),
        ("550.54.14", None, False, WARNING, "NVIDIA driver 550.54.14, but torch"),
        ("550.54.14", "13.0", False, WARNING, "can use no device"),
        ("550.54.14", "12.4", True, OK, "NVIDIA driver 550.54.14 with CUDA 12.4"),
    ],
)
def test_driver_and_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str | None, built: str | None, works: bool,
    mark: str, says: str,
) -> None:  # fmt: skip
    import torch

    if driver:
        (tmp_path / "version").write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Thu\n")
    monkeypatch.setattr(diagnose, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: works)
    one([diagnose.driver_and_torch()], mark, says)


# Imports


def test_a_file_that_stands_before_a_module(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("")
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "torch").mkdir()
    (tmp_path / "json").mkdir()  # without an __init__.py Python's own comes first
    (tmp_path / "torch" / "__init__.py").write_text("")
    found = list(health.shadowing([str(tmp_path), *sys.path]))
    assert [each.text for each in found] == [
        f"{tmp_path / 'random.py'} stands before random", f"{tmp_path / 'torch'} stands before torch"
    ]  # fmt: skip
    assert all(each.mark == WARNING for each in found)
    one(health.shadowing([*sys.path, str(tmp_path)]), OK, str(ROOT))  # what comes last hides nothing


def test_a_second_copy_of_this_package(tmp_path: Path) -> None:
    (tmp_path / "generators").mkdir()
    (tmp_path / "generators" / "__init__.py").write_text("")
    found = one(
        health.shadowing([str(tmp_path), str(ROOT)]), FAILED, f"generators is imported from {tmp_path}"
    )
    assert "PYTHONPATH" in found.cure


# Limits


@pytest.mark.parametrize(
    ("soft", "hard", "mark"), [(256, 4096, WARNING), (256, 512, WARNING), (1024, 1024, OK), (-1, -1, OK)]
)
def test_open_files(soft: int, hard: int, mark: str) -> None:
    found = health.enough_files(soft, hard)
    assert found.mark == mark and (mark == OK or "ulimit -n 1024" in found.cure)
    assert ("ask an administrator" in found.cure) == (hard == 512)


def test_the_limit_of_open_files_is_that_of_this_process() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
        one(health.open_files(), WARNING, f"{min(soft, 300)} for each process")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("size", "mark"), [(64 * 2**20, WARNING), (8 * GB, OK)])
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int, mark: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(size, 0, size))
    one(health.shared_memory(tmp_path), mark, "64 MB" if mark == WARNING else "8.0 GB")


def test_a_system_without_shared_memory(tmp_path: Path) -> None:
    one(health.shared_memory(tmp_path / "shm"), SKIPPED, "there is no")


@pytest.mark.parametrize(
    ("free", "limit", "mark", "says"),
    [
        (16 * GB, None, OK, "16.0 GB available: room for 13 workers"),
        (16 * GB, (4 * GB, 3 * GB), FAILED, "limited to 4.0 GB by the container: room for 0 workers"),
        (16 * GB, (4 * GB, 2 * GB), WARNING, "room for 1 workers"),
        (16 * GB, (2 * GB, 3 * GB), FAILED, "room for 0 workers"),
        (GB // 2, (64 * GB, 0), FAILED, "room for 0 workers"),
    ],
)
def test_memory(free: int, limit: tuple[int, int] | None, mark: str, says: str) -> None:
    one([health.enough_memory(free, limit, processors=4)], mark, says)


def test_memory_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  100 kB\nMemAvailable:    2048 kB\n")
    assert health.available(tmp_path / "meminfo") == 2 * 2**20
    assert health.available(tmp_path / "none") is None
    assert len(list(health.memory())) == 1


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/job/step\n")
    for group, most, used in (("", "max", "5"), ("job", "1000", "900"), ("job/step", "5000", "100")):
        folder = tmp_path / group
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{used}\n")
    assert health.cgroup_limit(tmp_path, tmp_path / "own") == (1000, 900)
    (tmp_path / "job" / "memory.stat").write_text("anon 1\ninactive_file 300\n")  # given back when needed
    assert health.cgroup_limit(tmp_path, tmp_path / "own") == (1000, 600)
    (tmp_path / "job" / "memory.max").write_text("max\n")
    assert health.cgroup_limit(tmp_path, tmp_path / "own") == (5000, 100)
    assert health.cgroup_limit(tmp_path, tmp_path / "nowhere") is None


@pytest.mark.parametrize(("most", "limit"), [("3000", (3000, 1)), ("9223372036854771712", None)])
def test_control_groups_of_the_first_version(
    tmp_path: Path, most: str, limit: tuple[int, int] | None
) -> None:
    (tmp_path / "own").write_text("5:cpu,cpuacct:/job\n4:memory:/job\n")
    folder = tmp_path / "memory" / "job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{most}\n")
    (folder / "memory.usage_in_bytes").write_text("1\n")
    assert health.cgroup_limit(tmp_path, tmp_path / "own") == limit


# Disks and clocks


@pytest.mark.parametrize(
    ("free", "mark", "says"),
    [(0, FAILED, "no space left"), (GB // 2, WARNING, "512 MB free"), (2 * GB, OK, "2.0 GB free")],
)
def test_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, mark: str, says: str) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10 * GB, 10 * GB - free, free))
    one(health_stores.disks({tmp_path / "not" / "there" / "yet": "DIR"}), mark, says)
    result = doctor("--store", empty(tmp_path / "store").folder)
    assert result.exit_code == (mark == FAILED), result.output


def test_a_disk_without_free_names(tmp_path: Path) -> None:
    one([health_stores.room(tmp_path, "DIR", 10 * GB, 0)], FAILED, "no file can be made")
    one([health_stores.room(tmp_path, "DIR", 10 * GB, None)], OK, "10.0 GB free")


@pytest.mark.parametrize(
    ("place", "other"),
    [("results", "--store DIR"), ("cache", "INTRINSIC_BENCH_CACHE"), ("temporary", "TMPDIR")],
)
def test_room_of_every_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, other: str) -> None:
    """Where a run writes: its store, the cache, and the folder for temporary files."""
    usage = namedtuple("usage", "total used free")
    for name in ("results", "cache", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    full = lambda path: usage(10 * GB, 0, GB // 2 if Path(path) == tmp_path / place else 10 * GB)  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", full)
    found = [each for each in on_disk(None) if each.what == "disk"]
    assert len(found) == 3 and one(found, WARNING, place).cure.endswith(f"another disk: {other}")


@pytest.mark.parametrize(("off", "mark"), [(0.5, OK), (3600, WARNING), (-3600, WARNING)])
def test_clocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, off: float, mark: str) -> None:
    """The machine's clock is moved; files keep being dated by the system's."""
    now = time.time
    monkeypatch.setattr(health_stores.time, "time", lambda: now() + off)
    found = one(health_stores.clocks([tmp_path]), mark, "files for" if mark == OK else "60 min")
    assert ("before now" in found.text) == (off == 3600) and list(tmp_path.iterdir()) == []


# The cache


def tensors(path: Path, size: int = 8) -> Path:
    """A safetensors file of one tensor."""
    facts = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"key": "x"}, "a": facts}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
    return path


def test_a_sound_cache(tmp_path: Path) -> None:
    tensors(tmp_path / "codes" / "a.safetensors")
    one(health_stores.cache(tmp_path), OK, "1 files, ")
    one(health_stores.cache(tmp_path / "none"), OK, "is not there yet")


def test_folders_of_the_cache_the_largest_first(tmp_path: Path) -> None:
    tensors(tmp_path / "codes" / "a.safetensors")
    tensors(tmp_path / "weights" / "a.safetensors", 3 * 2**20)
    tensors(tmp_path / "stores" / "one" / "a.safetensors", 2**20)
    tensors(tmp_path / "stores" / "two" / "a.safetensors", 2**20)
    _, *sizes, what, how = one(health_stores.cache(tmp_path), OK, "4 files, 5 MB").text.splitlines()
    assert [size.split() for size in sizes] == [
        ["3", "MB", "weights"], ["2", "MB", "stores"], ["0", "MB", "codes"]
    ]  # fmt: skip
    assert "weights and data have to be fetched again" in what and "stores" in how


def test_the_cache_writes_what_is_sound(tmp_path: Path) -> None:
    import torch

    from benchmarks.cache import Cache

    Cache(tmp_path).get({"kind": "codes", "n": 1}, lambda: {"x": torch.zeros(3, 4), "y": torch.ones(0)})
    assert list(tmp_path.rglob("*.safetensors"))
    one(health_stores.cache(tmp_path), OK, "1 files, ")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"", "it is empty"),
        (lambda data: data[:5], "it is cut off"),
        (lambda data: data[:40], "it is cut off"),
        (lambda data: data[:-1], "it is cut off, or longer than it says"),
        (lambda data: data + b"x", "longer than it says"),
        (lambda data: data[:8] + b"?" + data[9:], "its header is damaged"),
        (lambda data: struct.pack("<Q", 2) + b"[]", "its header is damaged"),
    ],
)
def test_broken_entries_are_named(tmp_path: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    path = tensors(tmp_path / "codes" / "a.safetensors")
    tensors(tmp_path / "codes" / "b.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    found = one(health_stores.cache(tmp_path), WARNING, "broken entries: 1")
    assert f"  {path}: " in found.text and says in found.text


def test_temporary_files_of_the_dead(tmp_path: Path, dead: int) -> None:
    gone = tensors(tmp_path / "codes" / f".a.safetensors.{HERE}.{dead}-7.tmp")
    tensors(tmp_path / "codes" / f".b.safetensors.{HERE}.{os.getpid()}-7.tmp")
    tensors(tmp_path / "codes" / ".c.safetensors.elsewhere.7-7.tmp")
    old = tensors(tmp_path / "codes" / ".d.safetensors.elsewhere.7-7.tmp")
    os.utime(old, (time.time() - 8 * 86400,) * 2)
    found = one(health_stores.cache(tmp_path), WARNING, "temporary files of the dead: 2")
    assert set(found.cure.split()[1:]) == {str(gone), str(old)}


def test_temporary_files_of_the_dead_in_a_container(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims.os, "readlink", lambda path: "pid:[4026532001]")
    gone = tensors(tmp_path / "codes" / f".a.safetensors.{claims.machine()}.{dead}-7.tmp")
    tensors(tmp_path / "codes" / f".b.safetensors.{claims.machine()}.{os.getpid()}-7.tmp")
    note = tensors(tmp_path / "trees" / f".a.json@{claims.machine()}.{dead}.tmp")
    found = one(health_stores.cache(tmp_path), WARNING, "temporary files of the dead: 2")
    assert set(found.cure.split()[1:]) == {str(gone), str(note)}


def test_a_large_cache_is_looked_at_in_part_and_that_is_said(tmp_path: Path) -> None:
    tensors(tmp_path / "a.safetensors").write_bytes(b"")
    one(health_stores.cache(tmp_path, patience=-1), OK, "1 of them not looked at for lack of time")
