"""`intrinsic-bench fetch`: published weights onto this machine, with their licence shown first."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from generators.errors import UserError, unknown

if TYPE_CHECKING:
    from generators.base import GeneratorSpec
    from generators.checkpoints.transfer import Progress
    from generators.sources import Source

INTERRUPTED = 130  # exit status of Ctrl-C
DIODE = "diode."  # what the names of that data set's archives begin with
STEP = 10  # per cent between two lines, where there is no terminal for a bar


@click.command()
@click.argument("name", required=False)
@click.option("--accept-licence", "--accept-license", is_flag=True, help="Accept the licence that is shown.")
@click.option("--from", "path", type=click.Path(path_type=Path), help="Copy a local file instead.")
@click.option("--list", "listed", is_flag=True, help="Show what can be fetched, how large it is, its state.")
@click.option("--only", default="", help="Of a data set: unpack these paths, as in 'indoors/scene_00019/*'.")
def fetch(name: str | None, accept_licence: bool, path: Path | None, listed: bool, only: str) -> None:
    """Fetch the weights of the model NAME, or a part of a data set; run it again to continue what broke off.

    Exit status: 0 it is there, 2 something to mend, 130 stopped by Ctrl-C.
    """
    if listed:
        _list()
    elif name is None:
        raise UserError(
            "fetch", "no model is named", "what there is: intrinsic-bench fetch --list", "name one"
        )
    elif name.startswith(DIODE):
        _fetch_archive(name, path, only)
    elif only:
        raise UserError(f"fetch {name} --only {only!r}", "this is for the archives of data sets", f"{DIODE}*")
    else:
        _fetch(name, accept_licence, path)


def _fetch_archive(name: str, path: Path | None, only: str) -> None:
    from benchmarks.data.diode.archives import archive_of
    from benchmarks.data.diode.archives import fetch as fetch_archive

    archive = archive_of(name)
    with _stopping(name), _progress(name) as progress:
        found = fetch_archive(archive, from_path=path, only=only, progress=progress, say=_say)
    click.echo(str(found))


def _fetch(name: str, accept_licence: bool, path: Path | None) -> None:
    from generators import registry
    from generators.sources import SOURCES, source_of

    if name in SOURCES:
        _fetch_file(name, SOURCES[name], accept_licence, path)
        return
    from benchmarks.predictors.registry import PREDICTORS

    if name in PREDICTORS:
        _fetch_predictor(name, accept_licence, path)
        return
    spec = _spec(name)
    if spec.embedded:
        click.echo(f"{name}: nothing to fetch: its weights come with this package ({spec.licence})")
    elif hasattr(registry.family_module(name), "hub_folder"):
        _fetch_folder(spec, path)
    else:
        _fetch_file(name, source_of(spec), accept_licence, path)


def _fetch_predictor(name: str, accept_licence: bool, path: Path | None) -> None:
    from benchmarks.predictors.fetching import fetch_predictor

    with _stopping(name):
        found = fetch_predictor(name, accept_licence, path, _say)
    click.echo(str(found) if found else f"{name}: nothing to fetch: its weights come with this package")


def _spec(name: str) -> GeneratorSpec:
    """A registered model; for a name nobody knows the error also lists what only has a source."""
    from benchmarks.predictors.registry import PREDICTORS, refuse_broken
    from generators import registry
    from generators.sources import SOURCES

    names = {s.name: s for s in registry.specs()}
    if name not in names and name.split(".")[0] not in registry.broken_plugins():
        refuse_broken(name)
        raise unknown(
            "model", name, dict.fromkeys([*SOURCES, *PREDICTORS, *names]), "see: intrinsic-bench fetch --list"
        )
    return registry.spec(name)


def _fetch_file(name: str, source: Source, accept_licence: bool, path: Path | None) -> None:
    from generators.checkpoints.download import fetch as fetch_file
    from generators.checkpoints.download import provenance, weights_folder

    with _stopping(name), _progress(name) as progress:
        found = fetch_file(
            name, source, accept_licence=accept_licence, from_path=path, progress=progress, say=_say
        )
    click.echo(str(found))
    if found.parent == weights_folder():
        said = provenance(found)
        _say(f"sha256 {said['sha256']} ({said['hash']})")


def _fetch_folder(spec: GeneratorSpec, path: Path | None) -> None:
    """A folder, by the client of the hub, which has its own cache, bars and checks."""
    from generators import registry
    from generators.hub import WEIGHTS_VARIABLE, local_folder

    if path is not None:
        raise UserError(
            f"fetch {spec.name} --from {path}",
            "this model is a folder, which is used where it is",
            f"licence {spec.licence}",
            f"set {WEIGHTS_VARIABLE} to the folder that holds it under the name {spec.name}/",
        )
    if local_folder(spec) is None:
        _say(f"{spec.name}: licence: {spec.licence}\nfrom hub:{spec.source}")
    with _stopping(spec.name):
        click.echo(str(registry.family_module(spec.name).hub_folder(spec)))


def _say(text: str) -> None:
    """What goes on; only the path of the weights goes to standard output."""
    click.echo(text, err=True)


@contextmanager
def _stopping(name: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _say(f"stopped; what came is kept. To continue, run again: intrinsic-bench fetch {name}")
        sys.exit(INTERRUPTED)


@contextmanager
def _progress(name: str) -> Iterator[Progress]:
    """A bar on a terminal, a line per ten per cent elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn(name),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """One line whenever another tenth is there; of a file of unknown size one per 100 MB."""

    def __init__(self) -> None:
        self.last = -1

    def __call__(self, done: int, total: int | None) -> None:
        """Bytes there, bytes in all or None."""
        from generators.checkpoints.transfer import megabytes

        mark = done * 100 // total // STEP if total else done // 100_000_000
        if mark == self.last:
            return
        self.last = mark
        share = f"{mark * STEP:3} %, " if total else ""
        _say(f"{share}{megabytes(done)}" + (f" of {megabytes(total)}" if total else ""))


