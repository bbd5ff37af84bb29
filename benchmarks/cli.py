"""The command line: every command imports what it needs when it runs, so that listing answers at once."""

from __future__ import annotations

import errno
import importlib
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generators.errors import UserError

from .columns import columns

if TYPE_CHECKING:
    from .runner import Outcome
    from .store import Store
    from .suite import Suite

# Command to the module that has it, imported on demand.
LAZY = {"zoo": ".zoo", "doctor": ".doctor", "status": ".status", "distance": ".distance", "fetch": ".fetch"}
LAZY |= {"predict": ".predict.command"}
LAZY |= {"spread": ".spread"}
LAZY |= {"adapter": ".adapters", "push": ".card"}
LAZY |= {"data": ".data.command", "draw": ".draw", "label": ".label", "compare": ".compare"}
LAZY |= {"verify": ".verify"}
PAPER = "paper"  # what `report` takes beside suites and stores
INTERRUPTED = 130  # exit status of Ctrl-C
USER_ERROR = 2  # exit status of what the user can mend, as of click's own usage errors


class Commands(click.Group):
    """The group of all commands; turns errors into four lines, or one, and an exit status."""

    def list_commands(self, context: click.Context) -> list[str]:
        """All names, also of commands whose module is imported only when it is needed."""
        return [*super().list_commands(context), *LAZY]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """A command by name."""
        if name not in LAZY:
            return super().get_command(context, name)
        command: click.Command = getattr(importlib.import_module(LAZY[name], __package__), name)
        return command

    def invoke(self, context: click.Context) -> Any:
        """Run a command; without --debug no traceback reaches the user."""
        if context.params.get("debug"):
            return super().invoke(context)
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
            sys.exit(INTERRUPTED)
        except UserError as error:
            click.echo(str(error), err=True)
            sys.exit(USER_ERROR)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader has enough, as in `ls models | head`: click knows
            click.echo(f"error: {type(error).__name__}: {error}", err=True)
            click.echo("to see where: run again with --debug (intrinsic-bench --debug ...)", err=True)
            sys.exit(1)


@click.group(cls=Commands)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="intrinsic-bench")
def main(debug: bool) -> None:
    """Ask pretrained image models what they know about a scene."""


def _columns(rows: Iterable[Sequence[str]]) -> None:
    """Print rows with aligned columns, the first row being the heading."""
    click.echo("\n".join(columns(rows)))


@main.group("ls")
def list_() -> None:
    """List models, methods, suites, data sets or predictors."""


@list_.command("models")
def list_models() -> None:
    """Every generator, built in or from a plugin."""
    from generators import registry

    rows = [("name", "takes", "size", "trained", "domain", "title")]
    for spec in registry.specs():
        trained = "-" if spec.trained is None else f"{spec.trained:.0%}"
        rows.append((spec.name, spec.takes, str(spec.resolution), trained, spec.domain, spec.title))
    _columns(rows)
    for name, reason in registry.broken_plugins().items():
        click.echo(f"plugin {name!r} cannot be imported: {reason}", err=True)
    for name, reason in registry.taken_names().items():
        click.echo(f"plugin {name!r}: {reason}", err=True)


@list_.command("methods")
def list_methods() -> None:
    """Every method with its options and their defaults."""
    from probes.methods import METHODS

    rows = [("name", "asks", "title", "options")]
    for name, method in METHODS.items():
        options = " ".join(f"{key}={value}" for key, value in {**method.options, **method.extras}.items())
        rows.append((name, method.needs, method.title + (" (control)" if method.control else ""), options))
    _columns(rows)


@list_.command("suites")
def list_suites() -> None:
    """Every suite that comes with the package."""
    import tomllib

    from .suite import shipped

    texts = {name: tomllib.loads(path.read_text(encoding="utf-8")) for name, path in shipped().items()}
    _columns([("name", "title"), *((name, text["title"]) for name, text in texts.items())])


