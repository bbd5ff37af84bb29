"""Section 4.3: FID against errors, as coefficients with what n models allow to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.metrics.statistics import Correlation, correlation
from benchmarks.report.formats import markdown_grid, markdown_text

from .layout import Column
from .measured import Grid, Slot
from .published import to_number

NOTE = "Coefficient [95 % bootstrap interval over models], two-sided permutation p."
HEAD = ("error", "numbers", "n", "Spearman", "Pearson", "Kendall", "permutation")


@dataclass(frozen=True)
class Point:
    """A model's quality and error; low and high are the ends of the error's interval, where it has one."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Panel:
    """Points of one error that may be compared, and how the two numbers go together.

    Attributes:
        numbers: "published", "measured" (errors here against the published FID) or "rooms".
    """

    column: Column
    quality: str
    numbers: str
    points: tuple[Point, ...]
    value: Correlation


def panels(grid: Grid, numbers: str) -> list[Panel]:
    """One panel per error; the first column is the quality. Without two points there is none."""
    quality, *errors = grid.layout.columns
    found = []
    for k, column in enumerate(errors, 1):
        points = tuple(
            point
            for subject, slots in zip(grid.layout.subjects, grid.slots, strict=True)
            if (point := _point(" ".join(subject.labels), slots[0], slots[k], numbers)) is not None
        )
        if len(points) > 1:
            value = correlation([p.x for p in points], [p.y for p in points])
            found.append(Panel(column, quality.title, numbers, points, value))
    return found


def _point(name: str, quality: Slot, error: Slot, numbers: str) -> Point | None:
    """A point of published numbers, of our errors against the published FID, or of ours alone."""
    x = quality.here.value if numbers == "rooms" and quality.here else to_number(quality.published)
    if numbers == "published":
        y = to_number(error.published)
        return None if x is None or y is None else Point(name, x, y)
    if x is None or error.here is None:
        return None
    return Point(name, x, error.here.value, error.here.low, error.here.high)


def rows(panel: Panel) -> list[str]:
    """A line of the table: what, n, three coefficients with intervals and p, kind of p; unescaped."""
    value = panel.value
    texts = [
        f"{c.value:+.2f} [{c.low:+.2f}, {c.high:+.2f}], p {c.p:.2g}" if c else "not defined"
        for c in (value.spearman, value.pearson, value.kendall)
    ]
    return [panel.column.name, panel.numbers, str(value.n), *texts, value.permutation or value.reason]


def markdown(found: list[Panel]) -> str:
    """Coefficients as one Markdown table."""
    lines = [[markdown_text(text) for text in rows(panel)] for panel in found]
    return f"{markdown_grid(HEAD, lines)}\n\n{NOTE}"


CSV = ["error", "numbers", "n", "coefficient", "value", "low", "high", "p", "permutation", "reason"]


def csv_lines(found: list[Panel]) -> list[dict[str, Any]]:
    """One line per coefficient; where none is defined, one with the reason."""
    lines = []
    for panel in found:
        value = panel.value
        front = {"error": panel.column.name, "numbers": panel.numbers, "n": value.n}
        front |= {"permutation": value.permutation, "reason": value.reason}
        named = {"spearman": value.spearman, "pearson": value.pearson, "kendall": value.kendall}
        lines += [
            front | {"coefficient": k, "value": c.value, "low": c.low, "high": c.high, "p": c.p}
            for k, c in named.items()
            if c is not None
        ] or [front]
    return lines
