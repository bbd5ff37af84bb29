"""Every source that `fetch` knows agrees with its entry in the ledger of third parties."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from generators import registry
from generators.base import GeneratorSpec
from generators.errors import UserError
from generators.sources import SOURCES, Source, source_of
from tests.packaging.test_ledger import ENTRIES

LEDGER = {entry["id"]: entry for entry in ENTRIES}


def entry_of(name: str, source: Source) -> dict[str, Any]:
    """What the ledger must say of a source."""
    said: dict[str, Any] = {
        "source": source.urls[0] if source.urls else "",
        "mirrors": [*source.urls[1:], *(f"hub:{repository}" for repository, _ in source.mirrors)],
        "licence": source.licence,
        "note": source.note,
    }
    if source.sha256 is not None:
        known = {"bytes": source.bytes} if source.bytes is not None else {}
        at = urlsplit(source.urls[0]).path.rpartition("/")[2] if source.urls else ""
        name = at or f"{name}.ckpt"  # the name it gets on this machine
        said["files"] = [{"name": name, "sha256": source.sha256, **known}]
    return said


def ledger_entry(name: str) -> dict[str, Any]:
    found = {key: value for key, value in LEDGER[name].items() if key not in ("id", "kind", "citation")}
    for file in found.get("files", []):
        file = {key: value for key, value in file.items() if key != "verified"}
        found["files"] = [file]
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_agrees_with_the_ledger(name: str) -> None:
    assert ledger_entry(name) == entry_of(name, SOURCES[name])
    assert LEDGER[name]["kind"] in ("generator", "predictor", "metric")


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_well_formed(name: str) -> None:
    source = SOURCES[name]
    assert all(urlsplit(url).scheme == "https" for url in (*source.urls, source.licence_address) if url)
    assert source.sha256 is None or re.fullmatch("[0-9a-f]{64}", source.sha256)
    assert source.non_commercial == ("non-commercial" in source.licence)
    assert source.licence_address or not source.non_commercial, "what must be accepted can be read"
    assert source.urls or "local path" in source.note


def test_the_known_gans_have_a_source() -> None:
    published = {s.name for s in registry.specs() if s.family.startswith("StyleGAN") and not s.embedded}
    assert published <= set(SOURCES)


def spec(**facts: Any) -> GeneratorSpec:
    return GeneratorSpec("mine.a", "Mine", "Mine", "seeds", "pixels", 64, "faces", "MIT", **facts)


def test_the_source_of_a_plugin_is_what_its_spec_says() -> None:
    facts = {"sha256": "0" * 64, "bytes": 7, "mirrors": (("a/b", None),), "non_commercial": True, "rank": 3}
    found = source_of(spec(source="https://example.org/a.pkl", options=facts))
    assert found == Source(
        urls=("https://example.org/a.pkl",),
        mirrors=(("a/b", None),),
        sha256="0" * 64,
        bytes=7,
        licence="MIT",
        non_commercial=True,
    )


def test_a_name_with_a_source_needs_no_facts_in_its_spec() -> None:
    named = GeneratorSpec("stylegan2.ffhq256", "S", "S", "seeds", "pixels", 256, "faces", "x")
    assert source_of(named) is SOURCES["stylegan2.ffhq256"]


@pytest.mark.parametrize(
    ("facts", "wrong"),
    [
        ({"embedded": True}, "come with this package"),
        ({"source": None}, "made without a file"),
        ({"source": "owner/name"}, "no https address"),
        ({"source": "http://example.org/a.pkl"}, "no https address"),
    ],
)
def test_what_cannot_be_fetched_is_refused(facts: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        source_of(spec(**facts))
