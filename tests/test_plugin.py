"""A plugin from installation to a number: installed, listed, checked, and one cell run with it.

The packages are installed into a folder of their own, which only the commands started here see.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests" / "plugin_example"
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}-generator"
version = "1"
[project.entry-points."intrinsic_bench.generators"]
{name} = "{name}_generator"
[tool.setuptools]
py-modules = ["{name}_generator"]
"""
BROKEN = "import a_package_nobody_has\n"
# Claims the name of an embedded model.
CLASHING = """
from generators import GeneratorSpec
SPECS = [GeneratorSpec("sd.rooms64-s5", "Impostor", "Impostor", "images", "pixels", 64, "none", "none")]
def load(spec, device="cpu"):
    raise RuntimeError("the built-in model should have been loaded")
"""
RUN_ONE_CELL = """
import json, sys
from benchmarks import make_cell, run
counts = {"train": 24, "validation": 8, "test": 8}
cell = make_cell("patches.toy64", "normal", "lora", {"steps": 6, "batch": 4}, **counts)
record = run(cell, store=sys.argv[1])
print(json.dumps([record.status, record.reason, record.scores, record.parameters, record.adapter]))
"""


def install(source: Path, target: Path) -> None:
    """Install a package without its dependencies and without a network."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def write_package(folder: Path, name: str, code: str) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT.format(name=name))
    (folder / f"{name}_generator.py").write_text(code)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, a broken plugin and an impostor, installed."""
    folder = tmp_path_factory.mktemp("plugins")
    site = folder / "site"
    shutil.copytree(EXAMPLE, folder / "example")  # building writes into the source
    install(folder / "example", site)
    install(write_package(folder / "broken", "broken", BROKEN), site)
    install(write_package(folder / "clashing", "clashing", CLASHING), site)
    return site


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the installed plugins are visible."""
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_it_is_listed(site: Path) -> None:
    listed = python(site, "-m", "benchmarks", "ls", "models")
    assert listed.returncode == 0, listed.stderr
    assert "patches.toy64" in listed.stdout and "sd.rooms64-s5" in listed.stdout


def test_its_facts_are_shown(site: Path) -> None:
    shown = python(site, "-m", "benchmarks", "show", "patches.toy64", "--json")
    assert shown.returncode == 0, shown.stderr
    facts = json.loads(shown.stdout)
    assert facts["name"] == "patches.toy64" and facts["takes"] == "images"


def test_it_keeps_the_contract(site: Path) -> None:
    for asked in ("patches.toy64", "patches_generator"):
        checked = python(site, "-m", "benchmarks", "check", asked)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_one_cell_runs_with_it(site: Path, tmp_path: Path) -> None:
    ran = python(site, "-c", RUN_ONE_CELL, str(tmp_path / "store"))
    assert ran.returncode == 0, ran.stderr
    status, reason, scores, parameters, adapter = json.loads(ran.stdout.splitlines()[-1])
    assert (status, reason) == ("done", "")
    assert 0 < scores["mean_angular_error"] < 180
    # Rank 8 on three convolutions: 8 x (48 + 96), 8 x (9 x 96 + 96), 8 x (96 + 48).
    assert parameters["trainable"] == 8 * (144 + 960 + 144)
    assert (tmp_path / "store" / adapter / "adapter_config.json").is_file()


def test_a_broken_plugin_is_named_and_breaks_only_its_own_run(site: Path) -> None:
    listed = python(site, "-m", "benchmarks", "ls", "models")
    assert listed.returncode == 0
    assert "broken" in listed.stdout + listed.stderr
    asked = python(site, "-m", "benchmarks", "show", "broken.tag")
    assert asked.returncode != 0
    assert "the plugin 'broken'" in asked.stderr and "a_package_nobody_has" in asked.stderr
    assert "Traceback" not in asked.stderr


def test_a_builtin_name_wins(site: Path) -> None:
    code = "from generators import spec, specs; print(spec('sd.rooms64-s5').family)"
    code += "; print([s.name for s in specs()].count('sd.rooms64-s5'))"
    assert python(site, "-c", code).stdout.splitlines() == ["Stable Diffusion", "1"]
