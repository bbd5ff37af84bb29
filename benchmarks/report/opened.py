"""A store as reports see it, read once for the terminal's table and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .ceiling import Ceiling, read_ceilings
from .gather import Facts, Group, gather, model_facts
from .measures import summarize
from .reading import Results, read_store


@dataclass(frozen=True)
class Opened:
    """What a store holds, its cells in groups, and every mean of theirs worked out.

    Attributes:
        facts: of models, by name.
        known: how far off predictors are, from this store and those beside it.
    """

    results: Results
    groups: Sequence[Group]
    facts: Mapping[str, Facts]
    known: Sequence[Ceiling]


def open_store(store: Path) -> Opened:
    """Read a store; raises UserError as `read_store` and `measures.summary` do."""
    results = read_store(store)
    groups = gather(results)
    summarize(groups)
    return Opened(results, groups, model_facts(results), read_ceilings(store, results))
