"""What `doctor` says of one thing it looked at; imports nothing, so that it can speak of a broken torch."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


@dataclass(frozen=True)
class Finding:
    """One line of the report: a mark, what was looked at and found; why, and the cure, if it is not ok."""

    mark: str
    what: str
    text: str
    cause: str = ""
    cure: str = ""
