"""What the paper claims, and what our stores say to it, by stated rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .answers import BLIND, SLACK, TOPICS, Answer
from .answers import FEW as LABELED
from .findings import context_words
from .formats import markdown_grid, markdown_text
from .gaps import NO, OPEN, YES

if TYPE_CHECKING:
    from .paper.published import Line, Published

FEW = 3  # models that are named
AGREES, PARTLY, DOES_NOT = "agrees", "agrees in part", "does not agree"
NOT_TOLD, NOT_MEASURED = "not told", "not measured"
RULES = (
    "Each claim is one of the questions that every store answers, once for each intrinsic, kind of picture "
    "and kind of truth; a store that shares a model with a larger answer to the same is left out. yes and "
    "no: the 95 % interval excludes zero (of the Frechet distance: p of Spearman's coefficient over trained "
    "models below 0.05 after Holm's correction over the questions of a store); else not told. "
    f"{AGREES}: at least half are yes and none is no; {NOT_TOLD}: most are not told, and of the rest no more "
    f"are yes than no; {DOES_NOT}: as many are no as are yes, or more; {PARTLY}: the rest; {NOT_MEASURED}: "
    "no number. But for the Frechet distance nothing is corrected for how much is asked. models: how many "
    "different ones are behind the answers. Of their own pictures each model is asked about others."
)


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        topic: of answers.TOPICS, whose yes is the claim.
        said: in words.
        published: the paper's own numbers for it as text, made from its files.
        asked: what is set beside what here, where the claim does not say it.
    """

    topic: str
    said: str
    published: Callable[[Published], str]
    asked: str = ""


def _line(lines: Sequence[Line], **wanted: str) -> Mapping[str, str]:
    return next(line for line in lines if all(line[key] == value for key, value in wanted.items()))


def _methods(other: str) -> Callable[[Published], str]:
    """LoRA against another method with 250 and 4,000 pictures."""

    def text(published: Published) -> str:
        sheet, column = published["table4"], "normal_mean_deg"
        pairs = [
            (n, *(_line(sheet, method=m, train_images=n)[column] for m in ("LoRA", other)))
            for n in ("250", "4000")
        ]
        return "normals, table 4: " + ", ".join(f"{a} against {b} ° with {n} pictures" for n, a, b in pairs)

    return text


def _fid(published: Published) -> str:
    known = {line["model"]: line["fid"] for line in published["fid"]}
    lines = [line for line in published["table2"] if line["domain"] == "FFHQ" and line["model"] in known]
    each = ", ".join(f"{line['model']} {known[line['model']]}: {line['normal_mean_deg']} °" for line in lines)
    return f"FFHQ, FID and normals, table 2: {each} (the least p that {len(lines)} models can reach is 0.33)"


def _few(published: Published) -> str:
    each = [f"{line['normal_mean_deg']} ° with {line['labels']}" for line in published["figure8"][:3]]
    return "normals, table 4: " + ", ".join(each)


def _single(published: Published) -> str:
    both = [
        next(line["normal_mean_deg"] for line in published[sheet] if f"({step} step)" in line["model"])
        for sheet in ("table2", "table3")
        for step in ("single", "multi")
    ]
    return f"normals: {both[0]} against {both[1]} ° (table 2), {both[2]} against {both[3]} ° (table 3)"


def _marks(published: Published) -> str:
    marks = [line[name] for line in published["table1"] for name in ("normal", "depth", "albedo", "shading")]
    each = ", ".join(f"{marks.count(word)} {word}" for word in ("yes", "partial", "no"))
    return f"marks of table 1: {each}"


CLAIMS: tuple[Claim, ...] = (
    Claim("most", "Generators know intrinsics: the best is better than what knows no model", _marks),
    Claim(
        "random",
        "Intrinsics are learned by learning to draw: a network with random weights does not have them",
        lambda _: "figure 9, a picture without numbers",
    ),
    Claim("scrambled", "What is found is the scene, nothing generic", lambda _: "no such control"),
    Claim("linear", "LoRA finds more than a linear probe", _methods("linear probe")),
    Claim("finetune", "LoRA finds more than fine-tuning", _methods("fine-tuning")),
    Claim("frechet", "Models that draw better know more", _fid),
    Claim(
        "few",
        "250 labeled pictures are enough",
        _few,
        f"LoRA of at most {LABELED} pictures beside {BLIND}",
    ),
    Claim(
        "rank",
        "A rank as small as 2 is enough",
        lambda _: "good performance, without a number",
        f"rank 2 beside the best, which counts as more from {100 * SLACK:g} % of its error on",
    ),
    Claim("single", "One step finds more than many (AUG)", _single),
)


def evidence(answers: Iterable[Answer], topic: str) -> list[Answer]:
    """The measured answers to a topic, without those that share a model with a larger one to the same."""
    told = [a for a in answers if a.topic == topic and a.sign is not None]
    kept: list[Answer] = []
    for answer in sorted(told, key=lambda a: -a.models):
        if not any(_same(answer, other) and set(answer.names) & set(other.names) for other in kept):
            kept.append(answer)
    return [answer for answer in told if any(answer is other for other in kept)]


def _same(first: Answer, second: Answer) -> bool:
    words = [(context_words(a.question.context), a.about) for a in (first, second)]
    return words[0] == words[1]


def verdict(signs: Sequence[int]) -> str:
    """What some yes, no and not told come to, by RULES."""
    yes, no, total = signs.count(YES), signs.count(NO), len(signs)
    if not total:
        return NOT_MEASURED
    if yes <= no:
        return NOT_TOLD if 2 * signs.count(OPEN) > total else DOES_NOT
    return AGREES if not no and 2 * yes >= total else PARTLY


def claims_markdown(answers: Sequence[Answer], published: Published | None) -> str:
    """A table of all claims, then the numbers behind each.

    Args:
        answers: of all stores.
        published: the paper's numbers; None where they are not at hand.
    """
    head = ["The paper claims", "there", "here", "yes / no / not told", "models"]
    rows, parts = [], []
    for claim in CLAIMS:
        found = evidence(answers, claim.topic)
        signs = [answer.sign for answer in found if answer.sign is not None]
        told = markdown_text(claim.published(published)) if published else ""
        counts = " / ".join(str(signs.count(sign)) for sign in (YES, NO, OPEN)) if signs else ""
        said = claim.said + (f" (here: {claim.asked})" if claim.asked else "")
        models = str(len({name for answer in found for name in answer.names}) or "")
        rows.append([markdown_text(said), told, f"**{verdict(signs)}**", counts, models])
        if found:
            parts.append(_numbers(claim, found))
    table = markdown_grid(head, rows).replace("| ---: |", "| --- |", 1)
    return "\n\n".join([markdown_text(RULES), table, *parts])


def _numbers(claim: Claim, found: Sequence[Answer]) -> str:
    """One item for each kind of picture and truth, its intrinsics behind each other."""
    order = list(dict.fromkeys(a.about for a in found))
    lines = [f"{markdown_text(claim.said)}: *{markdown_text(TOPICS[claim.topic])}*"]
    for words in dict.fromkeys(context_words(a.question.context) for a in found):
        mine = [a for a in found if context_words(a.question.context) == words]
        mine.sort(key=lambda a: order.index(a.about))
        each = "; ".join(markdown_text(f"{a.about}: {a.short}, {a.brief}{_which(a)}") for a in mine)
        lines.append(f"- {markdown_text(words)}: {each}")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _which(answer: Answer) -> str:
    """The models by name where they are few."""
    few = answer.topic != "most" and answer.models <= FEW
    return f" ({', '.join(answer.names)})" if few else ""
