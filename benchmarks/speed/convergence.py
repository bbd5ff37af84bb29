"""How many steps LoRA needs: validation errors against steps, batch and learning rate, one model a family.

`python -m benchmarks.speed.convergence` trains what its table does not hold yet, one row after the other,
and stops after so many minutes of processor time; run again, it goes on. Every run has its own schedule,
warm-up to zero. A run of the most steps is looked at on its way, too: rows whose `at` is below `steps`. What
is enough is said from the table alone: the fewest pictures seen whose error is within a tolerance of the best
run of the most steps.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch

from benchmarks.cache import Cache, cache_folder
from benchmarks.cell import Cell
from benchmarks.execute import Clock, make_task
from benchmarks.files import atomic
from benchmarks.report.picture import COLORS, MARKERS, panels, save, style
from benchmarks.session import Session
from benchmarks.suite import make_cell
from probes.fit import validation_error
from probes.lora import fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODELS: dict[str, tuple[str, float]] = {  # one strong model of each family, and its suite's learning rate
    "dinov2.rooms64-s2": ("rooms", 0.003),
    "sd.rooms64-s5": ("rooms", 0.005),
    "stylegan2.rooms64-s4": ("samples", 0.01),
    "vqgan.rooms64-s4": ("rooms", 0.03),
    "stylegan-xl.rooms64-s4": ("samples", 0.01),
}
TARGETS = {"vqgan.rooms64-s4": "convolutions"}  # where the suites adapt other layers than "all"
INTRINSICS = ("normal", "albedo")
LONGEST = 400  # steps
LOOKS = (10, 25, 50, 100, 200)  # steps at which the longest run is looked at on its way
# (batch, factor on the suite's rate, steps): what is most worth knowing first.
TRIES = (
    (8, 1, LONGEST),
    (8, 1, 200),
    (4, 2, 100),
    (8, 2, 100),
    (4, 2, 200),
    (8, 1, 100),
    (4, 4, 100),
    (8, 4, 50),
    (4, 1, 100),
    (8, 1, 50),
    (8, 1, 25),
    (8, 1, 10),
    (8, 2, LONGEST),
)
TWICE = ((8, 1, LONGEST), (4, 2, 100))  # what SEEDED is asked with two seeds
SEEDED = "dinov2.rooms64-s2"
TOLERANCE = 0.02  # least share of the best error that counts as a difference


@dataclass(frozen=True)
class Row:
    """One look at one training.

    Attributes:
        steps: of the whole run, which decide its schedule; at: steps done at the look.
        error: on the validation pictures, degrees of normals, RMS of albedo.
        seconds: of processor time for all steps of the run, on one thread; 0 where it was on its way.
        targets: set of layers that is adapted; tables without it hold runs on "all".
    """

    model: str
    weights: str
    intrinsic: str
    seed: int
    batch: int
    rate: float
    steps: int
    at: int
    error: float
    seconds: float
    targets: str = "all"

    @property
    def who(self) -> str:
        """The model, and the layers that are adapted where that is a question."""
        plain = self.targets == "all" and self.model not in TARGETS
        return self.model if plain else f"{self.model} (targets {self.targets})"

    @property
    def question(self) -> tuple[str, str]:
        """What it was asked, and who."""
        return self.who, self.intrinsic

    @property
    def run(self) -> tuple[Any, ...]:
        """Everything that decides the training."""
        asked = (self.batch, self.rate, self.steps, self.targets)
        return self.model, self.weights, self.intrinsic, self.seed, *asked

    @property
    def choice(self) -> tuple[int, int, float]:
        """Pictures seen, steps, rate: in this order the cheapest is chosen."""
        return self.batch * self.steps, self.steps, self.rate


def read(path: Path) -> list[Row]:
    """Rows of a table; none where there is no file."""
    if not path.exists():
        return []
    kinds = {"seed": int, "batch": int, "steps": int, "at": int, "rate": float, "error": float}
    kinds |= {"seconds": float}
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [Row(**{name: kinds.get(name, str)(value) for name, value in line.items()}) for line in lines]


def append(path: Path, rows: Sequence[Row]) -> None:
    """Write rows at the end of a table; the whole table anew, so that its heading names every column."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in [*read(path), *rows])
    with atomic(path) as file:
        file.write(text.getvalue().encode())


def plan() -> Iterator[tuple[Cell, tuple[int, ...]]]:
    """Cells to train with the steps to look at on the way, the most telling first."""
    for intrinsic in INTRINSICS:
        for tried in TRIES:
            for model, (data, rate) in MODELS.items():
                labels = "exact" if data == "rooms" else "rooms-network"
                batch, factor, steps = tried
                options: dict[str, Any] = {"steps": steps, "batch": batch, "rate": factor * rate}
                options["targets"] = TARGETS.get(model, "all")
                for seed in (0, 1) if model == SEEDED and tried in TWICE else (0,):
                    cell = make_cell(model, intrinsic, "lora", options, data=data, labels=labels, seed=seed)
                    yield cell, LOOKS if steps == LONGEST and factor == 1 else ()


