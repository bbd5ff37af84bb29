"""`make` sets up once, again when a pin changes, and refuses an old Python in words."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Stands for python3: `-m venv` makes an environment whose commands write down how they were called.
INTERPRETER = """#!/bin/sh
if [ "$1" = -c ]; then exit {status}; fi
if [ "$1" = --version ]; then echo "Python 3.9.1"; exit 0; fi
echo "venv $*" >> calls
mkdir -p .venv/bin
for name in python pip ruff mypy intrinsic-bench; do
    printf '#!/bin/sh\\necho "%s $*" >> calls\\nexit 0\\n' $name > .venv/bin/$name
    chmod +x .venv/bin/$name
done
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what `make` reads, and an interpreter that only writes down its calls."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    interpreter(tmp_path, status=0)
    return tmp_path


def interpreter(folder: Path, status: int) -> None:
    path = folder / "fake-python"
    path.write_text(INTERPRETER.replace("{status}", str(status)))
    path.chmod(0o755)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    command = ["make", "PYTHON=./fake-python", *arguments]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)


def calls(folder: Path) -> list[str]:
    """What was called since the last time this was asked."""
    log = folder / "calls"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def installs(folder: Path) -> list[str]:
    return [line.split()[-1] for line in calls(folder) if " install " in line]


def test_bench_sets_up_once(clone: Path) -> None:
    assert make(clone, "bench", "WORKERS=3").returncode == 0
    venv, install, run = calls(clone)
    assert venv == "venv -m venv .venv"
    assert "--constraint constraints.txt --editable ." in install
    assert run == "intrinsic-bench run rooms-quick --workers 3"
    assert make(clone, "bench", "WORKERS=3").returncode == 0
    assert calls(clone) == [run]


def test_a_changed_pin_installs_again(clone: Path) -> None:
    make(clone, "bench")
    assert installs(clone) == ["."]
    later = (clone / ".venv" / "installed").stat().st_mtime + 10
    os.utime(clone / "constraints.txt", (later, later))
    make(clone, "bench")
    assert installs(clone) == ["."]


def test_tests_bring_their_own_packages_and_bench_needs_no_more(clone: Path) -> None:
    assert make(clone, "test", "WORKERS=3").returncode == 0
    ran = calls(clone)
    assert [line.split()[-1] for line in ran if " install " in line] == [".[test]"]
    assert ran[-4:] == [
        "ruff check .",
        "ruff format --check .",
        "mypy ",
        "python -m pytest -n 3 --dist loadfile --no-loadscope-reorder",
    ]
    make(clone, "bench")
    assert installs(clone) == []


def test_a_failed_installation_is_tried_again(clone: Path) -> None:
    make(clone, "setup")
    (clone / ".venv" / "installed-test").unlink()
    (clone / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    assert make(clone, "test").returncode != 0
    assert not (clone / ".venv" / "installed-test").exists()


def test_workers_are_the_cores_but_at_most_eight(clone: Path) -> None:
    make(clone, "bench")
    workers = int(calls(clone)[-1].split()[-1])
    assert workers == min(8, len(os.sched_getaffinity(0)))


def test_an_old_python_is_refused(clone: Path) -> None:
    interpreter(clone, status=1)
    refused = make(clone, "test")
    assert refused.returncode != 0
    assert "Python 3.9.1" in refused.stderr and "Python 3.11 or newer is needed" in refused.stderr
    assert "make test PYTHON=" in refused.stderr
    assert calls(clone) == [] and not (clone / ".venv").exists()
