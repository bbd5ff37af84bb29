"""The ledger of third parties parses, is complete, and knows every model that is not embedded."""

import csv
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

FIELDS = {
    "id": str,
    "kind": str,
    "source": str,
    "mirrors": list,
    "licence": str,
    "citation": str,
    "note": str,
}
KINDS = {"generator", "adapter", "predictor", "metric", "data"}
HASHES = {"sha256": 64, "md5": 32, "sha256_prefix": 8}  # hexadecimal digits
MANIFEST = Path(__file__).parents[2] / "third_party" / "manifest.toml"
ENTRIES: list[dict[str, Any]] = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))["entry"]
FILES = [(entry["id"], file) for entry in ENTRIES for file in entry.get("files", [])]


def test_names_are_unique() -> None:
    names = [entry["id"] for entry in ENTRIES]
    assert len(names) == len(set(names)) >= 20


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e["id"])
def test_every_entry_has_its_fields(entry: dict[str, Any]) -> None:
    assert {k: type(v) for k, v in entry.items() if k != "files"} == FIELDS
    assert entry["kind"] in KINDS
    assert entry["licence"] and entry["citation"]
    assert entry["source"] or "local path" in entry["note"]


@pytest.mark.parametrize(("name", "file"), FILES, ids=[f"{n}-{f['name']}" for n, f in FILES])
def test_every_file_has_one_hash_and_says_whether_it_is_verified(name: str, file: dict[str, Any]) -> None:
    (kind,) = HASHES.keys() & file.keys()
    assert re.fullmatch(rf"[0-9a-f]{{{HASHES[kind]}}}", file[kind])
    assert isinstance(file["verified"], bool)
    assert set(file) <= {"name", "bytes", "verified", kind}


@pytest.mark.parametrize("family", ["stable_diffusion", "multi_step", "dinov2"])
def test_every_published_model_is_in_the_ledger(family: str) -> None:
    sources = {entry["source"]: entry["licence"] for entry in ENTRIES}
    specs = importlib.import_module(f"generators.{family}").SPECS
    published = [spec for spec in specs if not spec.embedded]
    assert published
    assert {s.name: sources.get(f"hub:{s.source}") for s in published} == {
        s.name: s.licence for s in published
    }


def test_the_papers_numbers_parse() -> None:
    tables = sorted((MANIFEST.parents[1] / "results" / "published").glob("*.csv"))
    assert len(tables) >= 10
    for table in tables:
        rows = list(csv.reader(table.read_text(encoding="utf-8").splitlines()))
        assert len(rows) > 1 and {len(row) for row in rows} == {len(rows[0])}, table.name
