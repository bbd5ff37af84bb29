"""The whole report of one store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .answers import find_answers
from .ceiling import COLUMNS as CEILING
from .ceiling import Ceiling, ceiling_columns, ceiling_text, with_ceilings
from .compared import COLUMNS, comparison_lines, comparison_markdown, find_comparisons
from .correlation import CORRELATION, correlation_lines, correlation_markdown, find_panels, write_scatter
from .curves import find_curves, write_curves
from .drawn import sheets, write_sheets
from .embed import FIGURES
from .findings import ABOUT_ANSWERS, Block, blocks, finding_lines
from .formats import (
    EXPANDED,
    TABLE,
    csv_text,
    expanded,
    latex_tables,
    markdown_tables,
    markdown_text,
    overview,
    table_lines,
    write,
)
from .known import COLUMNS as KNOWN
from .known import find_known, known_lines, known_markdown
from .opened import Opened, open_store
from .page import Figures, page
from .qualitative import grids, write_grids
from .table import Section, sections


def write_report(store: Path | Opened, out: Path) -> list[Path]:
    """Writes tables, correlations, figures and one self-contained page about a store.

    Args:
        store: folder with `suite.json`, `records/`, `maps/` and `samples/`, as the runner leaves it. How far
            off a predictor is, is read from the stores beside it, too. Or what `open_store` made of it.
        out: folder to write into; made if missing, files of the same names are replaced.

    Returns:
        The files written: table.md, .csv, .tex, expanded.csv, correlation.md, .csv, comparison.md, .csv,
        known.md, .csv, then the figures there is data for (scatter-*, qualitative*, curve-*, samples-*), and
        index.html last.

    Raises:
        UserError: no store, a corrupt record, suite, maps or samples file, or records of different protocols.
    """
    opened = store if isinstance(store, Opened) else open_store(store)
    results, groups, facts, known = opened.results, opened.groups, opened.facts, opened.known
    found, panels = with_ceilings(sections(groups, facts), known), find_panels(groups, facts)
    answered = blocks(find_answers(groups, facts, panels))
    pairs, skills = find_comparisons(groups, facts), find_known(groups, facts)
    maps, drawn = grids(results.store, groups, facts), sheets(results.store, groups, facts)
    out.mkdir(parents=True, exist_ok=True)
    title = markdown_text(results.title)
    text = f"# {title}\n\n## In short\n\n{_short(answered)}\n\n## Means\n\n{overview(found)}\n\n"
    text += f"## With intervals\n\n{markdown_tables(found)}\n"
    files = [
        write(out / "table.md", text),
        write(
            out / "table.csv",
            csv_text(_beside_ceilings(table_lines(found), found, known), [*TABLE, *CEILING]),
        ),
        write(out / "table.tex", latex_tables(found, results.title)),
        write(out / "expanded.csv", csv_text(expanded(groups, facts), EXPANDED)),
        write(out / "correlation.md", f"# {title}: correlation\n\n{correlation_markdown(panels)}\n"),
        write(out / "correlation.csv", csv_text(correlation_lines(panels), CORRELATION)),
        write(out / "comparison.md", f"# {title}: comparison\n\n{comparison_markdown(pairs)}\n"),
        write(out / "comparison.csv", csv_text(comparison_lines(pairs), COLUMNS)),
        write(out / "known.md", f"# {title}: what each model knows\n\n{known_markdown(skills)}\n"),
        write(out / "known.csv", csv_text(known_lines(skills), KNOWN)),
    ]
    figures = Figures(
        write_scatter(out, panels),
        write_curves(out, find_curves(groups, facts)),
        write_grids(out, maps, groups, facts),
        write_sheets(out, drawn),
    )
    told = {section.question: ceiling_text(section.question, known) for section in found}
    html = page(results, found, panels, pairs, figures, answered, told, skills)
    _remove_stale(out, figures)
    return [*files, *figures.paths, write(out / "index.html", html)]


def _short(answered: Sequence[Block]) -> str:
    """The answers as Markdown lists."""
    parts = [
        f"On {markdown_text(b.title)}:\n\n" + "\n".join(finding_lines(b, markdown_text)) for b in answered
    ]
    return "\n\n".join([*parts, markdown_text(ABOUT_ANSWERS)])


def _beside_ceilings(
    lines: Sequence[dict[str, Any]], found: Sequence[Section], known: Sequence[Ceiling]
) -> list[dict[str, Any]]:
    """Lines of the table, those whose truth a predictor says with its own error."""
    columns = ceiling_columns(found, known)
    keys = [tuple(line[k] for k in ("data", "labels", "intrinsic", "alignment")) for line in lines]
    return [line | columns.get(key, {}) for line, key in zip(lines, keys, strict=True)]


def _remove_stale(out: Path, figures: Figures) -> None:
    """Takes away figures of an earlier report that this one no longer has."""
    for pattern in ("scatter-*", "curve-*", "qualitative*", "samples-*"):
        for path in out.glob(pattern):
            if path not in figures.paths and path.suffix in FIGURES:
                path.unlink()
