"""What a store answers, made of its numbers: which model knows most, and whether the claims hold on it.

Every answer is of one question (data, labels, intrinsic, alignment) and one topic. Models that were never
trained, or trained on scrambled pictures, are controls: they are never the one that knows most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import factorial

import numpy as np

from benchmarks.data import own_pictures
from benchmarks.metrics.evidence import LEVEL
from benchmarks.metrics.paired import holm
from benchmarks.metrics.statistics import Array, Correlation, Interval
from probes.methods import METHODS

from .ceiling import amount
from .correlation_panels import ModelSet, Panel
from .gaps import NO, OPEN, YES, Gap, gap, scores, tested
from .gather import Facts, Group, Question, main_settings, plain, questions, setting
from .measures import summary

TOPICS: Mapping[str, str] = {
    "most": "Which model knows most?",
    "linear": "Is LoRA better than a linear probe?",
    "finetune": "Is LoRA better than fine-tuning?",
    "random": "Does a trained model know more than the same network with random weights?",
    "scrambled": "Does it know more than the same network trained as long on scrambled pictures?",
    "frechet": "Does the Frechet distance predict what a model knows?",
    "few": "Are few labeled pictures enough?",
    "rank": "Is a small rank enough?",
    "single": "Is one step better than many?",
}
PROBES = ("lora", "linear", "finetune")  # methods that models and their controls are compared by
AS_LONG = 0.1  # share of a control's training by which that of the stage beside it may differ
REWRITES = ("finetune",)  # methods that train every weight: what they reach is learned, not only found
FEW = 250  # labeled pictures that the paper calls few
BLIND = "the better of mean map and RGB patches"
SLACK = 0.05  # share of the error that a small rank may cost and still be enough
WORDS = {YES: "yes", NO: "no", OPEN: "not told", None: "not measured"}

Shown = Mapping[tuple[str, str], Group]  # (model, method) -> the group that tables show


@dataclass(frozen=True)
class Answer:
    """One topic of one question.

    Attributes:
        about: the question's title, with the domain where models of one have pictures of their own.
        sign: YES, NO, OPEN (the numbers do not tell) or None (not measured). Of "most": whether that model
            is better than what needs no model.
        short: the answer in a word or a name.
        text: the numbers it rests on; brief: the first of them, for lists.
        names: models behind it.
    """

    question: Question
    topic: str
    about: str
    sign: int | None
    short: str
    text: str
    names: tuple[str, ...] = ()
    brief: str = ""

    @property
    def models(self) -> int:
        """How many models are behind it."""
        return len(self.names)

    @property
    def measured(self) -> bool:
        """Whether there is a number."""
        return bool(self.names)


def find_answers(
    groups: Sequence[Group], facts: Mapping[str, Facts], panels: Sequence[Panel]
) -> list[Answer]:
    """Every topic of every question, in the order of the plan."""
    main = main_settings(groups, facts)
    drawing = _frechet_answers(questions(groups), panels)
    found: list[Answer] = []
    for question in questions(groups):
        own = [g for g in groups if g.question == question]
        shown = shown_groups(own, facts, main)
        found += _most(question, own, shown, facts)
        found += [_against(question, shown, facts, other) for other in ("linear", "finetune")]
        found += [_control(question, own, shown, facts, control) for control in ("random", "scrambled")]
        found.append(drawing[question])
        extra = (
            _few(question, own, shown, facts),
            _rank(question, own, shown, facts),
            _single(question, shown),
        )
        found += [answer for answer in extra if answer is not None]
    return found


def shown_groups(
    groups: Sequence[Group], facts: Mapping[str, Facts], main: Mapping[tuple[Question, str, str], str]
) -> dict[tuple[str, str], Group]:
    """The measured probes of one question that tables show, by model and method."""
    return {
        (g.cell.model, g.cell.method): g
        for g in groups
        if plain(g.cell)
        and g.done
        and main[(g.question, g.cell.method, facts[g.cell.model].family)] == g.setting
    }


def real(told: Facts) -> bool:
    """Whether a model is no control: trained, and on pictures as they are."""
    return told.trained != 0 and not told.control


def furthest(names: Sequence[str], facts: Mapping[str, Facts]) -> list[str]:
    """The furthest-trained real models of each family and domain."""
    best: dict[tuple[str, str], float] = {}
    for name in names:
        told = facts[name]
        if real(told):
            key = (told.family, told.domain)
            best[key] = max(best.get(key, 0.0), told.trained or 0.0)
    return [
        n
        for n in names
        if real(facts[n]) and (facts[n].trained or 0.0) == best[facts[n].family, facts[n].domain]
    ]


def _not_measured(question: Question, topic: str, why: str, about: str = "") -> Answer:
    return Answer(question, topic, about or question.title, None, WORDS[None], why)


# Which model knows most.


def _most(
    question: Question, own: Sequence[Group], shown: Shown, facts: Mapping[str, Facts]
) -> Iterator[Answer]:
    """One answer; one for each domain where models have pictures of their own."""
    names = [name for name in dict.fromkeys(model for model, _ in shown) if real(facts[name])]
    domains = sorted({facts[name].domain for name in names}) if own_pictures(question.context.data) else []
    if len(domains) < 2:
        inside = {k: g for k, g in shown.items() if k[0] in names}
        yield _first(question, own, inside, facts, question.title)
        return
    for domain in domains:
        inside = {k: g for k, g in shown.items() if k[0] in names and facts[k[0]].domain == domain}
        yield _first(question, own, inside, facts, f"{question.title}, domain {domain}")


def _first(
    question: Question, own: Sequence[Group], shown: Shown, facts: Mapping[str, Facts], about: str
) -> Answer:
    asked = {k: g for k, g in shown.items() if k[1] not in REWRITES} or shown
    ranked = _ranked(question, asked)
    if not ranked:
        return _not_measured(question, "most", "no trained model was asked", about)
    (name, method), group = ranked[0]
    brief, (lead, sure) = (
        f"{_amount(question, _value(group))} by {_title(method)}",
        _lead(question, ranked, facts),
    )
    sign, above = _above_blind(question, own, group)
    text, warning = f"{brief}{lead}{above}", "no better than knowing no model" if sign in (NO, OPEN) else ""
    short = ", ".join(filter(None, (brief, f"lead {sure}" if sure else "", warning)))
    rewritten = _ranked(question, {k: g for k, g in shown.items() if k[1] in REWRITES})
    if rewritten and method not in REWRITES:
        best, last = rewritten[0]
        text += f". With every weight trained ({_title(best[1])}): {facts[best[0]].title}, "
        text += _amount(question, _value(last))
    names = tuple(key[0] for key, _ in ranked)
    return Answer(question, "most", about, sign, facts[name].title, text, names, short)


def _above_blind(question: Question, own: Sequence[Group], group: Group) -> tuple[int | None, str]:
    """Whether a model is better than what needs no model, and by how much; None where that was not asked."""
    blind = _blind(question, own, group.cell.model)
    found = gap(question, [(group, blind)], floor=_floor(question, own)) if blind else None
    if found is not None:
        return found.sign, f"; {found.amount(question)} than {BLIND}, which know no model"
    if not own_pictures(question.context.data):
        return None, ""
    value = _value(group)
    sign = (YES if value.value > 0 else NO) if value.excludes(0) else OPEN
    return sign, "" if sign == YES else "; no better than the mean map, which knows no model"


def _floor(question: Question, own: Sequence[Group]) -> Array | float | None:
    """What is worse than the mean map counts as the mean map, for which no model is needed: its errors."""
    if own_pictures(question.context.data):
        return 0.0  # skill is measured from it
    mean_map = next((g for g in own if g.done and g.cell.method == "constant"), None)
    found = scores([mean_map]) if mean_map else None
    return None if found is None else found[0][0]


def _ranked(question: Question, shown: Shown) -> list[tuple[tuple[str, str], Group]]:
    """Each model by its best method, the best model first."""
    sign = 1 if question.metric.lower_is_better else -1
    scored = [(sign * _value(group).value, key) for key, group in shown.items()]
    best: dict[str, tuple[str, str]] = {}
    for _, key in sorted(scored):
        best.setdefault(key[0], key)
    return [(key, shown[key]) for key in best.values()]


def _lead(
    question: Question, ranked: Sequence[tuple[tuple[str, str], Group]], facts: Mapping[str, Facts]
) -> tuple[str, str]:
    """What the second reaches, and whether the lead is certain after Holm's correction over all others."""
    if len(ranked) < 2:
        return "; the only trained model asked", ""
    ((second, method), group), each = ranked[1], scores([g for _, g in ranked])
    text = f"; second {facts[second].title}, {_amount(question, _value(group))} by {_title(method)}"
    if each is None:
        return f"{text}; not all have as many test pictures, so the lead is not tested", "not tested"
    rows, clusters = each
    tests = [tested(rows[0].tobytes(), row.tobytes(), clusters) for row in rows[1:]]
    p = float(holm([test[1] for test in tests])[0])
    sure = "certain" if p < LEVEL else "not certain"
    others = "" if len(tests) == 1 else f" after Holm over {len(tests)} others"
    return f"{text}; the lead is {sure} (p {p:.2g}{others})", sure


