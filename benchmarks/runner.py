"""Running: what is asked, what is missing, who computes it; running again computes what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from generators.errors import UserError, unknown

from .cell import Cell, Record
from .devices import check_device
from .engine import Engine
from .hands import LocalEngine
from .loop import Runner, signals
from .loop import Stopped as Stopped
from .loop import facts_of as facts_of
from .needs import refuse_missing
from .plan import RESULTS, default_store, estimates, select
from .progress import Display, Silent, display
from .store import Store, store_at
from .suite import Suite, load_suite
from .worker import Settings

EXECUTE = Settings.execute
# Which records a run replaces: none; failed ones (the default: a failure is retried); all.
OVERWRITE = ("never", "failed", "always")
ENGINES = ("local", "ray")
SOME_FAILED = 3  # exit status


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        records: of the cells asked for, in their order; without those another machine computes.
        computed: how many cells this run computed, failed ones included.
        elsewhere: cells that runners on other machines have claimed, and who has.
    """

    records: list[Record]
    computed: int = 0
    elsewhere: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[Record]:
        """Records of cells that came to no number."""
        return [record for record in self.records if record.status == "failed"]

    @property
    def status(self) -> int:
        """Exit status: 0 if every cell is done, else SOME_FAILED."""
        return SOME_FAILED if self.failed or self.elsewhere else 0


def _keeps(record: Record | None, overwrite: str) -> bool:
    """Whether what is recorded stays."""
    if record is None or overwrite == "always":
        return False
    return record.status == "done" or overwrite == "never"


def _check(
    workers: int | None = 1,
    overwrite: str = "failed",
    device: str = "cpu",
    engine: str = "local",
    track: str = "",
    timeout: float = 0.0,
    address: str = "",
    gpus_per_cell: float = 1.0,
    **more: Any,
) -> None:
    """Raise UserError for what no run can be asked for."""
    known = compute.__kwdefaults__ or {}
    for name in more:
        if name not in known:
            raise unknown("option", name, known)
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}", "no worker, no work", "at least 1", "--workers 1")
    if overwrite not in OVERWRITE:
        raise unknown("value of --overwrite", overwrite, OVERWRITE, "--overwrite failed")
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES, "--engine local")
    if address and engine == "local":
        raise UserError(
            f"--address {address}", "the engine 'local' is this machine alone", "", "add: --engine ray"
        )
    if gpus_per_cell != 1 and engine == "local":
        wrong = "the engine 'local' has one device for all cells"
        raise UserError(f"--gpus-per-cell {gpus_per_cell:g}", wrong, "", "add: --engine ray")
    if not 0 <= timeout < float("inf"):
        raise UserError(f"--timeout {timeout:g}", "it is no time", "0: judged by each cell", "--timeout 3600")
    if track:
        from .trackers import check as check_track

        check_track(track)
    check_device(device, here=engine == "local")


def _engine(
    name: str, workers: int | None, cells: Sequence[Cell], store: Store, settings: Settings, **options: Any
) -> Engine:
    """Where some cells are computed; raises UserError where that cannot be."""
    if name == "local":
        return LocalEngine(min(workers or 1, len(cells)), store, settings)
    from .cluster import RayEngine

    return RayEngine(cells, store, settings, workers=workers, **options)


def compute(
    cells: Sequence[Cell],
    store: Store,
    *,
    workers: int | None = None,
    overwrite: str = "failed",
    device: str = "cpu",
    execute: str = EXECUTE,
    deterministic: bool = False,
    track: str = "",
    timeout: float = 0.0,
    engine: str = "local",
    address: str = "",
    gpus_per_cell: float = 1.0,
    show: Display | None = None,
) -> Outcome:
    """Compute those of some cells that the store has no record of.

    Args:
        workers: cells at once: processes of one thread each (1), or Ray tasks (as many as the cluster
            takes); the numbers do not depend on it.
        overwrite: "failed" keeps what is done and retries failures; "never" keeps failures too;
            "always" computes everything again.
        device: "cpu", "cuda" or "cuda:N".
        execute: "module:function" that computes a cell, importable in the workers.
        deterministic: bit-identical on a GPU, too, where that is possible at all; slower.
        track: "tensorboard" or "wandb": the losses of every training go there, too.
        timeout: seconds without a sign of life after which a cell has failed; 0: half an hour, or
            twenty times what is expected of the cell.
        engine: "local" for this machine, "ray" for a cluster.
        address: of the cluster, as Ray knows it; "" for a new one on this machine alone.
        gpus_per_cell: with "ray" and a CUDA device.
        show: what the user sees.
    """
    _check(workers, overwrite, device, engine, track, timeout, address, gpus_per_cell)
    settings = Settings(execute, device, deterministic, track, timeout)
    store.prepare()
    before = store.stamps(cells)  # first: what comes later is another runner's
    found = {cell.hash: store.read(cell) for cell in cells}
    missing = [cell for cell in cells if not _keeps(found[cell.hash], overwrite)]
    refuse_missing(missing)
    computed, elsewhere = 0, {}
    if missing:
        expected = estimates(store)
        more: dict[str, Any] = {}
        if engine == "ray":
            more = {"expected": expected, "address": address, "gpus_per_cell": gpus_per_cell}
        place = _engine(engine, workers, missing, store, settings, **more)
        runner = Runner(store, missing, before, place, expected, show or Silent(), settings)
        with signals(runner):
            runner.run()
        computed, elsewhere = runner.computed, runner.elsewhere
    found |= {cell.hash: store.read(cell) for cell in missing}
    records = (found[cell.hash] for cell in cells)
    return Outcome([record for record in records if record], computed, elsewhere)


