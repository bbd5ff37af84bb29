"""The table of `benchmarks.speed.ops`, on one small case."""

import pytest
from click.testing import CliRunner

from benchmarks.speed import ops as speed


def test_table(monkeypatch: pytest.MonkeyPatch) -> None:
    small = speed.Case("small", "bias_act", (4, 16, 64, 64), {"act": "lrelu"}, biased=True)
    monkeypatch.setattr(speed, "CASES", (small,))
    monkeypatch.setattr(speed.torch.cuda, "is_available", lambda: False)
    run = CliRunner().invoke(speed.main, ["--rounds", "1"], catch_exceptions=False)
    assert run.exit_code == 0
    row = next(line for line in run.output.splitlines() if "small" in line)
    numbers = [float(cell) for cell in row.replace("│", " ").split()[3:]]
    assert len(numbers) == 6
    assert numbers[2] == pytest.approx(numbers[0] / numbers[1], abs=0.6, rel=0.5)


def test_an_operation_the_upstream_lacks_is_a_dash() -> None:
    times = [{"ref": (2.0, 4.0), "cuda": (1.0, 1.0), "upstream": (1.0, 2.0)}]
    times += [{"ref": (2.0, 4.0), "cuda": (1.0, 1.0)}] * (len(speed.CASES) - 1)
    columns = [list(column.cells) for column in speed.table("", times).columns[3:]]
    assert [column[0] for column in columns[:5]] == ["2.00", "1.00", "2.0", "1.00", "2.0"]
    assert [column[-1] for column in columns[:5]] == ["2.00", "1.00", "2.0", "-", "-"]