# One method against another, a model against its control.


def _against(question: Question, shown: Shown, facts: Mapping[str, Facts], other: str) -> Answer:
    pairs = [
        (group, shown[model, other])
        for (model, method), group in shown.items()
        if method == "lora" and (model, other) in shown and real(facts[model])
    ]
    fair = [(a, b) for a, b in pairs if a.cell.train == b.cell.train]
    found = gap(question, fair)
    if found is None:
        why = f"no trained model was asked by LoRA and by {_title(other)} with as many pictures"
        return _not_measured(question, other, why)
    return _of_gap(question, other, found, f"LoRA is {found.words(question)}")


def _control(
    question: Question, own: Sequence[Group], shown: Shown, facts: Mapping[str, Facts], control: str
) -> Answer:
    """A model of each family against its control, method by method.

    Against random weights the furthest-trained, against scrambled pictures the one trained as long as those.
    """
    floor = _floor(question, own)
    gaps: dict[str, Gap] = {}
    names = list(dict.fromkeys(model for model, _ in shown))
    if control == "random":
        partners = {name: _untrained(name, names, facts) for name in furthest(names, facts)}
    else:
        partners = {_as_long(n, names, facts): n for n in names if facts[n].control == control}
    for method in PROBES:
        pairs = [
            (shown[name, method], shown[partner, method])
            for name, partner in partners.items()
            if name and partner and (name, method) in shown and (partner, method) in shown
        ]
        found = gap(question, pairs, floor=floor)
        if found is not None:
            gaps[method] = found
    if not gaps:
        return _not_measured(question, control, "no model and its control were asked by the same method")
    text = "; ".join(f"by {_title(m)} {g.words(question)}" for m, g in gaps.items())
    method, first = next(iter(gaps.items()))
    return replace(
        _of_gap(question, control, first, text), brief=f"{first.brief(question)}, by {_title(method)}"
    )


