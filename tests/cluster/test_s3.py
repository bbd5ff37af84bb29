"""A store on S3: `pip install s3fs "moto[server]"` runs these against a server on this machine.

moto looks whether an object is there and writes then, so of two who write at the same moment both may be told
that they were first; S3 itself decides (If-None-Match). What one after the other does is the same.
"""

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.place import Place
from benchmarks.remote import RemoteStore
from benchmarks.runner import compute
from tests.cli.told import doctor
from tests.runner.fakes import EXECUTE, cells

pytest.importorskip("s3fs", reason="s3fs is not installed")
moto = pytest.importorskip("moto.server", reason="moto is not installed")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of an empty bucket; the workers of this process find its server, too."""
    import fsspec

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server: Any = moto.ThreadedMotoServer(port=port, verbose=False)
    server.start()
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "of nobody"),
        ("AWS_SECRET_ACCESS_KEY", "none"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
        ("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setenv(name, value)
    name = f"bench-{secrets.token_hex(4)}"  # what moto holds outlives its servers
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    yield f"s3://{name}"
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def test_an_object_is_created_once(bucket: str) -> None:
    place = Place(f"{bucket}/store")
    assert place.list("records") == {}
    assert place.create("records/a.json", b"1") and not place.create("records/a.json", b"2")
    stamp = place.list("records")["a.json"]
    assert place.stamp("records/a.json") == stamp and place.stamp("records/b.json") is None
    assert place.get("records/a.json") == b"1" and place.list("") == {}
    place.put("records/a.json", b"3")
    assert place.list("records")["a.json"] != stamp
    assert place.get_all(["records/a.json", "records/b.json"]) == {"records/a.json": b"3"}
    place.delete("records/a.json")
    with pytest.raises(FileNotFoundError):
        place.get("records/a.json")


def test_a_store_is_filled_by_workers_read_by_others_and_not_filled_twice(
    bucket: str, tmp_path: Path
) -> None:
    url = f"{bucket}/store"
    here, there = RemoteStore(url), RemoteStore(url, tmp_path / "there")
    here.add_cells(cells(6))
    result = compute(cells(6), here, execute=EXECUTE, workers=2)
    assert (result.status, result.computed, len(result.records)) == (0, 6, 6)
    assert compute(cells(6), there, execute=EXECUTE).computed == 0
    there.pull("maps", "logs")
    for record in there.all():
        assert record.maps is not None
        assert (there.folder / record.maps).read_bytes() == record.cell.hash.encode() * 1000
    assert there.place.list("claims") == there.place.list("progress") == {}
    assert "6 records are whole; nothing was left behind" in doctor("--store", url).output


def test_without_rights_a_run_says_so(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.setattr("benchmarks.place._PAUSE", 0.0)
    result = doctor("--store", f"{bucket}/store")
    assert result.exit_code == 1 and "NoCredentialsError" in result.output
