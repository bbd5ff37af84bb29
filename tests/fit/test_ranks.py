"""Several processes that train one cell: the same numbers, one writer, and an end when one of them dies."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.cell import Record
from benchmarks.spread import run_together
from benchmarks.store import Store
from generators.errors import UserError
from probes.ranks import Ranks

ROOT = Path(__file__).parents[2]
SUITE = """
name = "together"
title = "Together"
question = "Do two processes learn what one does?"
train = 10
validation = 3
test = 4
[[grid]]
models = ["sd.rooms64-s1"]
intrinsics = ["normal"]
methods = ["lora"]
options = { steps = 3, batch = 5 }
[[grid]]
models = ["sd-aug.rooms64-noise-random"]
intrinsics = ["normal"]
methods = ["lora"]
options = { steps = 3, batch = 5, sampler_steps = 2 }
[[grid]]
models = ["sd.rooms64-s1"]
intrinsics = ["depth"]
methods = ["lora"]
options = { steps = 3, batch = 5, rank = 1000 }
[[grid]]
intrinsics = ["normal"]
methods = ["constant"]
"""


@given(batch=st.integers(1, 40), count=st.integers(1, 8))
def test_every_row_has_one_process(batch: int, count: int) -> None:
    rows = list(range(batch))
    shares = [rows[Ranks(rank, count).share(batch)] for rank in range(count)]
    assert [row for share in shares for row in share] == rows
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if batch >= count:
        Ranks(0, count).check(batch)
        assert all(shares)


def test_a_batch_smaller_than_the_processes_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 3 on 4 processes"):
        Ranks(0, 4).check(3)


def test_alone_nothing_is_exchanged() -> None:
    ranks, layer = Ranks.here(), nn.Linear(2, 1)
    assert ranks == Ranks(0, 1) and ranks.share(7) == slice(0, 7)
    loss = layer(torch.ones(3, 2)).mean()
    loss.backward()
    before = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
    ranks.same_start(list(layer.parameters()))
    assert torch.equal(ranks.average(list(layer.parameters()), loss, 1.0), loss.detach())
    after = [p.grad for p in layer.parameters() if p.grad is not None]
    assert len(before) == 2 and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def launch(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of Python in two processes, as a launcher starts them."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launcher += ["--log-dir", str(folder / "logs")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=500
    )


def records(folder: Path) -> dict[str, Record]:
    return {record.cell.hash: record for record in Store(folder).all()}


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    (tmp_path / "together.toml").write_text(SUITE)
    asked = ("-m", "benchmarks", "spread", "together.toml", "--device", "cpu", "--store")
    run = launch(tmp_path, *asked, "two")
    assert run.returncode == 1, run.stderr  # of the launcher, for the 3 of the first process
    assert "4 cells on 2 processes, cpu" in run.stdout and run.stdout.count("done:") == 3
    assert "exitcode: 3" in run.stderr.replace("exitcode  :", "exitcode:").replace("  ", " ")
    assert run_together(str(tmp_path / "together.toml"), tmp_path / "one", None, "cpu") == 1
    two, one = records(tmp_path / "two"), records(tmp_path / "one")
    assert two.keys() == one.keys() and len(one) == 4
    for key, record in one.items():
        other = two[key]
        assert (other.status, other.reason) == (record.status, record.reason)
        assert other.scores == pytest.approx(record.scores, rel=1e-4)
        if record.status == "done":
            assert other.environment["processes"] == 2 and "processes" not in record.environment
            numbers = {k: v for k, v in record.details.items() if isinstance(v, float)}
            assert {k: other.details[k] for k in numbers} == pytest.approx(numbers, rel=1e-4)
    assert sorted(r.status for r in one.values()) == ["done", "done", "done", "failed"]
    assert not list((tmp_path / "two" / "claims").glob("*.json"))


DYING = """
import os, signal, sys
from benchmarks import spread
from benchmarks.cli import main
from probes import fit

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if os.environ["RANK"] == "1":
    fit.Losses.add = killed