def _kin(name: str, names: Sequence[str], facts: Mapping[str, Facts]) -> list[str]:
    """Those of a model's family and domain."""
    told = facts[name]
    return [n for n in names if (facts[n].family, facts[n].domain) == (told.family, told.domain)]


def _untrained(name: str, names: Sequence[str], facts: Mapping[str, Facts]) -> str:
    """The random initialization of a model, the one named most like it; "" if there is none."""
    found = [n for n in _kin(name, names, facts) if facts[n].trained == 0]
    return max(found, key=lambda n: (_alike(n, name), n), default="")


def _as_long(control: str, names: Sequence[str], facts: Mapping[str, Facts]) -> str:
    """The stage of a control's own family that was trained as long, by a tenth; "" if there is none."""
    length = facts[control].trained or 0.0
    apart = {
        n: abs((facts[n].trained or 0.0) - length) for n in _kin(control, names, facts) if real(facts[n])
    }
    found = [name for name, shares in apart.items() if shares <= AS_LONG * length]
    return min(found, key=lambda n: (apart[n], -_alike(n, control), n), default="")


def _alike(first: str, second: str) -> int:
    """Letters that two names begin with together."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _of_gap(question: Question, topic: str, found: Gap, text: str) -> Answer:
    sign, brief = found.sign, found.brief(question)
    return Answer(question, topic, question.title, sign, WORDS[sign], text, found.names, brief)


def _title(method: str) -> str:
    return METHODS[method].title


# Does better drawing go with more knowledge.


def _frechet_answers(asked: Sequence[Question], panels: Sequence[Panel]) -> dict[Question, Answer]:
    """Of trained models, method by method; the answer is that of the method with most models.

    Its p is corrected by Holm for the answers to all questions of the store.
    """
    found = {question: [p for p in panels if p.question == question] for question in asked}
    defined = {question: _defined(mine) for question, mine in found.items()}
    first = {question: told[0][1].value.spearman for question, told in defined.items() if told}
    p = dict(zip(first, holm([c.p for c in first.values() if c]).tolist(), strict=True)) if first else {}
    return {
        question: _frechet(question, found[question], defined[question], p.get(question, 1.0), len(p))
        for question in asked
    }


def _defined(panels: Sequence[Panel]) -> list[tuple[Panel, ModelSet]]:
    """Panels with their trained models where these have a coefficient, most models first."""
    told = [(panel, _trained(panel)) for panel in panels]
    defined = [(panel, models) for panel, models in told if models.value.spearman is not None]
    return sorted(defined, key=lambda each: -each[1].value.n)


def _frechet(
    question: Question,
    panels: Sequence[Panel],
    defined: Sequence[tuple[Panel, ModelSet]],
    p: float,
    tests: int,
) -> Answer:
    """The answer to one question; p is that of the first panel after Holm's correction over all tests."""
    several = len({panel.domain for panel in panels}) > 1
    if not defined:
        most = max((_trained(panel).value.n for panel in panels), default=0)
        few = f"Frechet distance and error of {most} trained models: three are the least"
        return _not_measured(question, "frechet", few if most else "no model has both numbers")
    lines = dict.fromkeys(_panel_words(panel, models, several) for panel, models in defined)
    panel, first = defined[0]
    sign, brief = _panel_sign(panel, first.value, p), _panel_words(panel, first, several)
    if tests > 1:
        brief += f"; p {p:.2g} after Holm over {tests} questions"
    text = "; ".join([brief, *list(lines)[1:]])
    names = tuple(point.facts.name for point in first.points)
    return Answer(question, "frechet", question.title, sign, WORDS[sign], text, names, brief)