def _row(cell: Cell) -> Row:
    """A cell as a row without what is measured."""
    options = cell.options
    steps = int(options["steps"])
    facts = (cell.model, cell.weights, cell.intrinsic, cell.seed, int(options["batch"]), options["rate"])
    return Row(*facts, steps, steps, math.nan, 0.0, options["targets"])


def measure(cell: Cell, looks: Sequence[int], session: Session) -> list[Row]:
    """Train a cell; its rows, the last one at its end."""
    task, row = make_task(cell, session, Clock(lambda share, phase: None)), _row(cell)
    found: list[Row] = []
    looking = 0.0

    def watch(step: int) -> None:
        nonlocal looking
        started = time.process_time()
        if step in looks:
            found.append(replace(row, at=step, error=round(validation_error(task), 5)))
        looking += time.process_time() - started

    task.watch = watch
    started = time.process_time()
    probe = fit(task)
    seconds = time.process_time() - started - looking
    try:
        error = round(float(probe.details["validation_error"]), 5)
        return [*found, replace(row, error=error, seconds=round(seconds, 2))]
    finally:
        probe.release()


# What the table says.


def ended(rows: Sequence[Row]) -> list[Row]:
    """Rows at the end of their runs."""
    return [row for row in rows if row.at == row.steps]


def tolerance(rows: Sequence[Row], intrinsic: str) -> float:
    """Share of an error that two seeds of the same run differ by, TOLERANCE at least."""
    by_run: dict[tuple[Any, ...], list[float]] = {}
    for row in ended(rows):
        if row.intrinsic == intrinsic:
            by_run.setdefault(replace(row, seed=0).run, []).append(row.error)
    pairs = [errors for errors in by_run.values() if len(errors) > 1]
    # The standard deviation of two values is their distance over the root of two.
    spreads = [(max(e) - min(e)) / math.sqrt(2) / (sum(e) / len(e)) for e in pairs]
    return max([TOLERANCE, *([math.sqrt(sum(s * s for s in spreads) / len(spreads))] if spreads else [])])


@dataclass(frozen=True)
class Verdict:
    """What one model and intrinsic needs.

    Attributes:
        best: the run of the most steps with the least error; share: the tolerance above it.
        enough: the cheapest run that is within, best itself where none is cheaper.
        tried: how many runs there were.
    """

    best: Row
    share: float
    enough: Row
    tried: int

    def __str__(self) -> str:
        e, b, others = self.enough, self.best, self.tried - 1
        start = (
            f"{b.who:40} {b.intrinsic:7} best of {b.steps} steps {b.error:8.4f}, within {self.share:.1%}: "
        )
        if e == b:
            return start + (
                f"none of {others} other runs, more steps are needed" if others else "not known yet"
            )
        spent = f"{e.seconds:.0f} s instead of {b.seconds:.0f}, {others} other runs"
        return start + f"{e.steps} steps of batch {e.batch} at {e.rate:g} ({e.error:.4f}, {spent})"


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """One for each model and intrinsic that has a run of the most steps; seed 0 alone."""
    found = []
    for question in dict.fromkeys(row.question for row in rows):
        own = [row for row in ended(rows) if row.question == question and row.seed == 0]
        longest = [row for row in own if row.steps == LONGEST]
        if not longest:
            continue
        best, share = min(longest, key=lambda row: row.error), tolerance(rows, question[1])
        within = [row for row in own if row.error <= best.error * (1 + share)]
        found.append(Verdict(best, share, min(within, key=lambda row: row.choice), len(own)))
    return found


