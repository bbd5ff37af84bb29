"""Answers arranged for reading: by kind of data, then by topic; as lists of short sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.needs import EXACT

from .answers import TOPICS, Answer
from .gather import Context

LACKING: Mapping[str, str] = {  # how lists name a topic that has no number
    "most": "the model that knows most",
    "linear": "LoRA against a linear probe",
    "finetune": "LoRA against fine-tuning",
    "random": "trained against random weights",
    "scrambled": "trained against scrambled pictures",
    "frechet": "the Frechet distance against the error",
}
ABOUT_ANSWERS = (
    "Made from the numbers below by fixed rules. Better by so much: mean over models, with a 95 % bootstrap "
    "interval over models and test pictures; yes or no where it excludes zero, otherwise not told. Certain: "
    "p below 0.05 after Holm's correction over the models. The model that knows most is chosen on the "
    "pictures it is tested on, of the methods that leave its weights in place; controls are left out. Models "
    "against random weights: the furthest-trained of each family that was measured; against scrambled "
    "pictures: the stage that was trained just as long. What is worse than the mean map counts as the mean "
    "map in both. The Frechet distance: p of trained models' Spearman coefficient "
    "after Holm's correction over the questions. Stages of one network count as models of their own, though "
    "they are not independent: intervals and p over them are smaller than over as many networks. What "
    "another training run of a model would give is in no interval of a difference; tables tell it as sd."
)


@dataclass(frozen=True)
class Block:
    """The answers on one kind of data: title, then topic -> answers."""

    title: str
    topics: Mapping[str, Sequence[Answer]]


def blocks(answers: Sequence[Answer]) -> list[Block]:
    """One for each data set and kind of labels, each topic with what there is of it."""
    found = []
    for context in dict.fromkeys(a.question.context for a in answers):
        mine = [a for a in answers if a.question.context == context]
        topics = {t: [a for a in mine if a.topic == t] for t in TOPICS}
        kept = {t: each for t, each in topics.items() if each}
        found.append(Block(context_words(context), kept))
    return found


def context_words(context: Context) -> str:
    """As "rooms, 64 x 64 pixels, exact truth"."""
    taught = f", trained on {context.trained}" if context.trained else ""
    truth = "exact truth" if context.labels == EXACT else f"truth by {context.labels}"
    return f"{context.data}, {context.size} x {context.size} pixels, {truth}{taught}"


def finding_lines(block: Block, escape: Callable[[str], str]) -> list[str]:
    """A block as Markdown items, one for each topic that has a number, and one for those that have none."""
    lines, without = [], []
    for topic, answers in block.topics.items():
        told = [a for a in answers if a.measured]
        parts = [f"{escape(a.about)}: **{escape(a.short)}** ({escape(a.brief)})" for a in told]
        lines += [f"- *{escape(TOPICS[topic])}* {'; '.join(parts)}."] if parts else []
        lacking = [a.about for a in answers if not a.measured]
        which = f" ({', '.join(lacking)})" if told else ""
        without += [f"{LACKING[topic]}{which}"] if lacking else []
    return [*lines, *([f"- Not measured: {escape('; '.join(without))}."] if without else [])]
