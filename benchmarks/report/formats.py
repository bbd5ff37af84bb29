"""The table as Markdown, CSV and LaTeX; every text is escaped for the format it goes to."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cell import NO_INTRINSIC, NO_MODEL
from benchmarks.metrics import METRICS, Metric, primary_metric
from benchmarks.metrics.statistics import Interval
from probes.methods import METHODS

from .gather import MARKS, QUALITY, Context, Facts, Group, Question, context, noise, plain, shuffled
from .measures import metrics_in, summary
from .table import ALONE, NOTHING, Entry, Row, Section, entry_text, seeds_words, short_text

QUALITY_TITLE = METHODS[QUALITY].title
FRECHET = primary_metric(NO_INTRINSIC)
LEGEND = (
    "Mean over seeds [95 % bootstrap interval over seeds and test pictures] (seeds, sd: standard deviation "
    "of their means); 2/3: of three seeds, one is missing. Bold: the best mean of its column, among trained "
    "models."
)
ALONE_TITLE = "without a probe"
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "°": r"\ensuremath{^\circ}",
    "↓": r"\ensuremath{\downarrow}",
    "↑": r"\ensuremath{\uparrow}",
    "δ": r"\ensuremath{\delta}",
    "²": r"\ensuremath{^2}",
    "³": r"\ensuremath{^3}",
    "[": r"{[}",
    "]": r"{]}",
}


def markdown_text(text: str) -> str:
    """Text that Markdown and the HTML in it show as it is, on one line."""
    flat = re.sub(r"\s+", " ", text)
    return re.sub(r"([\\`*_{}\[\]<>|~$])", r"\\\1", flat).replace("&", "&amp;")


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    return "".join(LATEX.get(letter, letter) for letter in re.sub(r"\s+", " ", text))


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows under a head; None is empty; text that a spreadsheet would run as a formula gets a quote."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_value(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def _csv_value(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.8g}"
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+@") else value


def _columns(section: Section, controls: bool) -> dict[str, str]:
    """Columns of a block: the probes, and for controls the one without."""
    alone = any(ALONE in row.entries for row in section.controls)
    return dict(section.columns) | ({ALONE: ALONE_TITLE} if controls and alone else {})


def _has_frechet(rows: Iterable[Row]) -> bool:
    return any(row.frechet.value is not None or row.frechet.mark for row in rows)


def markdown_grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; head and cells are already escaped."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cell(text: str, best: bool) -> str:
    escaped = markdown_text(text)
    return f"**{escaped}**" if best else escaped


def markdown_rows(section: Section, rows: Sequence[Row], controls: bool) -> str:
    """The models or the controls of a section as one Markdown table."""
    columns, quality = _columns(section, controls), _has_frechet(rows)
    head = ["control" if controls else "model", *([QUALITY_TITLE] if quality else []), *columns.values()]
    lines = []
    for row in rows:
        entries = [row.entries.get(key, NOTHING) for key in columns]
        front = [markdown_text(entry_text(row.frechet, FRECHET))] if quality else []
        lines.append(
            [markdown_text(row.title), *front, *(_markdown_cell(section.text(e), e.best) for e in entries)]
        )
    return markdown_grid([markdown_text(h) for h in head], lines)


@dataclass(frozen=True)
class Overview:
    """All questions on the same data side by side, means only: model x (intrinsic, method).

    Attributes:
        columns: (question's title, method's title).
        rows: title of a model, its Frechet distance and one entry per column, each as (text, best).
    """

    columns: list[tuple[str, str]]
    rows: list[tuple[str, list[tuple[str, bool]]]]


def overviews(sections: Sequence[Section]) -> list[Overview]:
    """One per data set and kind of labels."""
    found = []
    for together in by_context(sections):
        columns = [(s, key) for s in together for key in s.columns]
        titles = {row.model: row.title for s in together for row in all_rows(s)}
        rows = [(title, _overview_row(model, columns)) for model, title in titles.items()]
        found.append(Overview([(s.question.short, s.columns[key]) for s, key in columns], rows))
    return [one for one in found if one.rows]


def _overview_row(model: str, columns: Sequence[tuple[Section, str]]) -> list[tuple[str, bool]]:
    found = [(s, key, next((r for r in all_rows(s) if r.model == model), None)) for s, key in columns]
    quality = next((row.frechet for _, _, row in found if row), NOTHING)
    entries = [(s, row.entries.get(key, NOTHING) if row else NOTHING) for s, key, row in found]
    return [(short_text(quality, FRECHET), False), *((short_text(e, s.metric), e.best) for s, e in entries)]


def overview(sections: Sequence[Section]) -> str:
    """The overviews as Markdown."""
    blocks = []
    for one in overviews(sections):
        head = ["model", QUALITY_TITLE, *(f"{question}, {method}" for question, method in one.columns)]
        rows = [[markdown_text(t), *(_markdown_cell(*cell) for cell in cells)] for t, cells in one.rows]
        blocks.append(markdown_grid([markdown_text(h) for h in head], rows))
    return "\n\n".join(blocks)


def most_measured(sections: Sequence[Section]) -> str:
    """Title of the method that most cells of the overview have a number of; of equals the first."""
    count: Counter[str] = Counter()
    for one in overviews(sections):
        for number, (_, title) in enumerate(one.columns, 1):
            count[title] += sum(_is_measured(cells[number]) for _, cells in one.rows)
    return max(count, key=count.__getitem__, default="")


def _is_measured(cell: tuple[str, bool]) -> bool:
    return any(letter.isdigit() for letter in cell[0])


def front_table(
    sections: Sequence[Section],
    method: str,
    words: Callable[[Context], str],
    marks: Mapping[tuple[Question, str], str],
) -> str:
    """The overview with the columns of one method only, as Markdown; models it has no number of are left out.

    Args:
        words: what pictures and truth are called, which stands above each table where there are several.
        marks: what stands behind the number of a question and a model.
    """
    blocks = []
    for together in by_context(sections):
        columns = [(s, key) for s in together for key, title in s.columns.items() if title == method]
        rows = []
        for model, title in {row.model: row.title for s in together for row in all_rows(s)}.items():
            quality, *cells = _overview_row(model, columns)
            said = [marks.get((s.question, model), "") for s, _ in columns]
            both = zip(cells, said, strict=True)
            numbers = [f"{_markdown_cell(*cell)} {mark}".rstrip() for cell, mark in both]
            if any(map(_is_measured, cells)):
                rows.append([markdown_text(title), _markdown_cell(*quality), *numbers])
        head = ["model", QUALITY_TITLE, *(s.question.short for s, _ in columns)]
        if rows:
            title = markdown_text(words(together[0].question.context))
            blocks.append((title, markdown_grid([markdown_text(h) for h in head], rows)))
    return "\n\n".join(f"{title}:\n\n{grid}" if len(blocks) > 1 else grid for title, grid in blocks)


def all_rows(section: Section) -> list[Row]:
    """The models, then those that were never trained."""
    return [*section.models, *(row for row in section.controls if row.model)]


def by_context(sections: Sequence[Section]) -> list[list[Section]]:
    """Sections that share their data, together."""
    found: dict[Any, list[Section]] = {}
    for section in sections:
        found.setdefault(section.question.context, []).append(section)
    return list(found.values())


def data_words(section: Section) -> str:
    """The data of a section in words."""
    data = section.question.context
    return f"data {data.data} ({data.world}), {data.size} x {data.size} pixels, labels {data.labels}"


def markdown_tables(sections: Sequence[Section]) -> str:
    """Every section with its models, its controls and its settings."""
    parts = []
    for section in sections:
        parts += [f"### {markdown_text(section.heading)}", markdown_text(data_words(section))]
        if section.models:
            parts.append(markdown_rows(section, section.models, False))
        if section.controls:
            parts += ["Controls:", markdown_rows(section, section.controls, True)]
        parts.append(markdown_text(seeds_words(section)))
        parts.append("\n".join(f"- {markdown_text(line)}" for line in section.settings))
    return "\n\n".join([p for p in parts if p] + [f"{LEGEND} {marks_words()}."])


def marks_words(quote: str = "`") -> str:
    """What stands where there is no number, in words."""
    return "; ".join(f"{quote}{m}{quote} {what}" if m else f"blank: {what}" for m, what in MARKS.items())


def latex_tables(sections: Sequence[Section], title: str) -> str:
    """One table per section, made smaller only if it is wider than the line; needs booktabs and graphicx."""
    head = "% Needs \\usepackage{booktabs,graphicx}; made by: intrinsic-bench report\n"
    return head + "\n".join(_latex_table(section, title) for section in sections)


def _latex_table(section: Section, title: str) -> str:
    columns, quality = _columns(section, True), _has_frechet([*section.models, *section.controls])
    names = [*([QUALITY_TITLE] if quality else []), *columns.values()]
    caption = f"{title}. {section.heading}. {LEGEND} {marks_words('')}."
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(caption)}}}"]
    lines += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(names)}}}", r"\toprule"]
    lines += [" & ".join(["", *(latex_text(n) for n in names)]) + r" \\", r"\midrule"]
    lines += [_latex_row(section, row, columns, quality) for row in section.models]
    if section.controls:
        lines += [r"\midrule", rf"\multicolumn{{{len(names) + 1}}}{{l}}{{\emph{{Controls}}}} \\"]
        lines += [_latex_row(section, row, columns, quality) for row in section.controls]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def _latex_row(section: Section, row: Row, columns: Mapping[str, str], quality: bool) -> str:
    entries = [(row.entries.get(key, NOTHING), section.metric) for key in columns]
    shown = ([(row.frechet, FRECHET)] if quality else []) + entries
    return " & ".join([latex_text(row.title), *(_latex_entry(*each) for each in shown)]) + r" \\"


def _latex_entry(entry: Entry, metric: Metric) -> str:
    """The mean, and smaller its interval and seeds."""
    number, _, rest = entry_text(entry, metric).partition(" ")
    bold = rf"\textbf{{{latex_text(number)}}}" if entry.best else latex_text(number)
    return bold + (rf" {{\scriptsize {latex_text(rest)}}}" if rest else "")


EXPANDED = [
    "model",
    "title",
    "family",
    "domain",
    "trained",
    "intrinsic",
    "method",
    "kind",
    "metric",
    "unit",
    "mean",
    "low",
    "high",
    "primary",
    "seeds",
    "planned_seeds",
    "seed_deviation",
    "pictures",
    "mark",
    "data",
    "world",
    "size",
    "labels",
    "alignment",
    "train",
    "validation",
    "test",
    "options",
    "trainable",
    "head",
    "total",
]


def expanded(groups: Sequence[Group], facts: Mapping[str, Facts]) -> list[dict[str, Any]]:
    """One line per group and metric: everything that was measured, and what was not."""
    return [line for group in groups for line in _expanded_lines(group, facts.get(group.cell.model))]


def _expanded_lines(group: Group, facts: Facts | None) -> list[dict[str, Any]]:
    cell, common = group.cell, _common(group, facts)
    names = metrics_in(group) or [primary_metric(cell.intrinsic).name]
    lines = []
    for name in names:
        value, metric = summary(group, name), METRICS.get(name)
        numbers = {"pictures": value.n} | _value(value) if value else {}
        about = {}
        if metric:
            unit = metric.unit_of(cell.intrinsic, cell.alignment)
            about = {"unit": unit, "primary": int(metric.primary)}
        lines.append(common | {"metric": name} | about | numbers)
    return lines


def _value(value: Interval) -> dict[str, float | None]:
    told = {"mean": value.value, "low": value.low, "high": value.high}
    return told | {"seed_deviation": value.seed_deviation}


def _common(group: Group, facts: Facts | None) -> dict[str, Any]:
    cell = group.cell
    told = {k: getattr(facts, k) for k in ("title", "family", "domain", "trained")} if facts else {}
    counts = {
        k: getattr(cell, k)
        for k in ("model", "intrinsic", "method", "alignment", "train", "validation", "test")
    }
    options = json.dumps(dict(cell.options), sort_keys=True)
    sizes = dict(group.done[0].parameters) if group.done else {}
    seeds = {"seeds": len(group.done), "planned_seeds": len(group.cells), "mark": group.mark}
    return (
        told
        | counts
        | context(cell)._asdict()
        | sizes
        | seeds
        | {"kind": _kind(group, facts), "options": options}
    )


def _kind(group: Group, facts: Facts | None) -> str:
    """What a line is, so that a control is never taken for a result."""
    cell = group.cell
    if cell.model == NO_MODEL or METHODS[cell.method].control:
        return "control"
    if shuffled(cell):
        return "shuffled labels"
    if noise(cell):
        return "noise"
    if facts is not None and facts.trained == 0:
        return "random initialization"
    return "probe" if plain(cell) else "quality"


TABLE = [
    "data",
    "labels",
    "intrinsic",
    "alignment",
    "metric",
    "unit",
    "block",
    "title",
    "method",
    "seeds",
    "mean",
    "low",
    "high",
    "seed_deviation",
    "mark",
    "best",
]


def table_lines(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """The table as lines: one per row and column that the suite asks for."""
    return [
        {"block": block, "title": row.title, "method": _columns(section, True).get(key, key)}
        | about
        | _numbers(entry)
        for section in sections
        for about in [_about(section)]
        for block, rows in (("models", section.models), ("controls", section.controls))
        for row in rows
        for key, entry in row.entries.items()
        if entry.value or entry.mark
    ]


def _about(section: Section) -> dict[str, Any]:
    question, metric = section.question, section.metric
    told = {"data": question.context.data, "labels": question.context.labels, "metric": metric.name}
    about = {"intrinsic": question.intrinsic, "alignment": question.alignment}
    return told | about | {"unit": metric.unit_of(question.intrinsic, question.alignment)}


def _numbers(entry: Entry) -> dict[str, Any]:
    value = entry.value
    told = _value(value) if value else {}
    return told | {"seeds": entry.seeds, "mark": entry.mark, "best": int(entry.best)}


def write(path: Path, text: str) -> Path:
    """Writes text with the same line ends on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")
    return path
