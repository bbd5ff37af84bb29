"""Suites: a TOML file to a list of cells, everything checked and filled in before anything loads.

Its keys, and an example: suites/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from generators import registry
from generators.errors import UserError, unknown
from generators.plain import parse_toml
from probes.methods import fill_options, method

from .cell import NO_INTRINSIC, NO_MODEL, Cell
from .labels import world_of
from .limits import check_cell, check_count

SUITES = Path(__file__).parent / "suites"
VALUES: Mapping[str, Any] = {
    "data": "rooms",
    "size": 64,
    "train": 250,
    "validation": 50,
    "test": 100,
    "labels": "exact",
    "alignment": "none",
    "seeds": [0],
    "train_data": "",
    "train_labels": "",
    "test_size": 0,
}
_TEXTS = ("name", "title", "question")
_GRID = ("models", "intrinsics", "methods", "options", "sweep", *VALUES)


@dataclass(frozen=True)
class Suite:
    """A named list of cells.

    Attributes:
        name: of the suite and of its default store.
        title: heading of its report.
        question: what it asks, in a sentence.
        cells: every cell once, in the order of the file.
        twins: names of suites that ask the same of the embedded world.
        file: what it was read from.
    """

    name: str
    title: str
    question: str
    cells: tuple[Cell, ...]
    twins: tuple[str, ...] = ()
    file: Path | None = field(default=None, compare=False)

    def check_name(self) -> None:
        """Raise UserError if a shipped suite has this name, and this one is another."""
        own = shipped().get(self.name)
        if own is not None and self.file is not None and own.read_bytes() != self.file.read_bytes():
            raise UserError(
                f"suite {self.file}",
                f"a suite that comes with the package is called {self.name!r}",
                "results of both would go into one store, and one report take the place of the other",
                "give it a name of its own, or a store: --store DIR",
            )


def make_cell(
    model: str,
    intrinsic: str,
    method: str,
    options: Mapping[str, Any] | None = None,
    *,
    data: str = "rooms",
    size: int = 64,
    train: int = 250,
    validation: int = 50,
    test: int = 100,
    labels: str = "exact",
    alignment: str = "none",
    seed: int = 0,
    train_data: str = "",
    train_labels: str = "",
    test_size: int = 0,
    weights: str | None = None,
) -> Cell:
    """One cell with every default filled in and every value checked; raises UserError.

    Args:
        model: generator name, "none" for a control without one.
        intrinsic: normal, depth, albedo, shading; "none" for the Frechet distance.
        method: a name of `intrinsic-bench ls methods`.
        options: of the method, over its defaults.
        data, size, train, validation, test, labels, alignment, seed, train_data, train_labels,
            test_size: see Cell.
        weights: identity of the weights if it is known; None asks the registry, which may hash them.
    """
    from benchmarks import data as worlds

    if weights is None:
        weights = "" if model == NO_MODEL else registry.identity(model)
    data = worlds.canonical_name(data)
    train_data = worlds.canonical_name(train_data) if train_data else ""
    # What says nothing new is left out: there is one cell for one question.
    train_data = "" if train_data == data else train_data
    train_labels = "" if train_labels == labels else train_labels
    test_size = 0 if test_size == size else test_size
    if method == "predictor":
        options = _identified(options or {})
    if method == "frechet" and (options or {}).get("second"):
        options = _with_weights(options or {})
    cell = Cell(
        model=model,
        weights=weights,
        intrinsic=intrinsic,
        method=method,
        options=fill_options(method, options or {}, registry.spec(model).asks if model != NO_MODEL else None),
        data=data,
        world="",
        size=size,
        train=train,
        validation=validation,
        test=test,
        labels=labels,
        alignment=alignment,
        seed=seed,
        train_data=train_data,
        train_labels=train_labels,
        test_size=test_size,
    )
    check_cell(cell)
    return cell.with_(world=world_of(data, labels, train_data, train_labels))


def _identified(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the method "predictor" with the identity of its weights."""
    from .methods import PREDICTOR
    from .predictors.registry import identity

    name = str(options.get("predictor", PREDICTOR))
    return {**options, "predictor": name, "identity": identity(name)}


