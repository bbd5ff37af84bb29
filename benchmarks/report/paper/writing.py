"""Every file of results/paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.formats import csv_text, markdown_text, write
from benchmarks.suite import SUITES
from generators.errors import UserError
from generators.plain import parse_toml

from .catalog import ARTIFACTS
from .correlate import CSV as COEFFICIENTS
from .correlate import HEAD as COEFFICIENT_HEADS
from .correlate import NOTE as COEFFICIENT_NOTE
from .correlate import Panel, markdown, panels, rows
from .correlate import csv_lines as coefficient_lines
from .counts import read_counts
from .figures import write_figure, write_scatter
from .formats import CSV, Extra, Line, Sheet, csv_lines, latex_table, legend, markdown_sheet, sheet
from .formats import ROOMS as ROOMS_WORDS
from .layout import Artifact, Counts, Published
from .maps import write_maps
from .measured import Grid, Stores, fill
from .page import Part, depth_words, page, status, twin_words
from .published import read_published
from .worlds import PAPER, ROOMS

OURS = (".md", ".csv", ".tex", ".png", ".svg")


def write_paper(results: Path, out: Path) -> list[Path]:
    """Writes every table and figure of the paper, published beside measured, and one page of them all.

    Args:
        results: folder with `published/` and the stores of the paper's suites and their twins, each named
            as its suite; what has no store is shown as not measured.
        out: folder to write into, `results/paper`; its `counts.json` is read where there is one.

    Returns:
        The files written: for every artifact a .md, .tex and .csv, figures as .png and .svg, maps as .png;
        README.md, paper.tex and index.html last.

    Raises:
        UserError: a broken file of published numbers, counts, records or maps, or two cells for one number.
    """
    published, counts = read_published(results / "published"), read_counts(out / "counts.json")
    stores = Stores(results)
    grids = [(a, *_grids(a, published, counts, stores)) for a in ARTIFACTS]
    out.mkdir(parents=True, exist_ok=True)
    parts, written = [], []
    for artifact, paper, twins in grids:
        extras = artifact.extras(published) if artifact.extras is not None else []
        part, files = _write_artifact(artifact, paper, twins, extras, out)
        parts.append(part)
        written += files
    written += [
        write(out / "README.md", _readme(parts)),
        write(out / "paper.tex", _document(parts)),
        write(out / "index.html", page(parts)),
    ]
    _remove_stale(out, written)
    return written


def twins_of(artifact: Artifact) -> list[str]:
    """Suites on rooms that are the twin of an artifact: those its suite's file names, then its own.

    Raises:
        UserError: the suite's file cannot be read, or its `twin` is neither a name nor a list of names.
    """
    return list(dict.fromkeys([*_named(artifact.suite), *artifact.twins])) if artifact.suite else []


def _named(suite: str) -> list[str]:
    path = SUITES / f"{suite}.toml"
    try:
        told = parse_toml(path.read_text(encoding="utf-8")).get("twin", [])
    except (OSError, ValueError) as error:
        raise UserError(f"suite {path}", f"it cannot be read: {error}", "", "mend the file") from error
    names = [told] if isinstance(told, str) else told
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"suite {path}: twin = {told!r}", "it is neither a name nor a list of names")
    return names


def _grids(
    artifact: Artifact, published: Published, counts: Counts, stores: Stores
) -> tuple[Grid, list[Grid]]:
    """The paper's grid, and one for each twin that plans anything of it."""
    if artifact.grids is not None:
        return artifact.grids(artifact, published, stores)
    groups = (stores.planned if artifact.planned else stores)(artifact.suite)
    layout = artifact.build(PAPER, published, counts, groups)
    paper = fill(artifact, layout, groups, stores.folder(artifact.suite) if artifact.suite else None)
    twins = []
    for name in twins_of(artifact):
        own = stores(name)
        grid = fill(artifact, artifact.build(ROOMS, published, {}, own), own, stores.folder(name))
        if grid.groups:
            twins.append(grid.planned())
    return paper, twins


def _write_artifact(
    artifact: Artifact, paper: Grid, twins: Sequence[Grid], extras: Sequence[Extra], out: Path
) -> tuple[Part, list[Path]]:
    """Figures first, since tables link them."""
    figures: list[tuple[str, list[Path]]] = []
    found: list[Panel] = []
    if artifact.figure == "scatter":
        found = [*panels(paper, "published"), *panels(paper, "measured")]
        drawn = write_scatter(artifact.name, found, out)
        figures += [("error against FID, FFHQ", drawn)] if drawn else []
        for grid in twins:
            own = panels(grid, "rooms")
            drawn = write_scatter(f"{artifact.name}-{_name(grid)}", own, out)
            figures += [(f"error against Frechet distance, {_name(grid)}", drawn)] if drawn else []
            found += own
    elif artifact.figure:
        drawn = write_figure(artifact, paper, twins, out)
        figures += [(f"{artifact.title}: published, here, and on rooms", drawn)] if drawn else []
    maps = _maps(artifact, paper, twins, out) if artifact.maps else []
    names = [f"{artifact.name}{ending}" for ending in (".md", ".tex", ".csv")]
    part = Part(artifact, paper, twins, figures, maps, found, names, extras)
    lines = csv_lines(artifact, "paper", paper)
    lines += [line for grid in twins for line in csv_lines(artifact, _name(grid), grid)]
    written = [
        write(out / names[0], _markdown(part)),
        write(out / names[1], _latex(part)),
        write(out / names[2], csv_text(lines, CSV)),
    ]
    if found:
        written.append(
            write(out / f"{artifact.name}-coefficients.csv", csv_text(coefficient_lines(found), COEFFICIENTS))
        )
    written += [path for _, paths in figures for path in paths] + [path for _, path in maps]
    return part, written


