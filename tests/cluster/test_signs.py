"""What the driver makes of signs of life: of containers, and of files that are no signs."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster import RayEngine, Task
from benchmarks.store import Store
from tests.runner.fakes import cell

SIGN = {"host": "node", "share": 0.5, "phase": "training", "moved": "12:00", "at": "12:00"}
QUEUED = {"kind": "progress", "share": 0.0, "phase": "queued"}
GONE = {"node": "no answer"}


@pytest.fixture
def engine(tmp_path: Path) -> RayEngine:
    made = RayEngine.__new__(RayEngine)
    made.store = Store(tmp_path)
    made.store.prepare()
    return made


def say(engine: RayEngine, sign: Any) -> None:
    text = sign if isinstance(sign, str) else json.dumps(sign)
    (engine.store.progress / f"{cell().hash}.json").write_text(text)


@pytest.mark.parametrize("host", ["node", "node-0a1b2c3d"])
def test_a_container_is_gone_when_ray_says_that_its_host_is(engine: RayEngine, host: str) -> None:
    """In a container a sign of life is of the host's name and eight digits, of which Ray knows nothing."""
    task = Task(0)
    task.ref = object()
    say(engine, SIGN | {"host": host})
    assert engine._heard(task, cell(), {})[0]["share"] == 0.5
    (lost,) = engine._heard(task, cell(), GONE)
    assert lost["kind"] == "lost" and host in lost["reason"] and "no answer" in lost["reason"]
    assert task.ref is None


@pytest.mark.parametrize("host", ["node", "node-0a1b2c3d"])
def test_a_host_that_is_cut_off_shows_nothing_of_the_next_attempt(engine: RayEngine, host: str) -> None:
    say(engine, SIGN | {"host": host})
    assert engine._heard(Task(0), cell(), GONE) == [QUEUED]


@pytest.mark.parametrize("host", ["node2", "node-2", "node-0a1b2c3d4e", "another-0a1b2c3d"])
def test_another_host_is_not_gone(engine: RayEngine, host: str) -> None:
    say(engine, SIGN | {"host": host})
    assert engine._heard(Task(0), cell(), GONE)[0]["share"] == 0.5


@pytest.mark.parametrize(
    "sign",
    ["", "{", "[]", "null", "7", "{}", "[" * 5000, {"share": 0.5, "phase": "x"}, SIGN | {"host": 5},
     SIGN | {"host": ["node"]}, SIGN | {"share": "half"}, SIGN | {"share": None}, {"host": "node"}],
)  # fmt: skip
def test_a_file_that_is_no_sign_of_life_is_none(engine: RayEngine, sign: Any) -> None:
    task = Task(0)
    say(engine, sign)
    assert engine._heard(task, cell(), {}) == [QUEUED] and task.host == ""
    say(engine, SIGN)
    assert engine._heard(task, cell(), {})[0]["share"] == 0.5


def test_what_else_a_sign_of_life_says_does_not_matter(engine: RayEngine) -> None:
    say(engine, json.dumps(SIGN)[:-1] + f', "more": {"[" * 1000}{"]" * 1000}}}')
    assert engine._heard(Task(0), cell(), {})[0]["share"] == 0.5
