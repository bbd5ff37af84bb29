"""Fuzzing for as long as one likes: `python -m tests.fuzz.long --minutes 30 [--format NAME] [--seed N]`.

Every format in turn gets batches of cases from its seed. Whatever goes wrong is written below --out, with
the command that reads that case again: `--format NAME --seed N --case M` prints what happens in full.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import click

from generators.errors import UserError, unknown
from tests.fuzz.hunt import Found, Hunter, hunting, reproduce
from tests.fuzz.worker import every_format

BATCH = 200  # cases of one format before the next one's turn


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--format", "name", help="Only this one.")
@click.option("--seed", default=0, show_default=True)
@click.option("--case", type=int, help="Read this one case of --format, and print what it says.")
@click.option("--out", default=".fuzz", show_default=True, type=click.Path(path_type=Path))
@click.option("--list", "listed", is_flag=True, help="Print the names of the formats.")
def main(minutes: float, name: str | None, seed: int, case: int | None, out: Path, listed: bool) -> None:
    """Exit status: 0 nothing was found, 1 something was."""
    formats = every_format()
    if name is not None and name not in formats:
        raise SystemExit(str(unknown("format", name, formats)))
    if listed:
        click.echo("\n".join(formats))
        return
    if case is not None:
        if name is None:
            raise SystemExit(
                str(UserError(f"--case {case}", "a case is one of a format", "", "--format NAME"))
            )
        sys.exit(_one(name, seed, case, out))
    names = [name] if name is not None else list(formats)
    with hunting(out.resolve()) as hunter:
        sys.exit(_all(hunter, names, seed, time.monotonic() + 60 * minutes, out))


def _one(name: str, seed: int, case: int, out: Path) -> int:
    what, content = every_format()[name].case(seed, case)
    out.mkdir(parents=True, exist_ok=True)
    kept = out / f"{name}-{seed}-{case}"
    kept.write_bytes(content)
    with hunting(out.resolve()) as hunter:
        found = hunter.hunt(name, seed, case, 1)
    ended = "read" if found.values else "refused" if found.refused else f"wrong: {found.wrong[0][2]}"
    click.echo(f"{name}, case {case} of seed {seed} ({what}, {len(content):,} bytes, in {kept}): {ended}")
    return 1 if found.wrong else 0


def _all(hunter: Hunter, names: list[str], seed: int, until: float, out: Path) -> int:
    """Batches of all formats in turn until a moment; every one at least once."""
    sums = {name: Found() for name in names}
    for turn in itertools.count():
        for name in names:
            if turn and time.monotonic() > until:
                break
            found, total = hunter.hunt(name, seed, turn * BATCH, BATCH), sums[name]
            total.values, total.refused = total.values + found.values, total.refused + found.refused
            total.wrong += found.wrong
            for case, what, said in found.wrong:
                click.echo(f"{name}: {what}: {said}\n  again: {reproduce(name, seed, case)} --out {out}")
        if time.monotonic() > until:
            break
    for name, total in sums.items():
        cases = total.values + total.refused + len(total.wrong)
        click.echo(f"{name:24} {cases:7,} cases, {total.values:6,} read, {total.refused:6,} refused, "
                   f"{len(total.wrong)} wrong")  # fmt: skip
    return 1 if any(total.wrong for total in sums.values()) else 0


if __name__ == "__main__":
    main()
