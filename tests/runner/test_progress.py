"""What a run shows on a terminal and elsewhere."""

import io

from benchmarks.progress import Bars, Lines, display
from tests.runner.fakes import cell

FOUR_PARTS = "asked: rank 99\nwrong: it is above the layer\nknown: 64\nto do: lower it"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal_lines_elsewhere() -> None:
    assert isinstance(display(Terminal()), Bars)
    assert isinstance(display(io.StringIO()), Lines)


def test_a_line_per_cell() -> None:
    stream = io.StringIO()
    show = Lines(stream)
    show.start(2, lambda: 240.0)
    show.working(0, cell(0), 0.5, "fit")
    show.finished(0, cell(0), 3.2)
    show.finished(0, cell(1), 1.0, FOUR_PARTS)
    show.stop()
    first, second, third = stream.getvalue().splitlines()
    assert "2 cells" in first and "4 min" in first
    assert second == f"[1/2] done    {cell(0)}  3.2 s  (4 min to finish)"
    assert third == f"[2/2] failed  {cell(1)}: it is above the layer  (4 min to finish)"


def test_bars_show_the_phase_the_count_and_the_finish() -> None:
    stream = Terminal()
    show = Bars(stream, width=150)
    show.start(2, lambda: 240.0)
    show.working(1, cell(0), 0.5, "fitting [red]")
    show.progress.refresh()
    show.finished(1, cell(0), 3.2, FOUR_PARTS)
    show.progress.refresh()
    show.stop()
    text = stream.getvalue()
    for wanted in (
        "fitting [red]",
        str(cell(0)),
        "1/2, 1 failed, about 4 min to finish",
        "it is above the layer",
    ):
        assert wanted in text
