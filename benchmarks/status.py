"""`intrinsic-bench status`: how far a run is, who is at work, what failed; its store is all that is read."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from generators.errors import UserError

from .at_work import DEAD, SILENCE, Work
from .columns import columns
from .named import named_store
from .plan import RESULTS, duration
from .state import ALL_DONE, AT_WORK, NOBODY, SOME_FAILED, Reader, State, no_store

EVERY = 5.0  # seconds between two looks of --watch
STILL = 60.0  # seconds without progress after which that is said
SHOWN = 20  # failures, and leftovers, that are named one by one
_WORST = (AT_WORK, NOBODY, SOME_FAILED, ALL_DONE)  # of several stores' exit statuses the first of these


@click.command()
@click.argument("suite_or_store", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON: one object, or a list without an argument.")
@click.option(
    "--watch", is_flag=False, flag_value=str(EVERY), metavar="[SECONDS]",
    help="Look again and again (every 5 seconds) until all is done, or Ctrl-C.",
)  # fmt: skip
def status(suite_or_store: str | None, as_json: bool, watch: str | None) -> None:
    """Tell how far a run is: a suite's, a store's (a folder or URL), or all below results/ as one table.

    Reads the store and writes nothing; the run may be at work, on this machine or others, or dead.

    Exit status: 0 all is done, 3 some cells failed, 4 a run is at work, 5 nobody is at work and cells are
    missing, 2 something to mend.
    """
    suite_or_store, every = _asked(suite_or_store, watch)
    readers = _readers(suite_or_store)
    single = suite_or_store is not None
    if every is not None:
        sys.exit(_watch(readers, every, single, as_json))
    states = [reader.look() for reader in readers]
    if as_json:
        click.echo(_json(states, single))
    else:
        click.echo("\n".join(_text(states, single)))
    sys.exit(worst(states))


def _asked(what: str | None, watch: str | None) -> tuple[str | None, float | None]:
    """The store and the seconds: in `status --watch rooms` what follows the option is the store."""
    if watch is None:
        return what, None
    try:
        every = float(watch)
    except ValueError:
        if what is None:
            return watch, EVERY
        every = -1.0
    if not 0.1 <= every < float("inf"):
        raise UserError(f"--watch {watch}", "no such number of seconds", "at least 0.1", "--watch 5")
    return what, every


def _readers(what: str | None) -> list[Reader]:
    """Readers of stores; raises UserError if there is none."""
    if what is None:
        found = sorted(path.parent for path in RESULTS.glob("*/suite.json"))
        if not found:
            raise no_store(f"status {RESULTS}")
        return [Reader(folder) for folder in found]
    if "://" in what:
        return [_elsewhere(what)]
    return [Reader(Path(named_store(what)))]


def _elsewhere(url: str) -> Reader:
    """The reader of a store at a URL: of its copy on this machine, brought up to date before each look."""
    from .remote import RemoteStore

    store = RemoteStore(url)
    return Reader(store.folder, lambda: store.pull("records", "progress", "claims", "logs"), url)


def worst(states: Iterable[State]) -> int:
    """One exit status of several stores: at work before missing before failed before done."""
    found = {state.exit for state in states}
    return next((status for status in _WORST if status in found), ALL_DONE)


def _json(states: Sequence[State], single: bool) -> str:
    facts: Any = states[0].facts() if single else [state.facts() for state in states]
    return json.dumps(facts, indent=1)


def _text(states: Sequence[State], single: bool) -> list[str]:
    return told(states[0]) if single else overview(states)


# Again and again.


def _watch(readers: Sequence[Reader], every: float, single: bool, as_json: bool) -> int:
    """Look until nothing is left to do or Ctrl-C; the exit status of the last look."""
    states = [reader.look() for reader in readers]
    try:
        if sys.stdout.isatty() and not as_json:
            states = _live(readers, states, every, single)
        else:
            states = _lines(readers, states, every, as_json)
    except KeyboardInterrupt:
        states = [reader.look() for reader in readers]
    return worst(states)


def _left(states: Iterable[State]) -> bool:
    return any(state.exit in (AT_WORK, NOBODY) for state in states)


def _live(readers: Sequence[Reader], states: list[State], every: float, single: bool) -> list[State]:
    """On a terminal: the picture is drawn anew, and the last one stays."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def drawn() -> Text:
        return Text("\n".join(_text(states, single)), no_wrap=True, overflow="ellipsis")

    with Live(drawn(), console=Console(highlight=False), auto_refresh=False) as live:
        while _left(states):
            time.sleep(every)
            states = [reader.look() for reader in readers]
            live.update(drawn(), refresh=True)
    return states


def _lines(readers: Sequence[Reader], states: list[State], every: float, as_json: bool) -> list[State]:
    """In a pipe: a line for each store whenever it has changed, or its JSON in one line."""
    said: dict[str, Any] = {}
    while True:
        for state in states:
            seen = (state.done, state.failed, state.running, state.missing, state.corrupt, state.exit)
            if said.get(state.store) != seen:
                said[state.store] = seen
                click.echo(json.dumps(state.facts()) if as_json else f"{_clock()}  {headline(state)}")
        sys.stdout.flush()
        if not _left(states):
            return states
        time.sleep(every)
        states = [reader.look() for reader in readers]


