"""The table model x intrinsic x method as data: models first, controls in a block of their own."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cell import NO_INTRINSIC, NO_MODEL
from benchmarks.metrics import Metric, primary_metric
from benchmarks.metrics.statistics import Interval
from probes.methods import METHODS

from .gather import (
    BLANK,
    QUALITY,
    Facts,
    Group,
    Question,
    difference,
    main_settings,
    noise,
    plain,
    probe_methods,
    questions,
    setting,
    shuffled,
)
from .measures import summary

ALONE = "alone"  # the column of controls that no probe is trained for


@dataclass(frozen=True)
class Entry:
    """One number of a table, or the mark that stands for it.

    Attributes:
        value: the mean over seeds, None where there is none.
        mark: why there is none.
        seeds: seeds measured, "2/3" where some are missing.
        best: whether it is the best of its column among the models.
    """

    value: Interval | None
    mark: str
    seeds: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A model or a control and its entries by column; `model` is "" for what is no model as it is."""

    title: str
    entries: Mapping[str, Entry]
    frechet: Entry
    model: str = ""


@dataclass(frozen=True)
class Section:
    """One question: which metric, which columns, the models, the controls.

    Attributes:
        columns: column key -> its title.
        settings: how each column was measured, in words.
    """

    question: Question
    metric: Metric
    columns: Mapping[str, str]
    models: Sequence[Row]
    controls: Sequence[Row]
    settings: Sequence[str]

    @property
    def heading(self) -> str:
        """As "normal: Mean angular error (°)", with the sign of what is better."""
        unit = self.metric.unit_of(self.question.intrinsic, self.question.alignment)
        return f"{self.question.title}: {self.metric.title}{f' ({unit})' if unit else ''} {self.metric.arrow}"

    def text(self, entry: Entry) -> str:
        """The number with its interval and seeds, or the mark."""
        return entry_text(entry, self.metric)


NOTHING = Entry(None, BLANK)


def entry_text(entry: Entry, metric: Metric) -> str:
    """As "24.11 [23.60, 24.65] (3, sd 0.12)": mean, 95 % interval, seeds, the deviation of their means."""
    value, digits = entry.value, metric.decimals
    if value is None:
        return entry.mark
    between = f" [{value.low:.{digits}f}, {value.high:.{digits}f}]" if value.defined else ""
    return f"{value.value:.{digits}f}{between} ({seeds_text(entry, metric)})"


def seeds_text(entry: Entry, metric: Metric) -> str:
    """As "2/3, sd 0.12": seeds, and the standard deviation of their means where there are several."""
    deviation = entry.value.seed_deviation if entry.value else None
    return entry.seeds if deviation is None else f"{entry.seeds}, sd {deviation:.{metric.decimals}f}"


def seeds_words(section: Section) -> str:
    """How far the means of one model's training seeds lie apart, column by column; "" with one seed."""
    said = []
    for key, title in section.columns.items():
        entries = [(row.entries.get(key, NOTHING).value, row.title) for row in section.models]
        found = [(v.seed_deviation, name) for v, name in entries if v and v.seed_deviation is not None]
        if found:
            most, name = max(found)
            middle, digits = statistics.median(deviation for deviation, _ in found), section.metric.decimals
            of = f"median of {len(found)} models, most {most:.{digits}f}: {name}" if found[1:] else name
            said.append(f"{title} {middle:.{digits}f} ({of})")
    return f"Standard deviation of the means of training seeds: {'; '.join(said)}." if said else ""


def short_text(entry: Entry, metric: Metric) -> str:
    """The number alone, or the mark; an asterisk where seeds are missing."""
    if entry.value is None:
        return entry.mark
    return f"{entry.value.value:.{metric.decimals}f}{'*' if '/' in entry.seeds else ''}"


def compact_text(entry: Entry, metric: Metric) -> str:
    """The number and half the width of its interval; an asterisk where seeds are missing."""
    value = entry.value
    if value is None or value.low is None or value.high is None:
        return short_text(entry, metric)
    return f"{short_text(entry, metric)} ±{(value.high - value.low) / 2:.{metric.decimals}f}"


def sections(groups: Sequence[Group], facts: Mapping[str, Facts]) -> list[Section]:
    """One section per question, in the order of the plan."""
    main, quality = main_settings(groups, facts), quality_groups(groups)
    return [_section(question, groups, quality, facts, main) for question in questions(groups)]


def _section(
    question: Question,
    groups: Sequence[Group],
    quality: Sequence[Group],
    facts: Mapping[str, Facts],
    main: Mapping[tuple[Question, str, str], str],
) -> Section:
    own = [g for g in groups if g.question == question]
    metric = question.metric
    methods = probe_methods(own)
    shown = {
        (g.cell.model, g.cell.method): g
        for g in own
        if plain(g.cell) and main[(question, g.cell.method, facts[g.cell.model].family)] == g.setting
    }
    names = list(dict.fromkeys(g.cell.model for g in own if plain(g.cell)))
    rows = {name: {m: _entry(shown.get((name, m)), metric) for m in methods} for name in names}
    blind = {name: _blind(facts[name]) for name in names if _blind(facts[name])}
    models = {name: entries for name, entries in rows.items() if name not in blind}
    best = _best(models, methods, metric)
    frechet = {name: frechet_entry(name, quality) for name in names}
    controls = [Row(f"{facts[n].title} ({why})", rows[n], frechet[n], n) for n, why in blind.items()]
    return Section(
        question,
        metric,
        {m: METHODS[m].title for m in methods},
        [Row(facts[n].title, _marked(entries, n, best), frechet[n], n) for n, entries in models.items()],
        controls + _control_rows(own, facts, metric, main),
        _settings(own, facts, main),
    )


