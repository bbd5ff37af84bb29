"""Trackers: what they are told, where it lies, and that no number knows of them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import Cell, Record, make_cell, trackers
from benchmarks.execute import execute
from benchmarks.store import Store
from benchmarks.worker import Settings, compute
from generators.errors import UserError
from probes.precision import Losses
from tests.determinism.cells import came_of

ROOT = Path(__file__).parents[2]
STEPS = 6


def cell(method: str = "lora") -> Cell:
    options = {"steps": STEPS, "batch": 4} if method == "lora" else {}
    return make_cell("dinov2.rooms64-s1", "albedo", method, options, train=8, validation=2, test=2)


def computed(folder: Path, track: str, method: str = "lora") -> tuple[Store, Record]:
    """A cell as a worker computes it."""
    store = Store(folder)
    store.prepare()
    told: list[dict[str, Any]] = []
    return store, compute(cell(method), store, Settings(track=track), told.append)


def events(folder: Path) -> list[tuple[str, int, float | str]]:
    """Name, step and value of everything in a folder's event files."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray

    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                array = make_ndarray(value.tensor).reshape(-1)
                said = array[0].decode() if array.dtype == object else float(array[0])
                found.append((value.tag, event.step, said))
    return found


class Heard(trackers.Tracker):
    """Keeps what it is told."""

    def __init__(self, cell: Cell, folder: Path) -> None:
        self.told: list[tuple[Any, ...]] = [("begin", cell.hash, folder.name)]

    def loss(self, step: int, value: float) -> None:
        """See Tracker."""
        self.told.append(("loss", step, value))

    def phase(self, name: str, seconds: float) -> None:
        """See Tracker."""
        self.told.append(("phase", name))
        assert 0 <= seconds < 600

    def scores(self, record: Record) -> None:
        """See Tracker."""
        self.told.append(("scores", dict(record.scores)))

    def close(self) -> None:
        """See Tracker."""
        self.told.append(("close",))


def test_a_tracker_hears_all_of_a_cell_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Heard] = []

    def begin(cell: Cell, folder: Path) -> Heard:
        made.append(Heard(cell, folder))
        return made[-1]

    monkeypatch.setattr(trackers, "TRACKERS", {"heard": (begin, "json")})
    _, record = computed(tmp_path, "heard")
    (heard,) = made
    kinds = [told[0] for told in heard.told if told[0] != "loss"]
    phases = [told[1] for told in heard.told if told[0] == "phase"]
    assert kinds == ["begin", *["phase"] * len(phases), "scores", "close"]
    assert [p for p in phases if p in ("freeze", "fit", "predict", "score")] == sorted(
        {"freeze", "fit", "predict", "score"}, key=["freeze", "fit", "predict", "score"].index
    )
    losses = [told[1:] for told in heard.told if told[0] == "loss"]
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    assert record.details["loss_last"] == losses[-1][1] and record.details["loss_first"] == losses[0][1]
    assert ("scores", record.scores) in heard.told
    assert type(trackers.current()) is trackers.Tracker  # it is gone with its cell


def test_a_tracker_is_closed_when_its_cell_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard = Heard(cell(), tmp_path)
    monkeypatch.setattr(trackers, "TRACKERS", {"heard": (lambda cell, folder: heard, "json")})
    with pytest.raises(RuntimeError, match="broken"), trackers.begin(cell(), Store(tmp_path), "heard"):
        assert trackers.current() is heard
        raise RuntimeError("the layer is broken")
    assert heard.told[-1] == ("close",) and trackers.current() is not heard


def test_losses_seen_late_are_told_in_order() -> None:
    """On a CUDA device the host looks at them now and then."""
    import torch

    told: list[tuple[int, float]] = []
    losses = Losses(4, lambda step, loss: None, lambda step, loss: told.append((step, loss)))
    for value in range(6):
        losses.add(torch.tensor(float(value)))
    assert told == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    losses.look()
    losses.look()
    assert told == [(step + 1, float(step)) for step in range(6)]


@pytest.mark.parametrize("method", ["lora", "linear"])
def test_numbers_do_not_know_of_a_tracker(tmp_path: Path, method: str) -> None:
    without, record = computed(tmp_path / "without", "", method)
    tracked, other = computed(tmp_path / "with", "tensorboard", method)
    assert came_of(cell(method), without) == came_of(cell(method), tracked)
    assert not (without.folder / trackers.TRACKS).exists()
    assert record.cell.hash == other.cell.hash
    assert events(tracked.folder / trackers.TRACKS / other.cell.hash)


