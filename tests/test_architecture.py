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
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "pandas", "seaborn", "matplotlib", "ray")
HEAVY += ("fsspec",)
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


# What runs code that it finds in a file or a text, whatever it is given.
RUNS = re.compile(
    r"(_?pickle|cPickle|cloudpickle|dill|joblib|marshal|shelve)\.(load|loads|open|Unpickler|_Unpickler)"
    r"|pandas\.read_pickle|torch\.hub\.load|torch\.jit\.load|torch\.package\.PackageImporter"
    r"|yaml\.(unsafe_load|full_load|unsafe_load_all|full_load_all)"
    r"|os\.(system|popen)|subprocess\.(getoutput|getstatusoutput)|runpy\.run_(path|module)"
    r"|(builtins\.)?(eval|exec|__import__)"
)
# Loaders that run code unless a keyword forbids it: the keyword, and the value it has to have.
FORBIDDING = {
    "torch.load": ("weights_only", True),
    "yaml.load": ("Loader", "yaml.SafeLoader"),
    "yaml.load_all": ("Loader", "yaml.SafeLoader"),
}
PACKAGES = ("pickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal")
PLAIN = ("Tokenizer", "Scheduler")  # what libraries make of JSON alone, without weights
EXCEPT = {  # file: what it may do, and why
    "benchmarks/features/script.py": (
        "torch.jit.load",
        "loads a copy it has checked instruction by instruction",
    ),
    "generators/multi_step.py": (
        "PeftModel.from_pretrained",
        "opens the folder's safetensors first: no other is read",
    ),
    "tests/metrics/test_script.py": ("torch.jit.load", "compares with what torch reads of its own file"),
}


def aliases(tree: ast.AST) -> dict[str, str]:
    """Full names of what a module's imports call otherwise."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def called(node: ast.Call, known: dict[str, str]) -> str:
    """Full name of what is called, also by getattr with a plain name."""
    function = node.func
    if isinstance(function, ast.Call) and ast.unparse(function.func) == "getattr" and len(function.args) > 1:
        owner, attribute = function.args[:2]
        if isinstance(attribute, ast.Constant):
            function = ast.Attribute(owner, str(attribute.value))
    first, dot, rest = ast.unparse(function).partition(".")
    return known.get(first, first) + dot + rest


def says(node: ast.Call, keyword: str, value: object) -> bool:
    """Whether a keyword has just this value: a constant, or a name that is given as text."""
    given = [k.value for k in node.keywords if k.arg == keyword]
    named = isinstance(value, str)
    return any(
        ast.unparse(v) == value if named else isinstance(v, ast.Constant) and v.value is value for v in given
    )


def names(node: ast.Call, keyword: str) -> bool:
    return any(k.arg == keyword for k in node.keywords)


def runs_code(node: ast.Call, full: str) -> bool:
    """Whether a call may run code found in what it is given."""
    keyword, value = FORBIDDING.get(full, ("", None))
    return bool(
        RUNS.fullmatch(full)
        or (keyword and not says(node, keyword, value))
        or (names(node, "trust_remote_code") and not says(node, "trust_remote_code", False))
        or (names(node, "allow_pickle") and not says(node, "allow_pickle", False))
        or (names(node, "shell") and not says(node, "shell", False))
    )


def may_load_other(node: ast.Call, full: str) -> bool:
    """Whether a library may load a pickled file instead, or start a program for a picture."""
    owner, _, method = full.rpartition(".")
    if method == "from_pretrained":
        return not (owner.endswith(PLAIN) or says(node, "use_safetensors", True))
    return full == "PIL.Image.open" and not names(node, "formats")


def unsafe(source: str, ours: bool = False) -> list[str]:
    """Calls that run code found in a file, and handlers that swallow whatever happens.

    Args:
        ours: of the packages themselves: what libraries may choose to load is told, too.
    """
    tree, found = ast.parse(source), []
    known = aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            full = called(node, known)
            if runs_code(node, full) or (ours and may_load_other(node, full)):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.ExceptHandler):
            everything = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            if everything and all(isinstance(s, ast.Pass | ast.Continue) for s in node.body):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", CODE + TESTS, ids=name)
def test_nothing_unsafe_is_called(path: Path) -> None:
    allowed, _ = EXCEPT.get(name(path), (None, ""))
    found = unsafe(path.read_text(encoding="utf-8"), ours=path in CODE)
    assert [each for each in found if allowed is None or allowed not in each] == []


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
        "np.load(path, allow_pickle=trusted)",
        "import torch as t\nt.load(path)",
        "from torch import load as read\nread(path)",
        "getattr(torch, 'load')(path)",
        "import pickle as p\np.Unpickler(file)",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "torch.hub.load(name, 'x')",
        "torch.jit.load(path)",
        "import pandas as pd\npd.read_pickle(path)",
        "marshal.loads(data)",
        "shelve.open(path)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "from os import popen\npopen(text)",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept:\n    pass",
    ],
)
def test_an_unsafe_call_is_seen(source: str) -> None:
    assert len(unsafe(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "UNet.from_pretrained(folder)",
        "UNet.from_pretrained(folder, use_safetensors=safe)",
        "UNet.from_pretrained(folder, **safe)",
        "from PIL import Image\nImage.open(path)",
    ],
)
def test_a_choice_left_to_a_library_is_seen(source: str) -> None:
    assert len(unsafe(source, ours=True)) == 1


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
