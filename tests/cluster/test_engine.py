"""What a cluster is not asked for, and what is said instead; no cluster is needed to say it."""

import dis
import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import cluster
from benchmarks.cluster import RayEngine, Task, refuse_too_large
from benchmarks.plan import Estimates
from benchmarks.store import Store
from benchmarks.worker import Settings
from generators.errors import UserError
from tests.runner.fakes import EXECUTE, ROOT, cell, cells

SMALL = ("small", {"CPU": 2.0, "memory": 4e9})
LARGE = ("large", {"CPU": 64.0, "GPU": 8.0, "memory": 500e9})


def engine(store: Path, device: str = "cpu", **options) -> RayEngine:
    return RayEngine([cell()], Store(store), Settings(EXECUTE, device), expected=Estimates(), **options)


def test_a_cell_that_fits_a_node_is_not_refused() -> None:
    refuse_too_large([(cell(), {"CPU": 1, "memory": 4e9})], [SMALL])
    refuse_too_large([(cell(), {"CPU": 1, "GPU": 0.5, "memory": 400e9})], [SMALL, LARGE])


@pytest.mark.parametrize(
    ("need", "nodes"),
    [
        ({"CPU": 1, "memory": 5e9}, [SMALL]),
        ({"CPU": 1, "GPU": 1, "memory": 1e9}, [SMALL]),
        ({"CPU": 1, "GPU": 9, "memory": 1e9}, [SMALL, LARGE]),
        ({"CPU": 1, "memory": 1e9}, []),
    ],
)
def test_a_cell_that_no_node_can_hold_is_refused_with_need_and_nodes(need: dict, nodes: list) -> None:
    with pytest.raises(UserError) as raised:
        refuse_too_large([(cell(), {}), (cell(1), need)] if nodes else [(cell(1), need)], nodes)
    said = str(raised.value)
    assert str(cell(1)) in said and f"{need['memory'] / 1e9:.1f} GB" in said
    assert all(name in said for name, _ in nodes)


@pytest.mark.parametrize("gpus", [0.0, -1.0, 1.5, float("nan"), float("inf")])
def test_no_odd_share_of_gpus(gpus: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gpus-per-cell"):
        engine(tmp_path, "cuda", gpus_per_cell=gpus)


def test_it_is_the_cluster_that_chooses_the_gpu(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cuda:1"):
        engine(tmp_path, "cuda:1")


def test_without_ray_it_is_said_how_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="cluster") as raised:
        engine(tmp_path)
    assert "pip install" in raised.value.todo


def test_an_address_where_nothing_is_is_said(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1\b"):
        engine(tmp_path, address="127.0.0.1:1")
    with pytest.raises(UserError, match="Ray Client"):
        engine(tmp_path, address="ray://127.0.0.1:1")


def test_the_task_is_sent_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may have the package where the driver has it and nowhere else: nothing is imported by name.

    A function within a function, which uses nothing of its module, is sent by its code.
    """
    task = cluster._task()
    used = {step.argval for step in dis.get_instructions(task) if step.opname == "LOAD_GLOBAL"}
    assert "<locals>" in task.__qualname__ and not used and not task.__closure__
    monkeypatch.setattr(sys, "path", ["elsewhere"])
    monkeypatch.delenv("INTRINSIC_BENCH_TRY", raising=False)
    try:
        with pytest.raises(TypeError, match="Cell"):
            task([str(ROOT)], {"INTRINSIC_BENCH_TRY": "1"}, {"model": "x"}, "nowhere", "{}", 1)
        assert sys.path == ["elsewhere", str(ROOT)] and os.environ["INTRINSIC_BENCH_TRY"] == "1"
    finally:
        os.environ.pop("INTRINSIC_BENCH_TRY", None)


def test_a_sign_of_life_is_no_progress(tmp_path: Path) -> None:
    """Else a task that hangs would never be ended."""
    engine, which = RayEngine.__new__(RayEngine), cells(1)[0]
    engine.store = Store(tmp_path)
    engine.store.prepare()
    task = Task(0)
    sign = {"host": "node", "share": 0.5, "phase": "training", "moved": "12:00", "at": "12:00"}
    said = []
    for at, moved in (("12:00", "12:00"), ("12:20", "12:00"), ("12:40", "12:00"), ("12:41", "12:41")):
        path = engine.store.progress / f"{which.hash}.json"
        path.write_text(json.dumps(sign | {"at": at, "moved": moved}))
        said.append(len(engine._heard(task, which, {})))
    assert said == [1, 0, 0, 1]