def _clock() -> str:
    return time.strftime("%H:%M:%S")


# What is told.


def _counts(state: State) -> str:
    """What is not zero of the counts; done and planned always."""
    found = {name: getattr(state, name) for name in ("failed", "running", "missing", "corrupt")}
    rest = [f"{count:,} {name}" for name, count in found.items() if count]
    return ", ".join([f"{state.done:,} of {state.planned:,} done", *rest])


def outlook(state: State) -> str:
    """What happens to a store, in a few words."""
    if state.exit == AT_WORK:
        by = f"{state.workers} at work"
        return f"{by}, about {duration(state.seconds)} to finish" if state.seconds is not None else by
    if state.exit == NOBODY:
        one = f" (about {duration(state.seconds)} with one worker)" if state.seconds else ""
        return f"nobody is at work: run it again, it continues{one}"
    return "some failed: run it again to retry them" if state.failed else "all is done"


def headline(state: State) -> str:
    """A store in one line."""
    share = state.done / state.planned if state.planned else 1.0
    return f"{state.name}: {int(100 * share)} %, {_counts(state)}; {outlook(state)}"


def told(state: State) -> list[str]:
    """Everything about one store, as lines."""
    lines = [headline(state), f"store {state.store}; {_pace(state)}"]
    dead = [work for work in state.works if work.owner == DEAD]
    living = [work for work in state.works if work.owner != DEAD]
    parts = {"at work": _works(living), "was at work": _works(dead), "failed": _failures(state),
             "left behind": _leftovers(state), "corrupt": _broken(state)}  # fmt: skip
    for title, rows in parts.items():
        found = list(rows)
        lines += ["", title, *(f"  {line}" for line in found)] if found else []
    if state.ahead:
        text = "a record is dated {} after now: the clock was set back, or differs between machines"
        lines += ["", text.format(duration(state.ahead))]
    if state.other:
        lines += ["", f"{state.other} records are of cells that the suite does not plan (any more)"]
    return lines


def _pace(state: State) -> str:
    if state.last is None:
        return "no record yet"
    if state.copied:
        return "read from its copy on this machine"
    return f"{state.last_hour} records in the last hour, the last one {duration(state.last)} ago"


def _works(works: Sequence[Work]) -> Iterator[str]:
    if not works:
        return iter(())
    heading = ("model", "intrinsic", "method", "seed", "share", "phase", "running", "process")
    return columns([heading, *map(_work, works)])


def _work(work: Work) -> tuple[str, ...]:
    share = "-" if work.share is None else f"{work.share:.0%}"
    running = "-" if work.running is None else duration(work.running)
    seed = "-" if work.seed is None else str(work.seed)
    names = (work.model or work.hash, work.intrinsic or "-", work.method or "-", seed)
    process = f"{work.pid or '?'} on {work.host or '?'}, {_life(work)}"
    return (*names, share, work.phase or "-", running, process)


def _life(work: Work) -> str:
    """What is known of a process's life."""
    if work.owner == DEAD:
        return "dead: run again, it continues"
    if work.silent is None:
        return work.owner
    if work.silent > SILENCE:
        return f"{work.owner}: no sign of life for {duration(work.silent)}"
    if work.still is not None and work.still > STILL:
        return f"{work.owner}, no progress for {duration(work.still)}"
    return f"{work.owner}, heard of {duration(work.silent)} ago"


def _failures(state: State) -> Iterator[str]:
    for failure in state.failures[:SHOWN]:
        log = f" (log: {failure.log})" if failure.log else ""
        yield f"{failure.cell}: {failure.reason}{log}"
    yield from _more(len(state.failures))


def _leftovers(state: State) -> Iterator[str]:
    for left in state.leftovers[:SHOWN]:
        why = "its writer is dead: the next run takes it away" if left.owner == DEAD else (
            f"of another machine, {left.days:.0f} days old")  # fmt: skip
        yield f"{left.path}: {why}"
    yield from _more(len(state.leftovers))


def _broken(state: State) -> Iterator[str]:
    for name, why in list(state.broken.items())[:SHOWN]:
        yield f"{Path(state.store) / 'records' / name}.json: {why}"
    yield from _more(len(state.broken))


def _more(count: int) -> Iterator[str]:
    if count > SHOWN:
        yield f"and {count - SHOWN} more: --json names all"


def overview(states: Sequence[State]) -> list[str]:
    """Several stores as one table."""
    heading = ("store", "planned", "done", "failed", "running", "missing", "corrupt", "last record", "state")
    rows = [heading, *map(_row, states)]
    return list(columns(rows))


def _row(state: State) -> tuple[str, ...]:
    counts = (state.planned, state.done, state.failed, state.running, state.missing, state.corrupt)
    last = "-" if state.last is None else f"{duration(state.last)} ago"
    return (state.store, *(f"{n:,}" if n else "-" for n in counts), last, outlook(state))
