"""The whole report of one store."""

from __future__ import annotations

from pathlib import Path

from .compared import COLUMNS, comparison_lines, comparison_markdown, find_comparisons
from .correlation import CORRELATION, correlation_lines, correlation_markdown, find_panels, write_scatter
from .curves import find_curves, write_curves
from .drawn import sheets, write_sheets
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
from .gather import gather, model_facts
from .page import MEDIA, Figures, page
from .qualitative import grids, write_grids
from .reading import read_store
from .table import sections


def write_report(store: Path, out: Path) -> list[Path]:
    """Writes tables, correlations, figures and one self-contained page about a store.

    Args:
        store: folder with `suite.json`, `records/`, `maps/` and `samples/`, as the runner leaves it.
        out: folder to write into; made if missing, files of the same names are replaced.

    Returns:
        The files written: table.md, .csv, .tex, expanded.csv, correlation.md, .csv, comparison.md, .csv, then
        the figures there is data for (scatter-*, qualitative*, curve-*, samples-*), and index.html last.

    Raises:
        UserError: no store, a corrupt record, suite, maps or samples file, or records of different protocols.
    """
    results = read_store(store)
    groups, facts = gather(results), model_facts(results)
    found, panels = sections(groups, facts), find_panels(groups, facts)
    pairs = find_comparisons(groups, facts)
    maps, drawn = grids(store, groups, facts), sheets(store, groups, facts)
    out.mkdir(parents=True, exist_ok=True)
    title = markdown_text(results.title)
    text = f"# {title}\n\n## Means\n\n{overview(found)}\n\n## With intervals\n\n{markdown_tables(found)}\n"
    files = [
        write(out / "table.md", text),
        write(out / "table.csv", csv_text(table_lines(found), TABLE)),
        write(out / "table.tex", latex_tables(found, results.title)),
        write(out / "expanded.csv", csv_text(expanded(groups, facts), EXPANDED)),
        write(out / "correlation.md", f"# {title}: correlation\n\n{correlation_markdown(panels)}\n"),
        write(out / "correlation.csv", csv_text(correlation_lines(panels), CORRELATION)),
        write(out / "comparison.md", f"# {title}: comparison\n\n{comparison_markdown(pairs)}\n"),
        write(out / "comparison.csv", csv_text(comparison_lines(pairs), COLUMNS)),
    ]
    figures = Figures(
        write_scatter(out, panels),
        write_curves(out, find_curves(groups, facts)),
        write_grids(out, maps, groups, facts),
        write_sheets(out, drawn),
    )
    html = page(results, found, panels, pairs, figures)
    _remove_stale(out, figures)
    return [*files, *figures.paths, write(out / "index.html", html)]


def _remove_stale(out: Path, figures: Figures) -> None:
    """Takes away figures of an earlier report that this one no longer has."""
    for pattern in ("scatter-*", "curve-*", "qualitative*", "samples-*"):
        for path in out.glob(pattern):
            if path not in figures.paths and path.suffix in MEDIA:
                path.unlink()
