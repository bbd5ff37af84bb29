"""What holds and what does not, one plain sentence for every intrinsic and method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from benchmarks.metrics.evidence import LEVEL, needed
from benchmarks.metrics.paired import holm
from probes.methods import METHODS

from .correlation_panels import Panel
from .correlation_pooled import by_question, together

WORDS = {3: "three", 4: "four"}


class Finding(NamedTuple):
    """Spearman's coefficient, positive where models that draw better know more."""

    about: str
    text: str  # the coefficient with its interval
    value: float
    p: float
    n: int
    more: str


def verdicts(panels: Sequence[Panel]) -> list[str]:
    """One sentence per intrinsic and method: the Frechet distance predicts it, or does not, and by what.

    All models, scrambled controls and random initializations with them; the trained ones alone are told
    beside. "Predicts" needs p <= 0.05 after Holm's correction for all sentences that have a p; it is open
    where p is as small only before.
    """
    found = [_finding(several) for several in by_question(panels)]
    findings = [f for f in found if isinstance(f, Finding)]
    corrected = iter(holm([f.p for f in findings]).tolist())
    return [_sentence(f, next(corrected)) if isinstance(f, Finding) else f for f in found]


def _finding(several: tuple[Panel, ...]) -> Finding | str:
    """The finding of all facets, or the sentence that says why there is none."""
    first = several[0]
    asked = first.question.title.replace("normal", "normals", 1)
    about = f"{asked} by {METHODS[first.method].title}"
    pooled = [t for t in together(several) if t.value is not None]
    if not pooled:
        return _single(about, max(several, key=lambda p: p.every.n))
    whole = pooled[0].value
    assert whole is not None
    text = f"Spearman within facets {whole.value:+.2f} [{whole.low:+.2f}, {whole.high:+.2f}]"
    facets = [f"{p.domain}, {p.truth}: {_brief(p)}" for p in several]
    trained = [f"trained alone {t.value.value:+.2f}, p {t.value.p:.2g}" for t in pooled[1:] if t.value]
    return Finding(about, text, whole.value, whole.p, whole.n, "; ".join([*trained, *facets]))


def _single(about: str, panel: Panel) -> Finding | str:
    value, where = panel.every, f"{panel.domain}, {panel.truth}"
    if value.spearman is None:
        return f"Nothing is told of {about} ({where}): {value.reason}, n {value.n}."
    c, lower = value.spearman, panel.metric.lower_is_better
    skill = "" if lower else f" with {panel.metric.name} (higher is better)"
    text = f"Spearman{skill} {c.value:+.2f} [{c.low:+.2f}, {c.high:+.2f}]"
    trained = panel.trained and panel.trained.spearman
    more = f"; trained alone {trained.value:+.2f}, p {trained.p:.2g}" if trained else ""
    return Finding(about, text, c.value if lower else -c.value, c.p, value.n, f"{where}{more}")


def _brief(panel: Panel) -> str:
    """The coefficient of one facet, of the sign of the pooled one."""
    value, sign = panel.every.spearman, 1 if panel.metric.lower_is_better else -1
    return f"{sign * value.value:+.2f} (n {panel.every.n})" if value else f"not defined (n {panel.every.n})"


def _sentence(found: Finding, p: float) -> str:
    numbers = f"{found.text}, p {found.p:.2g} ({p:.2g} after Holm), n {found.n} ({found.more})"
    if p <= LEVEL and found.value > 0:
        return f"The Frechet distance predicts {found.about}: {numbers}."
    if p <= LEVEL:
        return f"The better a model draws, the less it knows of {found.about}: {numbers}."
    if found.p <= LEVEL:
        return (
            f"Whether the Frechet distance predicts {found.about} is open: {numbers}; p is small only alone."
        )
    return f"The Frechet distance does not predict {found.about}: {numbers}; {_why(found)}."


def _why(found: Finding) -> str:
    """What it would take."""
    if found.n in WORDS:
        least = Fraction(2, math.factorial(found.n))
        return f"the least p {WORDS[found.n]} models can reach is {least}"
    wanted = needed(found.value)
    if wanted is None:
        return "no number of models would show a correlation this small"
    return f"one of this size would need n = {max(wanted, found.n + 1)}"
