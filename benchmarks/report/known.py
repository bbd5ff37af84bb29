"""What does each model know? Its skill over controls on the same pictures, and the paper's mark for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from numpy.typing import ArrayLike

from benchmarks.cell import NO_MODEL, Cell
from benchmarks.metrics import primary_metric
from benchmarks.metrics.skill import MUCH, SOME, YES, Skill, skill
from probes.methods import METHODS

from .formats import markdown_grid, markdown_text
from .gather import Context, Facts, Group, Question, difference, main_settings, plain

ORDER = ("lora", "linear")  # the first of them that is measured stands for a model
CONTROLS = ("constant", "pixels")
SCALE = ("supervised", "predictor")  # no generators: shown below them, for scale
MEAN_MAP = METHODS["constant"].title
ALONE = "no control"
LINEAR, ONE_CONTROL = "†", "‡"
COLUMNS = (
    *("data", "labels", "intrinsic", "alignment", "model", "title", "method", "shown", "mark"),
    *("skill_percent", "low", "high", "metric", "error", "control", "control_error", "controls"),
    *("units", "seeds", "reason"),
)


@dataclass(frozen=True)
class Known:
    """What a model knows of one intrinsic by one method.

    Attributes:
        model: NO_MODEL for a supervised network; title: as tables call it.
        group: its cells; controls: names of those it is set against.
        found: its skill, None where there is none; reason: why, "" where nothing is measured.
        shown: whether it stands for the model in the table; the rest is in the CSV alone.
    """

    question: Question
    model: str
    title: str
    method: str
    group: Group
    controls: tuple[str, ...]
    found: Skill | None
    reason: str = ""
    shown: bool = False

    @property
    def mark(self) -> str:
        """yes, partial or no, or what stands where there is no skill."""
        if self.found is None:
            return self.group.mark or ALONE
        return self.found.mark

    @property
    def notes(self) -> str:
        """Signs behind a number: another method than LoRA, a control that was not measured."""
        probe = LINEAR if self.method != ORDER[0] and self.model != NO_MODEL else ""
        return probe + (ONE_CONTROL if len(self.controls) < len(CONTROLS) else "")


def find_known(groups: Sequence[Group], facts: Mapping[str, Facts]) -> list[Known]:
    """Every model, intrinsic and method of the main settings: by family, by training, then SCALE."""
    main, controls = main_settings(groups, facts), _controls(groups)
    found: dict[tuple[Question, str], list[Known]] = {}
    for group in groups:
        cell = group.cell
        asked = plain(cell) and main[group.question, cell.method, facts[cell.model].family] == group.setting
        if asked or _for_scale(cell):
            model = facts[cell.model].title if asked else f"{METHODS[cell.method].title}, for scale"
            key = (group.question, cell.model if asked else cell.method)
            found.setdefault(key, []).append(_known(group, model, controls))
    listed = [one for several in found.values() for one in _shown(several)]
    families = list(dict.fromkeys(told.family for told in facts.values()))

    def place(one: Known) -> tuple[int, bool, float]:
        if one.model == NO_MODEL:
            return len(families), False, 0.0
        told = facts[one.model]
        return families.index(told.family), bool(told.control), 1.0 if told.trained is None else told.trained

    return sorted(listed, key=place)


def _for_scale(cell: Cell) -> bool:
    return cell.model == NO_MODEL and cell.method in SCALE


def _shown(several: Sequence[Known]) -> list[Known]:
    """Marks the one of a model that stands for it: measured before planned, then by ORDER."""
    asked = [one for one in several if one.method in (*ORDER, *SCALE)]
    best = min(asked, key=lambda one: (not one.group.done, *_place(one.method)), default=None)
    return [replace(one, shown=one is best) for one in several]


def _place(method: str) -> tuple[int, str]:
    return (ORDER.index(method) if method in ORDER else len(ORDER), method)


Same = tuple[Question, int, int, int, str]  # what a cell and its controls share


def _same(group: Group, model: str) -> Same:
    cell = group.cell
    return (group.question, cell.train, cell.validation, cell.test, model)


def _controls(groups: Sequence[Group]) -> dict[Same, list[Group]]:
    """Measured controls by question and counts, and by model where they are of its own pictures."""
    found: dict[Same, list[Group]] = {}
    for group in groups:
        if group.cell.method in CONTROLS and group.done:
            found.setdefault(_same(group, group.cell.model), []).append(group)
    return found


def _known(group: Group, title: str, controls: Mapping[Same, list[Group]]) -> Known:
    cell, question = group.cell, group.question
    beside = [
        g for name in dict.fromkeys((NO_MODEL, cell.model)) for g in controls.get(_same(group, name), [])
    ]
    against = _against(group, beside)
    found, reason = _skill(group, against)
    return Known(question, cell.model, title, cell.method, group, tuple(against), found, reason)


def _against(group: Group, controls: Sequence[Group]) -> dict[str, ArrayLike]:
    """Controls by name; of a model's own pictures its records know the mean map's error, the mean alone."""
    metric = _metric(group)
    each = {_name(control): _each(control, metric) for control in controls}
    found: dict[str, ArrayLike] = {name: values for name, values in each.items() if values is not None}
    told = [r.details["mean_map_error"] for r in group.done if "mean_map_error" in r.details]
    return {MEAN_MAP: sum(told) / len(told)} | found if told and MEAN_MAP not in found else found


def _name(control: Group) -> str:
    cell = control.cell
    counts = {"train": cell.train, "validation": cell.validation, "test": cell.test}
    more = difference(cell, dict(METHODS[cell.method].options) | counts)
    return METHODS[cell.method].title + (f", {more}" if more else "")


def _metric(group: Group) -> str:
    """The error, on a model's own pictures, too: their `skill` is over the mean map alone."""
    return primary_metric(group.cell.intrinsic).name


