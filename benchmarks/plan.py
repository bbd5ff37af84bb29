"""What a run would do, and for how long, before anything is loaded."""

from __future__ import annotations

import heapq
import json
import math
import os
from bisect import insort
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from generators import registry
from generators.errors import UserError

from .cell import NO_MODEL, Cell, canonical
from .costs import duration as duration
from .costs import gpu_text
from .glance import Glance, glance, record_files
from .needs import Need, all_needs, shortages, size_text
from .store import Store, corrupt, store_at
from .suite import Suite, load_suite

RESULTS = Path("results")  # default stores are below it, relative to where the command is run


@dataclass(frozen=True)
class Cost:
    """A rough expectation for an embedded 64x64 model on one thread of a common CPU.

    Attributes:
        fixed: seconds whatever the options: loading, encoding pictures, scoring.
        step: seconds per optimizer step of 16 pictures, or per sample and sampler step.
        memory: peak of a worker, megabytes.
    """

    fixed: float
    step: float
    memory: int


# A first guess; every record in this store, or in one beside it, corrects it.
COSTS: Mapping[str, Cost] = {
    "lora": Cost(4, 0.15, 1100),
    "linear": Cost(4, 0, 1200),
    "finetune": Cost(4, 0.19, 1200),
    "latent_offset": Cost(4, 0.2, 1100),
    "sdedit": Cost(4, 0.15, 1100),
    "textual_inversion": Cost(4, 0.15, 1100),
    "visii": Cost(4, 0.15, 1100),
    "instruct_pix2pix": Cost(4, 0, 1100),
    "ceiling": Cost(3, 0, 900),
    "constant": Cost(2, 0, 700),
    "pixels": Cost(5, 0, 900),
    "supervised": Cost(5, 0, 900),
    "frechet": Cost(5, 0.01, 1000),
}
_OTHER = Cost(10, 0.15, 1200)
PIXEL = 40  # bytes held of each pixel: picture, map, prediction in float32, and masks
HELD = 1000 * 64**2  # pixels whose memory is in the costs of cells measured on rooms
MANY = 32  # measurements at once from which on sorting all is quicker than putting each in place
BESIDE = 2000  # records that are learned from of each store beside the one that is planned for
SAMPLED = 0.008  # seconds of an embedded UNet's one evaluation of one picture


def _area(cell: Cell) -> float:
    """How many times more pixels a model makes than an embedded one."""
    side = cell.size if cell.model == NO_MODEL else registry.spec(cell.model).resolution
    return (side / 64) ** 2


def guess(cell: Cell) -> float:
    """Seconds by the table of costs alone."""
    cost, options = COSTS.get(cell.method, _OTHER), cell.options
    if "samples" in options:
        # A model without diffusion draws a picture in one step.
        steps = options["samples"] * (options["steps"] if registry.spec(cell.model).diffusion_steps else 1)
    else:
        steps = options.get("steps", 0) * options.get("batch", 16) / 16
    # A model that samples: two branches of the network for each step of each picture it is scored on.
    sampled = 2 * options.get("sampler_steps", 0) * (cell.validation + cell.test)
    return (cost.fixed + cost.step * steps + SAMPLED * sampled) * max(_area(cell), 0.25)


def held(cell: Cell) -> float:
    """Megabytes of pictures, maps and predictions a cell holds beyond those of a small cell on rooms."""
    from probes.methods import method

    from .data import DATA

    asked, side = method(cell.method), cell.test_size or cell.size
    # Of large data sets a model's training pictures are kept as codes: see session.in_parts.
    together = cell.model == NO_MODEL or cell.asked_of("train")[0] in DATA
    train = cell.train if asked.trains and together else 0
    pixels = (train + cell.validation * asked.trains) * cell.size**2 + cell.test * side**2
    return max(0.0, pixels - HELD) * PIXEL / 1e6


def _keys(cell: Cell) -> tuple[tuple[str, ...], ...]:
    """What a measurement says something about, the most telling first."""
    return (cell.model, cell.method), (cell.method,), ()


