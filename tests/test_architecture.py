"""Rules about the whole tree: which way imports point, what listing may import, what is never loaded."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("generators", "probes", "benchmarks")  # each imports only itself and those before it
DATA_ONLY = ("results", "third_party")
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "pandas", "seaborn", "matplotlib")
LONGEST_FILE = 500
TEXTS = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".json", ".csv", ".tex", ".html", ".svg", ".cfg", ""}
CODE = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Imports point one way.


def imported(source: str, package: str) -> Iterator[str]:
    """Full names of the modules a source imports anywhere, relative ones resolved in its package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield ".".join([*above, *([node.module] if node.module else [])])


def against_the_rule(source: str, package: str) -> list[str]:
    layer = package.split(".")[0]
    allowed = LAYERS[: LAYERS.index(layer) + 1] if layer in LAYERS else LAYERS
    forbidden = (set(LAYERS) - set(allowed)) | set(DATA_ONLY) | ({"tests"} if layer in LAYERS else set())
    return [module for module in imported(source, package) if module.split(".")[0] in forbidden]


@pytest.mark.parametrize("path", CODE + TESTS, ids=name)
def test_imports_point_one_way(path: Path) -> None:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    assert against_the_rule(path.read_text(encoding="utf-8"), package) == []


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("import probes.lora", "generators", ["probes.lora"]),
        ("def f():\n    from benchmarks.cell import Cell", "probes", ["benchmarks.cell"]),
        ("from ..probes import lora", "generators.zoo", []),  # above the top: Python itself refuses
        ("from results import table", "benchmarks.report", ["results"]),
        ("import third_party", "tests", ["third_party"]),
        ("from tests.fakes import Fake", "benchmarks", ["tests.fakes"]),
        ("from probes import lora\nfrom generators import load\nfrom .cell import Cell", "benchmarks", []),
    ],
)
def test_a_wrong_import_is_seen(source: str, package: str, found: list[str]) -> None:
    assert against_the_rule(source, package) == found


# Listing imports nothing heavy.


def heavy_imports(statement: str) -> list[str]:
    """Which heavy packages a fresh interpreter has imported after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.parametrize(
    "statement",
    [
        "import benchmarks.cli",
        "import benchmarks.plan",
        "import benchmarks.metrics",
        "import probes.methods",
        "import generators.testing",
        "import generators; generators.specs()",
    ],
)
def test_listing_imports_nothing_heavy(statement: str) -> None:
    assert heavy_imports(statement) == []


def test_a_heavy_import_is_seen() -> None:
    assert "torch" in heavy_imports("import benchmarks.cli, benchmarks.execute")


# What is never loaded, and never swallowed.


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def says(node: ast.Call, keyword: str, value: object) -> bool:
    return any(
        k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is value
        for k in node.keywords
    )


def unsafe(source: str) -> list[str]:
    """Calls that run code found in a file, and handlers that swallow whatever happens."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            loads_pickle = re.fullmatch(r"(c?[pP]ickle|dill|joblib)\.(load|loads)", called(node))
            if (
                loads_pickle
                or (called(node) == "torch.load" and not says(node, "weights_only", True))
                or says(node, "trust_remote_code", True)
                or says(node, "allow_pickle", True)
            ):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and node.module in ("pickle", "dill", "joblib"):
            found.append(ast.unparse(node))
        elif isinstance(node, ast.ExceptHandler):
            everything = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            if everything and all(isinstance(s, ast.Pass | ast.Continue) for s in node.body):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", CODE + TESTS, ids=name)
def test_nothing_unsafe_is_called(path: Path) -> None:
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "pickle.loads(text)",
        "from pickle import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=weights_only)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "np.load(path, allow_pickle=True)",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
    ],
)
def test_an_unsafe_call_is_seen(source: str) -> None:
    assert len(unsafe(source)) == 1


def test_safe_calls_are_not_reported() -> None:
    assert (
        unsafe("torch.load(path, weights_only=True)\nnp.load(path, allow_pickle=False)\njson.load(f)") == []
    )


# Sizes, names and places.


@pytest.mark.parametrize("path", CODE + TESTS, ids=name)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST_FILE


def test_modules_are_named_after_what_they_do() -> None:
    vague = {"utils", "util", "helper", "helpers", "manager", "managers", "misc", "common"}
    assert [name(p) for p in CODE + TESTS if p.stem in vague or p.parent.name in vague] == []


# Folders of this or that machine, the folder beside the checkout, and package registries.
FOREIGN = re.compile(
    r"(?<![\w.:/~-])/(work|root|home/\w+|Users/\w+|opt|mnt)/\w"
    r"|\.\./" + "shared"
    r"|\bpypi\.(org|python)|pythonhosted\.org|download\.pytorch\.org|anaconda\.(org|com)"
)


def texts() -> list[Path]:
    """Every text file of the tree, without what git ignores."""
    folders = [*LAYERS, *DATA_ONLY, "tests", ".ci", ".github"]
    files = [p for folder in folders for p in (ROOT / folder).rglob("*")]
    files += list(ROOT.iterdir())
    own = [p for p in files if p.is_file() and p.suffix in TEXTS and "__pycache__" not in p.parts]
    return sorted(p for p in own if p != Path(__file__) and p.name != ".git")  # a file in a git worktree


def foreign(text: str) -> list[str]:
    return [found.group() for found in FOREIGN.finditer(text)]


def test_no_place_of_one_machine_is_named() -> None:
    found = {name(p): foreign(p.read_text(encoding="utf-8", errors="replace")) for p in texts()}
    assert {k: v[:3] for k, v in found.items() if v} == {}


@pytest.mark.parametrize(
    "text",
    [
        "open('/wo" + "rk/main/x')",
        "/ho" + "me/ada/bench",
        "see ../" + "shared/DESIGN.md",
        "https://py" + "pi.org/simple",
    ],
)
def test_a_foreign_place_is_seen(text: str) -> None:
    assert foreign(text)


def test_addresses_and_relative_paths_are_not_foreign() -> None:
    assert foreign("https://example.org/home/x ./wo" + "rk/x a/ro" + "ot/b ~/.cache") == []
