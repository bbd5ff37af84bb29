"""The README's Python runs as it stands, and its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert 0 < float(done.stdout.split()[0]) < 90


def test_the_commands_exist() -> None:
    from benchmarks.cli import main

    verbs = set(re.findall(r"^    intrinsic-bench (\w+)", README, re.MULTILINE))
    assert {"ls", "show", "plan", "run", "report", "check"} <= verbs
    for verb in verbs:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", verb, "--help"], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, verb
    assert callable(main)


def test_what_it_links_to_is_there() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", prose):
        assert (ROOT / target).exists(), target
    for command in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command


def test_the_plugin_it_shows_is_the_one_that_is_tested() -> None:
    code = (ROOT / "tests" / "plugin_example" / "patches_generator.py").read_text()
    assert f"```py\n{code}```" in README
