"""results/README.md, generated from the stores beside it: a short report, and links to the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from benchmarks.metrics.skill import MUCH, SOME
from generators.errors import UserError
from probes.methods import METHODS

from .answers import Answer, find_answers, furthest, real
from .ceiling import Ceiling, ceiling_text, read_ceilings
from .claims import claims_markdown
from .correlation import find_panels
from .findings import ABOUT_ANSWERS, Block, blocks, context_words, finding_lines
from .formats import (
    all_rows,
    by_context,
    front_table,
    markdown_text,
    marks_words,
    most_measured,
    overview,
    write,
)
from .gather import Facts, Group, Question, gather, model_facts
from .known import find_known
from .reading import Results, read_store
from .table import Section, sections

PROTOCOLS = {1: "first"}  # version -> why it was raised
FIGURES = ("scatter-normal.png", "scatter-*.png", "curve-*.png", "qualitative.png")  # the first there is
MAIN = ("lora", "linear")  # methods that short tables show, where a store has one of them
MOST = 14  # rows of a short table; of more models the furthest-trained and their controls are shown
HEAD = """# Results

A short report, generated from the records beside it; do not edit it. To make it anew, with all figures:

    intrinsic-bench report

To measure again what is missing: `intrinsic-bench run SUITE`. Every folder holds `suite.json` (what was
asked), `records/` (one JSON file per cell: what was measured) and `report/`: begin with its `index.html`.
"""


def write_results_readme(results: Path) -> Path:
    """Writes `README.md` about every store folder directly below `results` that has records.

    Raises:
        UserError: a corrupt record or suite file, or records of different protocols in one store.
    """
    stores = [path for path in sorted(results.iterdir()) if any((path / "records").glob("*.json"))]
    told = [_Told(results, read_store(store)) for store in stores]
    parts = [HEAD]
    if told:
        parts.append(f"## What the paper claims and what rooms say\n\n{_claims(results, told)}\n")
        parts.append(f"## Store by store\n\n{markdown_text(ABOUT_ANSWERS)}\n\n{_marks()}\n")
        parts += [one.text() for one in told]
    else:
        parts.append("No suite has been run yet.\n")
    return write(results / "README.md", "\n".join([*parts, *_beside(results), _protocols()]))


def _claims(results: Path, told: Sequence[_Told]) -> str:
    from .paper.published import read_published

    published = read_published(results / "published")
    return claims_markdown([answer for one in told for answer in one.answers], published)


def _marks() -> str:
    bold = "bold: the best trained model of a column"
    return f"In the tables: means over seeds; an asterisk: seeds are missing; {bold}; {marks_words()}."


BESIDE = {
    "findings.md": "the numbers of all stores in prose, method by method, with what contradicts them",
    "paper": "every table and figure of the paper, measured beside published, and its twin on rooms",
    "paradigms": "the predictor of albedo and shading that was trained on paradigms, against exact truth",
    "published": "the paper's numbers as data",
    "speed": "timings, side by side with the naive protocol",
    "convergence": "how many steps LoRA needs: validation errors of one model a family, and a plot",
    "verified.txt": "cells that were computed again from nothing, and whether they gave the same numbers",
}


def _beside(results: Path) -> list[str]:
    """Links to what is no store."""
    there = [name for name in BESIDE if (results / name).exists()]
    home = {name: name + "/README.md" * (results / name / "README.md").is_file() for name in there}
    listed = "\n".join(f"- [{name}]({home[name]}): {BESIDE[name]}" for name in there)
    return [f"## Beside them\n\n{listed}\n"] if there else []


MARKED = (
    "yes, partial, no: whether a model knows more than the better of two that know none, the mean map and "
    f"the colors around a pixel with its place, on the same pictures: *yes* takes {100 * MUCH:g} % of its "
    f"error away, *partial* {100 * SOME:g} %, *no* less, or not for certain."
)
OPEN, CLOSE = "<!-- results -->", "<!-- /results -->"  # what stands between them in a README is generated


def fill_front_page(store: Path, readme: Path) -> Path:
    """Writes a store's short table and first scatter plot between the marks of a README.

    Raises:
        UserError: the README has no marks.
    """
    text = readme.read_text(encoding="utf-8")
    before, opened, rest = text.partition(OPEN)
    _, closed, after = rest.partition(CLOSE)
    if not (opened and closed):
        raise UserError(f"results in {readme}", f"it does not hold {OPEN} and {CLOSE}")
    results = read_store(store)
    groups, facts = gather(results), model_facts(results)
    home = readme.parent.resolve()
    scatter = _found(results, "scatter-normal.png")[:1]
    short = compact(sections(groups, facts), facts)
    method = most_measured(short)
    parts = [
        f"**{markdown_text(results.question)}** By {method}, mean over seeds and test pictures:",
        front_table(short, method, context_words, _known_marks(groups, facts, method)),
        MARKED,
        *(f"![{path.stem}]({_address(home, path.resolve())})" for path in scatter),
        f"All methods, controls, intervals and curves: [results]({_address(home, store.resolve().parent)}).",
    ]
    return write(readme, f"{before}{OPEN}\n" + "\n\n".join(parts) + f"\n{CLOSE}{after}")


def _known_marks(
    groups: Sequence[Group], facts: Mapping[str, Facts], method: str
) -> dict[tuple[Question, str], str]:
    """yes, partial or no of every question and model, by the method of a title."""
    found = [one for one in find_known(groups, facts) if one.found and METHODS[one.method].title == method]
    return {(one.question, one.model): one.mark for one in found}


FILES = ("index.html", "table.md", "correlation.md", "comparison.md", "known.md", "table.csv", "expanded.csv")


class _Told:
    """A store with what it answers, read once."""

    def __init__(self, root: Path, results: Results) -> None:
        self.root, self.results = root, results
        self.facts = model_facts(results)
        groups: list[Group] = gather(results)
        self.sections = sections(groups, self.facts)
        self.answers: list[Answer] = find_answers(groups, self.facts, find_panels(groups, self.facts))
        self.ceilings: list[Ceiling] = read_ceilings(results.store)

    def text(self) -> str:
        """Its section: question, findings, one table, one figure, links."""
        results = self.results
        counts = (
            f"{len(results.done)} of {len(results.planned)} cells measured, {len(results.failed)} failed."
        )
        short = compact(self.sections, self.facts)
        parts = [
            f"### {markdown_text(results.title)}",
            f"**{markdown_text(results.question)}** {counts}" if results.question else counts,
            *(self._findings(block, short) for block in blocks(self.answers)),
            _figure(self.root, results),
            f"The rest: {_links(self.root, results, FILES)}.",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _findings(self, block: Block, short: Sequence[Section]) -> str:
        """Findings and table of one kind of data, and how far off its predictor is."""
        asked = {answer.question for answers in block.topics.values() for answer in answers}
        mine = [section for section in short if section.question in asked]
        lines = "\n".join(finding_lines(block, markdown_text))
        parts = [f"On {markdown_text(block.title)}:", lines, overview(mine), self._ceilings(mine)]
        return "\n\n".join(part for part in parts if part)

    def _ceilings(self, mine: Sequence[Section]) -> str:
        """The ceiling of each column as a note below the table."""
        told = [(s.question.title, ceiling_text(s.question, self.ceilings)) for s in mine]
        return " ".join(f"*{markdown_text(title)}*: {markdown_text(text)}" for title, text in told if text)


def compact(found: Sequence[Section], facts: Mapping[str, Facts]) -> list[Section]:
    """Sections with their main columns and few rows: how a short table shows them."""
    short = []
    for together in by_context(found):
        names = list(dict.fromkeys(row.model for s in together for row in all_rows(s)))
        kept = names if len(names) <= MOST else _few(names, facts)
        short += [_compact(section, kept) for section in together]
    return short


def _few(names: Sequence[str], facts: Mapping[str, Facts]) -> list[str]:
    """The furthest-trained models of each family and domain, and every control."""
    return [*furthest(names, facts), *(name for name in names if not real(facts[name]))]


def _compact(section: Section, kept: Sequence[str]) -> Section:
    main = {m: title for m, title in section.columns.items() if m in MAIN}
    return replace(
        section,
        columns=main or section.columns,
        models=[row for row in section.models if row.model in kept],
        controls=[row for row in section.controls if row.model in kept],
    )


def _found(results: Results, pattern: str) -> list[Path]:
    """Files of the report, wherever below the store it was written."""
    inside = [path for path in results.store.glob(f"**/{pattern}") if path.is_file()]
    return sorted(inside, key=lambda path: path.as_posix())


def _links(root: Path, results: Results, names: tuple[str, ...]) -> str:
    paths = [path for name in names for path in _found(results, name)[:1]]
    return (
        ", ".join(f"[{path.name}]({_address(root, path)})" for path in paths)
        or "run `intrinsic-bench report`"
    )


def _address(root: Path, path: Path) -> str:
    return quote(Path(os.path.relpath(path, root)).as_posix())


def _figure(root: Path, results: Results) -> str:
    """One figure; the page has all."""
    paths = [path for pattern in FIGURES for path in _found(results, pattern)]
    return "".join(f"![{path.stem}]({_address(root, path)})" for path in paths[:1])


def _protocols() -> str:
    lines = "\n".join(f"- PROTOCOL {number}: {why}" for number, why in PROTOCOLS.items())
    return f"## Protocol versions\n\nNumbers of different protocols cannot be compared.\n\n{lines}\n"