class Estimates:
    """Expected seconds and memory of cells: the table's, times the median ratio of what was measured."""

    def __init__(self) -> None:
        self._ratios: dict[tuple[str, ...], list[float]] = defaultdict(list)  # sorted, but for the newest
        self._newest: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self._memory: dict[tuple[str, ...], float] = {}

    def learn(self, cell: Cell, measured: float, memory: float | None = None) -> None:
        """Take in what a cell took, in seconds and megabytes."""
        ratio = measured / guess(cell)
        for key in _keys(cell):
            if measured > 0:
                self._newest[key].append(ratio)
            if memory and key:
                self._memory[key] = max(memory, self._memory.get(key, 0.0))

    def seconds(self, cell: Cell) -> float:
        """Expected seconds of a cell on one thread; the same for cells of one model, method and guess."""
        found = next((self._sorted(key) for key in _keys(cell) if key in self._newest), [1.0])
        middle = len(found) // 2
        return guess(cell) * (found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2)

    def _sorted(self, key: tuple[str, ...]) -> list[float]:
        """All ratios of a key: few new ones are put in place, of many all are sorted."""
        ratios, newest = self._ratios[key], self._newest[key]
        if len(newest) > MANY:
            ratios.extend(newest)
            ratios.sort()
        else:
            for ratio in newest:
                insort(ratios, ratio)
        newest.clear()
        return ratios

    def memory(self, cell: Cell) -> float:
        """Expected peak of a worker on a cell, megabytes."""
        same, *others = (self._memory.get(key) for key in _keys(cell))
        if same:
            return same + held(cell)
        found = next((value for value in others if value), COSTS.get(cell.method, _OTHER).memory)
        return found * max(1.0, _area(cell) / 8) + held(cell)


Known = Mapping[str, Cell]  # hash -> cell


def _learn(learned: Estimates, seen: Glance, models: Collection[str], cells: Known) -> None:
    """Take in one finished record of a model that is known here."""
    if seen.status == "done" and seen.facts.get("model") in models:
        learned.learn(cells.get(seen.hash) or Cell(**seen.facts), seen.seconds, seen.memory)


def _own(store: Store, learned: Estimates, cells: Known) -> dict[str, str]:
    """Hash -> status of those of some cells that a store has a record of, each read once.

    Raises UserError at a corrupt one of these; one of another cell only makes the estimate poorer.
    """
    found, models = {}, _models()
    for path in record_files(store.records):
        name = os.path.basename(path).removesuffix(".json")
        cell = cells.get(name)
        try:
            seen = glance(path, cell.facts() if cell else None)
        except (ValueError, OSError) as error:
            if cell is not None and not isinstance(error, FileNotFoundError):
                raise corrupt(Path(path), str(error)) from error
            continue
        _learn(learned, seen, models, cells)
        if cell is not None:
            found[name] = seen.status
    return found


def _models() -> set[str]:
    return {spec.name for spec in registry.specs()} | {NO_MODEL}


def _beside(store: Store, learned: Estimates) -> None:
    """Learn of the stores beside one: of each the first BESIDE records, by hash and so of any kind.

    A record that cannot be read only makes the estimate poorer: it is left out.
    """
    models = _models()
    for folder in sorted(store.folder.parent.glob("*/records")):
        if folder.parent.name == store.folder.name:
            continue
        for path in record_files(folder)[:BESIDE]:
            try:
                _learn(learned, glance(path), models, {})
            except (ValueError, OSError):
                continue


def estimates(store: Store, cells: Iterable[Cell] = ()) -> Estimates:
    """Expectations corrected by the records of a store and of those beside it; see `_own` for errors."""
    learned = Estimates()
    _own(store, learned, {cell.hash: cell for cell in cells})
    _beside(store, learned)
    return learned


def shared_training(cell: Cell) -> str:
    """What cells that share one training have in common; "" of a cell that shares none.

    They differ in how a trained model samples alone: see probes.fit.train_or_recall.
    """
    from probes.methods import method

    asks = registry.spec(cell.model).asks if cell.model != NO_MODEL else {}
    if not asks or not method(cell.method).forwards:
        return ""
    options = {name: value for name, value in cell.options.items() if name not in asks}
    return canonical(cell.facts() | {"options": options, "test": 0, "test_size": 0})