def _name(grid: Grid) -> str:
    return grid.store.name if grid.store is not None else ""


def _maps(artifact: Artifact, paper: Grid, twins: Sequence[Grid], out: Path) -> list[tuple[str, Path]]:
    found = []
    for grid in (paper, *twins):
        suffix = "" if grid is paper else f"-{_name(grid)}"
        where = "" if grid is paper else f" on rooms ({_name(grid)})"
        for path in write_maps(grid, out / f"{artifact.name}-maps{suffix}.png"):
            found.append((f"{artifact.title}{where}: maps", path))
    return found


def _markdown(part: Part) -> str:
    a = part.artifact
    blocks = [f"# {markdown_text(a.title)}", *(markdown_text(t) for t in (a.caption, a.note) if t)]
    blocks += [markdown_sheet(sheet(a, part.paper, True)), _legend()]
    blocks += [f"![{title}]({paths[0].name})" for title, paths in part.figures]
    blocks += [markdown(list(part.panels))] if part.panels else []
    blocks += [_extra(extra) for extra in part.extras]
    blocks += ["## Rooms", *([ROOMS_WORDS] if part.twins else [])]
    blocks += [markdown_text(twin_words(part))]
    for grid in part.twins:
        blocks += [f"### {_name(grid)}", markdown_sheet(sheet(a, grid, a.beside)), depth_words(grid)]
    blocks += [f"![{title}]({path.name})" for title, path in part.maps]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _extra(extra: Extra) -> str:
    said, *notes = (markdown_text(text) for text in (extra.caption, *extra.notes))
    return "\n\n".join([f"## {markdown_text(extra.title)}", said, markdown_sheet(extra.sheet), *notes])


def _legend() -> str:
    lines, marks = legend("`").split(" Marks:")
    return f"{markdown_text(lines)} Marks:{marks}"


def _latex(part: Part) -> str:
    a = part.artifact
    text = "% Needs \\usepackage{booktabs}; made by: intrinsic-bench report paper\n"
    caption = f"{a.title}. {a.caption} {a.note} {legend()}"
    text += latex_table(sheet(a, part.paper, True), caption, f"tab:{a.name}")
    for grid in part.twins:
        caption = f"{a.title}, {_name(grid)}. {ROOMS_WORDS} {a.twin_note} {depth_words(grid)}"
        text += latex_table(sheet(a, grid, a.beside), caption, f"tab:{a.name}-{_name(grid)}")
    for extra in part.extras:
        text += latex_table(extra.sheet, f"{a.title}. {extra.caption}", f"tab:{a.name}-{extra.name}")
    if part.panels:
        lines = [rows(panel) for panel in part.panels]
        found = tuple(Line(tuple(line[:3]), "", tuple(line[3:])) for line in lines)
        one = Sheet(COEFFICIENT_HEADS[:3], (), COEFFICIENT_HEADS[3:], found, False)
        text += latex_table(one, f"{a.title}. {COEFFICIENT_NOTE}", f"tab:{a.name}-coefficients")
    return text


DOCUMENT = r"""% Made by: intrinsic-bench report paper. Compile: pdflatex paper.tex
\documentclass[a4paper]{article}
\usepackage{booktabs}
\setlength{\paperwidth}{297mm}\setlength{\paperheight}{210mm}
\setlength{\pdfpagewidth}{\paperwidth}\setlength{\pdfpageheight}{\paperheight}
\setlength{\hoffset}{-1in}\setlength{\voffset}{-1in}
\setlength{\oddsidemargin}{12mm}\setlength{\textwidth}{273mm}
\setlength{\topmargin}{8mm}\setlength{\headheight}{0mm}\setlength{\headsep}{0mm}\setlength{\textheight}{185mm}
\renewcommand{\topfraction}{1}\renewcommand{\floatpagefraction}{0.6}
\makeatletter\renewcommand{\@makecaption}[2]{#2\par\vspace{4pt}}\makeatother
\begin{document}
"""


def _document(parts: Sequence[Part]) -> str:
    inputs = "".join(f"\\input{{{part.artifact.name}}}\n\\clearpage\n" for part in parts)
    return f"{DOCUMENT}{inputs}\\end{{document}}\n"


def _readme(parts: Sequence[Part]) -> str:
    head = (
        "# The paper's tables and figures\n\nThis folder is generated; do not edit it. To make it anew:\n\n"
        "    intrinsic-bench report paper\n\nPublished numbers beside what was measured here, and their "
        "difference; below each its twin on rooms. `index.html` shows all of it on one page, `paper.tex` "
        "holds every table. `counts.json` is made by `python -m benchmarks.report.paper "
        "results/paper/counts.json`.\n\n"
    )
    lines = [
        f"- [{markdown_text(p.artifact.title)}]({p.files[0]}) ({markdown_text(status(p))}): "
        f"{markdown_text(p.artifact.caption)}"
        for p in parts
    ]
    return head + "\n".join(lines) + "\n"


def _remove_stale(out: Path, written: Sequence[Path]) -> None:
    """Takes away what an earlier report wrote of an artifact and this one does not."""
    names = [a.name for a in ARTIFACTS]
    for path in out.iterdir():
        ours = any(path.stem == name or path.stem.startswith(f"{name}-") for name in names)
        if ours and path.suffix in OURS and path not in written:
            path.unlink()
