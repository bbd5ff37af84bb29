"""A file format the project reads: sound small files of it, who reads it, and the cases made of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from generators.errors import UserError
from tests.fuzz.bombs import BOMBS
from tests.fuzz.damage import SHAPED, damaged

SHORT = 200  # bytes up to which a file is cut at every byte, longer ones at so many places
CUTS = 40


@dataclass(frozen=True)
class Format:
    """One file of a folder, and the reader it is put before.

    Attributes:
        name: of the format.
        kind: what it is made of, a key of BOMBS: "json", "toml", "npy", "picture" ...
        file: path of the file below the folder the reader finds.
        samples: sound files.
        read: gets the folder's path of the file; what it gives must have been used as its users do.
        prepare: puts the other files of the folder there, once.
        errors: what reading may raise; of UserErrors the text names the file or `named`.
        named: another text that tells the user what is broken.
        cases: how many cases of random damage CI asks.
    """

    name: str
    kind: str
    file: str
    samples: Callable[[], Sequence[bytes]]
    read: Callable[[Path], object]
    prepare: Callable[[Path], None] = lambda folder: None
    errors: tuple[type[Exception], ...] = (UserError,)
    named: str = ""
    cases: int = 120

    @cached_property
    def sound(self) -> list[bytes]:
        """The sound files, made once."""
        return [bytes(sample) for sample in self.samples()]

    @cached_property
    def fixed(self) -> list[tuple[str, bytes]]:
        """Cases that are the same for every seed: the file cut short, and the bombs of its kind."""
        first = self.sound[0]
        ends = range(len(first)) if len(first) <= SHORT else range(0, len(first), len(first) // CUTS)
        return [(f"cut at {end}", first[:end]) for end in ends] + list(BOMBS[self.kind](first))

    def case(self, seed: int, number: int) -> tuple[str, bytes]:
        """What a case is called, and its bytes; the same for the same seed and number."""
        if number < len(self.fixed):
            return self.fixed[number]
        chance = random.Random(f"{self.name}/{seed}/{number}")
        shaped = SHAPED.get(self.kind)
        if shaped is not None and chance.random() < 0.5:
            return f"shaped damage {number}", shaped(chance.choice(self.sound), chance)
        return f"damage {number}", damaged(self.sound, chance)[1]