@list_.command("data")
def list_data() -> None:
    """Every data set, and the families of those that are named with what follows a colon."""
    from .data import DATA, FAMILIES

    rows = [("name", "intrinsics", "splits", "fingerprint", "title")]
    for spec in DATA.values():
        listed = " ".join(spec.intrinsics), " ".join(spec.splits)
        rows.append((spec.name, *listed, spec.fingerprint, spec.title))
    _columns(rows)
    for title in FAMILIES.values():
        click.echo(title)


@list_.command("predictors")
def list_predictors() -> None:
    """Every predictor: what it labels, under which licence, and whether it is on this machine."""
    from .predictors.registry import plugin_lines, rows

    _columns(rows())
    for line in plugin_lines():
        click.echo(line, err=True)


@main.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(name: str, as_json: bool) -> None:
    """Facts about the model NAME, its numbers of parameters among them; or the options of the method NAME.

    No weights are needed.
    """
    from dataclasses import asdict

    from generators import registry
    from probes.methods import METHODS

    if name in METHODS:
        from .explain import explain, explanation

        click.echo(json.dumps(explain(name), indent=1) if as_json else explanation(name))
        return
    spec, module = registry.spec(name), registry.family_module(name)
    counts = module.count(spec) if hasattr(module, "count") else {}
    unknown = {"parameters": None, "lora_parameters": None}
    facts = asdict(spec) | {"weights": registry.identity(name)} | unknown | dict(counts)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        text = f"{value:,}" if isinstance(value, int) and value >= 1000 else value
        click.echo(f"{key:16} {'-' if text is None else text}")


@main.command()
@click.argument("name_or_module")
def check(name_or_module: str) -> None:
    """Check a generator, or every one of a module, against the contract; exit status 1 if it is violated."""
    from generators.testing import check_generator

    violations = check_generator(name_or_module)
    for sentence in violations:
        click.echo(sentence)
    click.echo(
        f"{name_or_module}: " + (f"{len(violations)} violations" if violations else "keeps the contract")
    )
    sys.exit(1 if violations else 0)


_STORE = click.option("--store", metavar="PLACE", help="Folder, or URL, of the records; results/SUITE.")
_ONLY = click.option("--only", metavar="GLOB", help="MODEL/INTRINSIC/METHOD or hash, as in '*/normal/lora'.")
_WORKERS = click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes of one thread each."
)


@main.command()
@click.argument("suite")
@_WORKERS
@_STORE
@_ONLY
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def plan(suite: str, workers: int, store: str | None, only: str | None, as_json: bool) -> None:
    """Show the cells of SUITE (a shipped one, or a TOML file), what is done, expected time and memory."""
    from .plan import plan as make_plan

    made = make_plan(suite, store, workers, only)
    click.echo(made.to_json() if as_json else str(made))


@main.command()
@click.argument("suite")
@click.option(
    "--workers", type=int, help="Cells at once: processes of one thread (1), or Ray tasks (all CPUs)."
)
@_STORE
@_ONLY
@click.option(
    "--overwrite",
    type=click.Choice(["never", "failed", "always"]),
    default="failed",
    show_default=True,
    help="Which records to compute again: none, failed ones, all.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N.")
