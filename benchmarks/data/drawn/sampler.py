"""How a model draws a data set: its seeds, its prompts, its sampler. No torch is imported."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmarks.cell import canonical
from benchmarks.data import DATA
from benchmarks.data import captions as told_of
from benchmarks.data.prompts import read_prompts, validation_prompts
from generators import registry
from generators.base import GeneratorSpec
from generators.errors import UserError, unknown

VERSION = "drawn-1"  # raise it whenever the same name may give other pictures
COUNTS: Mapping[str, int] = {"validation": 100, "test": 1000}  # the paper, appendix D: 1,000 pictures
# First seed of a split: no two splits share a picture, nor with `samples` and the Frechet distance's.
FIRST_SEED: Mapping[str, int] = {"test": 400_000_000, "validation": 450_000_000}
SEED_STRIDE = 10_000  # seeds between two values of `seed`
SEEDS = 5000  # values of `seed`
# Steps of DPM-Solver++ and guidance scale, unless a name says otherwise: what Frechet distances of rooms are
# measured with; and as many steps as its authors call enough (Lu et al. 2022), at Stable Diffusion's scale.
ROOMS, OPEN = (12, 1.0), (20, 7.5)
OPTIONS = ("seed", "steps", "guidance")


@dataclass(frozen=True)
class Sampler:
    """What decides a drawn picture beside its row.

    Attributes:
        steps: of the sampler, and guidance: its scale, 1 for none; both None where the model has no sampler.
    """

    model: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None

    @property
    def spec(self) -> GeneratorSpec:
        """Facts about the model."""
        return registry.spec(self.model)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the model's `sample` takes beside seeds and captions."""
        return {} if self.steps is None else {"steps": self.steps, "guidance": self.guidance}

    @property
    def name(self) -> str:
        """The data set's one name: defaults are left out."""
        plain = sampler(self.model)
        said = [f"{o}={getattr(self, o)}" for o in OPTIONS if getattr(self, o) != getattr(plain, o)]
        return ",".join([f"drawn:{self.model}", *said])

    def seeds(self, split: str, rows: Sequence[int]) -> list[int]:
        """One seed for each row."""
        first = FIRST_SEED[split] + self.seed * SEED_STRIDE
        return [first + row for row in rows]

    def fingerprint(self) -> str:
        """16 hex digits over weights, prompts, seeds and sampler."""
        facts = {
            "version": VERSION,
            "weights": _identity(self.model),
            "prompts": prompts_hash(self.spec),
            "seed": self.seed,
            "sampler": self.arguments,
        }
        return hashlib.sha256(canonical(facts).encode()).hexdigest()[:16]


def sampler(
    model: str, seed: int = 0, steps: int | None = None, guidance: float | None = None, asked: str = ""
) -> Sampler:
    """How a model draws, defaults filled in.

    Raises:
        UserError: nobody knows the model, it draws nothing, or it has no sampler to set.
    """
    spec, asked = registry.spec(model), asked or f"pictures that {model} draws"
    if not spec.draws:
        known = ", ".join(s.name for s in registry.specs() if s.draws)
        raise UserError(
            asked, f"{model} makes no pictures of seeds", f"these do: {known}", "name one of them"
        )
    if not spec.diffusion_steps:
        if steps is not None or guidance is not None:
            wrong = f"{model} draws in one go: it has neither steps nor guidance"
            raise UserError(asked, wrong, "they belong to diffusion models", "leave both out")
        return Sampler(model, seed)
    usual_steps, usual_guidance = ROOMS if spec.domain in DATA else OPEN
    chosen = usual_steps if steps is None else steps
    if not 1 <= chosen <= spec.diffusion_steps:
        raise UserError(asked, f"steps = {chosen}", f"1 to {spec.diffusion_steps}", "choose another number")
    scale = usual_guidance if guidance is None else guidance
    if not 0 <= scale < 1000:
        raise UserError(
            asked, f"guidance = {scale}", "1 for none; 2 to 10 are usual", "choose another number"
        )
    return Sampler(model, seed, chosen, scale)


def parse(name: str) -> Sampler:
    """What "drawn:MODEL,seed=1,steps=50,guidance=7.5" says; raises UserError for what cannot be read."""
    model, *said = name.partition(":")[2].split(",")
    known = f"drawn:MODEL, and {', '.join(f'{o}=NUMBER' for o in OPTIONS)} behind commas"
    if not model:
        raise UserError(f"data set {name!r}", "it names no model", known, "see: intrinsic-bench ls models")
    options: dict[str, Any] = {}
    for part in said:
        key, _, value = part.partition("=")
        if key not in OPTIONS:
            raise unknown(f"option of data set {name!r}:", key, OPTIONS, known)
        try:
            options[key] = float(value) if key == "guidance" else int(value)
        except ValueError as error:
            raise UserError(f"data set {name!r}", f"{part!r} is no number", known) from error
    if not 0 <= options.get("seed", 0) < SEEDS:
        raise UserError(f"data set {name!r}", f"seed = {options['seed']}", f"0 to {SEEDS - 1}")
    return sampler(model, **options, asked=f"data set {name!r}")


@cache
def _identity(model: str) -> str:
    """Which weights a name stands for; hashed once in a process."""
    return registry.identity(model)


# Prompts.


def told(spec: GeneratorSpec) -> bool:
    """Whether a model draws what it is told; others draw what they like."""
    return bool(spec.diffusion_steps)


def captions(spec: GeneratorSpec, split: str, rows: Sequence[int]) -> list[str] | None:
    """What a model is told for some rows; None where it cannot be told anything.

    A model of an embedded world is told its captions of the split `reference`; validation follows the test's.
    """
    if not told(spec):
        return None
    if spec.domain in DATA:
        start = COUNTS["test"] if split == "validation" else 0
        return list(told_of(spec.domain, "reference", [start + row for row in rows]))
    prompts = validation_prompts() if split == "validation" else read_prompts()
    return [prompts[row] for row in rows]


def prompts_hash(spec: GeneratorSpec) -> str:
    """Which prompts a model is told; "" for none."""
    if not told(spec):
        return ""
    if spec.domain in DATA:
        return DATA[spec.domain].fingerprint
    return hashlib.sha256("\n".join([*read_prompts(), *validation_prompts()]).encode()).hexdigest()[:16]
