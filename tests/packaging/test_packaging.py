"""What is declared is pinned, what is pinned fits, and what a wheel needs is there."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("generators", "probes", "benchmarks")
RUNTIME = [
    *("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "pandas"),
    *("scipy", "seaborn", "click", "rich", "huggingface-hub", "fsspec", "ninja", "pillow"),
    *("pyyaml", "packaging", "orjson"),
]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def declared() -> list[Requirement]:
    project = pyproject()["project"]
    return [Requirement(r) for r in project["dependencies"] + project["optional-dependencies"]["test"]]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def closure() -> set[str]:
    """Everything installed that the declared dependencies need, by canonical name."""
    found: set[str] = set()
    waiting = [r.name for r in declared()]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        needed = (Requirement(r) for r in requires(name) or [])
        waiting += [r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def test_runtime_dependencies() -> None:
    names = [Requirement(r).name for r in pyproject()["project"]["dependencies"]]
    assert names == RUNTIME


@pytest.mark.parametrize("requirement", declared(), ids=lambda r: r.name)
def test_the_pin_is_admitted(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_torch() -> None:
    (torch,) = (r for r in declared() if r.name == "torch")
    assert pins()["torch"] == "2.13.0"
    assert torch.specifier.contains("2.11.0") and not torch.specifier.contains("2.10.0")


def test_transitive_dependencies_are_pinned() -> None:
    try:
        needed = closure()
    except PackageNotFoundError as missing:
        pytest.fail(f"the environment lacks {missing}: make setup")
    cuda = {n for n in needed if n.startswith(("nvidia-", "cuda-")) or n == "triton"}  # torch pins its own
    assert needed - cuda - set(pins()) == set()


def test_package_data_is_there() -> None:
    for package, patterns in pyproject()["tool"]["setuptools"]["package-data"].items():
        for pattern in patterns:
            assert [p for p in (ROOT / package).glob(pattern) if p.is_file()], f"{package}/{pattern}"


def test_a_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    before = {p.relative_to(tmp_path).as_posix() for k in PACKAGES for p in (tmp_path / k).rglob("*.*")}
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("intrinsic_bench-*.whl")
    needless = (".md", ".png")  # for readers of the repository
    needed = {name for name in before if (tmp_path / name).is_file() and not name.endswith(needless)}
    assert needed - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_every_folder_with_code_is_a_package() -> None:
    folders = {p.parent for top in PACKAGES for p in (ROOT / top).rglob("*.py")}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


def test_the_command_is_a_function() -> None:
    from importlib import import_module

    module, name = pyproject()["project"]["scripts"]["intrinsic-bench"].split(":")
    assert callable(getattr(import_module(module), name))


def test_license_and_readme() -> None:
    project = pyproject()["project"]
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["license"] == "Apache-2.0" and "Apache License" in text and len(text) > 11_000
    assert (ROOT / project["readme"]).is_file()


def test_contributing_is_short() -> None:
    assert len((ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < 60


def test_ci_runs_what_a_user_runs() -> None:
    script = [
        line
        for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert script == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "exec make test"]
    steps = re.findall(r"- run: (.*)", (ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8"))
    assert steps == [".ci/run"]
