"""What the tests of fetching share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints.local_server import BODY, File, Server, serving


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched weights go: in an empty cache; no folder of the user's own, no proxy."""
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INTRINSIC_BENCH_WEIGHTS", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with one good file, a.pkl."""
    with serving() as found:
        found.files["a.pkl"] = File(BODY)
        yield found
