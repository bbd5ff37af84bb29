"""`intrinsic-bench doctor`: are this machine and what lies on its disks fit for a run, and if not, why?"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import click

from generators.finding import FAILED, OK, SKIPPED, WARNING, Finding

COLORS = {OK: "green", WARNING: "yellow", FAILED: "bold red", SKIPPED: "dim"}


@click.command()
@click.option(
    "--build-cuda", is_flag=True, help="Compile the CUDA kernels even if no GPU is visible (minutes)."
)
@click.option(
    "--explain", type=click.File(), metavar="FILE", help="Explain a log of a build or a run; - reads it."
)
@click.option("--store", metavar="PLACE", help="Look at this store (a folder, a URL) alone, at every record.")
@click.option("--network", is_flag=True, help="Ask the addresses of weights and data whether they answer.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(explain: TextIO | None, store: str | None, as_json: bool, **options: bool) -> None:
    """Look at versions, limits, disks, stores, weights, compilers, builds and kernels.

    One line each, with cause and cure where something is wrong. Without --network nothing is sent anywhere.

    Exit status: 0 if all that is needed works (warnings and what is skipped do not count; a GPU is not
    needed), 1 if something failed.
    """
    if explain:
        findings: Iterable[Finding] = explanations(explain.read())
    else:
        findings = of_store(store) if store else everything(**options)
    told = []
    for finding in findings:
        told.append(finding)
        if not as_json:
            show(finding)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in told], indent=1))
    sys.exit(1 if any(finding.mark == FAILED for finding in told) else 0)


def everything(build_cuda: bool, network: bool) -> Iterator[Finding]:
    """All findings, each as soon as it is made."""
    from . import health, health_weights

    for look in health.machine():
        yield from safely(look)
    yield from on_disk(None)
    yield from safely(health_weights.families)
    if network:
        yield from safely(health_weights.network)
    yield from safely(lambda: compiled(build_cuda))


def safely(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a look finds; one that breaks is a finding, too, and does not end the others."""
    try:
        yield from look()
    except Exception as error:
        why = "this look could not be made to its end, whatever the reason"
        cure = "if the line does not tell, it is a fault of `doctor`: a report of it is welcome"
        yield Finding(FAILED, "doctor", f"{type(error).__name__}: {error}", why, cure)


def of_store(where: str) -> Iterator[Finding]:
    """All findings about one store."""
    from . import health_stores

    if "://" in where:
        yield from safely(lambda: health_stores.far_store(where))
    else:
        yield from on_disk(Path(where))


def on_disk(store: Path | None) -> Iterator[Finding]:
    """Disks, clocks, stores, the cache; of one store alone, whose records are all read, if one is named."""
    from . import health_stores

    cache, patience = health_stores.cache_folder(), None if store else health_stores.PATIENCE
    results, other = store or health_stores.RESULTS, "--store DIR"
    folders = {results: other} if store else {cache: health_stores.CACHE_VARIABLE, results: other}
    looks: list[Callable[[], Iterator[Finding]]] = [
        lambda: health_stores.disks(folders),
        lambda: health_stores.clocks(folders),
        lambda: health_stores.stores(health_stores.places(store), patience),
    ]
    if not store:  # temporary: sessions of Ray, what workers print, the cache of `verify`
        looks.insert(1, lambda: health_stores.disks({Path(tempfile.gettempdir()): "TMPDIR"}))
        looks.append(lambda: health_stores.cache(cache))
    for look in looks:
        yield from safely(look)


def compiled(build_cuda: bool) -> Iterator[Finding]:
    """Compilers, builds and kernels."""
    try:
        from generators.ops import diagnose
    except ImportError as error:  # then nothing else can be looked at
        yield Finding(FAILED, "torch", f"cannot be imported: {error}", cure="pip install torch")
        return
    for look in diagnose.ENVIRONMENT:
        yield look()
    yield from diagnose.locks()
    yield from diagnose.kernels("cpu")
    yield from cuda(build_cuda)


def cuda(build_cuda: bool) -> Iterator[Finding]:
    """The kernels for CUDA where there is a device; without one they can be compiled, not run."""
    from generators.ops import diagnose, toolchain

    if toolchain.device_archs():
        yield from diagnose.kernels("cuda")
    elif not build_cuda:
        text = "no GPU to run them on (--build-cuda compiles them all the same)"
        yield Finding(SKIPPED, "cuda build", text)
    else:
        yield diagnose.built("cuda")


def explanations(text: str) -> list[Finding]:
    """What a log says, for those who got it from somewhere else."""
    from generators.ops.causes import find_cause, first_error

    cause, error = find_cause(text), first_error(text)
    if cause is None:
        cure = "look for the first line with 'error' in it; a report with the whole log is welcome"
        return [Finding(FAILED, "log", error, "none of the known ones", cure)]
    return [Finding(FAILED, "log", error, cause.cause, cause.cure)]


def show(finding: Finding) -> None:
    """Print a finding: colored in a terminal, plain in a pipe."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    first, *more = finding.text.splitlines() or [""]
    mark = (finding.mark.ljust(9), COLORS[finding.mark])
    console.print(Text.assemble(mark, (f"{finding.what}: ", "bold"), first), soft_wrap=True)
    for line in [*more, *reasons(finding)]:
        console.print(Text(f"{'':9}{line}"), soft_wrap=True)


def reasons(finding: Finding) -> Iterable[str]:
    """Cause and cure, as far as there are any."""
    named = (("cause", finding.cause), ("cure", finding.cure))
    lines = [(name, line) for name, text in named for line in text.splitlines()]
    return [f"{name + ':':7}{line}" for name, line in lines]