def _trained(panel: Panel) -> ModelSet:
    """The trained models of a panel, which are all of it where it has no controls."""
    return next((models for models in panel.sets if models.name == "trained"), panel.sets[0])


def _panel_sign(panel: Panel, value: Correlation, p: float) -> int:
    """YES if p is small and nearer pictures go with less error."""
    if value.spearman is None or p >= LEVEL:
        return OPEN
    return YES if (value.spearman.value > 0) == panel.metric.lower_is_better else NO


def _panel_words(panel: Panel, models: ModelSet, several: bool) -> str:
    """As "by LoRA Spearman +0.83 [+0.20, +1.00], p 0.01, 25 models"."""
    value, n = models.value.spearman, models.value.n
    assert value is not None
    text = f"by {_title(panel.method)}{f', domain {panel.domain}' if several else ''}: Spearman "
    text += f"{value.value:+.2f} [{value.low:+.2f}, {value.high:+.2f}], p {value.p:.2g}, {n} trained models"
    least = 2 / factorial(n)  # of the n! orders one and its reverse are the most extreme
    if least > LEVEL:
        text += f" (the least p that {n} can reach is {least:.2g})"
    elif value.p >= LEVEL and models.checks.needed is not None:
        text += f" (one of this size would take {max(models.checks.needed, n + 1)})"
    return text


# Few labels, small ranks, few steps: the paper's claims of economy.