class Queue:
    """Cells still to do, handed out so that a worker stays with one model as long as it has cells.

    Args:
        expected: seconds of a cell: the same for all cells of one model, method and `guess`, as Estimates
            says; so it is asked of one cell of each such kind only, however many there are.
    """

    def __init__(self, cells: Iterable[Cell], expected: Callable[[Cell], float]) -> None:
        self._groups: dict[str, deque[Cell]] = defaultdict(deque)
        self._kinds: dict[str, dict[tuple[str, float], list[Any]]] = defaultdict(dict)  # [one cell, how many]
        self._expected = expected
        for cell in cells:
            self.put_back(cell)

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def cells(self) -> list[Cell]:
        """What is left."""
        return [cell for group in self._groups.values() for cell in group]

    def seconds(self) -> float:
        """Expected of all that is left, one after the other."""
        return math.fsum(self._seconds(model) for model in self._groups)

    def take(
        self, model: str | None, busy: Sequence[str] = (), training: Collection[str] = ()
    ) -> Cell | None:
        """Next cell for a worker that has a model loaded while others are busy with theirs.

        Args:
            training: shared trainings that others are at; None is given where only their cells are left.
        """
        for name in self._order(model, busy):
            group = self._groups.get(name, ())
            for place, cell in enumerate(group):
                if not training or shared_training(cell) not in training:
                    del self._groups[name][place]
                    self._kinds[name][cell.method, guess(cell)][1] -= 1
                    return cell
        return None

    def put_back(self, cell: Cell) -> None:
        """Return a cell to the end of its model's."""
        self._groups[cell.model].append(cell)
        self._kinds[cell.model].setdefault((cell.method, guess(cell)), [cell, 0])[1] += 1

    def _order(self, model: str | None, busy: Sequence[str]) -> Iterator[str]:
        """Models to take from: its own, the one with most work nobody is at, the one with most, any."""
        if model:
            yield model
        yield from filter(None, (self._largest(busy), self._largest(())))
        yield from self._groups

    def _largest(self, without: Sequence[str]) -> str | None:
        left = {m: self._seconds(m) for m, g in self._groups.items() if g and m not in without}
        return max(left, key=left.__getitem__) if left else None

    def _seconds(self, model: str) -> float:
        return math.fsum(n * self._expected(cell) for cell, n in self._kinds[model].values() if n)


def makespan(cells: Iterable[Cell], expected: Callable[[Cell], float], workers: int) -> float:
    """Seconds until all cells are done by some workers, each taking cells as the runner hands them out."""
    queue = Queue(cells, expected)
    idle: list[tuple[float, int, str]] = [(0.0, worker, "") for worker in range(workers)]
    end = 0.0
    while queue:
        now, worker, model = heapq.heappop(idle)
        cell = queue.take(model, [m for _, _, m in idle])
        if cell is None:
            break
        done = now + expected(cell)
        end = max(end, done)
        heapq.heappush(idle, (done, worker, cell.model))
    return end


def select(cells: Sequence[Cell], only: str | None) -> list[Cell]:
    """Cells whose "model/intrinsic/method" or hash matches a pattern; raises UserError if none does."""
    if only is None:
        return list(cells)
    names = {cell.hash: f"{cell.model}/{cell.intrinsic}/{cell.method}" for cell in cells}
    found = [c for c in cells if fnmatchcase(names[c.hash], only) or fnmatchcase(c.hash, only)]
    if not found:
        some = ", ".join(list(dict.fromkeys(names.values()))[:5])
        todo = "match MODEL/INTRINSIC/METHOD or a hash, as in --only '*/normal/lora'"
        raise UserError(f"--only {only}", "it matches no cell", f"for example: {some}", todo)
    return found


