"""Facts of predictors of plugins: looked at when they are read; a bad one breaks only itself, and is told."""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import health_weights
from benchmarks.cli import main
from benchmarks.fetch import _spec as model_to_fetch
from benchmarks.labels import check_labels
from benchmarks.predictors import facts, registry
from benchmarks.predictors.base import PredictorSpec
from benchmarks.predictors.facts import check_facts
from benchmarks.predictors.registry import BUILTIN, PREDICTORS, describe_predictor
from generators.errors import UserError
from probes.intrinsics import INTRINSICS

MINE = PredictorSpec("mine", "Mine", "json:loads", ("albedo",), "", "MIT", "ours", 64, "me", embedded=True)

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "typo": ({"intrinsics": ("normals",)}, "there is no intrinsic 'normals'"),
    "one": ({"intrinsics": "albedo"}, "intrinsics = 'albedo' is not a tuple of texts"),
    "nothing": ({"intrinsics": ()}, "it gives no intrinsic"),
    "nodepth": ({"intrinsics": ("depth",)}, "depth = '' does not say which"),
    "relative": ({"intrinsics": ("depth",), "depth": "relative"}, "depth = 'relative' does not say which"),
    "extra": ({"depth": "metric"}, "depth is none of its intrinsics"),
    "path": ({"source": "/weights/net.pt", "embedded": False}, 'is none of "owner/name" on the hub'),
    "http": ({"source": "http://a.b/net.pt", "embedded": False}, "an https address"),
    "word": ({"source": "net", "embedded": False}, "is none of"),
    "absent": ({"embedded": False}, "say embedded = True"),
    "both": ({"source": "me/net"}, "but embedded = True"),
    "size": ({"input_size": None}, "input_size = None is not a number of pixels"),
    "bytes": ({"source": "me/net", "embedded": False, "bytes": "9"}, "bytes = '9' is not a number of bytes"),
    "licence": ({"licence": None}, "licence = None is not a text"),
    "options": ({"options": {"a": object()}}, "not JSON serializable"),
}


class Entry(EntryPoint):
    """An entry point that gives good and bad specs, or fails."""

    def load(self) -> object:
        if self.name == "gone":
            raise ImportError("no module named gizmo")
        if self.name == "second":
            return SimpleNamespace(SPECS=[replace(MINE, title="Other"), replace(MINE, name="zoedepth")])
        bad = [replace(MINE, name=name, **changes) for name, (changes, _) in BAD.items()]
        return SimpleNamespace(SPECS=[*bad, MINE])


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [Entry(name, f"{name}_package", registry.GROUP) for name in ("first", "gone", "second")]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    monkeypatch.setattr(registry, "_plugins", registry._plugins.__wrapped__)


def test_facts_of_what_is_built_in_are_good_and_intrinsics_are_those_there_are() -> None:
    assert set(facts.INTRINSICS) == set(INTRINSICS)
    for spec in BUILTIN:
        check_facts(spec)


@pytest.mark.parametrize(
    "changes",
    [
        {"intrinsics": ["depth", "normal"], "depth": "affine"},
        {"source": "me/net.v2", "embedded": False, "revision": "main"},
        {"source": "https://a.b/net.pt", "embedded": False, "bytes": 7},
    ],
)
def test_good_facts_are_kept(changes: dict[str, Any]) -> None:
    check_facts(replace(MINE, **changes))


@pytest.mark.parametrize("name", BAD)
def test_bad_facts_break_that_predictor_and_asking_for_it_says_why(name: str) -> None:
    assert set(registry.faulty_predictors()) == set(BAD)
    assert describe_predictor("mine") is MINE and name not in PREDICTORS
    asked: tuple[Callable[[], object], ...] = (
        lambda: describe_predictor(name),
        lambda: check_labels("rooms", name, "albedo"),
        lambda: model_to_fetch(name),
    )
    for ask in asked:
        with pytest.raises(UserError) as told:
            ask()
        assert "its facts are broken: plugin 'first'" in told.value.wrong and BAD[name][1] in told.value.wrong


def test_ls_lists_the_good_ones_and_tells_of_the_others() -> None:
    done = CliRunner().invoke(main, ["ls", "predictors"])
    assert done.exit_code == 0 and done.exception is None
    listed = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert listed == [*(spec.name for spec in BUILTIN), "mine"]
    assert "plugin 'gone' cannot be imported: ImportError: no module named gizmo" in done.stderr
    for name, (_, why) in BAD.items():
        (line,) = (x for x in done.stderr.splitlines() if x.startswith(f"predictor {name!r} is broken"))
        assert why in line
    assert "its predictor 'mine' is left out: one of the plugin 'first' has that name" in done.stderr
    assert "its predictor 'zoedepth' is left out: a built-in predictor has that name" in done.stderr


def test_doctor_tells_of_them_too() -> None:
    told = {(found.what, found.text) for found in health_weights.families()}
    assert ("plugin gone", "it cannot be imported") in told
    assert ("predictor typo", "its facts are broken") in told
    assert any(what == "plugin second" and "'zoedepth' is left out" in text for what, text in told)


def test_a_name_nobody_knows_may_be_of_the_plugin_that_cannot_be_imported() -> None:
    with pytest.raises(UserError) as told:
        describe_predictor("gizmo-net")
    assert "plugin 'gone' cannot be imported: ImportError: no module named gizmo" in told.value.known
