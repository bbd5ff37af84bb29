"""Fetching weights: what is recorded, licences, mirrors on the hub, local files, several processes."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from generators.checkpoints import download, transfer
from generators.checkpoints.download import fetch, local_path, provenance, required_path, weights_folder
from generators.errors import UserError
from generators.sources import Source
from tests.checkpoints.local_server import (
    BIG,
    BODY,
    DONE,
    HASH,
    NAME,
    File,
    Server,
    content,
    get,
    left,
    local,
)

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("folder")

# What is fetched, and what is said about it.


def test_a_file_is_fetched_and_its_origin_recorded(server: Server, folder: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = get(server, sha256=HASH, bytes=BIG, progress=lambda *facts: seen.append(facts))
    assert path == folder / f"{NAME}.pkl" == local_path(NAME)
    assert path.read_bytes() == BODY
    assert left(folder) == DONE
    said = provenance(path)
    assert (said["source"], said["sha256"], said["bytes"]) == (server.url("a.pkl"), HASH, BIG)
    assert said["verified"] is True and said["hash"] == "as published"
    assert said["licence"] == "unknown" and said["date"].endswith("+00:00")
    assert seen[0] == (0, BIG) and seen[-1] == (BIG, BIG) and seen == sorted(seen)
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_without_a_published_hash_it_is_recorded_as_unverified(server: Server) -> None:
    path = get(server)
    assert provenance(path)["sha256"] == HASH
    assert provenance(path)["verified"] is False
    assert "unverified" in provenance(path)["hash"]


def test_a_second_fetch_asks_nobody(server: Server) -> None:
    first = get(server)
    assert get(server) == first and len(server.requests) == 1
    before = provenance(first)
    assert get(server, sha256=HASH) == first and len(server.requests) == 1
    assert provenance(first) == before


@pytest.mark.parametrize("known", [HASH, None])
def test_a_file_that_was_damaged_later_is_not_accepted(server: Server, known: str | None) -> None:
    path = get(server, sha256=known)
    path.write_bytes(BODY[:-1])
    with pytest.raises(UserError, match=HASH) as error:
        get(server, sha256=known)
    assert f"delete {path}" in error.value.todo
    assert len(server.requests) == 1


def test_a_file_put_there_by_hand_is_verified_and_recorded(server: Server, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / f"{NAME}.pkl").write_bytes(BODY)
    assert provenance(get(server, sha256=HASH))["source"] == "unknown: found in place"
    assert server.requests == []


# Mirrors on the hub.


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """The files of every repository, which the server holds."""
    import huggingface_hub

    files = [SimpleNamespace(rfilename="models/a.pkl", size=BIG, lfs=SimpleNamespace(sha256=HASH))]
    info = SimpleNamespace(siblings=files, sha="c0ffee")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, files_metadata: info)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_url", lambda name, file, revision: server.url(f"{name}/{revision}/{file}")
    )
    server.files["o/n/c0ffee/models/a.pkl"] = File(BODY)
    return files


@pytest.mark.parametrize("path", [None, "models/a.pkl"])
def test_a_hub_mirror_is_searched_for_the_file(
    server: Server, hub: list[SimpleNamespace], path: str | None
) -> None:
    hub.append(SimpleNamespace(rfilename="README.md", size=3, lfs=None))
    del server.files["a.pkl"]
    found = get(server, mirrors=(("o/n", path),))
    assert found.read_bytes() == BODY
    assert provenance(found)["source"].endswith("/o/n/c0ffee/models/a.pkl")
    assert provenance(found)["verified"] is False, "the mirror's own hash is no published one"


def test_a_hub_mirror_that_breaks_its_own_word_or_lacks_the_file(
    server: Server, hub: list[SimpleNamespace]
) -> None:
    server.files["o/n/c0ffee/models/a.pkl"].body = content(BIG, start=8)
    with pytest.raises(UserError, match="has sha256"):
        get(server, "gone/a.pkl", mirrors=(("o/n", None),))
    hub.append(SimpleNamespace(rfilename="old/a.pkl", size=3, lfs=None))
    with pytest.raises(UserError, match=r"hub:o/n: it holds 2 files named a\.pkl"):
        get(server, "gone/a.pkl", mirrors=(("o/n", None),))
    with pytest.raises(UserError, match=r"hub:o/n: it holds 0 files named b\.pkl"):
        get(server, "gone/a.pkl", mirrors=(("o/n", "b.pkl"),))


def test_a_hub_that_cannot_be_reached_is_one_failure_among_others(server: Server) -> None:
    with pytest.raises(UserError, match="hub:o/n: OfflineModeIsEnabled"):
        get(server, "gone.pkl", mirrors=(("o/n", None),))


# The disk.


def test_too_little_space_is_seen_before_anything_is_written(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    (tmp_path / "mine.pkl").write_bytes(BODY)
    for more in ({}, {"from_path": tmp_path / "mine.pkl"}):
        with pytest.raises(UserError, match="too full") as error:
            get(server, **more)
        assert "needed: 3 MB, free: 1 MB" in error.value.known
    assert local_path(NAME) is None and download.part_bytes(NAME) == 0


def test_a_disk_that_fills_up_stops_and_continues(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def filling(response: Any, part: Any, *_: object) -> None:
        part.path.write_bytes(response.read(1000))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(UserError, match="the disk is full"):
        patch.setattr(transfer, "_append", filling)
        get(server)
    assert get(server, sha256=HASH).read_bytes() == BODY
    assert server.asked("Range") == [None, "bytes=1000-"]


def test_a_folder_that_cannot_be_made_is_told(server: Server, folder: Path) -> None:
    folder.parent.write_text("a file")
    with pytest.raises(UserError, match="INTRINSIC_BENCH_CACHE"):
        get(server)


# Several processes.

PROCESS = """
import sys
from generators.checkpoints.download import fetch
from generators.sources import Source
from tests.checkpoints.local_server import Server, local
server = Server(sys.argv[1], {})
found = fetch(sys.argv[2], Source(urls=(server.url("a.pkl"),), sha256=sys.argv[3] or None),
              accept_licence=False, network=local(server))
