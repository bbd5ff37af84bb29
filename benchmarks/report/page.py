"""One self-contained HTML page: no script, no request, every text escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.metrics import Metric

from .answers import TOPICS, WORDS, Answer
from .compared import ABOUT, Comparison, comparison_rows
from .compared import HEAD as PAIRED
from .correlation import Panel, Table, correlation_tables, verdicts
from .embed import embedded
from .findings import ABOUT_ANSWERS, Block
from .formats import ALONE_TITLE, FRECHET, QUALITY_TITLE, Overview, data_words, overviews
from .gaps import NO, OPEN
from .gather import MARKS, Question
from .known import Known, known_block
from .reading import Results
from .table import ALONE, Entry, Row, Section, seeds_text, seeds_words

FAILURES = 12  # of more the list is folded
LISTED = 200  # of more failed, and of more missing cells, the rest is counted
MANY = 6  # distinct values of a fact about the machine that are listed; more become a range or a count


@dataclass(frozen=True)
class Figures:
    """Files of figures by title.

    Attributes:
        scatter, curves: title -> files of one figure (.png and .svg).
        grids: pictures of maps, the overview last.
        samples: family -> what its models draw.
    """

    scatter: Mapping[str, list[Path]]
    curves: Mapping[str, list[Path]]
    grids: Sequence[Path]
    samples: Mapping[str, Path]

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        drawn = [path for paths in (*self.scatter.values(), *self.curves.values()) for path in paths]
        return [*drawn, *self.grids, *self.samples.values()]


def page(
    results: Results,
    found: Sequence[Section],
    panels: Sequence[Panel],
    pairs: Sequence[Comparison],
    figures: Figures,
    answered: Sequence[Block],
    ceilings: Mapping[Question, str],
    known: Sequence[Known] = (),
) -> str:
    """The page as HTML text.

    Args:
        answered: what stands at its top.
        ceilings: how far off the predictor of a question is, in words.
        known: what each model knows, by marks.
    """
    curves = "".join(_figure(_vector(paths), title) for title, paths in figures.curves.items())
    parts = [
        _header(results),
        _block("In short", "answers", _answers(answered, ceilings)),
        _block("What does each model know?", "known", known_block(known)),
        _block("All at once", "overview", _overview(found)),
        _block("With intervals", "table", _legend() + "".join(_section(s, ceilings) for s in found)),
        _block("Does better drawing go with more knowledge?", "correlation", _correlation(panels, figures)),
        _block("Which differences are more than chance?", "comparison", _comparison(pairs)),
        _block("What the models draw", "samples", _samples(figures)),
        _block("Maps", "maps", _grids(figures)),
        _block("Curves", "curves", curves),
        _block("Failed and missing", "failed", _failures(results)),
        _block("How it was measured", "measured", _settings(found) + _environment(results)),
    ]
    look = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head += f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += f'<link rel="icon" href="data:,"><title>{escape(results.title)}</title><style>{look}</style>'
    body = "\n".join(part for part in parts if part)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'
    )


def _block(title: str, name: str, content: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>\n{content}</section>' if content else ""


def _header(results: Results) -> str:
    planned, done, failed = len(results.planned), len(results.done), len(results.failed)
    impossible = sum(c.hash in results.impossible and c.hash not in results.records for c in results.planned)
    missing = planned - done - failed - impossible
    facts = [
        (done, "measured"),
        (failed, "failed"),
        (missing, "not measured yet"),
        (impossible, "cannot be probed"),
    ]
    counts = "".join(f"<li><b>{n}</b> {what}</li>" for n, what in facts if n or what == "measured")
    question = f'<p class="question">{escape(results.question)}</p>' if results.question else ""
    return f"<header><h1>{escape(results.title)}</h1>{question}<ul class=counts>{counts}</ul></header>"


def _answers(answered: Sequence[Block], ceilings: Mapping[Question, str]) -> str:
    """The block of most models open, those of other data folded."""
    order = sorted(answered, key=lambda block: -max((a.models for a in _all(block)), default=0))
    parts = [f"<details><summary>By which rules</summary><p>{escape(ABOUT_ANSWERS)}</p></details>"]
    for number, block in enumerate(order):
        inside = _answer_list(block) + _ceilings(block, ceilings)
        title = f"<h3>On {escape(block.title)}</h3>"
        folded = f"<details class=more><summary>{title}</summary>{inside}</details>"
        parts.append(folded if number else title + inside)
    return "".join(parts) if answered else ""


def _all(block: Block) -> list[Answer]:
    return [answer for answers in block.topics.values() for answer in answers]


def _answer_list(block: Block) -> str:
    parts = []
    for topic, answers in block.topics.items():
        lines = "".join(_answer(*group) for group in _alike(answers))
        parts.append(f"<dt>{escape(TOPICS[topic])}</dt><dd><ul>{lines}</ul></dd>")
    return f"<dl class=answers>{''.join(parts)}</dl>"


def _alike(answers: Sequence[Answer]) -> list[tuple[str, Answer]]:
    """Answers that say the same together: (what they are about, one of them)."""
    found: dict[tuple[str, str], list[Answer]] = {}
    for answer in answers:
        found.setdefault((answer.short, answer.text), []).append(answer)
    return [(", ".join(a.about for a in same), same[0]) for same in found.values()]


def _answer(about: str, answer: Answer) -> str:
    look = WORDS[answer.sign].replace(" ", "-")
    if answer.topic == "most" and answer.measured:
        look = "not-told" if answer.sign in (NO, OPEN) else "yes"
    word = f'<b class="said {look}">{escape(answer.short)}</b>'
    text = escape(answer.text).replace("; by ", ";<br>by ")  # each method on a line of its own
    return f"<li><i>{escape(about)}</i> {word} <span>{text}</span></li>"


def _ceilings(block: Block, ceilings: Mapping[Question, str]) -> str:
    """How far off the truth of these answers is itself."""
    questions = dict.fromkeys(answer.question for answer in _all(block))
    lines = [f"<li><i>{escape(q.title)}</i> {escape(ceilings[q])}</li>" for q in questions if ceilings.get(q)]
    return (
        f"<p class=note>The ceiling of these numbers:</p><ul class=ceilings>{''.join(lines)}</ul>"
        if lines
        else ""
    )


HOW_TO_READ = """<p>Each number is the mean over seeds; below it stands its 95 % bootstrap interval over
seeds and test pictures, the number of seeds (2/3: one of three is missing), and the standard deviation
(sd) of their means: what another training seed gives. The best mean of a column
among the trained models is <b class=best>marked</b>; models whose intervals overlap may well be equal.
Controls say what a probe reaches without the knowledge asked for: the mean map, the picture's own colors,
a model that was never trained, labels of other pictures, noise in the weights. The decoder ceiling is what
a perfect latent would score; a supervised network shows what the data allow. &darr; lower is better.
Models that make their own pictures are compared by skill: 100 (1 - error / error of the mean map of these
pictures).</p>"""


def _legend() -> str:
    marks = "".join(f"<dt>{escape(m) or '(blank)'}</dt><dd>{escape(what)}</dd>" for m, what in MARKS.items())
    return f"<details><summary>How to read</summary>{HOW_TO_READ}<dl class=marks>{marks}</dl></details>"


def _overview(found: Sequence[Section]) -> str:
    said = "; ".join(f"{mark or 'blank'}: {what}" for mark, what in MARKS.items())
    note = f"Means only, best <b class=best>marked</b>; an asterisk: seeds are missing; {escape(said)}."
    tables = "".join(_scrolling(_overview_table(one), "tall") for one in overviews(found))
    return f"<p class=note>{note}</p>{tables}"


def _overview_table(one: Overview) -> str:
    spans = Counter(question for question, _ in one.columns)
    above = "".join(
        f"<th colspan={n} scope=colgroup>{escape(question)}</th>" for question, n in spans.items()
    )
    below = "".join(f"<th scope=col>{escape(method)}</th>" for _, method in one.columns)
    top = f"<tr><th rowspan=2>model</th><th rowspan=2>{escape(QUALITY_TITLE)}</th>{above}</tr>"
    rows = []
    for title, cells in one.rows:
        texts = "".join(_short_cell(text, best) for text, best in cells)
        rows.append(f"<tr><th scope=row>{escape(title)}</th>{texts}</tr>")
    return f"<table class=overview><thead>{top}<tr>{below}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _short_cell(text: str, best: bool) -> str:
    look = " class=best" if best else " class=mark" if text in MARKS else ""
    return f"<td{look}>{escape(text)}</td>"


def _section(section: Section, ceilings: Mapping[Question, str]) -> str:
    """One question, folded: what it is stands above it."""
    said = " ".join(filter(None, (f"{data_words(section)}.", ceilings.get(section.question, ""))))
    head = f"<summary><h3>{escape(section.heading)}</h3><span class=note>{escape(said)}</span></summary>"
    models = _table(section, section.models, "model", section.columns) if section.models else ""
    alone = {ALONE: ALONE_TITLE} if any(ALONE in row.entries for row in section.controls) else {}
    controls = (
        _table(section, section.controls, "control", alone | dict(section.columns))
        if section.controls
        else ""
    )
    label = "<h4>Controls</h4>" if controls else ""
    seeds = f"<p class=note>{escape(seeds_words(section))}</p>" if seeds_words(section) else ""
    return f"<details class=more>{head}{models}{seeds}{label}{controls}</details>\n"


def _table(section: Section, rows: Sequence[Row], kind: str, columns: Mapping[str, str]) -> str:
    quality = any(row.frechet.value is not None or row.frechet.mark for row in rows)
    names = [kind, *([QUALITY_TITLE] if quality else []), *columns.values()]
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in names)
    body = []
    for row in rows:
        cells = [_cell(row.frechet, FRECHET)] if quality else []
        cells += [_cell(row.entries.get(key, Entry(None, "")), section.metric) for key in columns]
        body.append(f"<tr><th scope=row>{escape(row.title)}</th>{''.join(cells)}</tr>")
    table = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return _scrolling(table, "tall")


def _scrolling(table: str, more: str = "") -> str:
    """What scrolls by itself; "tall": up and down, too, below its own head."""
    return f'<div class="{f"wide {more}".strip()}" tabindex="0">{table}</div>'


def _cell(entry: Entry, metric: Metric) -> str:
    value, digits = entry.value, metric.decimals
    if value is None:
        return f'<td class="mark" title="{escape(MARKS[entry.mark])}">{escape(entry.mark)}</td>'
    between = f"[{value.low:.{digits}f}, {value.high:.{digits}f}] " if value.defined else ""
    seeds = f"<small>{between}n {escape(seeds_text(entry, metric))}</small>"
    return f"<td{' class=best' if entry.best else ''}>{value.value:.{digits}f}{seeds}</td>"


HOW_TO_COMPARE = """Each point is a model: its Frechet distance (left is better) against its error (down is
better), bars are 95 % intervals, hollow points were never trained, crossed hollow ones were trained on
scrambled pictures. Models of different domains, data or options are never in one panel. Coefficients with
95 % bootstrap intervals over models, test pictures and seeds, and two-sided permutation p; from a handful of
models they are rough."""


def _correlation(panels: Sequence[Panel], figures: Figures) -> str:
    if not panels:
        return ""
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in verdicts(panels))
    drawn = [(f"{title}: error against Frechet distance", _vector(p)) for title, p in figures.scatter.items()]
    text = "".join(_figure(path, title) for title, path in drawn)
    how = "; ".join(dict.fromkeys(f"{p.domain}: {p.quality}" for p in panels))
    note = f"<p class=note>{HOW_TO_COMPARE} How the Frechet distance was measured: {escape(how)}.</p>"
    tables = "".join(_coefficients(table) for table in correlation_tables(panels))
    return f"{note}<details><summary>In words</summary><ul>{said}</ul></details>{text}{tables}"


def _coefficients(table: Table) -> str:
    """One table of coefficients, folded."""
    head = "".join(f"<th>{escape(name)}</th>" for name in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(t)}</td>" for t in line) + "</tr>" for line in table.rows)
    text = f'<table class="words numbers"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    title = f"{table.title or 'All coefficients'}, {len(table.rows)} lines"
    note = f"<p class=note>{escape(table.note)}</p>"
    return f"<details><summary>{escape(title)}</summary>{_scrolling(text, 'tall')}{note}</details>"


def _comparison(pairs: Sequence[Comparison]) -> str:
    if not pairs:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in PAIRED)
    parts = [f"<p class=note>{escape(ABOUT)}</p>"]
    for question, rows in comparison_rows(pairs):
        cells = "".join("<tr>" + "".join(f"<td>{escape(t)}</td>" for t in row) + "</tr>" for row in rows)
        table = f'<table class="words numbers"><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>'
        title = f"{question.title}: {question.metric.title}, {len(rows)} pairs"
        parts.append(f"<details><summary>{escape(title)}</summary>{_scrolling(table, 'tall')}</details>")
    return "".join(parts)


def _figure(path: Path, title: str) -> str:
    """A picture with its title; where the screen is too narrow for it, it scrolls by itself."""
    picture = _scrolling(embedded(path, title))
    return f"<figure>{picture}<figcaption>{escape(title)}</figcaption></figure>\n"


def _vector(paths: Iterable[Path]) -> Path:
    return max(paths, key=lambda path: path.suffix == ".svg")


HOW_THEY_DRAW = """<p class=note>Above renders of the world, below them what each model of the family
draws: the pictures of the first seeds, nothing chosen. A model that is told captions is told those of the
renders; the others know nothing of them. Models that draw nothing are not shown.</p>"""


def _samples(figures: Figures) -> str:
    text = "".join(_figure(path, f"drawn by {family}") for family, path in figures.samples.items())
    return HOW_THEY_DRAW + text if text else ""


HOW_TO_LOOK = """<p class=note>The picture, the truth, and what each model says; below each map where it
errs (bright is wrong, on one scale per intrinsic). Normals as (n + 1) / 2; albedo and shading with the sRGB
curve.</p>"""


def _grids(figures: Figures) -> str:
    sheets = [path for path in figures.grids if path.stem != "qualitative"]
    text = "".join(
        _folded(path, f"maps: {path.stem.removeprefix('qualitative-')}", i > 0)
        for i, path in enumerate(sheets)
    )
    return HOW_TO_LOOK + text if text else ""


def _folded(path: Path, title: str, folded: bool) -> str:
    """A figure; all but the first of many wait behind their title."""
    figure = _figure(path, title)
    return f"<details><summary>{escape(title)}</summary>{figure}</details>" if folded else figure


def _failures(results: Results) -> str:
    failed = [_failure(str(r.cell), r.reason, f"records/{r.cell.hash}.json") for r in results.failed[:LISTED]]
    absent = [cell for cell in results.planned if cell.hash not in results.records]
    lines = failed + _rest(len(results.failed), "failed")
    for cell in absent[:LISTED]:
        why = results.impossible.get(cell.hash)
        said = f"cannot be probed: {why}" if why else "not measured yet"
        lines.append(f"<li><b>{escape(str(cell))}</b>: {escape(said)}</li>")
    lines += _rest(len(absent), "not measured")
    if results.strangers:
        lines.append(f"<li>{len(results.strangers)} records of cells not in the suite are left out.</li>")
    if results.unmapped:
        told = (
            "The maps of {} cells are not in this store, which was passed on without them: no sheet has them."
        )
        lines.append(f"<li>{told.format(results.unmapped)}</li>")
    text, count = (
        "".join(lines),
        len(results.failed) + len(absent) + bool(results.strangers) + bool(results.unmapped),
    )
    if count > FAILURES:
        summary = f"<summary>{count} lines</summary>"
        return f"<details>{summary}<ul class=failures>{text}</ul></details>"
    return f"<ul class=failures>{text}</ul>" if lines else "<p>Nothing failed and nothing is missing.</p>"


def _rest(count: int, what: str) -> list[str]:
    """A line for those that are not listed."""
    if count <= LISTED:
        return []
    return [f"<li>{count - LISTED:,} more cells {what}: how many of each is in expanded.csv.</li>"]


def _failure(cell: str, reason: str, path: str) -> str:
    why = escape(reason or "no reason recorded")
    return f"<li><b>{escape(cell)}</b><pre>{why}</pre><code>{escape(path)}</code></li>"


def _settings(found: Sequence[Section]) -> str:
    lines = dict.fromkeys(
        f"{section.question.title}: {line}" for section in found for line in section.settings
    )
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<details><summary>Settings of every column</summary><ul>{items}</ul></details>"


def _environment(results: Results) -> str:
    seen: dict[str, list[Any]] = {"protocol": [c.protocol for c in results.planned]}
    for record in results.records.values():
        for key, value in _flat(record.environment):
            seen.setdefault(key, []).append(value)
    rows = "".join(
        f"<tr><th scope=row>{escape(k)}</th><td>{escape(_range(v))}</td></tr>" for k, v in seen.items()
    )
    return _scrolling(f"<table class=words><tbody>{rows}</tbody></table>")


def _flat(values: Mapping[str, Any], front: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if key == "pid":
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{front}{key}: ")
        else:
            yield f"{front}{key}".replace("_", " "), value


def _range(values: Sequence[Any]) -> str:
    """The distinct values; of many numbers their range, of many words how many there are."""
    distinct = list(dict.fromkeys(str(v) for v in values))
    if len(distinct) <= MANY:
        return ", ".join(distinct)
    if all(isinstance(v, (int, float)) for v in values):
        return f"{min(values):g} to {max(values):g}"
    return f"{', '.join(distinct[:MANY])} and {len(distinct) - MANY} more"