@click.option("--share", is_flag=True, help="Take over cells that stores beside this one have, as they are.")
@click.option("--report/--no-report", "reported", default=True, help="Whether to print and write the report.")
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="Fail a cell that is silent so long; without it half an hour, or twenty times what is "
    "expected of it if that is longer.",
)
@click.option("--deterministic", is_flag=True, help="The same bits on a GPU, too; slower.")
@click.option("--track", type=click.Choice(["tensorboard", "wandb"]), help="Send losses there, too.")
@click.option("--engine", type=click.Choice(["local", "ray"]), help="This machine (default), or a cluster.")
@click.option("--address", help="Of the Ray cluster; without it, one is begun on this machine.")
@click.option("--gpus-per-cell", type=float, help="With Ray and a CUDA device; 1, or a share as 0.25.")
@click.option("--execute", hidden=True, help="MODULE:FUNCTION that computes a cell, for tests of the runner.")
def run(suite: str, store: str | None, only: str | None, reported: bool, **options: Any) -> None:
    """Compute what SUITE lacks, then print its table and write its report. Run it again to continue.

    Exit status: 0 all is done, 3 some cells failed, 2 something to mend, 130 stopped by Ctrl-C, 143 by
    SIGTERM. `intrinsic-bench status SUITE` tells from another terminal how far it is.
    """
    from .plan import default_store
    from .progress import display
    from .runner import Stopped, run_suite
    from .store import store_at
    from .suite import load_suite

    loaded = load_suite(suite)
    place = store_at(store or default_store(loaded))
    given = {name: value for name, value in options.items() if value is not None}
    try:
        shown = display()
        outcome = run_suite(loaded, place.address, only=only, show=shown, **given)
    except Stopped as stopped:
        click.echo(
            f"stopped ({stopped}); nothing is lost. To continue, run the same command again.", err=True
        )
        sys.exit(stopped.status)
    _summary(loaded, outcome, place)
    if reported:
        place.pull("maps", "samples")
        _report(place.folder)
    sys.exit(outcome.status)


def _summary(suite: Suite, outcome: Outcome, place: Store) -> None:
    """What was computed, and what failed and why."""
    done = len(outcome.records) - len(outcome.failed)
    click.echo(
        f"{suite.name}: {done} done, {len(outcome.failed)} failed, {outcome.computed} of them computed now"
    )
    for record in outcome.failed:
        click.echo(f"failed: {record.cell} (log: {place.log(record.cell)})\n{record.reason}", err=True)
    for owner in sorted(set(outcome.elsewhere.values())):
        click.echo(f"left out: cells that {owner} computes; run again when it has ended", err=True)


def _report(place: Path) -> None:
    """Print the table of a store and write its report."""
    from rich.console import Console

    from .report import open_store, terminal_table, write_report

    console = Console()
    opened = open_store(place)
    console.print(terminal_table(opened, console.width))
    for path in write_report(opened, place / "report"):
        if path.name == "index.html":
            click.echo(f"report: {path}")


def _stores(what: str | None) -> list[Path]:
    """Stores of a suite, a folder, a URL, or all below results/."""
    from .named import named_store
    from .plan import RESULTS
    from .store import store_at

    if what is None:
        return sorted(path.parent for path in RESULTS.glob("*/suite.json"))
    place = store_at(named_store(what))
    place.pull()
    place.pull("maps", "samples")
    return [place.folder] if (place.folder / "suite.json").is_file() else []


@main.command()
@click.argument("suite_or_store", required=False)
@click.option(
    "--readme",
    type=click.Path(path_type=Path, exists=True),
    help="README whose part between <!-- results --> marks is filled with a short table.",
)
def report(suite_or_store: str | None, readme: Path | None) -> None:
    """Write tables, figures and the page of one store, or of all below results/ with their README.md.

    `report paper` writes every table and figure of the paper: measured beside published, and its twin.
    """
    from .named import is_store

    if suite_or_store == PAPER and not is_store(Path(PAPER)):
        _report_paper()
        return
    stores = _stores(suite_or_store)
    if not stores:
        from .state import no_store

        raise no_store(f"report {suite_or_store or ''}".rstrip())
    for place in stores:
        _report(place)
    if readme is not None:
        from .report import fill_front_page

        click.echo(f"filled: {fill_front_page(stores[0], readme)}")
    if suite_or_store is None:
        from .plan import RESULTS
        from .report import write_results_readme

        _report_paper()
        click.echo(f"overview: {write_results_readme(RESULTS)}")


def _report_paper() -> None:
    """Write the paper's tables and figures from what is below results/."""
    from .plan import RESULTS
    from .report.paper import write_paper

    for path in write_paper(RESULTS, RESULTS / PAPER):
        if path.suffix in (".html", ".md", ".tex") and path.stem in ("index", "paper", "README"):
            click.echo(f"{PAPER}: {path}")
