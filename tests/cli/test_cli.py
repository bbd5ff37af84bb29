"""The command line: what it prints, how it ends, and that it is quick."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import make_cell
from benchmarks.cli import main
from benchmarks.store import Store
from generators import registry
from generators.errors import UserError
from tests.runner.fakes import EXECUTE, ROOT

SUITE = """name = "mine"
title = "Mine"
question = "Why?"
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

[[grid]]
models = ["sd.rooms64-s1"]
intrinsics = ["normal"]
methods = ["linear"]
options = { layer = "best" }
"""
PARTS = ("asked:", "wrong:", "known:", "to do:")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def run(suite: Path, *more: object) -> Result:
    store = suite.parent / "store"
    return call("run", suite, "--store", store, "--no-report", "--execute", EXECUTE, *more)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


HEAVY = "('torch', 'diffusers', 'transformers', 'pandas', 'matplotlib', 'scipy')"


def loads_heavy(arguments: list[str], first: str = "") -> str:
    code = (
        f"import sys; {first}\nfrom benchmarks.cli import main\nmain({arguments!r}, standalone_mode=False)\n"
    )
    code += f"print(*[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    done = python(code)
    assert done.returncode == 0, done.stderr
    return done.stderr.strip()


@pytest.mark.parametrize(
    "arguments",
    [["ls", "models"], ["ls", "methods"], ["ls", "suites"], ["ls", "data"], ["plan", "rooms-quick"]],
    ids=" ".join,
)
def test_listing_and_planning_load_nothing_heavy(arguments: list[str]) -> None:
    assert loads_heavy(arguments) == ""


def test_the_test_above_can_fail() -> None:
    assert "scipy" in loads_heavy(["ls", "data"], first="import scipy")


def seconds(*arguments: str) -> float:
    """CPU seconds of a fresh process, the least of three: on an idle machine it is the time to the answer,
    as nothing in it waits, and unlike that it does not depend on what else the machine does."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "benchmarks", *arguments]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(spent)


def test_ls_models_answers_in_half_a_second() -> None:
    assert seconds("ls", "models") < 0.5


def test_plan_of_the_quick_suite_answers_in_two_seconds() -> None:
    assert seconds("plan", "rooms-quick") < 2.0


def test_ls_lists() -> None:
    assert "sd.rooms64-s5" in call("ls", "models").stdout
    assert "rank=8" in call("ls", "methods").stdout
    assert "rooms-quick" in call("ls", "suites").stdout
    assert "normal depth albedo shading" in call("ls", "data").stdout


def test_ls_names_broken_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "broken_plugins", lambda: {"shiny": "ImportError: no gloss"})
    result = call("ls", "models")
    assert result.exit_code == 0
    assert "plugin 'shiny' cannot be imported: ImportError: no gloss" in result.stderr


def test_ls_names_models_whose_name_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "taken_names", lambda: {"shiny": "its model 'sd.v1-5' is left out: why"})
    result = call("ls", "models")
    assert result.exit_code == 0
    assert "plugin 'shiny': its model 'sd.v1-5' is left out: why" in result.stderr


def test_plan_as_text_and_as_json(suite: Path) -> None:
    text = call("plan", suite, "--workers", 2, "--store", suite.parent / "store")
    assert text.exit_code == 0
    assert "10 cells: 0 done, 0 failed, 10 missing" in text.stdout
    assert "with 2 workers" in text.stdout
    found = json.loads(call("plan", suite, "--json", "--only", "*/normal/*").stdout)
    assert len(found["rows"]) == 10


def test_run_computes_then_finds_nothing_to_do(suite: Path) -> None:
    first, second = run(suite), run(suite)
    assert (first.exit_code, second.exit_code) == (0, 0), first.output
    assert "mine: 10 done, 0 failed, 10 of them computed now" in first.stdout
    assert "[10/10] done" in first.stderr
    assert "10 done, 0 failed, 0 of them computed now" in second.stdout


def test_some_failed_is_status_three_and_says_why(suite: Path) -> None:
    suite.write_text(SUITE.replace('layer = "best"', 'layer = "raise"').replace("[0, 1, 2", "[2"))
    result = run(suite)
    assert result.exit_code == 3
    assert "0 done, 8 failed" in result.stdout
    assert "RuntimeError: the layer is broken" in result.stderr
    assert "Traceback" not in result.output
    assert ".log" in result.stderr


