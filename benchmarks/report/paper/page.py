"""results/paper/index.html: every table and figure of the paper on one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from benchmarks.report.embed import embedded

from .correlate import HEAD as COEFFICIENTS
from .correlate import NOTE, Panel, rows
from .formats import ROOMS, Extra, Sheet, legend, sheet
from .layout import Artifact
from .measured import Grid

DARK = """
:root { color-scheme: light dark; --ground: #fff; --mark: #a40e26; }
body, th:first-child { background: var(--ground); }
td.mark { color: var(--mark); font-weight: 400; }
table.paper th, table.paper td { padding: 3px 8px; font-size: 0.84rem; }
table.paper th { text-align: left; font-weight: 500; min-width: 0; overflow-wrap: normal; }
table.paper thead th { text-align: right; }
table.paper thead th.front { text-align: left; }
table.paper thead th[colspan] { text-align: center; border-bottom: 1px solid var(--line); }
table.paper th.which { color: var(--soft); white-space: nowrap; }
table.paper thead th.none { border-bottom: 0; }
table.paper th.which:first-child { position: static; min-width: 0; max-width: none; }
table.paper tr.open th.which, table.paper tr.open td { border-bottom: 0; padding-bottom: 0; }
table.paper tr.difference td { color: var(--soft); font-style: italic; }
table.paper tr.published td { font-weight: 600; }
table.paper th:first-child { min-width: 9em; }
nav ul { columns: 3 15em; list-style: none; padding: 0; font-size: 0.92rem; }
nav li { break-inside: avoid; }
a { color: inherit; }
nav small { color: var(--soft); }
figure img { background: #fff; padding: 4px; border-radius: 4px; }
aside { border-left: 3px solid var(--line); padding-left: 14px; margin: 1.4em 0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa4af; --line: #3a424c; --fill: #1b2129; --best: #6fd08c;
    --ground: #0f141a; --mark: #ff9492; }
  thead th { border-bottom-color: var(--soft); }
}
@media (max-width: 600px) { table.paper th:first-child[rowspan] { min-width: 6.5em; max-width: 8em; } }
"""


@dataclass(frozen=True)
class Part:
    """An artifact with its grids, its figures and the files its tables are in.

    Attributes:
        figures: of numbers, as (.png, .svg); maps: (title, file).
        panels: of the correlation, for the table of coefficients.
        files: names of the table's files, for links.
        extras: further tables of the published numbers.
    """

    artifact: Artifact
    paper: Grid
    twins: Sequence[Grid]
    figures: Sequence[tuple[str, Sequence[Path]]]
    maps: Sequence[tuple[str, Path]]
    panels: Sequence[Panel]
    files: Sequence[str]
    extras: Sequence[Extra] = ()


def page(parts: Sequence[Part]) -> str:
    """The page as HTML text; no script, no request, every text escaped."""
    look = files("benchmarks.report").joinpath("page.css").read_text(encoding="utf-8") + DARK
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head += f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    title = "The paper's tables and figures"
    head += f'<link rel="icon" href="data:,"><title>{title}</title><style>{look}</style>'
    body = "\n".join([_header(title), _contents(parts), *(_section(part) for part in parts)])
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'
    )


def _header(title: str) -> str:
    source = (
        "Du, Kolkin, Shakhnarovich and Bhattad, “Generative Models: What Do They Know? Do They Know Things? "
        "Let's Find Out!”, 2023, arXiv 2311.17137"
    )
    note = f"<p class=note>{escape(legend())}</p>"
    return (
        f'<header><h1>{escape(title)}</h1><p class="question">Published numbers of {escape(source)}, beside '
        f"what was measured here.</p>{note}</header>"
    )


def _contents(parts: Sequence[Part]) -> str:
    items = []
    for part in parts:
        a = part.artifact
        items.append(
            f'<li><a href="#{a.name}">{escape(a.title)}</a> <small>{escape(status(part))}</small></li>'
        )
    return f"<nav><ul>{''.join(items)}</ul></nav>"


def status(part: Part) -> str:
    """How many numbers are published, measured here, and on rooms."""
    published, here = part.paper.count(), part.paper.count("measured")
    rooms = sum(grid.count("measured") for grid in part.twins)
    counted = part.paper.count("counted")
    said = [f"{published} published" if published else "no number published"]
    said.append(f"{here} measured here" if here else part.artifact.absent)
    said += [f"{counted} counted"] if counted else []
    return ", ".join([*said, f"{rooms} on rooms"])


def _section(part: Part) -> str:
    a = part.artifact
    notes = "".join(f"<p class=note>{escape(text)}</p>" for text in (a.caption, a.note) if text)
    text = f'<section id="{a.name}"><h2>{escape(a.title)}</h2>{notes}'
    text += _table(sheet(a, part.paper, True))
    text += "".join(_figure(paths, title) for title, paths in part.figures)
    text += _coefficients(part.panels)
    text += "".join(_extra(extra) for extra in part.extras)
    text += f"<aside><h3>Rooms</h3>{_twins(part)}</aside>"
    text += "".join(_figure([path], title) for title, path in part.maps)
    links = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in part.files)
    return f"{text}<p class=note>{links}</p></section>"


def _extra(extra: Extra) -> str:
    said, *notes = (f"<p class=note>{escape(text)}</p>" for text in (extra.caption, *extra.notes))
    return f"<h3>{escape(extra.title)}</h3>{said}{_table(extra.sheet)}{''.join(notes)}"


def _twins(part: Part) -> str:
    notes = [ROOMS, twin_words(part)] if part.twins else [twin_words(part)]
    text = "".join(f"<p class=note>{escape(note)}</p>" for note in notes if note)
    for grid in part.twins:
        name = grid.store.name if grid.store is not None else ""
        text += f"<h4>{escape(name)}</h4>{_table(sheet(part.artifact, grid, part.artifact.beside))}"
        text += f"<p class=note>{escape(depth_words(grid))}</p>" if depth_words(grid) else ""
    return text


def twin_words(part: Part) -> str:
    """What is said of the twin, or that there is none."""
    return part.artifact.twin_note if part.twins or not _has_twin(part) else NO_TWIN


def _has_twin(part: Part) -> bool:
    return bool(part.artifact.suite or part.artifact.twins)


NO_TWIN = "Nothing of the twin on rooms has been run yet."


def depth_words(grid: Grid) -> str:
    """In which unit the depth of a twin is, where it has any."""
    found = {g.cell.alignment for g in grid.groups if g.cell.intrinsic == "depth"}
    words = {
        "none": "Depth in meters, as predicted.",
        "unit": "Depth without a unit: every map between 0 and 1.",
        "scale": "Depth in meters, scaled to the truth.",
        "scale-shift": "Depth in meters, scaled and shifted to the truth.",
    }
    return " ".join(words[a] for a in sorted(found))


def _table(one: Sheet) -> str:
    front = [*one.heads, *([""] if one.which else [])]
    above = ""
    if one.above:
        spans = "".join(f"<th colspan={n} scope=colgroup>{escape(g)}</th>" for g, n in one.above)
        above = f"<tr>{'<th class=none></th>' * len(front)}{spans}</tr>"
    heads = "".join(f"<th class=front>{escape(text)}</th>" for text in front)
    heads += "".join(f"<th scope=col>{escape(text)}</th>" for text in one.titles)
    body = "".join(_row(one, number) for number in range(len(one.lines)))
    table = f"<table class=paper><thead>{above}<tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{table}</div>'


def _row(one: Sheet, number: int) -> str:
    """A line; the labels of a subject stand beside all of its lines."""
    line = one.lines[number]
    span = 1
    while number + span < len(one.lines) and not any(one.lines[number + span].labels):
        span += 1
    labels = ""
    if any(line.labels):
        labels = "".join(f"<th scope=row rowspan={span}>{escape(text)}</th>" for text in line.labels)
    which = f"<th class=which>{escape(line.which)}</th>" if one.which else ""
    look = f"{'open ' if span > 1 else ''}{line.which.partition(' ')[0]}".strip()
    return f'<tr class="{look}">{labels}{which}{"".join(_cell(text) for text in line.texts)}</tr>'


def _cell(text: str) -> str:
    number, _, rest = text.partition(" ")
    small = f"<small>{escape(rest)}</small>" if rest else ""
    return f"<td{' class=mark' if text in ('.', '!', '-', 'n/a') else ''}>{escape(number)}{small}</td>"


def _figure(paths: Sequence[Path], title: str) -> str:
    path = max(paths, key=lambda p: p.suffix == ".svg")
    wide = f'<div class="wide" tabindex="0">{embedded(path, title)}</div>'
    return f"<figure>{wide}<figcaption>{escape(title)}</figcaption></figure>\n"


def _coefficients(found: Sequence[Panel]) -> str:
    if not found:
        return ""
    head = "".join(f"<th>{name}</th>" for name in COEFFICIENTS)
    body = "".join("<tr>" + "".join(f"<td>{escape(t)}</td>" for t in rows(p)) + "</tr>" for p in found)
    table = f'<table class="words numbers"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide" tabindex="0">{table}</div><p class=note>{escape(NOTE)}</p>'