sys.argv = ["intrinsic-bench", "spread", "together.toml", "--device", "cpu", "--store", "dead"]
main()
"""


@pytest.mark.slow
def test_a_process_that_dies_ends_all_and_no_number_is_kept(tmp_path: Path) -> None:
    (tmp_path / "together.toml").write_text(SUITE)
    (tmp_path / "dying.py").write_text(DYING)
    run = launch(tmp_path, "dying.py")
    assert run.returncode != 0
    assert "Signal 9 (SIGKILL)" in run.stderr or "has ended" in run.stderr
    assert (tmp_path / "logs").is_dir()  # the launcher's, which are nobody's in the machine's folder
    assert not [record for record in records(tmp_path / "dead").values() if record.status == "done"]


SHORT = """
import os, sys
from benchmarks.cli import main
from probes import fit

most, real = int(sys.argv[1]), fit.loss_of

def limited(*given):
    loss = real(*given)
    def call(code, target, *rest):
        if os.environ["RANK"] == "1" and len(target) > most:
            raise MemoryError("not for so many pictures")
        return loss(code, target, *rest)
    return call

fit.loss_of = limited
sys.argv = ["intrinsic-bench", "spread", "together.toml", "--device", "cpu", "--store", "short"]
sys.argv += ["--only", "sd.rooms64-s1/normal/lora"]
main()
"""


@pytest.mark.slow
def test_a_process_with_less_memory_does_its_rows_in_parts_and_the_others_wait(tmp_path: Path) -> None:
    """The second of two processes has three rows of five, and room for one: nothing else differs."""
    (tmp_path / "together.toml").write_text(SUITE)
    (tmp_path / "short.py").write_text(SHORT)
    run = launch(tmp_path, "short.py", "1")
    assert run.returncode == 0, run.stderr
    only = "sd.rooms64-s1/normal/lora"
    assert run_together(str(tmp_path / "together.toml"), tmp_path / "one", only, "cpu") == 0
    (short,), (one,) = records(tmp_path / "short").values(), records(tmp_path / "one").values()
    assert short.details.pop("parts") == {"parts": 3, "since_step": 0} and "parts" not in one.details
    assert short.scores == pytest.approx(one.scores, rel=1e-4)
    assert short.details == pytest.approx(one.details, rel=1e-4)


@pytest.mark.slow
def test_a_process_without_memory_ends_all(tmp_path: Path) -> None:
    """It cannot go on to the next cell: the others are waiting for it in this one."""
    (tmp_path / "together.toml").write_text(SUITE)
    (tmp_path / "short.py").write_text(SHORT)
    run = launch(tmp_path, "short.py", "0")
    assert run.returncode != 0
    assert "memory ran out with one picture at a time" in run.stderr
    assert not [record for record in records(tmp_path / "short").values() if record.status == "done"]


@dataclass(frozen=True)
class Half(Ranks):
    """One of two processes that never meet: what it would give to the others is kept."""

    given: list[float] = field(default_factory=list)

    def same_start(self, parameters: Sequence[nn.Parameter]) -> None:
        """There is nobody."""

    def average(self, parameters: Sequence[nn.Parameter], loss: Tensor, weight: float) -> Tensor:
        """Keep this process's part of the mean."""
        self.given.append(float(loss) * weight)
        return loss.detach()

    def greatest(self, numbers: tuple[int, int], device: torch.device) -> tuple[int, int]:
        """There is nobody."""
        return numbers


def test_rows_of_processes_count_by_their_valid_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fit.test_memory import tiny_losses

    (whole, *_), _, _ = tiny_losses(True, {})
    found = 0.0
    for rank in range(2):
        half = Half(rank, 2)
        monkeypatch.setattr(Ranks, "here", staticmethod(lambda half=half: half))
        tiny_losses(True, {})
        found += half.given[0]
    assert found == pytest.approx(whole, rel=1e-12)
