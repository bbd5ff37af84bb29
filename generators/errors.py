"""One error for everything a user can mend, in four parts."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What was asked, what is wrong, what exists, what to do.

    Args:
        asked: what the user asked for, as he wrote it.
        wrong: the fact that makes it impossible.
        known: what exists instead, or the values on both sides.
        todo: the next step, a command where there is one.
    """

    def __init__(self, asked: str, wrong: str, known: str = "", todo: str = "") -> None:
        self.asked, self.wrong, self.known, self.todo = asked, wrong, known, todo
        super().__init__(asked, wrong, known, todo)

    def __str__(self) -> str:
        parts = [("asked", self.asked), ("wrong", self.wrong), ("known", self.known), ("to do", self.todo)]
        return "\n".join(f"{label + ':':7}{text}" for label, text in parts if text)


def unknown(kind: str, name: str, known: Iterable[str], todo: str = "") -> UserError:
    """The error for a name nobody knows, with the nearest known ones first."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    listed = ", ".join(names[:30]) + (f", and {len(names) - 30} more" if len(names) > 30 else "")
    mean = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UserError(f"{kind} {name!r}", f"there is no {kind} of this name", f"{mean}{listed}", todo)


def not_installed(model: str, expected: str) -> UserError:
    """The weights of an embedded model are not where the package has them."""
    return UserError(
        f"model {model!r}",
        "its weights belong to this package and are not there",
        f"expected: generators/zoo/weights/{expected}",
        "install the package again, or fetch the repository's large files",
    )
