"""`intrinsic-bench doctor`: does everything that is compiled work on this machine, and if not, why not."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from generators.ops.diagnose import Finding

COLORS = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


@click.command()
@click.option(
    "--build-cuda", is_flag=True, help="Compile the CUDA kernels even if no GPU is visible (minutes)."
)
@click.option(
    "--explain", type=click.File(), metavar="FILE", help="Explain a log of a build or a run; - reads it."
)
def doctor(build_cuda: bool, explain: TextIO | None) -> None:
    """Look at compilers, builds and kernels; one line each, with cause and cure where something is wrong.

    Exit status: 0 if all that is needed works (a GPU is not needed), 1 otherwise.
    """
    findings = explanations(explain.read()) if explain else everything(build_cuda)
    marks = [show(finding) for finding in findings]
    sys.exit(1 if "failed" in marks else 0)


def everything(build_cuda: bool) -> Iterator[Finding]:
    """All findings, each as soon as it is made."""
    try:
        from generators.ops import diagnose
    except ImportError as error:  # then nothing else can be looked at
        click.echo(f"failed   torch: cannot be imported: {error}\n         cure:  pip install torch")
        sys.exit(1)
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
        yield diagnose.Finding(diagnose.SKIPPED, "cuda build", text)
    else:
        yield diagnose.built("cuda")


def explanations(text: str) -> list[Finding]:
    """What a log says, for those who got it from somewhere else."""
    from generators.ops import diagnose
    from generators.ops.causes import find_cause, first_error

    cause, error = find_cause(text), first_error(text)
    if cause is None:
        cure = "look for the first line with 'error' in it; a report with the whole log is welcome"
        return [diagnose.Finding(diagnose.FAILED, "log", error, "none of the known ones", cure)]
    return [diagnose.Finding(diagnose.FAILED, "log", error, cause.cause, cause.cure)]


def show(finding: Finding) -> str:
    """Print a finding: colored in a terminal, plain in a pipe; returns its mark."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    first, *more = finding.text.splitlines() or [""]
    mark = (finding.mark.ljust(9), COLORS[finding.mark])
    console.print(Text.assemble(mark, (f"{finding.what}: ", "bold"), first), soft_wrap=True)
    for line in [*more, *reasons(finding)]:
        console.print(Text(f"{'':9}{line}"), soft_wrap=True)
    return finding.mark


def reasons(finding: Finding) -> Iterable[str]:
    """Cause and cure, as far as there are any."""
    named = (("cause", finding.cause), ("cure", finding.cure))
    return [f"{name + ':':7}{text}" for name, text in named if text]