def _list() -> None:
    from generators import registry
    from generators.checkpoints.transfer import megabytes
    from generators.sources import SOURCES

    from .needs import model_need

    rows = [("name", "size", "licence", "--accept-licence", "state")]
    for name, source in SOURCES.items():
        needed = "needed" if source.non_commercial else "-"
        rows.append((name, megabytes(source.bytes), source.licence, needed, _state(name, source)))
    for spec in registry.specs():
        if not spec.embedded and spec.name not in SOURCES:
            need = model_need(spec.name)
            size = megabytes(need.bytes if need else None)
            rows.append((spec.name, size, spec.licence, "-", _state_of_other(spec)))
    from benchmarks.data.diode.archives import rows as archives
    from benchmarks.predictors.fetching import rows as predictors

    rows += [*predictors(), *archives()]
    _print(rows)
    click.echo("all other models come with this package")


def _print(rows: Sequence[Sequence[str]]) -> None:
    from .cli import _columns

    _columns(rows)


def _state(name: str, source: Source) -> str:
    from generators.checkpoints.download import fetched_path, own_path, part_bytes, provenance
    from generators.checkpoints.transfer import megabytes

    own, fetched = own_path(name), fetched_path(name)
    if own is not None:
        return f"your own: {own}"
    if fetched is not None:
        said = provenance(fetched)
        return "fetched" if said.get("verified") else "fetched, unverified"
    if part_bytes(name):
        return f"begun, {megabytes(part_bytes(name))}"
    return "not here" if source.urls or source.mirrors else "not here, needs --from PATH"


def _state_of_other(spec: GeneratorSpec) -> str:
    """Of a model that is a hub's folder, or of a plugin."""
    from generators import registry
    from generators.checkpoints.download import own_path
    from generators.sources import source_of

    module = registry.family_module(spec.name)
    if not hasattr(module, "on_machine"):
        try:
            return _state(spec.name, source_of(spec))
        except UserError:
            return "its plugin knows"
    if own_path(spec.name) is not None:
        return f"your own: {own_path(spec.name)}"
    return "fetched, in the hub's cache" if module.on_machine(spec) else "not here"
