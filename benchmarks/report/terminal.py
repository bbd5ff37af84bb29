"""The table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .formats import ALONE_TITLE, FRECHET, QUALITY_TITLE
from .gather import FAILED, IMPOSSIBLE, MISSING, gather, model_facts, probe_methods
from .reading import read_store
from .table import ALONE, Entry, Row, Section, compact_text, sections, short_text

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

TERMINAL_MARKS = {IMPOSSIBLE: "cannot be probed", MISSING: "not measured yet", FAILED: "failed"}


def terminal_table(store: Path) -> Table:
    """Models and controls by intrinsic and method, for rich; raises UserError as `read_store` does."""
    from rich.table import Table
    from rich.text import Text

    results = read_store(store)
    groups, facts = gather(results), model_facts(results)
    methods = probe_methods(groups)
    found = sections(groups, facts)
    marks = "; ".join(f"{mark} {what}" for mark, what in TERMINAL_MARKS.items())
    caption = Text(
        f"mean ± half of its 95 % interval; * seeds are missing; {marks}; bold: best trained model"
    )
    table = Table(title=Text(results.title), caption=caption, title_justify="left", caption_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column(QUALITY_TITLE, justify="right")
    titles = {m: t for s in found for m, t in s.columns.items()} | {ALONE: ALONE_TITLE}
    columns = [*methods, ALONE]
    for column in columns:
        table.add_column(titles[column], justify="right")
    for section in found:
        _add(table, section, columns)
    return table


def _add(table: Table, section: Section, columns: Sequence[str]) -> None:
    from rich.text import Text

    several = Text(f"{section.heading}  [{section.question.context.data}]", style="bold cyan")
    table.add_section()
    table.add_row(several)
    for row in section.models:
        table.add_row(*_cells(row, section, columns))
    if section.controls:
        table.add_row(Text("  controls", style="italic"))
    for row in section.controls:
        table.add_row(*_cells(row, section, columns), style="dim")


def _cells(row: Row, section: Section, columns: Sequence[str]) -> list[Text]:
    from rich.text import Text

    entries = [row.entries.get(c, Entry(None, "")) for c in columns]
    numbers = [
        Text(compact_text(e, section.metric), style="bold" if e.best else "red" if e.mark == "!" else "")
        for e in entries
    ]
    return [Text(f"  {row.title}"), Text(short_text(row.frechet, FRECHET)), *numbers]