def open_store(suite: Suite, store: str | Path | None = None) -> Store:
    """The store of a suite, ready to be written; raises UserError if it holds another suite."""
    place = store_at(store or default_store(suite))
    found = place.suite()
    if found is not None and found["name"] != suite.name:
        raise UserError(
            f"suite {suite.name!r} in the store {place.folder}",
            f"the store holds the suite {found['name']!r}",
            "a store belongs to one suite",
            "choose another with --store DIR",
        )
    place.prepare()
    place.write_suite(suite.name, suite.title, suite.question, suite.cells)
    return place


def run_suite(
    suite: Suite,
    store: str | Path | None = None,
    *,
    only: str | None = None,
    share: bool = False,
    **options: Any,
) -> Outcome:
    """Compute a suite; `options` are those of `compute`. Refuses a store that holds another suite.

    Args:
        share: whether cells that a store beside this one has are copied, as they were measured there.
    """
    _check(**options)
    chosen = select(suite.cells, only)
    if not store_at(store or default_store(suite)).folder.exists():
        refuse_missing(chosen)  # before there is a store of nothing
    place = open_store(suite, store)
    if share and options.get("overwrite") != "always":
        for cell in chosen:
            if not place.path(cell).exists():
                place.adopt(cell)
    return compute(chosen, place, **options)


@overload
def run(what: Cell, *, store: str | Path | None = ..., progress: bool = ..., **options: Any) -> Record: ...


@overload
def run(
    what: str | Path | Suite | Sequence[Cell],
    *,
    store: str | Path | None = ...,
    only: str | None = ...,
    progress: bool = ...,
    **options: Any,
) -> list[Record]: ...


def run(
    what: Cell | str | Path | Suite | Sequence[Cell],
    *,
    store: str | Path | None = None,
    only: str | None = None,
    progress: bool = False,
    **options: Any,
) -> Record | list[Record]:
    """Compute a cell, cells or a suite, and return the record or the records.

    What the store has is not computed again. A cell that fails has a record with status "failed" and
    its reason; nothing is raised for it.

    Args:
        what: a Cell (see make_cell), several, a Suite, a shipped suite's name or a TOML file's path.
        store: folder or URL of the records; None for results/NAME of the suite, results/cells for cells.
        only: pattern on MODEL/INTRINSIC/METHOD or hashes, for suites; None for all cells.
        progress: whether to show bars (or lines) on standard error.
        options: those of `compute`.

    Raises UserError for what can be mended (a corrupt record, a full disk, an unknown name), Stopped
    (a KeyboardInterrupt) after a signal.
    """
    options.setdefault("show", display() if progress else Silent())
    if isinstance(what, str | Path | Suite):
        suite = what if isinstance(what, Suite) else load_suite(what)
        return run_suite(suite, store, only=only, **options).records
    cells = select([what] if isinstance(what, Cell) else what, only)
    place = store_at(store or RESULTS / "cells")
    _check(**options)
    place.add_cells(cells)
    outcome = compute(cells, place, **options)
    if isinstance(what, Cell) and not outcome.records:
        owner = outcome.elsewhere.get(what.hash, "another runner")
        todo = "wait for it, then ask again: what is recorded is not computed twice"
        raise UserError(f"compute {what}", f"it is at {owner}", f"store: {place.address}", todo)
    return outcome.records[0] if isinstance(what, Cell) else outcome.records
