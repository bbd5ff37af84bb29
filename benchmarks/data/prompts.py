"""Prompts for models that draw what they are told: 1,000 in prompts.txt, and 100 more for validation.

The paper's appendix D uses "1000 synthetic images with various prompts", and never published them. These are
composed of hand-written parts (prompts.toml): a subject, a detail that fits it, and a light, a weather or a
view that fits the category. `python -m benchmarks.data.prompts` writes the file anew, always the same.
"""

from __future__ import annotations

import hashlib
import tomllib
from functools import cache
from pathlib import Path

from generators.errors import UserError

FILE = Path(__file__).with_name("prompts.txt")
PARTS = Path(__file__).with_name("prompts.toml")
SEED = "intrinsic-bench prompts 1"
COUNT, VALIDATION = 1000, 100
HEADER = """\
# 1,000 prompts of varied scenes, made by benchmarks/data/prompts.py: change its parts, not this file.
# Appendix D of the paper uses 1,000 images "with various prompts"; the authors' own were never published.
"""


@cache
def categories() -> dict[str, tuple[dict[str, list[str]], list[str]]]:
    """Category -> subjects with the details that fit them, and endings that fit every subject."""
    said = tomllib.loads(PARTS.read_text(encoding="utf-8"))
    return {name: (parts["subjects"], parts["endings"]) for name, parts in said.items()}


def _key(*parts: object) -> bytes:
    """An order that depends on the parts and the seed alone, on every machine and Python."""
    return hashlib.sha256("/".join(str(part) for part in (SEED, *parts)).encode()).digest()


def _category(name: str) -> list[str]:
    """All prompts of a category, in the order in which they are taken: every detail once before any twice."""
    subjects, endings = categories()[name]
    pairs = [(subject, detail) for subject, details in subjects.items() for detail in details]
    mixed = {pair: sorted(endings, key=lambda ending: _key(name, *pair, ending)) for pair in pairs}
    return [
        f"{subject} {detail}, {mixed[subject, detail][turn]}"
        for turn in range(len(endings))
        for subject, detail in sorted(pairs, key=lambda pair: _key(name, turn, *pair))
    ]


def compose(count: int) -> list[str]:
    """The first prompts, no two alike; categories take turns, so that any part of them is varied.

    Raises ValueError if there are not as many.
    """
    columns = [_category(name) for name in categories()]
    rows = -(-count // len(columns))
    if rows > min(len(column) for column in columns):
        raise ValueError(f"{count} prompts: there are {len(columns) * min(map(len, columns))}")
    return [column[row] for row in range(rows) for column in columns][:count]


def text() -> str:
    """What prompts.txt holds."""
    return HEADER + "\n".join(compose(COUNT)) + "\n"


def read_prompts(path: Path = FILE) -> list[str]:
    """Prompts of a file, one in each line; lines that start with # and empty ones do not count."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise UserError(
            f"prompts {path}", f"they are no text in UTF-8: {error}", "", "save it as UTF-8"
        ) from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def validation_prompts() -> list[str]:
    """100 prompts that follow those of the file, none of which is among them."""
    return compose(COUNT + VALIDATION)[COUNT:]


def main() -> None:
    """Write prompts.txt."""
    FILE.write_text(text(), encoding="utf-8")
    print(FILE)


if __name__ == "__main__":
    main()
