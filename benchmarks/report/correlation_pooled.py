"""What all facets of one intrinsic and method say together, without setting one against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.metrics.pooled import Pooled, stratified
from benchmarks.metrics.statistics import Noise

from .correlation_panels import Panel, Point, noise, values


@dataclass(frozen=True)
class Together:
    """One statement over facets (domains, sources of truth).

    Attributes:
        name: "pooled", or "pooled, trained" without random initializations and scrambled controls.
        panels: one per facet.
        value: positive where, within facets, models that draw better know more; None where no facet has
            a coefficient.
    """

    name: str
    panels: tuple[Panel, ...]
    value: Pooled | None

    @property
    def facets(self) -> str:
        """What is pooled, in words."""
        return "; ".join(f"{p.domain}, {p.truth}" for p in self.panels)


def together(panels: Sequence[Panel]) -> list[Together]:
    """Pooled statements of every intrinsic and method that has two facets or more."""
    found = []
    for several in by_question(panels):
        if len(several) > 1:
            found.append(Together("pooled", several, _pooled([p.sets[0].points for p in several])))
            if any(p.trained for p in several):
                parts = [next((s.points for s in p.sets if s.name == "trained"), p.points) for p in several]
                found.append(Together("pooled, trained", several, _pooled(parts)))
    return found


def by_question(panels: Sequence[Panel]) -> list[tuple[Panel, ...]]:
    """Panels of one intrinsic (and alignment) and method, each facet once: the one with most models."""
    found: dict[tuple[str, str], dict[tuple[object, str], Panel]] = {}
    for panel in panels:
        facets = found.setdefault((panel.question.title, panel.method), {})
        key = (panel.question.context, panel.domain)
        if key not in facets or len(panel.points) > len(facets[key].points):
            facets[key] = panel
    return [tuple(facets.values()) for facets in found.values()]


def _pooled(parts: Sequence[Sequence[Point]]) -> Pooled | None:
    kept = [points for points in parts if points]
    signs = [1 if points[0].probe.question.metric.lower_is_better else -1 for points in kept]
    pairs = [(x, s * np.array(y)) for s, (x, y) in zip(signs, map(values, kept), strict=True)]
    drawn: list[Noise] = [(x, s * y) for s, (x, y) in zip(signs, map(noise, kept), strict=True)]
    return stratified(pairs, noise=drawn, names=[[p.facts.name for p in points] for points in kept])
