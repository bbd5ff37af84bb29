"""`--device`: one check for every command, before anything is written."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.cli import main
from benchmarks.devices import check_device
from generators.errors import UserError

COMMANDS = {
    "run": ("rooms-quick", "--store", "out"),
    "verify": ("rooms-quick", "--keep", "out"),
    "draw": ("sd.rooms64-s1", "--count", "1", "--out", "out"),
    "label": ("--predictor", "rooms-network", "--data", "rooms", "--count", "1", "--out", "out"),
    "distance": ("pictures", "--save-reference", "out"),
    "predict": ("pictures", "--adapter", "adapter", "--out", "out"),
}
ABSENT = ("cuda", "cuda:0", "cuda:64")
NO_NAMES = ("quda", "cuda:x", "cuda:-1", "cuda:", "cuda:01", "cuda:²", "cuda:0\n", "cpu:0", "CPU", "")


@pytest.fixture
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.usefixtures("without_gpus")
@pytest.mark.parametrize("device", ["quda", "cuda", "cuda:-1"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    command: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [command, *COMMANDS[command], "--device", device])
    assert result.exit_code == 2 and result.stderr.startswith("asked: device"), result.output
    assert "--device cpu" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_gpus")
@pytest.mark.parametrize("device", [*ABSENT, *NO_NAMES])
def test_what_exists_is_told(device: str) -> None:
    known = "CUDA devices here: 0" if device in ABSENT else "cpu, cuda, cuda:0"
    with pytest.raises(UserError, match=known):
        check_device(device)


def test_a_machine_with_two_has_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        check_device(device)
    with pytest.raises(UserError, match="CUDA devices here: 2"):
        check_device("cuda:2")
    check_device("cuda:2", here=False)  # of a cluster another machine may have it
    with pytest.raises(UserError, match="no device of this name"):
        check_device("cuda:x", here=False)
