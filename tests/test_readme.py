"""The README's Python runs as it stands, and its commands and their options exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
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


def commands(text: str) -> list[list[str]]:
    """Words behind `intrinsic-bench`: of a line of code up to its comment, or between backticks."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^(?!\|)[^`\n]*\bintrinsic-bench ([a-z][^`\n]*)$", joined, re.MULTILINE)
    spans = re.findall(r"`intrinsic-bench ([^`]+)`", joined)
    return [shlex.split(found, comments=True) for found in (*lines, *spans)]


def unknown(words: list[str]) -> str:
    """The first word of a command line that the program does not know, "" if there is none."""
    from benchmarks.cli import main

    command: click.Command = main
    context = click.Context(main)
    for word in words:
        if word.startswith("-"):
            options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
            if word.split("=")[0] not in {*options, "--help"}:
                return word
        elif isinstance(command, click.Group):
            below = command.get_command(context, word)
            if below is None:
                return word
            command = below
    return ""


PAGES = ["README.md", "benchmarks/CLUSTER.md", "benchmarks/suites/README.md", "generators/zoo/README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_exist(page: str) -> None:
    found = commands((ROOT / page).read_text())
    assert len(found) > 5 and [" ".join(words) for words in found if unknown(words)] == []


def test_a_command_that_does_not_exist_is_found() -> None:
    text = "    intrinsic-bench run rooms \\\n        --wrokers 2  # --no\n or `intrinsic-bench zoo\ntrane X`"
    assert commands(text) == [["run", "rooms", "--wrokers", "2"], ["zoo", "trane", "X"]]
    assert [unknown(words) for words in commands(text)] == ["--wrokers", "trane"]


@pytest.mark.parametrize("page", ["README.md", "results/findings.md", "generators/zoo/README.md"])
def test_what_it_links_to_is_there(page: str) -> None:
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    found = re.findall(r"\]\((?!http)([^)#]+)\)", prose)
    assert found
    for target in found:
        assert ((ROOT / page).parent / target).exists(), target


def test_the_targets_it_names_are_in_the_makefile() -> None:
    for command in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command


def test_the_plugin_it_shows_is_the_one_that_is_tested() -> None:
    code = (ROOT / "tests" / "plugin_example" / "patches_generator.py").read_text()
    assert f"```py\n{code}```" in README
