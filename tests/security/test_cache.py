"""A cache entry is what was written, or it is reported and computed again; a full disk is told as such."""

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.cache import VARIABLE, Cache, sweep
from benchmarks.cell import canonical
from benchmarks.claims import machine
from benchmarks.files import FORGOTTEN, StoreError

KEY = {"kind": "pictures", "world": "abc", "rows": [0, 4]}
SMALL = {"pictures": torch.arange(6, dtype=torch.uint8), "half": torch.ones(2, dtype=torch.bfloat16)}
DAMAGED = 300  # random bits of the larger entry


def entry(folder: Path, tensors: Mapping[str, Tensor]) -> tuple[Cache, Path]:
    """A cache and the file of its one entry."""
    cache = Cache(folder)
    cache.get(KEY, lambda: tensors)
    path = cache.path(KEY)
    assert path is not None and path.is_file()
    return cache, path


def counting(tensors: Mapping[str, Tensor]) -> tuple[list[int], Callable[[], Mapping[str, Tensor]]]:
    calls: list[int] = []

    def compute() -> Mapping[str, Tensor]:
        calls.append(1)
        return tensors

    return calls, compute


class Asked(Exception):
    """The cache asks for an entry to be computed."""


def ask() -> Mapping[str, Tensor]:
    raise Asked


def assert_noticed(cache: Cache, path: Path, damaged: bytes) -> None:
    """A damaged file is not used: the entry is to be computed."""
    path.write_bytes(damaged)
    with pytest.raises(Asked):
        cache.get(KEY, ask)


def test_every_flipped_bit_of_a_small_entry_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, path = entry(tmp_path, SMALL)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        assert_noticed(cache, path, bytes(damaged))
        said = capsys.readouterr().err
        assert path.name in said and "computed again" in said, f"bit {bit}"
    cache.get(KEY, lambda: SMALL)
    assert cache.get(KEY, ask).keys() == SMALL.keys()  # what was written in its place is whole


def test_random_bits_of_a_larger_entry_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = {"pictures": torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))}
    cache, path = entry(tmp_path, large)
    whole, chance = path.read_bytes(), random.Random(5)
    for _ in range(DAMAGED):
        damaged, bit = bytearray(whole), chance.randrange(8 * len(whole))
        damaged[bit // 8] ^= 1 << bit % 8
        assert_noticed(cache, path, bytes(damaged))
    assert capsys.readouterr().err.count("it is damaged") > DAMAGED // 2


def test_an_entry_cut_anywhere_is_noticed(tmp_path: Path) -> None:
    cache, path = entry(tmp_path, SMALL)
    whole = path.read_bytes()
    for length in range(len(whole)):
        assert_noticed(cache, path, whole[:length])
    assert_noticed(cache, path, whole + b"\0")


def test_an_entry_of_before_has_no_checksum_and_is_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, path = entry(tmp_path, SMALL)
    save_file(dict(SMALL), str(path), metadata={"key": canonical(KEY)})  # as an earlier version wrote it
    calls, compute = counting(SMALL)
    cache.get(KEY, compute)
    assert calls == [1] and "no checksum" in capsys.readouterr().err
    cache.get(KEY, compute)
    assert calls == [1]


def test_an_entry_of_another_key_is_not_used(tmp_path: Path) -> None:
    cache, path = entry(tmp_path, SMALL)
    other = dict(KEY, world="another")
    cache.get(other, lambda: {"pictures": torch.zeros(3)})
    moved = cache.path(other)
    assert moved is not None
    assert_noticed(cache, path, moved.read_bytes())


def test_it_is_plain_safetensors(tmp_path: Path) -> None:
    _, path = entry(tmp_path, SMALL)
    assert torch.equal(load_file(str(path))["pictures"], SMALL["pictures"])


def test_a_full_disk_is_an_error_in_four_parts_and_leaves_nothing(tmp_path: Path) -> None:
    cache, before = Cache(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # Python ignores the signal: EFBIG is left
    try:
        with pytest.raises(StoreError) as caught:
            cache.get(KEY, lambda: {"pictures": torch.zeros(50_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = caught.value
    assert "too large" in error.wrong and VARIABLE in error.todo and str(tmp_path) in error.known
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_cache_that_cannot_be_made_is_the_same_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError) as caught:
        Cache(tmp_path / "file").get(KEY, lambda: SMALL)
    assert VARIABLE in caught.value.todo


def test_an_entry_that_is_removed_while_it_is_read_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Cache(tmp_path)
    folder.get(KEY, lambda: SMALL)

    def gone(path: Path, framework: str) -> None:  # as safetensors has it where torch finds no file any more
        raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")

    monkeypatch.setattr("benchmarks.cache.safe_open", gone)
    computed: list[int] = []
    found = folder.get(KEY, lambda: computed.append(1) or SMALL)
    assert computed and found.keys() == SMALL.keys()


WRITER = """if True:
    import sys, torch
    from pathlib import Path
    from benchmarks.cache import Cache
    cache, number = Cache(Path(sys.argv[1])), float(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    for round in range(40):
        key = {"kind": "both", "round": round % 4}
        path = cache.path(key)
        if round >= 4:
            path.unlink(missing_ok=True)
        found = cache.get(key, lambda: {"a": torch.full((20_000,), float(round % 4))})
        assert found["a"].unique().tolist() == [float(round % 4)], found["a"].unique()
"""


def test_two_processes_write_one_entry(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(number)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in (1, 2)
    ]  # fmt: skip
    for one in both:
        assert one.stdout is not None and one.stdout.readline() == "ready\n"
    told = []
    for one in both:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in both:
        told.append(one.communicate(timeout=60)[1])
        assert one.returncode == 0, told[-1]
    assert "damaged" not in "".join(told)
    assert list(tmp_path.rglob("*.tmp")) == []


def test_temporary_files_of_the_dead_are_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    here, host = tmp_path / "pictures", machine()
    here.mkdir()
    names = {
        "dead": f".a.safetensors.{host}.{gone.pid}-1.tmp",
        "alive": f".b.safetensors.{host}.{os.getpid()}-1.tmp",
        "elsewhere": f".c.safetensors.another-host.{gone.pid}-1.tmp",
        "forgotten": f".d.safetensors.another-host.{os.getpid()}-1.tmp",
        "ends alike": f".x.safetensors.node.{host}.{gone.pid}-1.tmp",
        "called alike": f".x.safetensors.another.safetensors.{host}.{gone.pid}-1.tmp",
        "of before": f".e.safetensors.{gone.pid}.tmp",  # its name does not say the machine
    }
    for name in names.values():
        (here / name).write_bytes(b"half")
    past = time.time() - FORGOTTEN - 10
    os.utime(here / names["forgotten"], (past, past))
    Cache(tmp_path).get(KEY, lambda: SMALL)  # the first entry a process writes sweeps its folder
    left = {what for what, name in names.items() if (here / name).exists()}
    assert left == {"alive", "elsewhere", "ends alike", "called alike", "of before"}
    sweep(here)
    assert {what for what, name in names.items() if (here / name).exists()} == left
