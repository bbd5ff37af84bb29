"""The table on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.metrics import Metric

from .ceiling import ceilings_of, predicted
from .formats import ALONE_TITLE, FRECHET, QUALITY_TITLE
from .gather import FAILED, IMPOSSIBLE, MISSING, probe_methods
from .opened import Opened, open_store
from .table import ALONE, Entry, Row, Section, compact_text, sections, short_text

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

Written = Callable[[Entry, Metric], str]  # a number of the table as text
TERMINAL_MARKS = {IMPOSSIBLE: "cannot be probed", MISSING: "not measured yet", FAILED: "failed"}


WIDE = 110  # columns of a terminal from which on intervals fit


def terminal_table(store: Path | Opened, width: int = WIDE) -> Table:
    """Models and controls by intrinsic and method, for rich; raises UserError as `read_store` does.

    Args:
        store: its folder, or what `open_store` made of it.
        width: columns of the terminal; below WIDE the table has means without intervals.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    opened = store if isinstance(store, Opened) else open_store(store)
    results, groups, facts = opened.results, opened.groups, opened.facts
    methods = probe_methods(groups)
    found = sections(groups, facts)
    marks = "; ".join(f"{mark} {what}" for mark, what in TERMINAL_MARKS.items())
    interval = "± half of its 95 % interval" if width >= WIDE else "(a wider terminal shows intervals)"
    caption = Text(f"mean {interval}; * seeds are missing; {marks}; bold: best trained model")
    table = Table(title=Text(results.title), caption=caption, title_justify="left", caption_justify="left")
    table.box, table.pad_edge, table.collapse_padding = box.SIMPLE_HEAD, False, True
    wide = width >= WIDE
    table.add_column("", no_wrap=wide, max_width=None if wide else 26, overflow="fold")
    table.add_column(QUALITY_TITLE, justify="right")
    titles = {m: t for s in found for m, t in s.columns.items()} | {ALONE: ALONE_TITLE}
    columns = [*methods, ALONE]
    for column in columns:
        table.add_column(titles[column], justify="right", min_width=7, max_width=None if wide else 8)
    for section in found:
        there = ceilings_of(section.question, opened.known)
        off = f" (itself off by {there[0].text})" if there else " (its own error is not measured)"
        truth = f"; truth by {section.question.context.labels}{off}" if predicted(section.question) else ""
        _add(table, section, columns, compact_text if width >= WIDE else short_text, truth)
    return table


def _add(table: Table, section: Section, columns: Sequence[str], written: Written, truth: str) -> None:
    from rich.text import Text

    metric = section.metric
    arrow = "↓" if metric.lower_is_better else "↑"
    unit = metric.unit_of(section.question.intrinsic, section.question.alignment) or metric.title
    several = Text(f"{section.question.title} ({unit}) {arrow}{truth}", style="bold cyan")
    table.add_section()
    table.add_row(several)
    for row in section.models:
        table.add_row(*_cells(row, section, columns, written))
    if section.controls:
        table.add_row(Text("  controls", style="italic"))
    for row in section.controls:
        table.add_row(*_cells(row, section, columns, written), style="dim")


def _cells(row: Row, section: Section, columns: Sequence[str], written: Written) -> list[Text]:
    from rich.text import Text

    entries = [row.entries.get(c, Entry(None, "")) for c in columns]
    numbers = [
        Text(written(e, section.metric), style="bold" if e.best else "red" if e.mark == "!" else "")
        for e in entries
    ]
    return [Text(f"  {row.title}"), Text(short_text(row.frechet, FRECHET)), *numbers]
