"""Predictors by name: facts, the ledger, identity, plugins, what is on this machine; without weights."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import make_cell
from benchmarks.methods import network_hash
from benchmarks.predictors import registry
from benchmarks.predictors.base import ABSENT, PredictorSpec, fitted_size, lacking
from benchmarks.predictors.registry import BUILTIN, PREDICTORS, describe_predictor, identity, need
from benchmarks.predictors.rooms import DEPTH_SCALE, NEAREST, maps_of
from generators.errors import UserError
from generators.sources import SOURCES
from probes.intrinsics import INTRINSICS
from tests.packaging.test_ledger import ENTRIES

FETCHED = [spec for spec in BUILTIN if not spec.embedded]
LEDGER = {entry["id"]: entry for entry in ENTRIES}


@pytest.mark.parametrize("spec", FETCHED, ids=lambda spec: spec.name)
def test_a_predictor_agrees_with_the_ledger(spec: PredictorSpec) -> None:
    entry = LEDGER[spec.name]
    assert entry["kind"] == "predictor"
    told = (f"hub:{spec.source}" if spec.on_hub else spec.source, spec.licence, spec.citation, spec.note)
    assert tuple(entry[name] for name in ("source", "licence", "citation", "note")) == told
    assert spec.non_commercial == ("non-commercial" in spec.licence)


def test_a_predictor_of_one_file_is_fetched_as_its_source_says() -> None:
    (spec,) = (each for each in FETCHED if not each.on_hub)
    source = SOURCES[spec.name]
    told = (source.urls[0], source.sha256, source.bytes, source.licence, source.non_commercial)
    assert told == (spec.source, spec.sha256, spec.bytes, spec.licence, spec.non_commercial)


@pytest.mark.parametrize("spec", BUILTIN, ids=lambda spec: spec.name)
def test_a_spec_is_complete(spec: PredictorSpec) -> None:
    assert set(spec.intrinsics) <= set(INTRINSICS) and spec.intrinsics
    assert bool(spec.depth) == ("depth" in spec.intrinsics)
    assert spec.title and spec.licence and spec.convention and spec.citation and spec.input_size
    assert spec.embedded == (not spec.source)
    assert spec.embedded or spec.bytes


def test_names_are_found_and_unknown_ones_get_near_ones() -> None:
    assert [spec.name for spec in BUILTIN] == list(PREDICTORS)[: len(BUILTIN)]
    with pytest.raises(UserError, match="did you mean 'omnidata-v2'"):
        describe_predictor("omnidata-v1")


def test_listing_and_planning_import_no_torch() -> None:
    code = (
        "import sys\nfrom benchmarks.predictors import registry\n"
        "registry.rows(), [registry.need(n) for n in registry.PREDICTORS]\n"
        "registry.identity('rooms-network')\n"
        "print([m for m in ('torch', 'transformers', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own weights, empty, and no hub's cache."""
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    return tmp_path


def test_what_is_absent_says_so_and_how_to_get_it(weights: Path) -> None:
    for spec in FETCHED:
        found = need(spec.name)
        assert found is not None and identity(spec.name) == ABSENT
        assert (found.here, found.kind, found.bytes, found.licence) == (
            False,
            "predictor",
            spec.bytes,
            spec.licence,
        )
        assert found.command.startswith(f"intrinsic-bench fetch {spec.name}")
        with pytest.raises(UserError, match=f"intrinsic-bench fetch {spec.name}"):
            registry.load(spec.name)


def test_an_embedded_predictor_needs_nothing() -> None:
    assert need("rooms-network") is None
    assert identity("rooms-network").startswith(f"{network_hash()}-")


def test_identity_is_that_of_the_contents_and_of_the_options(weights: Path) -> None:
    folder = weights / "zoedepth"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert identity("zoedepth") == ABSENT, "half a folder is none"
    (folder / "model.safetensors").write_bytes(b"a")
    first = identity("zoedepth")
    (folder / "README.md").write_text("what is not read does not count")
    assert identity("zoedepth") == first != ABSENT
    assert need("zoedepth").here  # type: ignore[union-attr]
    (folder / "model.safetensors").write_bytes(b"bc")
    second = identity("zoedepth")
    assert second.partition("-")[0] != first.partition("-")[0]
    assert second.partition("-")[2] == first.partition("-")[2], "the options are the same"


def test_a_folder_may_hold_either_of_two_files(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "b.safetensors").write_bytes(b"")
    wanted = ["unet/a.safetensors|unet/b.safetensors", "unet/config.json"]
    assert lacking(tmp_path, wanted) == ["unet/config.json"]


@pytest.mark.parametrize(
    ("size", "target", "multiple", "expected"),
    [
        ((322, 322), (384, 512), 32, (384, 384)),  # enlarged by 1.19 rather than by 1.59
        ((900, 900), (384, 512), 32, (512, 512)),  # reduced by 0.57 rather than by 0.43
        ((480, 640), (518, 518), 14, (518, 686)),
    ],
)
def test_pictures_are_fitted_to_the_side_that_changes_less(
    size: tuple[int, int], target: tuple[int, int], multiple: int, expected: tuple[int, int]
) -> None:
    assert fitted_size(*size, target, multiple) == expected


# Plugins.

MINE = PredictorSpec("mine", "Mine", "json:loads", ("albedo",), "", "MIT", "ours", 64, "me", embedded=True)


class Entry(EntryPoint):
    """An entry point that gives what it is told, or fails."""

    def load(self) -> object:
        if self.name == "broken":
            raise ImportError("no module named gizmo")
        return SimpleNamespace(SPECS=[MINE]) if self.name == "mine" else SimpleNamespace(SPECS=["x"])


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("mine", "broken", "wrong")
    entries = [Entry(name, f"{name}_package", registry.GROUP) for name in names]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    registry._plugins.cache_clear()
    monkeypatch.setattr(registry, "_plugins", registry._plugins.__wrapped__)


@pytest.mark.usefixtures("plugins")
def test_plugins_are_found_and_broken_ones_named() -> None:
    assert describe_predictor("mine") is MINE and "mine" in PREDICTORS
    assert set(registry.broken_plugins()) == {"broken", "wrong"}
    assert "needs SPECS" in registry.broken_plugins()["wrong"]
    with pytest.raises(UserError, match="no module named gizmo"):
        describe_predictor("broken")
    assert len(identity("mine")) == 12 and need("mine") is None


def test_what_the_rooms_network_sees_is_never_behind_the_camera() -> None:
    """Pictures unlike any render, as untrained models draw them, gave depths of zero and less."""
    outputs = torch.linspace(-1, 1, 10 * 4).view(1, 10, 2, 2)
    assert maps_of(outputs, "depth").min() == NEAREST
    outputs = outputs.abs() + 0.1
    assert torch.equal(maps_of(outputs, "depth"), outputs[:, 3:4] * DEPTH_SCALE)


def test_a_predictor_is_scored_on_what_it_gives() -> None:
    with pytest.raises(UserError, match=r"(?s)intrinsic 'normal' of predictor 'zoedepth'.*it gives: depth"):
        make_cell("none", "normal", "predictor", {"predictor": "zoedepth"})
    assert make_cell("none", "depth", "predictor", {"predictor": "zoedepth"}, alignment="scale-shift")
