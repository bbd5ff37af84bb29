"""The table of `benchmarks.speed.ops`: on one small case, and on a GPU that is played."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from benchmarks.speed import ops as speed
from generators.errors import UserError

SMALL = speed.Case("small", "bias_act", (4, 16, 64, 64), {"act": "lrelu"}, biased=True)


def test_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "CASES", (SMALL,))
    monkeypatch.setattr(speed.torch.cuda, "is_available", lambda: False)
    run = CliRunner().invoke(speed.main, ["--rounds", "1"], catch_exceptions=False)
    assert run.exit_code == 0
    row = next(line for line in run.output.splitlines() if "small" in line)
    numbers = [float(cell) for cell in row.replace("│", " ").split()[3:]]
    assert len(numbers) == 6
    assert numbers[2] == pytest.approx(numbers[0] / numbers[1], abs=0.6, rel=0.5)


def test_an_operation_the_upstream_lacks_is_a_dash() -> None:
    times: list[dict[str, speed.Times]]
    times = [{"ref": (2.0, 4.0), "cuda": (1.0, 1.0), "upstream": (1.0, 2.0)}]
    times += [{"ref": (2.0, 4.0), "cuda": (1.0, 1.0)}] * (len(speed.CASES) - 1)
    columns = [list(column.cells) for column in speed.table("", times).columns[3:]]
    assert [column[0] for column in columns[:5]] == ["2.00", "1.00", "2.0", "1.00", "2.0"]
    assert [column[-1] for column in columns[:5]] == ["2.00", "1.00", "2.0", "-", "-"]


def test_the_host_of_a_gpu_has_columns_of_its_own() -> None:
    times: list[dict[str, speed.Times]] = [{"ref": (0.02, 0.06, 0.2, 0.4), "cuda": (0.004, 0.01, 0.1, 0.3)}]
    columns = speed.table("", times * len(speed.CASES), "µs").columns[3:]
    found = {str(column.header): next(iter(column.cells)) for column in columns}
    assert found["forward cuda [µs]"] == "4.0" and found["host forward cuda [µs]"] == "100.0"
    assert found["host forward and backward ref [µs]"] == "400.0"
    ratios = [next(iter(column.cells)) for column in columns if column.header == "ref / cuda"]
    assert ratios == ["5.0", "6.0"]


class Played:
    """A GPU with a queue: the host's clock and the moment when all that was asked of the GPU is done."""

    def __init__(self, asking: float, doing: float) -> None:
        self.asking, self.doing = asking, doing  # seconds of the host and of the GPU for a call
        self.now = self.done = 0.0
        self.calls = 0

    def call(self) -> None:
        self.calls += 1
        self.now += self.asking
        self.busy(self.doing)

    def busy(self, seconds: float) -> None:
        self.done = max(self.done, self.now) + seconds

    def wait(self) -> None:
        self.now = max(self.now, self.done)

    def Event(self, enable_timing: bool) -> Any:
        event = SimpleNamespace(at=0.0, synchronize=self.wait)
        event.record = lambda: setattr(event, "at", max(self.now, self.done))
        event.elapsed_time = lambda other: (other.at - event.at) * 1e3
        return event


@pytest.mark.parametrize("doing", [3e-6, 4e-3])
def test_a_gpu_is_not_timed_while_it_waits_for_python(doing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Played(2e-4, doing)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: gpu.now))
    for name, played in {
        "Event": gpu.Event,
        "synchronize": gpu.wait,
        "_sleep": lambda cycles: gpu.busy(cycles / speed.CYCLES),
    }.items():
        monkeypatch.setattr(torch.cuda, name, played)
    assert speed.time_calls(gpu.call) == pytest.approx((doing * 1e3, 0.2))
    assert gpu.calls >= 50


def test_a_gpu_is_given_a_dense_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor] = []

    class Seen(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, b: Tensor) -> Tensor:
            return x + b[:, None, None]

        @staticmethod
        def backward(ctx: Any, *dy: Tensor) -> Any:
            given.append(dy[0])
            return dy[0], dy[0].sum((0, 2, 3))

    real = speed.Case.inputs
    monkeypatch.setattr(speed.Case, "inputs", lambda case, device: real(case, "cpu"))
    monkeypatch.setattr(speed, "time_calls", lambda call: (0.5, float(len(call()))))
    times = speed.best_of(SMALL, {"seen": lambda x, b, act: Seen.apply(x, b)}, "cuda", rounds=1)
    assert len(times["seen"]) == 4 and len(given) == 2  # one of them warms up
    assert all(dy.is_contiguous() and dy.std() > 0.9 for dy in given)
    assert given[0].data_ptr() != given[1].data_ptr()


@pytest.mark.parametrize(
    ("asked", "there", "measured"),
    [
        ([], True, ["cpu", "cuda"]),
        ([], False, ["cpu"]),
        (["--device", "cpu"], True, ["cpu"]),
        (["--device", "cuda"], True, ["cuda"]),
    ],
)
def test_only_what_is_asked_for_is_measured(
    asked: list[str], there: bool, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def measure(device: str, rounds: int) -> list[dict[str, speed.Times]]:
        found.append(device)
        return [{"ref": (1.0,) * 4, "cuda": (1.0,) * 4}] * len(speed.CASES)

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(there))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.delenv(speed.CHECKOUT, raising=False)
    run = CliRunner().invoke(speed.main, asked, catch_exceptions=False)
    assert run.exit_code == 0 and found == measured
    assert ("a GPU" in run.output) == ("cuda" in measured)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="not there"):
        CliRunner().invoke(speed.main, ["--device", "cuda"], catch_exceptions=False)


# Convolutions without TF32.


def test_tf32_is_switched_off_and_on_again() -> None:
    cudnn: Any = torch.backends.cudnn
    assert cudnn.allow_tf32 and cudnn.conv.fp32_precision == "tf32"
    with pytest.raises(KeyError), speed.ieee_convolutions():
        assert not cudnn.allow_tf32 and cudnn.conv.fp32_precision != "tf32"
        with cudnn.flags(enabled=True):  # torch still knows what cuDNN as a whole does
            pass
        raise KeyError
    assert cudnn.allow_tf32 and cudnn.conv.fp32_precision == "tf32"


def test_torch_that_warns_of_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Warning29:
        allowed = True

        @property
        def allow_tf32(self) -> bool:
            warnings.warn("Please use the new API settings to control TF32 behavior", stacklevel=2)
            return self.allowed

        @allow_tf32.setter
        def allow_tf32(self, value: bool) -> None:
            warnings.warn("Please use the new API settings to control TF32 behavior", stacklevel=2)
            self.allowed = value

    old = Warning29()
    monkeypatch.setattr(torch.backends, "cudnn", old)
    with speed.ieee_convolutions():
        assert not old.allowed
    assert old.allowed