def _few(question: Question, own: Sequence[Group], shown: Shown, facts: Mapping[str, Facts]) -> Answer | None:
    """LoRA taught by few pictures against the better of the controls that know no model."""
    swept = _swept(own, shown, facts, ("train", "validation"))
    pairs, more = [], []
    for groups in swept.values():
        few = [g for g in groups if g.cell.train <= FEW]
        if not few:
            continue
        least, most = max(few, key=lambda g: g.cell.train), max(groups, key=lambda g: g.cell.train)
        control = _blind(question, own, least.cell.model)
        pairs += [(least, control)] if control else []
        more += [(most, least)] if most is not least else []
    found, further = gap(question, pairs), gap(question, more)
    if found is None:
        return None
    text = f"against {BLIND} LoRA taught by at most {FEW} pictures is "
    text += found.words(question)
    if further:
        counts = "; ".join(sorted({f"{a.cell.train:,} pictures against {b.cell.train}" for a, b in more}))
        text += f"; {counts}: {further.words(question)}"
    return _of_gap(question, "few", found, text)


def _blind(question: Question, own: Sequence[Group], model: str) -> Group | None:
    """The better of `constant` and `pixels` on the pictures that a model is asked about."""
    sign = 1 if question.metric.lower_is_better else -1
    mine = own_pictures(question.context.data)
    found = [
        g
        for g in own
        if g.done and g.cell.method in ("constant", "pixels") and (g.cell.model == model or not mine)
    ]
    return min(found, key=lambda g: sign * _value(g).value, default=None)


def _rank(
    question: Question, own: Sequence[Group], shown: Shown, facts: Mapping[str, Facts]
) -> Answer | None:
    """The smallest rank against the best one: enough if it costs less than SLACK of the error."""
    if not question.metric.lower_is_better:
        return None  # skill has no zero that a share could be taken of
    pairs = []
    for groups in _swept(own, shown, facts, ("rank",)).values():
        if len(groups) > 1:
            least = min(groups, key=lambda g: g.cell.options["rank"])
            best = min(groups, key=lambda g: _value(g).value)
            pairs.append((least, best))
    found = gap(question, pairs)
    if found is None or found.gain.low is None or found.gain.high is None:
        return None
    allowed = SLACK * float(np.mean([_value(best).value for _, best in pairs]))
    sign = YES if -found.gain.low < allowed else NO if -found.gain.high > allowed else OPEN
    ranks = sorted({f"{a.cell.options['rank']} against {b.cell.options['rank']}" for a, b in pairs})
    text = f"rank {'; '.join(ranks)} (the best): {found.words(question)}"
    return replace(_of_gap(question, "rank", found, text), sign=sign, short=WORDS[sign])


def _swept(
    own: Sequence[Group], shown: Shown, facts: Mapping[str, Facts], turned: tuple[str, ...]
) -> dict[str, list[Group]]:
    """Of each furthest-trained model its LoRAs that differ from the shown one in some values only."""
    models = [model for model, method in shown if method == "lora"]
    found: dict[str, list[Group]] = {}
    for model in furthest(models, facts):
        usual = _without(shown[model, "lora"], turned)
        mine = [
            g for g in own if g.cell.model == model and g.cell.method == "lora" and g.done and plain(g.cell)
        ]
        found[model] = [g for g in mine if _without(g, turned) == usual]
    return found


def _without(group: Group, turned: tuple[str, ...]) -> dict[str, object]:
    return {key: value for key, value in setting(group.cell).items() if key not in turned}


def _single(question: Question, shown: Shown) -> Answer | None:
    """A diffusion model asked in one step against the same one asked in many (AUG)."""
    pairs = [
        (group, shown[many, "lora"])
        for (model, method), group in shown.items()
        for many in [model.replace("sd.", "sd-aug.", 1)]
        if method == "lora" and model.startswith("sd.") and (many, "lora") in shown
        if group.cell.train == shown[many, "lora"].cell.train
    ]
    found = gap(question, [(a, b) for a, b in pairs if not a.cell.model.endswith("random")])
    if found is None:
        return None
    return _of_gap(question, "single", found, f"one step is {found.words(question)}")


# Numbers.


def _value(group: Group) -> Interval:
    value = summary(group, group.question.metric.name)
    assert value is not None, f"{group.cell} has no {group.question.metric.name}"
    return value


def _amount(question: Question, value: Interval) -> str:
    return amount(value, question.metric.decimals, question.unit)