def _with_weights(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the method "frechet" with the identity of its second space, which decides its numbers."""
    from .features import identity

    return {**options, "second_weights": options.get("second_weights") or identity(str(options["second"]))}


def shipped() -> dict[str, Path]:
    """Name to file of the suites that come with the package."""
    return {path.stem: path for path in sorted(SUITES.glob("*.toml"))}


def load_suite(name: str | Path) -> Suite:
    """A shipped suite by name, or one by the path of its TOML file; raises UserError, naming file and key."""
    path = _find(str(name))
    try:
        table = parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"suite {path}", f"it is no TOML: {error}", "", "mend the line it names") from error
    with _within(f"suite {path}"):
        return replace(_suite(table), file=path)


def _find(name: str) -> Path:
    if name in shipped():
        return shipped()[name]
    path = Path(name)
    if not (name.endswith(".toml") or "/" in name):
        raise unknown("suite", name, shipped(), "name a shipped suite, or the path of a .toml file")
    if not path.is_file():
        raise UserError(
            f"suite {name}", "there is no such file", f"shipped: {', '.join(shipped())}", "check the path"
        )
    return path


@contextmanager
def _within(where: str) -> Iterator[None]:
    """Say where it was asked: the inner layer knows the fact, this one the file and the key."""
    try:
        yield
    except UserError as error:
        asked = f"{where}: {error.asked}"
        raise UserError(
            asked, error.wrong, error.known, error.todo or "mend this key and run again"
        ) from error


def _wrong_type(key: str, value: Any, wanted: str) -> UserError:
    return UserError(f"{key} = {value!r}", f"it has the type {type(value).__name__}", f"wanted: {wanted}", "")


def _check_keys(table: Mapping[str, Any], known: Sequence[str], required: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise unknown("key", key, known)
    for key in required:
        if key not in table:
            raise UserError(f"key {key!r}", "it is missing", f"required: {', '.join(required)}", f"add {key}")


def _suite(table: Mapping[str, Any]) -> Suite:
    _check_keys(table, (*_TEXTS, *VALUES, "twin", "grid"), (*_TEXTS, "grid"))
    for key in _TEXTS:
        if not isinstance(table[key], str) or not table[key].strip():
            raise _wrong_type(key, table[key], "a text, not empty")
    if not table["name"].replace("-", "").replace("_", "").isalnum():
        raise UserError(f"name = {table['name']!r}", "it names a folder", "letters, digits, - and _", "")
    blocks = table["grid"]
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) for block in blocks):
        raise _wrong_type("grid", blocks, "one or more [[grid]] blocks")
    shared = {key: [value] for key, value in VALUES.items() if key != "seeds"}
    shared |= {"seeds": VALUES["seeds"]} | {key: _shared(key, table[key]) for key in VALUES if key in table}
    weights: dict[str, str] = {NO_MODEL: ""}
    cells: dict[str, Cell] = {}
    for number, block in enumerate(blocks, 1):
        with _within(f"grid {number}"):
            for cell in _expand(block, shared, weights):
                cells.setdefault(cell.hash, cell)
    twins = _values("twin", table["twin"]) if "twin" in table else []
    return Suite(table["name"], table["title"], table["question"], tuple(cells.values()), tuple(twins))


def _shared(key: str, value: Any) -> list[Any]:
    """A suite's own value: a list of seeds, anything else alone; lists of them belong into a grid."""
    if key == "seeds":
        return _values(key, value)
    if isinstance(value, list):
        raise _wrong_type(key, value, f"one value here; lists of {key} go into a grid")
    return _values(key, [value])


def _values(key: str, value: Any) -> list[Any]:
    """A list with something in it, of the right type, nothing twice."""
    kind = type(VALUES[key]) if key in VALUES and key != "seeds" else int if key == "seeds" else str
    if not isinstance(value, list) or not value:
        raise _wrong_type(key, value, "a list, not empty")
    for position, item in enumerate(value):
        if type(item) is not kind:
            raise _wrong_type(key, item, f"{'a whole number' if kind is int else 'a text'}")
        if item in value[:position]:
            raise UserError(f"{key} = {value!r}", f"{item!r} is there twice", "", "leave one of them out")
    return value


def _models(patterns: list[str]) -> list[str]:
    """Names for names and patterns, in the order of the registry within a pattern."""
    names = [spec.name for spec in registry.specs()]
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched and pattern != NO_MODEL:
            registry.spec(pattern)  # raises with near names
        found |= dict.fromkeys(matched or [pattern])
    return list(found)


def _option_tables(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of a grid's options: the fixed ones, and the product of its sweeps."""
    fixed, sweep = block.get("options", {}), block.get("sweep", {})
    for key, table in (("options", fixed), ("sweep", sweep)):
        if not isinstance(table, dict):
            raise _wrong_type(key, table, "a table")
    for option, values in sweep.items():
        if option in fixed:
            raise UserError(f"sweep.{option}", f"options.{option} is given too", "", "leave one of them out")
        if not isinstance(values, list) or not values:
            raise _wrong_type(f"sweep.{option}", values, "a list, not empty")
        if any(value in values[:position] for position, value in enumerate(values)):
            raise UserError(f"sweep.{option} = {values!r}", "a value is there twice", "", "leave one out")
    return [fixed | dict(zip(sweep, chosen, strict=True)) for chosen in product(*sweep.values())]


def _asked(block: Mapping[str, Any], methods: list[str]) -> tuple[list[str], list[str]]:
    """Models and intrinsics of a grid; what its methods cannot have may be left out."""
    needs = {method(name).needs for name in methods}
    absent = {"models": NO_MODEL if needs == {"picture"} else None}
    absent["intrinsics"] = NO_INTRINSIC if needs == {"samples"} else None
    for key, nothing in absent.items():
        if key not in block and nothing is None:
            raise UserError(
                f"key {key!r}", f"the methods {', '.join(methods)} need it", "", f"add {key} = [...]"
            )
    models = _models(_values("models", block.get("models", [NO_MODEL])))
    return models, _values("intrinsics", block.get("intrinsics", [NO_INTRINSIC]))


def _expand(
    block: Mapping[str, Any], shared: Mapping[str, list[Any]], weights: dict[str, str]
) -> Iterator[Cell]:
    """Cells of one grid: models first, seeds last, so that one model's cells stay together."""
    _check_keys(block, _GRID, ("methods",))
    methods = _values("methods", block["methods"])
    models, intrinsics = _asked(block, methods)
    options = _option_tables(block)
    given = {key: _values(key, block[key]) if key in block else shared[key] for key in VALUES}
    names = ["seed" if key == "seeds" else key for key in VALUES]
    for model, intrinsic, asked, table in product(models, intrinsics, methods, options):
        if model not in weights:
            weights[model] = registry.identity(model)
        alike: dict[tuple[Any, ...], Cell] = {}  # whether a cell can be computed does not hang on its seed
        for chosen in product(*given.values()):
            values = dict(zip(names, chosen, strict=True))
            seed = values.pop("seed")
            key = tuple(values.values())
            if key not in alike:
                alike[key] = make_cell(
                    model, intrinsic, asked, table, weights=weights[model], seed=seed, **values
                )
            check_count("seed", seed)
            yield alike[key].with_(seed=seed)