def changed_options(cell: Cell) -> str:
    """The options of a cell that differ from the method's defaults, as text."""
    from probes.methods import method

    asked = method(cell.method)
    asks = {} if cell.model == NO_MODEL else registry.spec(cell.model).asks
    defaults = {**asks, **asked.extras, **asked.options}
    return " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}"
                    for k, v in cell.options.items() if v != defaults[k])  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One cell of a plan: status "done", "failed" or "missing"; expected seconds and megabytes."""

    cell: Cell
    status: str
    seconds: float
    memory: float


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes:
        name: of the suite.
        store: where records are, and are going to be.
        workers: how many processes the time is for.
        rows: every cell of the suite, in its order.
        seconds: expected until all that is not done is done, with this many workers.
        memory: expected of all workers together at the most, megabytes.
        needs: what the cells need that does not come with the package.
        short: what data sets have too few pictures for.
    """

    name: str
    store: Path
    workers: int
    rows: tuple[Row, ...]
    seconds: float
    memory: float
    needs: tuple[Need, ...] = ()
    short: tuple[str, ...] = ()

    def count(self, status: str) -> int:
        """Number of cells of one status."""
        return sum(row.status == status for row in self.rows)

    def to_json(self) -> str:
        """The plan as JSON text."""
        rows = [asdict(row) | {"hash": row.cell.hash, "cell": json.loads(canonical(row.cell.facts()))}
                for row in self.rows]  # fmt: skip
        return json.dumps(asdict(self) | {"store": str(self.store), "rows": rows}, indent=1)

    def __str__(self) -> str:
        lines = [
            f"{row.status:8}{row.cell.hash}  {row.seconds:6.0f} s {row.memory:6.0f} MB  "
            + f"{row.cell}  {row.cell.train} pictures  {changed_options(row.cell)}".rstrip()
            for row in self.rows
        ]
        counts = ", ".join(f"{self.count(status)} {status}" for status in ("done", "failed", "missing"))
        return "\n".join(
            [
                *lines,
                *map(str, self.needs),
                *self._missing(),
                *(f"too few pictures: {short}" for short in self.short),
                f"{len(self.rows)} cells: {counts}; store {self.store}",
                f"to do: about {duration(self.seconds)} with {self.workers} worker"
                f"{'s' if self.workers > 1 else ''} of one CPU thread, {self.memory / 1000:.1f} GB of memory",
                *filter(None, [gpu_text((r.cell for r in self.rows if r.status != "done"), shared_training)]),
            ]
        )

    def _missing(self) -> list[str]:
        """What has to be fetched first, and how much that is."""
        missing = [need for need in self.needs if not need.here]
        if not missing:
            return []
        known = sum(need.bytes or 0 for need in missing)
        unknown_size = sum(need.bytes is None for need in missing)
        more = f" and {unknown_size} of unknown size" if unknown_size else ""
        return [
            f"to fetch: {size_text(known)}{more}, then run; until then `run` refuses:",
            *(f"  {command}" for command in dict.fromkeys(need.command for need in missing)),
        ]


def default_store(suite: Suite) -> Path:
    """Where the records of a suite go unless told otherwise; raises UserError if another suite's go there."""
    suite.check_name()
    return RESULTS / suite.name


def plan(
    suite: str | Path | Suite, store: str | Path | None = None, workers: int = 1, only: str | None = None
) -> Plan:
    """Every cell of a suite with its status and expected cost; nothing is loaded, torch not imported.

    Args:
        suite: a shipped suite's name, the path of a TOML file, or a Suite.
        store: folder of the records; None for results/NAME.
        workers: processes to plan for.
        only: pattern on MODEL/INTRINSIC/METHOD or hashes; None for all cells.
    """
    loaded = suite if isinstance(suite, Suite) else load_suite(suite)
    place, learned = store_at(store or default_store(loaded)), Estimates()
    place.pull()
    cells = select(loaded.cells, only)
    recorded = _own(place, learned, {cell.hash: cell for cell in cells})
    _beside(place, learned)
    rows = [Row(c, recorded.get(c.hash, "missing"), learned.seconds(c), learned.memory(c)) for c in cells]
    left = [row.cell for row in rows if row.status != "done"]
    needed = sorted((row.memory for row in rows if row.status != "done"), reverse=True)[:workers]
    time = makespan(left, learned.seconds, workers)
    found, short = all_needs(cells), shortages(cells)
    return Plan(loaded.name, place.folder, workers, tuple(rows), time, sum(needed), found, short)
