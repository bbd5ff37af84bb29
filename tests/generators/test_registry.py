"""Names: built-in families first, plugins after them, and a broken plugin breaks only its own run."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType

import pytest

from generators import registry
from generators.errors import UserError
from tests.generators.fakes import SPEC, Fake, family

BUILTIN = replace(SPEC, name="fake.builtin", title="built-in")


class Entry:
    """What importlib.metadata.EntryPoint has, as far as the registry looks."""

    def __init__(self, name: str, load: Callable[[], ModuleType]) -> None:
        self.name, self.value, self.load = name, f"{name}_module", load


def fail() -> ModuleType:
    raise ImportError("cannot import name 'x' from 'y'")


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Entry]]:
    """One built-in family, and the plugins a test appends."""
    entries: list[Entry] = []
    monkeypatch.setitem(sys.modules, "fake_builtin", family("fake_builtin", [BUILTIN]))
    monkeypatch.setattr(registry, "FAMILIES", ("fake_builtin",))
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    caches = [f for f in vars(registry).values() if hasattr(f, "cache_clear")]
    for cached in caches:
        cached.cache_clear()
    yield entries
    for cached in caches:
        cached.cache_clear()


def plugin(monkeypatch: pytest.MonkeyPatch, name: str, *tags: str) -> Entry:
    module = family(f"{name}_module", [replace(SPEC, name=t, title=name) for t in tags])
    monkeypatch.setitem(sys.modules, f"{name}_module", module)
    return Entry(name, lambda: module)


def test_builtin_then_plugins(plugins: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    plugins += [plugin(monkeypatch, "mine", "mine.a", "mine.b")]
    assert [s.name for s in registry.specs()] == ["fake.builtin", "mine.a", "mine.b"]
    assert registry.spec("mine.b").title == "mine"
    assert isinstance(registry.load("mine.a"), Fake)


def test_a_builtin_name_wins(plugins: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    plugins += [plugin(monkeypatch, "mine", "fake.builtin", "mine.a")]
    assert [s.name for s in registry.specs()] == ["fake.builtin", "mine.a"]
    assert registry.spec("fake.builtin").title == "built-in"
    assert registry.family_module("fake.builtin").__name__ == "fake_builtin"


def test_of_two_plugins_the_first_by_entry_point_wins(
    plugins: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins += [plugin(monkeypatch, "zeta", "same.x"), plugin(monkeypatch, "alpha", "same.x")]
    assert registry.spec("same.x").title == "alpha"


def test_a_broken_plugin_breaks_only_its_own_run(
    plugins: list[Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins += [Entry("broken", fail), plugin(monkeypatch, "mine", "mine.a")]
    assert [s.name for s in registry.specs()] == ["fake.builtin", "mine.a"]
    assert isinstance(registry.load("mine.a"), Fake)
    with pytest.raises(UserError, match=r"plugin 'broken'.*cannot import name 'x' from 'y'"):
        registry.load("broken.tag")
    assert registry.broken_plugins() == {"broken": "ImportError: cannot import name 'x' from 'y'"}


def test_a_model_whose_name_is_taken_is_told(plugins: list[Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    plugins += [
        plugin(monkeypatch, "alpha", "same.x", "fake.builtin", "same.x"),
        plugin(monkeypatch, "zeta", "same.x", "zeta.y"),
    ]
    assert [s.name for s in registry.specs()] == ["fake.builtin", "same.x", "zeta.y"]
    told = registry.taken_names()
    assert told.keys() == {"alpha", "zeta"}
    assert "'fake.builtin' is left out: a built-in model has that name" in told["alpha"]
    assert told["zeta"] == "its model 'same.x' is left out: one of the plugin 'alpha' has that name"
    assert registry.broken_plugins() == {}


@pytest.mark.parametrize("specs", [None, "fake.x", ["fake.x"]])
def test_a_plugin_without_specs_is_broken(plugins: list[Entry], specs: object) -> None:
    plugins += [Entry("odd", lambda: family("odd_module", specs))]
    assert "GeneratorSpec" in registry.broken_plugins()["odd"]
    assert [s.name for s in registry.specs()] == ["fake.builtin"]


def test_a_near_name_is_offered() -> None:
    with pytest.raises(UserError, match=r"did you mean 'fake\.builtin'"):
        registry.spec("fake.buildin")
