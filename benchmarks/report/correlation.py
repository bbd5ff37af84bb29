"""Does what a model draws go with what it knows? Frechet distance against the primary metric, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.metrics.evidence import needed
from benchmarks.metrics.statistics import Coefficient, Correlation
from probes.methods import METHODS

from .correlation_panels import FRECHET, QUALITIES, REAL, Checks, ModelSet
from .correlation_panels import Panel as Panel
from .correlation_panels import Point as Point
from .correlation_panels import X as X
from .correlation_panels import check_comparable as check_comparable
from .correlation_panels import find_panels as find_panels
from .correlation_pooled import Together, together
from .correlation_scatter import short_names as short_names
from .correlation_scatter import write_scatter as write_scatter
from .correlation_verdicts import verdicts as verdicts
from .formats import markdown_grid, markdown_text

CORRELATION = [
    *("intrinsic", "alignment", "data", "labels", "method", "domain", "frechet", "quality", "models"),
    *("metric", "n", "facets", "coefficient", "value", "low", "high", "p", "permutation", "resamples"),
    *("reason", "without", "without_value", "given_parameters", "n_needed"),
]


def correlation_lines(found: Sequence[Panel]) -> list[dict[str, Any]]:
    """One line per panel, measure of pictures, set of models and coefficient; then what is pooled.

    Where no coefficient is defined there is one line with the reason.
    """
    lines = []
    for panel in found:
        for quality, sets in {FRECHET: (*panel.sets, *panel.families), **panel.others}.items():
            for chosen in sets:
                lines += _set_lines(panel, quality, chosen)
    return lines + [_pooled_line(t) for t in together(found)]


def _set_lines(panel: Panel, quality: str, chosen: ModelSet) -> list[dict[str, Any]]:
    about = _about(panel, chosen.value) | {"quality": quality, "models": chosen.name}
    more = _rests_on(chosen.checks)
    return [
        about | numbers | (more if numbers["coefficient"] == "spearman" else {})
        for numbers in _coefficients(chosen.value)
    ]


def _rests_on(checks: Checks) -> dict[str, Any]:
    without = {"without": checks.weakest[0], "without_value": checks.weakest[1]} if checks.weakest else {}
    return without | {"given_parameters": checks.given, "n_needed": checks.needed}


def _about(panel: Panel, value: Correlation) -> dict[str, Any]:
    question = panel.question
    about = {"intrinsic": question.intrinsic, "alignment": question.alignment, "data": question.context.data}
    told = {"labels": question.context.labels, "method": panel.method, "domain": panel.domain}
    counts = {"n": value.n, "resamples": value.resamples, "facets": 1}
    kind = {"permutation": value.permutation, "reason": value.reason}
    return about | told | counts | kind | {"frechet": panel.quality, "metric": panel.metric.name}


def _coefficients(value: Correlation) -> list[dict[str, Any]]:
    named = {"spearman": value.spearman, "pearson": value.pearson, "kendall": value.kendall}
    found = {name: c for name, c in named.items() if c is not None}
    return [
        {"coefficient": n, "value": c.value, "low": c.low, "high": c.high, "p": c.p} for n, c in found.items()
    ] or [{"coefficient": "", "value": None}]


def _pooled_line(found: Together) -> dict[str, Any]:
    question, value = found.panels[0].question, found.value
    line = {"intrinsic": question.intrinsic, "alignment": question.alignment, "quality": FRECHET}
    line |= {"method": found.panels[0].method, "models": found.name, "permutation": ""}
    if value is None:
        return line | {"reason": "no facet has a coefficient"}
    counts = {"n": value.n, "facets": value.strata, "coefficient": "spearman"}
    numbers = {"value": value.value, "low": value.low, "high": value.high, "p": value.p}
    return line | counts | numbers | {"permutation": value.permutation, "n_needed": needed(value.value)}


class Table(NamedTuple):
    """A table of texts, unescaped, with what must be known to read it."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str


HEAD = ["intrinsic", "method", "domain", "truth", "models", "n", "Spearman", "Pearson", "Kendall"]
HEAD += ["permutation", "without one family", "given parameters", "n needed"]
NOTE = (
    "Coefficient [95 % bootstrap interval over models, test pictures and seeds, corrected for bias], "
    "two-sided permutation p. A Frechet distance that was measured once counts as exact. Models: all, the "
    "trained ones, and real ones (all but those trained on scrambled pictures). Domains and sources of truth "
    "are never mixed; every family is asked at its own rate, steps and layers. Of Spearman's: the "
    "least where one family is left out, the partial one given the number of parameters, and the number "
    "of models at which one of this size would have p = 0.05."
)
FRONT = ["intrinsic", "method", "domain", "truth", "models", "n"]
OTHERS = {
    FRECHET: "Frechet distance",
    "kernel": "kernel distance",
    "frechet_2": "Frechet, second space",
    "kernel_2": "kernel, second space",
}


