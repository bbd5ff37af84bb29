"""`intrinsic-bench verify`: some cells of a store computed again from nothing, beside what it says."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

import click

from generators.errors import UserError

from .cell import Record
from .columns import columns
from .metrics import primary_metric

if TYPE_CHECKING:
    from .progress import Display
    from .store import Store

IDENTICAL, CLOSE, APART, FAILED = "identical", "within", "apart", "failed"
STATUS = {IDENTICAL: 0, CLOSE: 0, APART: 1, FAILED: 3}
KEPT = ("ops", "weights", "data")  # folders of the cache that hold no result: it is compiled, or was fetched


@dataclass(frozen=True)
class Verdict:
    """A record and what came of its cell now.

    Attributes:
        kind: IDENTICAL (every score of every picture), CLOSE (the one that stands for the intrinsic is no
            farther than the tolerance), APART or FAILED.
        metric: that one; share: how far it is from what it was, of what it was.
        before, after: its values; NaN where there is none.
    """

    record: Record
    kind: str
    metric: str = ""
    share: float = nan
    before: float = nan
    after: float = nan
    reason: str = ""


def judge(before: Record, after: Record | None, tolerance: float) -> Verdict:
    """Two records of one cell.

    Args:
        after: None if none came of it.
        tolerance: share of a score by which it may differ.
    """
    if after is None:
        return Verdict(before, FAILED, reason="it was not computed: another runner is at it, see --keep")
    if after.status != "done":
        return Verdict(before, FAILED, reason=after.reason)
    if before.scores.keys() != after.scores.keys():
        names = ", ".join(sorted(before.scores.keys() ^ after.scores.keys()))
        return Verdict(before, APART, reason=f"not both have the scores {names}")
    metric = primary_metric(before.cell.intrinsic).name
    was, now = before.scores.get(metric, nan), after.scores.get(metric, nan)
    share = abs(now - was) / abs(was) if was else abs(now)
    pictures = [{k: list(v) for k, v in record.per_image.items()} for record in (before, after)]
    same = before.scores == after.scores and pictures[0] == pictures[1]
    kind = IDENTICAL if same else CLOSE if share <= tolerance else APART
    return Verdict(before, kind, metric, share, was, now)


def choose(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """So many records by chance, every method and family of models as often as any other, if there are."""
    chance = random.Random(f"verify {seed}")
    kinds: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda r: r.cell.hash):
        kinds.setdefault((record.cell.method, record.cell.model.split(".")[0]), []).append(record)
    waiting = [chance.sample(each, len(each)) for each in kinds.values()]
    chance.shuffle(waiting)
    found: list[Record] = []
    while waiting and len(found) < count:
        found += [each.pop() for each in waiting][: count - len(found)]
        waiting = [each for each in waiting if each]
    return found


@contextmanager
def _from_nothing(place: Path) -> Iterator[Store]:
    """A store without records beside a cache without entries, but for what is compiled or was fetched."""
    from .cache import VARIABLE, cache_folder
    from .store import Store

    fresh, before = place / "cache", os.environ.get(VARIABLE)
    fresh.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        there, link = cache_folder() / name, fresh / name
        if link.is_symlink() and not link.exists():  # that cache is gone
            link.unlink()
        if there.is_dir() and not link.exists():
            link.symlink_to(there.resolve())
    os.environ[VARIABLE] = str(fresh)
    try:
        yield Store(place / "store")
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def verify_records(
    records: Sequence[Record], place: Path, tolerance: float, show: Display | None = None, **options: object
) -> list[Verdict]:
    """Compute the cells of records again and judge them.

    Args:
        place: folder of what is computed; what it has is not computed again.
        options: those of benchmarks.runner.compute.
    """
    from .runner import compute

    with _from_nothing(place) as store:
        cells = [record.cell for record in records]
        store.add_cells(cells)
        after = compute(cells, store, show=show, **options).records  # type: ignore[arg-type]
    now = {record.cell.hash: record for record in after}
    return [judge(record, now.get(record.cell.hash), tolerance) for record in records]


def _done(where: str, only: str | None) -> list[Record]:
    """Records with scores of a suite's store, a folder or a URL; raises UserError if there are none."""
    from .named import named_store
    from .plan import select
    from .report.reading import read_store
    from .store import store_at

    place = store_at(named_store(where))
    place.pull()
    done = {record.cell.hash: record for record in read_store(place.folder).done}
    if not done:
        todo = f"intrinsic-bench run {where}"
        raise UserError(f"verify {where}", "no record of it has scores", str(place.folder), todo)
    return [done[cell.hash] for cell in select([record.cell for record in done.values()], only)]