print(found)
"""


def process(server: Server, known: str = HASH) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, server.base, NAME, known]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_at_once_fetch_it_once(server: Server, folder: Path) -> None:
    server.files["a.pkl"].pause = 0.5
    started = [process(server) for _ in range(3)]
    ended = [p.communicate(timeout=120) for p in started]
    assert [out.strip() for out, _ in ended] == [str(folder / f"{NAME}.pkl")] * 3, ended
    assert len(server.requests) == 1
    assert local_path(NAME) is not None and (folder / f"{NAME}.pkl").read_bytes() == BODY
    assert left(folder) == DONE


def test_a_killed_process_leaves_a_part_and_no_lock(server: Server, folder: Path) -> None:
    server.files["a.pkl"] = File(BODY[:-1] + b"x", pause=60)
    started = process(server)
    deadline = time.monotonic() + 60
    while not download.part_bytes(NAME) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.communicate(timeout=60)
    assert download.part_bytes(NAME) > 0 and local_path(NAME) is None
    server.files["a.pkl"] = File(BODY)
    assert get(server, sha256=HASH).read_bytes() == BODY
    assert (server.asked("Range")[-1] or "").startswith("bytes=")
    assert left(folder) == DONE


# A local file instead.


def test_a_local_file_is_copied(server: Server, folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "whatever.safetensors"
    mine.write_bytes(BODY)
    seen: list[int] = []
    path = get(server, sha256=HASH, from_path=mine, progress=lambda done, total: seen.append(done))
    assert path == folder / f"{NAME}.safetensors" and path.read_bytes() == BODY == mine.read_bytes()
    assert not path.is_symlink() and path.stat().st_nlink == 1
    assert provenance(path)["source"] == f"local file {mine}" and seen[-1] == BIG
    assert server.requests == []


def test_a_wrong_local_file_leaves_nothing(server: Server, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pkl").write_bytes(BODY)
    with pytest.raises(UserError, match=HASH) as error:
        get(server, sha256="1" * 64, from_path=tmp_path / "mine.pkl")
    assert "1" * 64 in error.value.known and "INTRINSIC_BENCH_WEIGHTS" in error.value.todo
    assert left(folder) == set()


def test_a_wrong_local_file_leaves_a_begun_download_alone(server: Server, tmp_path: Path) -> None:
    server.files["a.pkl"] = File(BODY, cuts=[1_500_000])
    with pytest.raises(UserError):
        get(server, sha256=HASH, network=local(server, attempts=0))
    (tmp_path / "mine.pkl").write_bytes(b"another")
    with pytest.raises(UserError):
        get(server, sha256=HASH, from_path=tmp_path / "mine.pkl")
    assert get(server, sha256=HASH).read_bytes() == BODY
    assert server.asked("Range") == [None, "bytes=1500000-"]


def test_another_file_is_not_replaced(server: Server, tmp_path: Path) -> None:
    there = get(server)
    same, other = tmp_path / "same.pkl", tmp_path / "other.pkl"
    same.write_bytes(BODY)
    other.write_bytes(b"other")
    assert get(server, from_path=same) == there
    with pytest.raises(UserError, match="another file is there"):
        get(server, from_path=other)
    assert there.read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "wrong"), [("none.pkl", "no such file"), (".", "a folder"), ("a.zip", "do not end")]
)
def test_what_is_no_file_of_weights(server: Server, tmp_path: Path, path: str, wrong: str) -> None:
    (tmp_path / "a.zip").write_bytes(b"zip")
    with pytest.raises(UserError, match=wrong):
        get(server, from_path=tmp_path / path)


# Licence, names and places.


def test_a_licence_must_be_accepted(server: Server, folder: Path, tmp_path: Path) -> None:
    source = Source(urls=(server.url("a.pkl"),), licence="Mine (non-commercial)", non_commercial=True)
    (tmp_path / "mine.pkl").write_bytes(BODY)
    for path in (None, tmp_path / "mine.pkl"):
        with pytest.raises(UserError, match=r"Mine \(non-commercial\)") as error:
            fetch(NAME, source, accept_licence=False, from_path=path, network=local(server))
        assert error.value.todo.endswith(f"fetch {NAME} --accept-licence")
    assert server.requests == [] and not folder.exists()
    found = fetch(NAME, source, accept_licence=True, network=local(server))
    assert provenance(found)["licence_accepted"] is True
    assert fetch(NAME, source, accept_licence=False, network=local(server)) == found


def test_what_was_never_published_needs_a_local_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no public address") as error:
        fetch(NAME, Source(note="ask the authors"), accept_licence=False)
    assert error.value.known == "ask the authors" and "--from PATH" in error.value.todo
    (tmp_path / "mine.pkl").write_bytes(BODY)
    found = fetch(NAME, Source(), accept_licence=False, from_path=tmp_path / "mine.pkl")
    assert found.read_bytes() == BODY


@pytest.mark.parametrize(
    "name", ["../a", "a/b", "/etc/passwd", "..", ".a", "a\\b", "", "a\0b", "a..b", "a\n"]
)
def test_names_cannot_leave_the_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    (tmp_path / "mine.pkl").write_bytes(BODY)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="cannot be the name"):
        fetch(name, Source(), accept_licence=True, from_path=tmp_path / "mine.pkl")
    with pytest.raises(UserError, match="cannot be the name"):
        local_path(name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_ones_own_comes_first(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local_path(NAME) is None
    fetched = get(server)
    own = tmp_path / "own"
    (own / NAME).mkdir(parents=True)
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(own))
    for name in (NAME, f"{NAME}.ckpt", f"{NAME}.safetensors", f"{NAME}.pkl"):  # each before the last
        if name != NAME:
            (own / name).write_bytes(b"mine")
        assert required_path(NAME) == local_path(NAME) == own / name
    assert get(server) == own / f"{NAME}.pkl" and len(server.requests) == 1
    monkeypatch.delenv("INTRINSIC_BENCH_WEIGHTS")
    assert local_path(NAME) == fetched


def test_missing_weights_are_told_with_the_command(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        required_path(NAME)
    assert f"intrinsic-bench fetch {NAME}" in error.value.todo
    assert str(folder) in error.value.known


def test_a_broken_note_beside_a_file_is_as_none(server: Server, folder: Path) -> None:
    path = get(server)
    for text in ("{", json.dumps([1])):
        (folder / f"{path.name}.json").write_text(text)
        assert provenance(path) == {}
    assert provenance(get(server))["sha256"] == HASH


def test_the_environment_means_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.cache import cache_folder
    from generators import stable_diffusion

    assert weights_folder() == cache_folder() / "weights"
    monkeypatch.delenv("INTRINSIC_BENCH_CACHE")
    assert weights_folder() == cache_folder() / "weights"
    assert download.WEIGHTS_VARIABLE == stable_diffusion.WEIGHTS_VARIABLE