def _blind(told: Facts) -> str:
    """Why a model cannot know a scene, "" if it may."""
    return "never trained" if told.trained == 0 else told.control


def _entry(group: Group | None, metric: Metric) -> Entry:
    if group is None:
        return NOTHING
    return Entry(summary(group, metric.name), group.mark, group.seeds)


def _best(rows: Mapping[str, Mapping[str, Entry]], methods: Sequence[str], metric: Metric) -> dict[str, str]:
    """Column -> the model whose mean is best, of columns with at least two numbers."""
    sign = 1 if metric.lower_is_better else -1
    found = {}
    for method in methods:
        values = {name: entries[method].value for name, entries in rows.items()}
        numbers = [(sign * value.value, name) for name, value in values.items() if value is not None]
        if len(numbers) > 1:
            found[method] = min(numbers)[1]
    return found


def _marked(entries: Mapping[str, Entry], name: str, best: Mapping[str, str]) -> dict[str, Entry]:
    return {m: Entry(e.value, e.mark, e.seeds, best.get(m) == name) for m, e in entries.items()}


def quality_groups(groups: Sequence[Group]) -> list[Group]:
    """Groups that measure what models draw."""
    return [g for g in groups if g.cell.method == QUALITY]


def frechet_entry(name: str, quality: Sequence[Group]) -> Entry:
    """The Frechet distance of a model, of the largest number of samples where there are several."""
    found = [g for g in quality if g.cell.model == name]
    if not found:
        return NOTHING
    most = max(found, key=lambda g: (bool(g.done), g.cell.options.get("samples", 0), g.setting))
    return _entry(most, primary_metric(NO_INTRINSIC))


def _control_rows(
    own: Sequence[Group],
    facts: Mapping[str, Facts],
    metric: Metric,
    main: Mapping[tuple[Question, str, str], str],
) -> list[Row]:
    """Rows of controls; a control of every model of a family with one and the same number is one row."""
    rows: dict[str, dict[str, Entry]] = {}
    settings = {g.setting: setting(g.cell) for g in own}
    for group in own:
        if plain(group.cell):
            continue
        method = METHODS[group.cell.method]
        key = (
            (group.question, group.cell.method, facts[group.cell.model].family)
            if not method.control
            else None
        )
        usual = settings.get(main.get(key, ""), {}) if key else {}
        title, column = _control_title(group, facts, usual), ALONE if method.control else group.cell.method
        rows.setdefault(title, {}).setdefault(column, _entry(group, metric))
    listed = [Row(title, entries, NOTHING) for title, entries in rows.items()]
    return _merge_ceilings(sorted(listed, key=_control_order), own, facts)


def _control_title(group: Group, facts: Mapping[str, Facts], usual: Mapping[str, object]) -> str:
    cell = group.cell
    if cell.model == NO_MODEL:
        more = difference(cell, dict(METHODS[cell.method].options) | _counts(group))
        return METHODS[cell.method].title + (f", {more}" if more else "")
    model = facts[cell.model].title
    if METHODS[cell.method].control:
        return f"{METHODS[cell.method].title}: {model}"
    destroyed = [f"{noise(cell):.0%} noise"] if noise(cell) else []
    mixed = ["shuffled labels"] if shuffled(cell) else []
    more = difference(cell, usual, ("noise", "labels")) if usual else ""
    return ", ".join([model, *destroyed, *mixed, *([more] if more else [])])


def _counts(group: Group) -> dict[str, int]:
    return {"train": group.cell.train, "validation": group.cell.validation, "test": group.cell.test}


def _control_order(row: Row) -> tuple[int, str]:
    alone = ALONE in row.entries
    return (
        0 if alone and ":" not in row.title else 1 if alone else 2,
        "" if alone else row.title.split(",")[0],
    )


def _merge_ceilings(rows: list[Row], own: Sequence[Group], facts: Mapping[str, Facts]) -> list[Row]:
    """Models of one family that share a decoder share its ceiling: one row says so."""
    title = METHODS["ceiling"].title
    owners: dict[tuple[str, float], list[str]] = {}
    for group in own:
        value = summary(group, group.question.metric.name)
        if group.cell.method == "ceiling" and value is not None:
            model = facts[group.cell.model]
            owners.setdefault((model.family, value.value), []).append(f"{title}: {model.title}")
    merged = list(rows)
    for (family, _), names in owners.items():
        if len(names) > 1:
            first = next(r for r in merged if r.title == names[0])
            one = Row(f"{title}: {len(names)} models of {family}", first.entries, NOTHING)
            merged = [one if r is first else r for r in merged if r is first or r.title not in names]
    return merged


def _settings(
    own: Sequence[Group], facts: Mapping[str, Facts], main: Mapping[tuple[Question, str, str], str]
) -> list[str]:
    said: dict[str, None] = {}
    for group in own:
        cell = group.cell
        if plain(cell) and main[(group.question, cell.method, facts[cell.model].family)] == group.setting:
            options = ", ".join(f"{k} {v}" for k, v in sorted(cell.options.items()) if v is not None)
            counts = f"{cell.train} training, {cell.validation} validation, {cell.test} test pictures"
            said.setdefault(f"{METHODS[cell.method].title} ({facts[cell.model].family}): {options}; {counts}")
    return list(said)
