"""The table of `benchmarks.speed.sampling`, on a small case."""

import pytest
import torch
from click.testing import CliRunner

from benchmarks.speed import sampling as speed

SMALL = {"vocab_size": 16, "block_size": 24, "n_layer": 1, "n_head": 1, "n_embd": 8}


def test_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SHAPES", {"small": (SMALL, 4, 2)})
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    run = CliRunner().invoke(speed.main, ["--rounds", "1", "--tokens", "20"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    row = next(line for line in run.output.splitlines() if "small" in line)
    cells = [cell.strip() for cell in row.strip("│┃ ").split("│")]
    assert cells[2:4] == ["4", "2"] and float(cells[8]) > 0
    least, most = map(float, cells[5].split("-"))
    assert least <= float(cells[4]) <= most


def test_a_cache_that_changes_codes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(
        gpt: object, start: torch.Tensor, steps: int, noise: torch.Tensor, cached: bool
    ) -> torch.Tensor:
        return torch.full((len(start), steps), int(cached))

    monkeypatch.setattr(speed, "draw", wrong)
    with pytest.raises(ArithmeticError, match="changes the codes"):
        speed.measure(speed.made(SMALL), 1, 1, 1, 4)


@pytest.mark.slow
def test_the_cache_is_at_least_five_times_as_fast_for_256_codes() -> None:
    """The promise of the issue, on a transformer of 4 M parameters and four pictures."""
    gpt = speed.made(
        SMALL | {"vocab_size": 1024, "block_size": 256, "n_layer": 4, "n_head": 4, "n_embd": 256}
    )
    found = speed.measure(gpt, 1, 4, 1, speed.TOKENS)
    assert found["whole"].median > 5 * found["cache"].median