def test_tensorboard_shows_losses_phases_scores_and_the_cell(tmp_path: Path) -> None:
    store, record = computed(tmp_path, "tensorboard")
    folder = store.folder / trackers.TRACKS / record.cell.hash
    found = events(folder)
    losses = [(step, value) for name, step, value in found if name == "loss"]
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    assert losses[-1][1] == pytest.approx(record.details["loss_last"])
    named = {name: value for name, _, value in found}
    for name, value in record.scores.items():
        assert named[f"scores/{name}"] == pytest.approx(value)
    assert "dinov2.rooms64-s1" in str(named["cell/text_summary"])
    assert any(name == "phase/text_summary" and str(value).startswith("fit") for name, _, value in found)
    files = sorted(folder.iterdir())
    store.path(record.cell).unlink()
    computed(tmp_path, "tensorboard")
    assert len(sorted(folder.iterdir())) == len(files)  # an earlier attempt's curve is not beside it


def test_a_tracker_nobody_knows_is_refused() -> None:
    trackers.check("")
    trackers.check("tensorboard")
    with pytest.raises(UserError, match="did you mean 'tensorboard'"):
        trackers.check("tensorbord")


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_refused_before_anything_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else real(asked))
    with pytest.raises(UserError, match=rf"pip install 'intrinsic-bench\[{name}\]'"):
        trackers.check(name)
    with pytest.raises(UserError), trackers.begin(cell(), Store(tmp_path), name):
        pytest.fail("it ran")
    assert not (tmp_path / trackers.TRACKS).exists()


def test_knowing_trackers_imports_none_of_them() -> None:
    code = "import benchmarks.trackers as t, sys; t.check(''); "
    code += "assert not {'torch', 'tensorboard', 'wandb'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


class FakeRun:
    """What wandb.init gives, as far as it is used: keeps what it is told."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.summary: dict[str, float] = {}
        self.finished = False

    def log(self, values: dict[str, float], step: int) -> None:
        """Keep values of a step; as the real one does, refuse to go back."""
        assert not self.logged or step > self.logged[-1][0]
        self.logged.append((step, values))

    def finish(self) -> None:
        """End the run."""
        self.finished = True


def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], list[FakeRun]]:
    """A stand-in for the package: wandb is not among those of the tests."""
    asked: list[dict[str, Any]] = []
    runs: list[FakeRun] = []

    def init(**named: Any) -> FakeRun:
        asked.append(named)
        runs.append(FakeRun())
        return runs[-1]

    real = importlib.util.find_spec
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == "wandb" else real(name))
    return asked, runs


def test_weights_and_biases_is_told_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    asked, _ = fake_wandb(monkeypatch)
    store, record = computed(tmp_path, "wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with trackers.begin(record.cell, store, "wandb"):
        pass
    first, second = asked
    assert first["project"] == "intrinsic-bench" and first["config"]["hash"] == record.cell.hash
    assert {k: first["config"][k] for k in record.cell.facts()} == record.cell.facts()
    assert (first["mode"], second["mode"]) == ("offline", "disabled")
    assert Path(first["dir"]) == store.folder / trackers.TRACKS / record.cell.hash


def test_weights_and_biases_gets_losses_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, runs = fake_wandb(monkeypatch)
    _, record = computed(tmp_path, "wandb")
    (run,) = runs
    assert [step for step, _ in run.logged] == list(range(1, STEPS + 1)) and run.finished
    assert run.logged[-1][1] == {"loss": record.details["loss_last"]}
    for name, value in record.scores.items():
        assert run.summary[f"scores/{name}"] == value
    assert {"phases/fit", "phases/predict", "seconds/total"} <= run.summary.keys()


@pytest.mark.slow
def test_the_real_weights_and_biases_keeps_a_run_offline(tmp_path: Path) -> None:
    """In a process of its own, where the package is installed: no account, no network."""
    if importlib.util.find_spec("wandb") is None:
        pytest.skip("the extra [wandb] is not installed")
    code = (
        "from pathlib import Path; from tests.execute.test_trackers import computed; import sys;"
        "print(computed(Path(sys.argv[1]), 'wandb')[1].status)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("WANDB_MODE", "WANDB_API_KEY")}
    asked = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "done" in run.stdout, run.stderr
    (kept,) = tmp_path.glob(f"{trackers.TRACKS}/{cell().hash}/wandb/offline-run-*/*.wandb")
    assert b"loss" in kept.read_bytes()


def test_execute_alone_tracks_nothing(tmp_path: Path) -> None:
    """From Python without a tracker: no folder, and the tracker at hand keeps nothing."""
    store = Store(tmp_path)
    store.prepare()
    assert execute(cell("linear"), store, lambda share, phase: None).status == "done"
    assert not (tmp_path / trackers.TRACKS).exists()
