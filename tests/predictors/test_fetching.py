"""Predictors onto this machine: by the hub's client, from its cache, from a local file; no network."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.fetch import fetch
from benchmarks.predictors import registry
from benchmarks.predictors.base import cached_folder, required_folder
from benchmarks.predictors.registry import ABSENT, describe_predictor, identity, need
from generators.errors import UserError
from generators.sources import SOURCES
from tests.predictors.dpt_reference import checkpoint, reference

ZOE = describe_predictor("zoedepth")


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, ours and the hub's, and no folder of the user's own."""
    monkeypatch.delenv("INTRINSIC_BENCH_WEIGHTS", raising=False)
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(hub: Path, files: dict[str, bytes]) -> Path:
    """A snapshot of ZoeDepth as the hub's client keeps it."""
    place = hub / f"models--{ZOE.source.replace('/', '--')}" / "snapshots" / str(ZOE.revision)
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


WHOLE = {"config.json": b"{}", "model.safetensors": b"x"}


def call(*arguments: str) -> Result:
    """The command's result; raises what it raises."""
    return CliRunner().invoke(fetch, arguments, catch_exceptions=False)


def test_the_hubs_cache_is_used_where_it_is_whole(hub: Path) -> None:
    assert cached_folder(ZOE) is None and identity("zoedepth") == ABSENT
    place = put(hub, {"config.json": b"{}"})
    assert cached_folder(ZOE) is None, "half a folder is none"
    with pytest.raises(UserError, match="intrinsic-bench fetch zoedepth"):
        required_folder(ZOE)
    put(hub, WHOLE)
    assert required_folder(ZOE) == place
    assert identity("zoedepth").startswith(f"{str(ZOE.revision)[:16]}-")
    assert need("zoedepth").here  # type: ignore[union-attr]


def test_files_that_nobody_reads_may_be_missing(hub: Path) -> None:
    """The hub's client knows all files of a repository, and misses those that were not fetched."""
    place = put(hub, WHOLE)
    listed = {name: {"size": 1, "blob_id": "0" * 40} for name in (*WHOLE, "README.md")}
    tree = place.parents[1] / "trees" / f"{ZOE.revision}.json"
    tree.parent.mkdir()
    tree.write_text(json.dumps({"format_version": 1, "files": listed}))
    assert cached_folder(ZOE) == place == required_folder(ZOE)
    assert identity("zoedepth") != ABSENT and need("zoedepth").here  # type: ignore[union-attr]
    (place / "model.safetensors").unlink()
    assert cached_folder(ZOE) is None and identity("zoedepth") == ABSENT


def test_a_folder_is_fetched_with_what_is_needed_alone(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append({"repository": repository} | options)
        return str(put(hub, WHOLE))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    done = call("zoedepth")
    assert done.exit_code == 0 and done.stdout.strip().endswith(str(ZOE.revision))
    assert "licence: MIT" in done.stderr
    files = ["config.json", "model.safetensors"]
    assert asked == [{"repository": ZOE.source, "revision": ZOE.revision, "allow_patterns": files}]


def test_what_the_hub_does_not_give_is_an_error() -> None:
    with pytest.raises(UserError, match="could not be fetched from the hub"):
        call("zoedepth")


def test_a_non_commercial_licence_must_be_accepted() -> None:
    with pytest.raises(UserError, match="fetch depth-anything-v2 --accept-licence"):
        call("depth-anything-v2")
    with pytest.raises(UserError, match="fetch omnidata-v2 --accept-licence"):
        call("omnidata-v2")


def test_a_local_checkpoint_is_copied_if_it_is_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = checkpoint(reference()).write(tmp_path / "given.ckpt")
    asked = ("omnidata-v2", "--accept-licence", "--from", str(given))
    with pytest.raises(UserError, match="it is not the published file"):
        call(*asked)
    digest = hashlib.sha256(given.read_bytes()).hexdigest()
    monkeypatch.setitem(SOURCES, "omnidata-v2", replace(SOURCES["omnidata-v2"], sha256=digest))
    done = call(*asked)
    assert done.exit_code == 0 and done.stdout.strip().endswith("omnidata-v2.ckpt")
    assert identity("omnidata-v2") == digest[:16]


def test_what_comes_with_the_package_is_not_fetched() -> None:
    assert "nothing to fetch" in call("rooms-network").stdout


def test_a_folder_is_used_where_it_is() -> None:
    with pytest.raises(UserError, match="set INTRINSIC_BENCH_WEIGHTS"):
        call("zoedepth", "--from", "somewhere")


def test_the_list_tells_size_licence_and_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    (tmp_path / "zoedepth").mkdir()
    from benchmarks.predictors.fetching import rows

    listed = {row[0]: row for row in rows()}
    assert set(listed) == {spec.name for spec in registry.BUILTIN if spec.on_hub}
    assert listed["zoedepth"][4] == f"your own: {tmp_path / 'zoedepth'}, not whole"
    assert listed["depth-anything-v2"][1:4] == (
        "1,341 MB",
        describe_predictor("depth-anything-v2").licence,
        "needed",
    )
    assert listed["marigold-iid"][3:] == ("-", "not here")