def _each(group: Group, metric: str) -> list[list[float]] | None:
    """One row per seed, one number per test picture; None where a record has none."""
    rows = [record.per_image.get(metric) or [] for record in group.done]
    return rows if rows and len({len(row) for row in rows}) == 1 and rows[0] else None


def _skill(group: Group, against: Mapping[str, ArrayLike]) -> tuple[Skill | None, str]:
    rows = _each(group, _metric(group))
    if rows is None or not against:
        return None, "no control on the same pictures was measured" if group.done else ""
    clusters = group.done[0].details.get("groups")
    try:
        return skill(rows, against, clusters), ""
    except ValueError as error:
        return None, str(error)


def known_lines(found: Sequence[Known]) -> list[dict[str, Any]]:
    """A line of CSV for each model, intrinsic and method."""
    return [_about(one) | _numbers(one) for one in found]


def _about(one: Known) -> dict[str, Any]:
    data, question = one.question.context, one.question
    told = {"data": data.data, "labels": data.labels, "intrinsic": question.intrinsic}
    told |= {"alignment": question.alignment, "model": one.model, "title": one.title, "method": one.method}
    told |= {"shown": str(int(one.shown)), "mark": one.mark, "seeds": one.group.seeds, "reason": one.reason}
    return told | {"controls": "; ".join(one.controls), "metric": _metric(one.group)}


def _numbers(one: Known) -> dict[str, Any]:
    value = one.found
    if value is None:
        return {}
    ends = {k: None if v is None else 100 * v for k, v in (("low", value.low), ("high", value.high))}
    told = {"skill_percent": 100 * value.value, "error": value.error, "units": value.n}
    return told | ends | {"control": value.control, "control_error": value.against}


ABOUT = (
    "Skill: 100 (1 - error / error of the better control), in per cent; controls know the mean map alone, or "
    "the colors around a pixel and its place, from as many training pictures. With a 95 % bootstrap interval "
    "over seeds and test pictures, the same ones for the control. The mark by one rule: "
    f"yes: {100 * MUCH:.0f} % or more; partial: {100 * SOME:.0f} % or more; no: less, or an interval that "
    "reaches 0. The thresholds come from the paper's numbers; how the rule agrees with its marks is told at "
    "table 1 of the paper's report."
)
NOTES = {
    LINEAR: f"by the {METHODS['linear'].title}, since {METHODS['lora'].title} was not measured",
    ONE_CONTROL: "one control alone was measured on these pictures",
}


