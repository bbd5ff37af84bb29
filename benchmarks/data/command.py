"""`intrinsic-bench data`: describe a folder of one's own, and ask a data set whether it is what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from generators.errors import UserError

if TYPE_CHECKING:
    from .own.checks import Finding

FAILED = 2  # exit status of a data set that is not what it says


@click.group()
def data() -> None:
    """Describe and check data sets."""


@data.command()
@click.argument("path", type=click.Path(path_type=Path))
def init(path: Path) -> None:
    """Write a commented data.toml for the folder PATH, after a look at its files."""
    from .own.template import write_template

    click.echo(str(write_template(path)))
    click.echo(
        f'choose a convention for each "?" in it, then: intrinsic-bench data check own:{path.absolute()}'
    )


@data.command()
@click.argument("name")
def check(name: str) -> None:
    """Check the maps of the data set NAME against each other: axes, color spaces, units.

    Exit status: 0 nothing is wrong, 2 something to mend.
    """
    from . import ABSENT, describe

    spec = describe(name)
    if spec.fingerprint == ABSENT:
        from . import needs

        todo = "; ".join(need.command for need in needs(name, spec.splits, spec.intrinsics))
        raise UserError(f"data set {name}", "it is not on this machine", spec.title, todo)
    if spec.own:
        raise UserError(f"data set {name}", "each model draws its own pictures: there are no maps to check")
    click.echo(f"{spec.name}: {spec.title}")
    click.echo(f"fingerprint {spec.fingerprint}, intrinsics {' '.join(spec.intrinsics)}")
    click.echo(
        "pictures: " + (", ".join(f"{k} {v}" for k, v in spec.counts.items()) or "as many as asked for")
    )
    found = _own(name) if name.startswith("own:") else _any(name)
    for finding in found:
        click.echo(str(finding))
    if not found:
        click.echo("there is no map to check")
    sys.exit(FAILED if any(f.state == "wrong" for f in found) else 0)


def _own(name: str) -> list[Finding]:
    from .own.load import findings, opened

    index = opened(name)
    skipped = {split: count for split, count in index.skipped.items() if count}
    if skipped:
        left_out = ", ".join(f"{split} {count}" for split, count in skipped.items())
        click.echo(f"left out because a map is missing: {left_out}")
    return findings(index)


def _any(name: str) -> list[Finding]:
    """The checks on a few pictures of any data set that brings its truth, as they are loaded."""
    from benchmarks.needs import EXACT

    from . import describe
    from .load import load_pictures
    from .own.checks import PICTURES, Declared, run_checks
    from .own.read import Scene

    spec = describe(name)
    if EXACT not in spec.labels:
        return []
    split = "test" if "test" in spec.splits else spec.splits[-1]
    count = min(PICTURES, spec.counts.get(split, PICTURES))
    found = load_pictures(name, split, range(count), spec.resolution)
    scenes = [
        Scene(
            f"{split}/{i}",
            ((found.pictures[i] + 1) / 2).permute(1, 2, 0).numpy(),
            {k: v[i].permute(1, 2, 0).numpy() for k, v in found.maps.items()},
            found.mask[i, 0].numpy(),
            {k: found.mask_of(k)[i, 0].numpy() for k in found.maps},
        )
        for i in range(count)
    ]
    return run_checks(scenes, Declared())