def settings(rows: Sequence[Row]) -> dict[str, tuple[int, int, float] | None]:
    """For each model, by `who`, the cheapest (steps, batch, rate) within tolerance for all its intrinsics.

    None where no setting that was tried is; a setting counts that was tried on all of them.
    """
    found: dict[str, tuple[int, int, float] | None] = {}
    judged = verdicts(rows)
    for who in dict.fromkeys(v.best.who for v in judged):
        limits = {v.best.intrinsic: v.best.error * (1 + v.share) for v in judged if v.best.who == who}
        own = [row for row in ended(rows) if row.who == who and row.seed == 0]
        good = [{row.choice for row in own if row.intrinsic == i and row.error <= limits[i]} for i in limits]
        pictures, steps, rate = min(set.intersection(*good), default=(0, 0, 0.0))
        found[who] = (steps, pictures // steps, rate) if steps else None
    return found


def together(rows: Sequence[Row]) -> list[str]:
    """`settings` as text."""
    judged, lines = verdicts(rows), []
    for who, found in settings(rows).items():
        asked = " and ".join(v.best.intrinsic for v in judged if v.best.who == who)
        what = "{} steps of batch {} at {:g}".format(*found) if found else "no setting that was tried"
        lines.append(f"{who:40} {asked}: {what}")
    return lines


def draw(rows: Sequence[Row], path: Path) -> None:
    """`path`.png: a panel for each model and intrinsic, validation error against steps."""
    judged = {v.best.question: v for v in verdicts(rows)}
    asked = {(r.model, r.intrinsic, r.question): r.question for r in rows}
    order = [asked[key] for i in INTRINSICS for m in MODELS for key in asked if key[:2] == (m, i)]
    with style():
        first = sum(intrinsic == order[0][1] for _, intrinsic in order)  # each intrinsic begins a row
        figure, axes = panels(len(order), width=3.6, height=3.0, columns=first)
        for ax, question in zip(axes, order, strict=True):
            _panel(ax, [row for row in rows if row.question == question], judged.get(question))
        save(figure, path, vector=False)


def _panel(ax: Axes, rows: Sequence[Row], verdict: Verdict | None) -> None:
    import seaborn as sns

    series = sorted({(row.batch, row.rate, row.seed) for row in rows})
    for number, (batch, rate, seed) in enumerate(series):
        own = [row for row in rows if (row.batch, row.rate, row.seed) == (batch, rate, seed)]
        color, done = COLORS[number % len(COLORS)], sorted(ended(own), key=lambda row: row.steps)
        label = f"batch {batch}, rate {rate:g}" + (f", seed {seed}" if seed else "")
        look: dict[str, Any] = {"ax": ax, "color": color, "errorbar": None}
        x, y = [row.steps for row in done], [row.error for row in done]
        sns.lineplot(x=x, y=y, marker=MARKERS[number % len(MARKERS)], label=label, **look)
        way = sorted((row for row in own if row.steps == LONGEST), key=lambda row: row.at)
        sns.lineplot(x=[row.at for row in way], y=[row.error for row in way], ls=":", lw=0.9, **look)
    if verdict is not None:
        ax.axhline(verdict.best.error * (1 + verdict.share), color="#8b949e", lw=1, ls="--")
        ax.plot(verdict.enough.steps, verdict.enough.error, "o", ms=11, mfc="none", mec="#22272e")
    ax.set_xscale("log", base=2)
    ticks = (*LOOKS, LONGEST)
    ax.set_xticks(ticks, [str(step) for step in ticks])
    ax.minorticks_off()
    ax.set_title("\n".join(rows[0].question), fontsize=9)
    ax.set_xlabel("steps (dotted: on the way of the longest)")
    ax.set_ylabel("validation error" + (" (degrees)" if rows[0].intrinsic == "normal" else " (RMS)"))
    ax.legend(fontsize=6.5, frameon=False)
    sns.despine(ax=ax)


def report(rows: Sequence[Row]) -> str:
    """What is enough, as text: by question, then by model."""
    planned, known = {_row(cell).run for cell, _ in plan()}, {row.run for row in ended(rows)}
    others = f", {len(known - planned)} others" if known - planned else ""
    lines = ["# python -m benchmarks.speed.convergence", "# LoRA of rank 8, "]
    lines[1] += f"{len(known & planned)} of {len(planned)} planned trainings{others}; error on 50 validation"
    lines[1] += " pictures; the fewest pictures seen (steps x batch) within tolerance"
    return "\n".join([*lines, "", *map(str, verdicts(rows)), "", *together(rows), ""])


def fill(path: Path, minutes: float) -> bool:
    """Train what the table lacks until so much processor time is spent; whether all is there."""
    known = {row.run for row in ended(read(path))}
    session, started = Session(Cache(cache_folder())), time.process_time()
    for cell, looks in plan():
        if _row(cell).run in known:
            continue
        if time.process_time() - started > 60 * minutes:
            return False
        append(path, measure(cell, looks, session))
    return True


@click.command()
@click.option("--minutes", default=35.0, show_default=True, help="Processor time to spend; 0 only draws.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/convergence"))
def main(minutes: float, out: Path) -> None:
    """Fill the table, draw it, and say how many steps are enough."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    whole = fill(out / "convergence.csv", minutes)
    rows = read(out / "convergence.csv")
    draw(rows, out / "convergence")
    (out / "convergence.txt").write_text(report(rows), encoding="utf-8")
    click.echo(report(rows) + ("" if whole else "\nnot all was trained: run it again to go on"))


if __name__ == "__main__":
    main()