@dataclass(frozen=True)
class Sheet:
    """All that is known on the same data: model x intrinsic.

    Attributes:
        title: of the data.
        columns: titles of the questions.
        rows: title of a model, and one entry per column, None where it was not asked.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Known | None]]]


def known_sheets(found: Sequence[Known]) -> list[Sheet]:
    """One for each data set and kind of labels."""
    shown = [one for one in found if one.shown]
    return [_sheet(data, shown) for data in dict.fromkeys(one.question.context for one in shown)]


def _sheet(data: Context, shown: Sequence[Known]) -> Sheet:
    here = [one for one in shown if one.question.context == data]
    questions = list(dict.fromkeys(one.question for one in here))
    there = {(one.title, one.question): one for one in here}
    rows = [
        (name, [there.get((name, q)) for q in questions]) for name in dict.fromkeys(o.title for o in here)
    ]
    trained = f", trained on {data.trained}" if data.trained else ""
    size = f"{data.size} x {data.size} pixels"
    title = f"data {data.data} ({data.world}), {size}, labels {data.labels}{trained}"
    return Sheet(title, [question.title for question in questions], rows)


def number_text(one: Known) -> str:
    """The skill in per cent with its interval, and signs for what is special; "" where there is none."""
    value = one.found
    if value is None:
        return ""
    ends = ", ".join(f"{100 * end:.1f}" for end in (value.low, value.high) if end is not None)
    return f"{100 * value.value:.1f}{ends and f' [{ends}]'}{one.notes}"


def _cell_text(one: Known | None) -> str:
    return f"{one.mark} {number_text(one)}".strip() if one else ""


def _notes(found: Sequence[Known]) -> Iterator[str]:
    """What the signs mean that stand in the table."""
    shown = [one for one in found if one.shown and one.found is not None]
    yield from (
        f"{sign} {words}." for sign, words in NOTES.items() if any(sign in one.notes for one in shown)
    )


def known_markdown(found: Sequence[Known]) -> str:
    """The table of every data set; a sentence where nothing was measured."""
    sheets = known_sheets(found)
    if not sheets:
        return "No model was asked."
    parts = [" ".join([markdown_text(ABOUT), *_notes(found)])]
    for one in sheets:
        head = ["model", *(markdown_text(title) for title in one.columns)]
        rows = [
            [markdown_text(title), *(markdown_text(_cell_text(entry)) for entry in entries)]
            for title, entries in one.rows
        ]
        parts += [f"## {markdown_text(one.title)}", markdown_grid(head, rows)]
    return "\n\n".join(parts)


def known_block(found: Sequence[Known]) -> str:
    """The same as HTML, "" where no model was asked."""
    sheets = known_sheets(found)
    if not sheets:
        return ""
    note = f"<p class=note>{escape(' '.join([ABOUT, *_notes(found)]))}</p>"
    return note + "".join(_html(one) for one in sheets)


def _html(one: Sheet) -> str:
    head = "".join(f"<th scope=col>{escape(title)}</th>" for title in ("model", *one.columns))
    body = "".join(
        f"<tr><th scope=row>{escape(title)}</th>{''.join(_html_cell(entry) for entry in entries)}</tr>"
        for title, entries in one.rows
    )
    table = f"<table class=overview><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h3>{escape(one.title)}</h3><div class="wide tall" tabindex="0">{table}</div>'


def _html_cell(one: Known | None) -> str:
    if one is None:
        return "<td></td>"
    look = " class=best" if one.mark == YES else " class=mark" if one.found is None else ""
    number = f"<small>{escape(number_text(one))}</small>" if one.found is not None else ""
    return f"<td{look}>{escape(one.mark)}{number}</td>"