def correlation_markdown(found: Sequence[Panel]) -> str:
    """All tables as Markdown."""
    parts = []
    for table in correlation_tables(found):
        rows = [[markdown_text(text) for text in row] for row in table.rows]
        heading = [f"### {table.title}"] if table.title else []
        parts += [*heading, markdown_grid(table.head, rows), table.note]
    return "\n\n".join(parts) if parts else "No model has both numbers."


def correlation_tables(found: Sequence[Panel]) -> list[Table]:
    """The Frechet distance; over all facets; by other measures of pictures; within families."""
    main = Table("", HEAD, [line for panel in found for line in correlation_rows(panel)], NOTE)
    tables = [main, _pooled_table(found), _other_table(found), _family_table(found)]
    return [table for table in tables if table.rows]


def correlation_rows(panel: Panel) -> list[list[str]]:
    """Lines of a panel under HEAD, unescaped."""
    lines = []
    for chosen in panel.sets:
        value = chosen.value
        texts = [_text(c) for c in (value.spearman, value.pearson, value.kendall)]
        kind = value.permutation or value.reason
        lines.append([*_front(panel, chosen), *texts, kind, *chosen.checks.texts])
    return lines


def _front(panel: Panel, chosen: ModelSet) -> list[str]:
    asked = [panel.question.title, METHODS[panel.method].title, panel.domain, panel.truth]
    return [*asked, chosen.name, str(chosen.value.n)]


def _text(c: Coefficient | None) -> str:
    return f"{_short(c)}, p {c.p:.2g}" if c else "not defined"


def _short(c: Coefficient) -> str:
    return f"{c.value:+.2f} [{c.low:+.2f}, {c.high:+.2f}]"


def _other_table(found: Sequence[Panel]) -> Table:
    """Spearman by every measure of pictures there is, of all models and of the trained ones."""
    used = [name for name in QUALITIES if name == FRECHET or any(name in p.others for p in found)]
    rows = []
    for panel in (p for p in found if p.others):
        by_name = {q: {s.name: s.value.spearman for s in sets} for q, sets in panel.others.items()}
        for chosen in (s for s in panel.sets if s.name != "real"):
            each = [chosen.value.spearman, *(by_name.get(q, {}).get(chosen.name) for q in used[1:])]
            rows.append([*_front(panel, chosen), *(_short(c) if c else "-" for c in each)])
    head = [*FRONT, *(OTHERS[name] for name in used)]
    return Table("Does another measure of pictures say the same?", head, rows, "Spearman [95 % interval].")


def _family_table(found: Sequence[Panel]) -> Table:
    """Spearman within each family, its scrambled control with it and without."""
    names = dict.fromkeys(s.points[0].facts.family for panel in found for s in panel.families)
    rows = []
    for panel in (p for p in found if p.families):
        each = {name: [s for s in panel.families if s.points[0].facts.family == name] for name in names}
        asked = [panel.question.title, METHODS[panel.method].title, panel.domain, panel.truth]
        rows.append([*asked, *("; ".join(map(_family_text, each[name])) or "-" for name in names)])
    note = (
        "Spearman's coefficient over all models of a family, random initialization and scrambled control "
        "with them, p and n; real: without the scrambled one."
    )
    return Table("Within each family", [*FRONT[:4], *names], rows, note)


def _family_text(chosen: ModelSet) -> str:
    c, real = chosen.value.spearman, "real " if chosen.name.endswith(REAL) else ""
    return f"{real}{c.value:+.2f}, p {c.p:.2g}, n {chosen.value.n}" if c else f"{real}-, n {chosen.value.n}"


def _pooled_table(found: Sequence[Panel]) -> Table:
    rows = []
    for one in together(found):
        first, value = one.panels[0], one.value
        front = [first.question.title, METHODS[first.method].title, one.name, one.facets]
        text = f"{value.value:+.2f} [{value.low:+.2f}, {value.high:+.2f}], p {value.p:.2g}" if value else "-"
        rows.append([*front, str(value.n) if value else "-", text, value.permutation if value else "-"])
    note = (
        "Mean of the facets' Spearman coefficients, weighted by n - 1; positive: within facets, models that "
        "draw better know more. p permutes the Frechet distances within facets, the interval resamples the "
        "models; one that stands in two facets is permuted and drawn for both together."
    )
    head = ["intrinsic", "method", "models", "facets", "n", "Spearman", "permutation"]
    return Table("Over all facets", head, rows, note)
