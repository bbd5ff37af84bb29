"""Grids as Markdown, LaTeX (booktabs alone) and CSV, in the paper's own layout.

Of every subject there are up to three lines: as published, here, and here minus published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report.formats import latex_text, markdown_text

from .layout import Artifact, Column
from .measured import MARKS, Grid, Slot

COUNTED = "†"
WHICH = "published", "here", "difference"
LATEX_MARKS = {"✓": r"\ensuremath{\surd}", "✗": r"\ensuremath{\times}", "~": r"\ensuremath{\sim}"}
LINES = (
    "Here: mean over seeds [95 % bootstrap interval over seeds and test pictures] (seeds). Difference: here "
    "minus published. Marks:"
)


def legend(quote: str = "") -> str:
    """What the lines and marks of every table mean."""
    marks = "; ".join(f"{quote}{mark}{quote} {what}" for mark, what in MARKS.items() if mark)
    return f"{LINES} {marks}; {quote}{COUNTED}{quote} counted on the architecture, without weights."


ROOMS = (
    "Twin on rooms: the same layout in another world, measured here. These numbers do not compare with the "
    "published ones."
)


@dataclass(frozen=True)
class Line:
    """A line of a table: labels (empty where they are those of the line above), which number, and texts."""

    labels: tuple[str, ...]
    which: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """A grid as texts.

    Attributes:
        heads: of the labels, without the column that says which number it is.
        above: (text, columns it spans); empty where no column has a group.
        titles: of the columns.
        which: whether there is a column that says which number it is.
    """

    heads: tuple[str, ...]
    above: tuple[tuple[str, int], ...]
    titles: tuple[str, ...]
    lines: tuple[Line, ...]
    which: bool


@dataclass(frozen=True)
class Extra:
    """A further table of an artifact.

    Attributes:
        name: of its label; title: its heading; caption: what it says, above it; notes: below it.
    """

    name: str
    title: str
    caption: str
    sheet: Sheet
    notes: tuple[str, ...] = ()


def published_text(slot: Slot) -> str:
    """As printed."""
    return slot.published


def here_text(slot: Slot, column: Column) -> str:
    """Ours with interval and seeds, behind its mark where it has one; or what stands where it is missing."""
    value = slot.here
    if value is None:
        return slot.mark
    if slot.kind != "measured":
        return f"{_rounded(value.value, column.decimals)}{COUNTED if slot.kind == 'counted' else ''}"
    number = _rounded(value.value, column.decimals)
    between = ""
    if value.low is not None and value.high is not None:
        between = f" [{_rounded(value.low, column.decimals)}, {_rounded(value.high, column.decimals)}]"
    return f"{slot.mark} {number}{between} ({slot.seeds})".lstrip()


def difference_text(slot: Slot) -> str:
    """Here minus published with as many decimals as the published number has, "" where one is missing."""
    value = slot.difference
    if value is None:
        return ""
    mantissa = slot.published.lower().partition("e")
    if mantissa[1]:
        return f"{value:+.2g}" if value else "0"
    text = f"{value:+.{len(mantissa[0].partition('.')[2])}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _rounded(value: float, decimals: int | None) -> str:
    return f"{value:g}" if decimals is None else f"{value:.{decimals}f}"


def sheet(artifact: Artifact, grid: Grid, published: bool) -> Sheet:
    """A grid as texts; one that has nothing published has one line per subject and no differences."""
    layout = grid.layout
    if layout.across:
        titles = tuple(" ".join(subject.labels) for subject in layout.subjects)
        rows = [
            ((column.name,), [(slots[k], column) for slots in grid.slots])
            for k, column in enumerate(layout.columns)
        ]
        lines = [line for labels, cells in rows for line in _lines(artifact, labels, cells, published)]
        return Sheet(("",), (), titles, tuple(lines), published)
    across = [
        (subject.labels, list(zip(slots, layout.columns, strict=True)))
        for subject, slots in zip(layout.subjects, grid.slots, strict=True)
    ]
    lines = [line for labels, cells in across for line in _lines(artifact, labels, cells, published)]
    titles = tuple(column.title for column in layout.columns)
    return Sheet(layout.heads, _above(layout.columns), titles, tuple(lines), published)


def _above(columns: Sequence[Column]) -> tuple[tuple[str, int], ...]:
    found: list[tuple[str, int]] = []
    for column in columns:
        if found and found[-1][0] == column.group:
            found[-1] = (column.group, found[-1][1] + 1)
        else:
            found.append((column.group, 1))
    return tuple(found) if any(group for group, _ in found) else ()


def _lines(
    artifact: Artifact,
    labels: tuple[str, ...],
    cells: Sequence[tuple[Slot, Column]],
    published: bool,
) -> list[Line]:
    here = tuple(here_text(slot, column) for slot, column in cells)
    if not published:
        return [Line(labels, "", here)]
    said, again = WHICH, ("",) * len(labels)
    lines = []
    if any(slot.published for slot, _ in cells):
        lines.append(Line(labels, said[0], tuple(published_text(slot) for slot, _ in cells)))
    measurable = any(slot.mark or slot.here is not None for slot, _ in cells)
    found = any(slot.here is not None and slot.kind != "counted" for slot, _ in cells)
    if measurable or artifact.absent != "not measured here":
        lines.append(Line(again if lines else labels, said[1] if found else artifact.absent, here))
    if any(slot.difference is not None for slot, _ in cells):
        lines.append(Line(again, said[2], tuple(difference_text(slot) for slot, _ in cells)))
    return lines


def markdown_sheet(one: Sheet) -> str:
    """A Markdown table; groups stand before the titles of their columns."""
    groups = [group for group, span in one.above for _ in range(span)] or [""] * len(one.titles)
    titles = [f"{g}: {t}" if g else t for g, t in zip(groups, one.titles, strict=True)]
    head = [markdown_text(text) for text in (*one.heads, *([""] if one.which else []), *titles)]
    rows = [
        [markdown_text(text) for text in (*line.labels, *([line.which] if one.which else []), *line.texts)]
        for line in one.lines
    ]
    front = len(one.heads) + one.which
    lines = [head, [*["---"] * front, *["---:"] * len(one.titles)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex_table(one: Sheet, caption: str, label: str) -> str:
    """A table of booktabs rules; subjects are set apart by a little space."""
    front = len(one.heads) + one.which
    lines = [r"\begin{table}[p]", r"\centering", rf"\caption{{{_latex(caption)}}}", rf"\label{{{label}}}"]
    lines += [r"\scriptsize", r"\setlength{\tabcolsep}{3.5pt}"]
    lines += [rf"\begin{{tabular}}{{{'l' * front}{'r' * len(one.titles)}}}", r"\toprule"]
    if one.above:
        spans = [rf"\multicolumn{{{n}}}{{c}}{{{_latex(group)}}}" for group, n in one.above]
        lines.append(" & ".join([*([""] * front), *spans]) + r" \\")
        lines += _rules(one.above, front)
    heads = [*one.heads, *([""] if one.which else [])]
    lines.append(" & ".join(_latex(text) for text in (*heads, *one.titles)) + r" \\")
    lines.append(r"\midrule")
    spaced = one.which or any(" " in text for line in one.lines for text in line.texts)
    for number, line in enumerate(one.lines):
        if number and spaced and any(line.labels):
            lines.append(r"\addlinespace")
        texts = (*line.labels, *([line.which] if one.which else []), *line.texts)
        lines += _latex_rows(texts[:front], texts[front:])
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _rules(above: Sequence[tuple[str, int]], front: int) -> list[str]:
    found, column = [], front + 1
    for group, span in above:
        if group:
            found.append(rf"\cmidrule(lr){{{column}-{column + span - 1}}}")
        column += span
    return ["".join(found)]


def _latex(text: str) -> str:
    marked = {**LATEX_MARKS, COUNTED: r"\ensuremath{^\dagger}", "×": r"\ensuremath{\times}"}
    return "".join(
        marked[letter] if letter in marked else latex_text(letter) for letter in " ".join(text.split())
    )


def _latex_rows(front: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """The means, and where there are any, intervals and seeds smaller below them."""
    parts = [text.partition(" ") for text in numbers]
    means = [*front, *(number for number, _, _ in parts)]
    lines = [" & ".join(_latex(text) for text in means) + r" \\"]
    if any(rest for _, _, rest in parts):
        below = [rf"\tiny {_latex(rest)}" if rest else "" for _, _, rest in parts]
        lines.append(" & ".join([*([""] * len(front)), *below]) + r" \\")
    return lines


CSV = [
    "artifact",
    "world",
    "subject",
    "group",
    "column",
    "metric",
    "intrinsic",
    "published",
    "here",
    "low",
    "high",
    "difference",
    "kind",
    "seeds",
    "pictures",
    "mark",
    "alignment",
    "labels",
    "data",
    "cell",
]


def csv_lines(artifact: Artifact, world: str, grid: Grid) -> list[dict[str, Any]]:
    """One line per number, with what it was published as, what it is here and which cell it comes from."""
    return [
        {"artifact": artifact.name, "world": world, "subject": " / ".join(t for t in subject.labels if t)}
        | {"group": column.group, "column": column.title, "metric": column.metric}
        | {"intrinsic": column.intrinsic, "published": slot.published, "mark": slot.mark}
        | _csv_numbers(slot)
        for subject, slots in zip(grid.layout.subjects, grid.slots, strict=True)
        for slot, column in zip(slots, grid.layout.columns, strict=True)
    ]


def _csv_numbers(slot: Slot) -> dict[str, Any]:
    cell = slot.group.cell if slot.group is not None else None
    told = (
        {"alignment": cell.alignment, "labels": cell.labels, "data": cell.data, "cell": cell.hash}
        if cell
        else {}
    )
    if slot.here is None:
        return told
    numbers = {"here": slot.here.value, "low": slot.here.low, "high": slot.here.high}
    more = {
        "kind": slot.kind,
        "seeds": slot.seeds,
        "pictures": slot.here.n if slot.kind == "measured" else None,
    }
    return told | numbers | more | {"difference": slot.difference}