@click.command()
@click.argument("suite_or_store")
@click.option("--cells", default=12, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--only", metavar="GLOB", help="MODEL/INTRINSIC/METHOD or hash, as in '*/normal/lora'.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of cells.")
@click.option("--workers", default=1, show_default=True, help="Processes of one thread each.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:N.")
@click.option(
    "--tolerance", default=0.02, show_default=True, type=click.FloatRange(0), help="Share of a score."
)
@click.option("--keep", type=click.Path(path_type=Path), help="Folder of what is computed, to continue.")
@click.option("--execute", hidden=True, help="MODULE:FUNCTION that computes a cell, for tests.")
def verify(
    suite_or_store: str,
    cells: int,
    only: str | None,
    seed: int,
    tolerance: float,
    keep: Path | None,
    execute: str | None,
    workers: int,
    device: str,
) -> None:
    """Compute some cells of SUITE_OR_STORE again, with an empty cache, and tell how far the scores moved.

    Cells are chosen by chance, from all methods and families of models alike. The store is only read.

    Exit status: 0 all are identical or within the tolerance, 1 some are not, 3 some failed, 2 something to
    mend.
    """
    from .devices import check_device
    from .progress import display
    from .runner import Stopped

    check_device(device)
    records = choose(_done(suite_or_store, only), cells, seed)
    options = {"workers": workers, "device": device} | ({"execute": execute} if execute else {})
    try:
        with tempfile.TemporaryDirectory(prefix="intrinsic-bench-verify-") as own:
            found = verify_records(records, keep or Path(own), tolerance, display(), **options)
    except Stopped as stopped:
        more = f"continue with: --keep {keep}" if keep else "with --keep DIR, it could be continued"
        click.echo(f"stopped ({stopped}); the store is as it was; {more}", err=True)
        sys.exit(stopped.status)
    click.echo("\n".join(told(found, tolerance)))
    sys.exit(max(STATUS[verdict.kind] for verdict in found))


def told(found: Sequence[Verdict], tolerance: float) -> Iterator[str]:
    """A line for every verdict, one that sums them up, and one for the machines they were measured on."""
    rows = [("cell", "hash", "", "score", "was", "is", "moved by")]
    for each in found:
        numbers = (each.reason.splitlines() or [""])[0][:80], "", "", ""
        if not each.reason:
            moved = "0" if each.kind == IDENTICAL else f"{100 * each.share:.1g} %"
            numbers = each.metric, f"{each.before:.6g}", f"{each.after:.6g}", moved
        rows.append((str(each.record.cell), each.record.cell.hash, each.kind, *numbers))
    yield from columns(rows)
    counts = {kind: sum(each.kind == kind for each in found) for kind in STATUS}
    meaning = {IDENTICAL: "identical", CLOSE: f"within {tolerance:.2%}", APART: "apart", FAILED: "failed"}
    yield ", ".join(f"{count} {meaning[kind]}" for kind, count in counts.items() if count)
    from .execute import environment

    names = ("device", "torch")
    then = {tuple(str(each.record.environment.get(name)) for name in names) for each in found}
    now = environment("cpu")
    yield f"measured on {'; '.join(', '.join(each) for each in sorted(then))}"
    yield f"now on {', '.join(str(now.get(name)) for name in names)}"