BAD = {
    "suite": (["plan", "rooms-quik"], "did you mean 'rooms-quick'"),
    "model": (["show", "sd.rooms64-s9"], "did you mean"),
    "store": (["plan", "rooms-quick", "--only", "nothing"], "matches no cell"),
    "report": (["report", "/nowhere/at.toml"], "no such file"),
    "run": (["run", "rooms-quick", "--device", "tpu"], "cuda"),
    "workers": (["run", "rooms-quick", "--workers", "0"], "at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_four_parts_and_status_two(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, fact = BAD[case]
    result = call(*arguments)
    assert result.exit_code == 2
    assert fact in result.stderr
    assert result.stderr.startswith("asked:")
    assert all(part in result.stderr for part in PARTS)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert not list(tmp_path.iterdir()), "nothing is made for what is refused"


def test_a_wrong_key_names_file_and_key(suite: Path) -> None:
    suite.write_text(SUITE + "swep = {}\n")
    result = call("plan", suite)
    assert result.exit_code == 2
    assert f"asked: suite {suite}: grid 1: key 'swep'" in result.stderr
    assert "did you mean 'sweep'" in result.stderr


def test_a_corrupt_record_is_status_two_and_stays(suite: Path) -> None:
    run(suite)
    path = sorted((suite.parent / "store" / "records").glob("*.json"))[0]
    path.write_text("{")
    for result in (run(suite), call("plan", suite, "--store", suite.parent / "store")):
        assert result.exit_code == 2
        assert str(path) in result.stderr and "corrupt" in result.stderr
        assert "Traceback" not in result.output
    assert path.read_text() == "{"


def test_a_store_that_cannot_be_made_is_status_two(suite: Path) -> None:
    (suite.parent / "store").write_text("a file")
    result = run(suite)
    assert result.exit_code == 2
    assert (
        "cannot be written" in result.stderr and "choose a place you may write: --store DIR" in result.stderr
    )


def test_a_plan_is_for_one_worker_at_least(suite: Path) -> None:
    result = call("plan", suite, "--workers", 0)
    assert result.exit_code == 2 and "--workers" in result.stderr


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("--debug", "plan", "rooms-quik")
    assert isinstance(result.exception, UserError)

    def broken() -> None:
        raise ValueError("the sky fell")

    monkeypatch.setattr(registry, "specs", broken)
    assert isinstance(call("--debug", "ls", "models").exception, ValueError)
    result = call("ls", "models")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "error: ValueError: the sky fell"
    assert "--debug" in lines[1] and len(lines) == 2


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["ls", "--help"], ["zoo", "--help"]])
def test_help_is_there(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_show_prints_facts_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    module = registry.family_module("sd.rooms64-s4")
    counts = {"parameters": 4000000, "lora_parameters": 66304}
    monkeypatch.setattr(module, "count", lambda spec: counts)
    facts = json.loads(call("show", "sd.rooms64-s4", "--json").stdout)
    assert (facts["name"], facts["family"]) == ("sd.rooms64-s4", "Stable Diffusion")
    assert {key: facts[key] for key in counts} == counts
    assert facts["weights"] == registry.identity("sd.rooms64-s4")
    assert "4,000,000" in call("show", "sd.rooms64-s4").stdout


@pytest.mark.parametrize(("violations", "status"), [([], 0), (["It has no spec."], 1)])
def test_check_prints_sentences(violations: list[str], status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import generators.testing

    monkeypatch.setattr(generators.testing, "check_generator", lambda asked: violations)
    result = call("check", "sd.rooms64-s4")
    assert result.exit_code == status
    assert all(sentence in result.stdout for sentence in violations)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_continue(suite: Path, number: int, status: int) -> None:
    suite.write_text(SUITE.replace('"best"', '"hang"'))
    store = suite.parent / "store"
    command = [sys.executable, "-m", "benchmarks", "run", str(suite), "--store", str(store), "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--no-report", "--execute", EXECUTE],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (store / "computed.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == status, errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert not list(Store(store).claims.glob("*.json"))
    assert not list(store.rglob("*.tmp"))


def test_ctrl_c_anywhere_ends_with_its_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "load", stop)
    asked = ["draw", "stylegan2.rooms64-s1", "--count", "1", "--out", str(tmp_path / "drawn")]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 130 and result.stderr == "stopped\n", result.output


def test_a_worker_that_is_none_is_refused(tmp_path: Path) -> None:
    asked = ["zoo", "render", str(tmp_path / "zoo"), "--scenes", "2", "--worker", "3", "--workers", "2"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 2 and "no such worker" in result.stderr, result.output


def test_cells_of_other_data_are_told_apart() -> None:
    asked = {"train": 4, "validation": 2, "test": 2}
    own = make_cell("stylegan2.rooms64-s1", "normal", "lora", data="samples", labels="rooms-network", **asked)
    assert str(own) == "stylegan2.rooms64-s1 / normal / lora / samples / seed 0"
    assert str(make_cell("none", "normal", "constant", **asked)) == "none / normal / constant / seed 0"
