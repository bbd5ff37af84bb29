"""One cell from beginning to end: load, freeze, fit, predict, score."""

from __future__ import annotations

import io
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.base import Generator
from probes import memory
from probes.adapters import AdapterFacts, write_facts
from probes.finetune import split_head
from probes.fit import TrainedProbe
from probes.intrinsics import angular_error, relative_depth
from probes.intrinsics import intrinsic as intrinsic_of
from probes.methods import RELATIVE, method, method_fit
from probes.ranks import Ranks
from probes.task import Examples, Probe, Task

from . import peak, trackers
from .cache import Cache, cache_folder
from .cell import NO_MODEL, Cell, Record
from .data import describe
from .files import atomic, atomic_folder
from .metrics import primary_metric
from .metrics.maps import score
from .predictors.labeling import forget
from .session import Session, in_parts
from .store import Store

Progress = Callable[[float, str], None]
KEPT_MAPS = 2  # test pictures whose maps a record keeps
_PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "safetensors")


class Clock:
    """Seconds by phase."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.progress = progress
        self._on = ("", 0.0, 0.0)  # the phase, and the shares of the cell at its beginning and its end

    @contextmanager
    def phase(self, name: str, share: float, end: float | None = None) -> Iterator[None]:
        """Time a phase and report it with the share of the cell that is done.

        Args:
            end: the share at the end of the phase, where `within` reports how it goes.
        """
        self._on = (name, share, share if end is None else end)
        self.progress(share, name)
        started = time.monotonic()
        yield
        spent = self.seconds.get(name, 0.0) + time.monotonic() - started
        self.seconds[name] = round(spent, 3)

    def within(self, share: float) -> None:
        """Report the share done, 0 to 1, of the phase that is on."""
        name, begin, end = self._on
        self.progress(begin + (end - begin) * share, name)


@cache
def environment(device: str) -> dict[str, Any]:
    """Versions, commit and device of this process."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "commit": _commit(),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        **({"processes": Ranks.here().count} if Ranks.here().count > 1 else {}),
        **({"convolutions": _convolutions()} if device.startswith("cuda") else {}),
    }


def _convolutions() -> str:
    """How a GPU convolves float32: with TF32's ten bits of mantissa, as PyTorch's default is, or all 23."""
    with warnings.catch_warnings():  # some versions of torch warn of the name
        warnings.simplefilter("ignore")
        return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"


def _commit() -> str:
    """Of the checkout that this package is; "" if it is installed elsewhere, or there is no git."""
    root = Path(__file__).parents[1]
    asked = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    top, _, commit = found.stdout.partition("\n")
    return commit.strip() if found.returncode == 0 and Path(top).resolve() == root.resolve() else ""


def _implementation(generator: Generator | None) -> str:
    """Which implementation of its own operations a model ran on; "torch" for one that has none."""
    return str(getattr(generator, "implementation", "torch"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


_sessions: dict[str, Session] = {}


def session(device: str) -> Session:
    """This process's session for a device; a device with a number becomes CUDA's current one.

    On CPU everything runs on one thread, so that the number of workers changes no number. Under
    deterministic algorithms a GPU's session has a cache of its own: what others computed there without
    them may differ.
    """
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    apart = device != "cpu" and torch.are_deterministic_algorithms_enabled()
    name = f"{device}, deterministic" if apart else device
    if name not in _sessions:
        if device == "cpu":
            torch.set_num_threads(1)
        folder = cache_folder() / "deterministic" if apart else cache_folder()
        _sessions[name] = Session(Cache(folder), device)
    return _sessions[name]


def execute(cell: Cell, store: Store, progress: Progress, device: str = "cpu") -> Record:
    """Run a cell and return its record; maps and adapter are in the store when it returns.

    Args:
        progress: called with the share done, 0 to 1, and the phase.

    Raises:
        UserError: the cell asks for something that does not exist or does not fit.
        probes.fit.Diverged: training gave a loss that is not finite.
        probes.memory.OutOfMemory: not even one picture at a time fits.
    """
    memory.forget()
    peak.begin(device)
    with memory.explained(f"compute {cell}"):
        record = _execute(cell, store, trackers.hearing(progress), device)
    if memory.at_once():
        record.environment["at_once"] = memory.at_once()
    trackers.current().scores(record)
    return record


def _execute(cell: Cell, store: Store, progress: Progress, device: str) -> Record:
    here, clock = session(device), Clock(progress)
    record = Record(cell, "done")
    if method(cell.method).needs == "samples":
        with clock.phase("sample", 0.0):
            measured = method_fit(cell.method)(cell, here, lambda share: progress(share, "sample"))
        record.scores, record.details = measured.scores, measured.details
        _keep_samples(cell, store, measured.shown, record)
    else:
        _probe(cell, here, store, clock, record)
    record.seconds = clock.seconds | {"total": round(sum(clock.seconds.values()), 3)}
    record.environment |= environment(device) | {"implementation": _implementation(here.generator(cell))}
    record.environment |= peak.peak(device) | {"pid": os.getpid()}
    if cell.model != NO_MODEL:
        from generators import registry

        spec = registry.spec(cell.model)
        kept = ("name", "family", "title", "domain", "trained", "control", "takes", "space", "fid", "licence")
        record.generator = {name: getattr(spec, name) for name in kept} | {"code": _way_in(cell)}
    return record


def _way_in(cell: Cell) -> str:
    """Where a model's codes came from: "drawn" by itself from seeds, or "encoded" from given pictures."""
    own = method(cell.method).needs == "samples" or describe(cell.data).own
    return "drawn" if own else "encoded"


def make_task(cell: Cell, here: Session, clock: Clock) -> Task:
    """What a cell asks its generator, or the pictures: everything frozen computed, nothing fitted."""
    intrinsic = intrinsic_of(cell.intrinsic, cell.alignment)
    with clock.phase("load", 0.0):
        generator = here.generator(cell)
    with clock.phase("freeze", 0.02):
        if method(cell.method).trains:
            train, validation = (here.examples(cell, split, intrinsic) for split in ("train", "validation"))
        else:
            train = validation = Examples(torch.empty(0, 3, 0, 0), {}, torch.empty(0, 1, 0, 0).bool())

    def remember(key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        options = {k: cell.options.get(k) for k in ("noise", "timestep")}
        full: dict[str, Any] = {"kind": "fitted", "key": key, "model": cell.model, "weights": cell.weights}
        full |= {"noise seed": cell.seed} | options
        where = {"world": cell.world, "size": cell.size, "train": cell.train, "seed": cell.seed}
        where |= {"train data": [*cell.asked_of("train")], "alignment": cell.alignment}
        where |= {"maps": sorted(train.maps)}
        return here.kept(full | where, compute)

    return Task(
        generator,
        intrinsic,
        train,
        validation,
        cell.options,
        cell.seed,
        clock.within,
        remember,
        cell.method,
        partial(here.parts, cell, intrinsic) if in_parts(cell) else None,
        track=trackers.current().loss,
        device=here.device,
    )


def _probe(cell: Cell, here: Session, store: Store, clock: Clock, record: Record) -> None:
    task = make_task(cell, here, clock)
    with clock.phase("freeze", 0.04):
        test = here.examples(cell, "test", task.intrinsic)
        if here.device != "cpu":
            forget()  # the predictor has said what it sees: its memory is for the training
    probe: Probe | None = None
    try:
        with clock.phase("fit", 0.05, 0.9):
            probe = method_fit(cell.method)(task)
        with clock.phase("predict", 0.92, 0.97):
            prediction = _in_units(probe.predict(test), probe, cell, test)
        with clock.phase("score", 0.97):
            record.details = probe.details
            _score(cell, prediction, task, test, record)
            _keep_maps(cell, store, prediction, test, record)
            with atomic_folder(store.adapters / cell.hash) as folder:
                probe.save(folder)
                write_facts(folder, _facts(cell))
            record.adapter = f"adapters/{cell.hash}"
    finally:
        if probe is not None:
            probe.release()
        else:
            here.forget_generator()
    record.parameters = _sizes(probe, task.generator)
    if probe.steps_per_second is not None:
        record.environment["steps_per_second"] = round(probe.steps_per_second, 3)


def _facts(cell: Cell) -> AdapterFacts:
    """What lies beside the weights, so that they can be put on a model, and shared, without the store."""
    options = dict(cell.options)
    return AdapterFacts(cell.model, cell.weights, cell.intrinsic, cell.method, options, cell=cell.facts())


def _sizes(probe: Probe, generator: Generator | None) -> dict[str, int]:
    """What was trained and what the model has, without its new head; the head's where it was trained."""
    backbone = split_head(generator.network, generator.spec.head)[0] if generator is not None else []
    sizes = {"trainable": probe.parameters, "total": sum(p.numel() for p in backbone)}
    head = probe.head_parameters if isinstance(probe, TrainedProbe) else 0
    return sizes | ({"head": head} if head else {})


def _in_units(prediction: Tensor, probe: Probe, cell: Cell, test: Examples) -> Tensor:
    """A prediction in the units of the truth: meters as relative depth where that is asked for."""
    if cell.intrinsic == "depth" and cell.alignment == RELATIVE and getattr(probe, "meters", False):
        return relative_depth(prediction, test.mask)
    return prediction


def _score(cell: Cell, prediction: Tensor, task: Task, test: Examples, record: Record) -> None:
    truth = test.maps[cell.intrinsic]
    cure = cure_of(cell)
    found = score(cell.intrinsic, prediction, truth, test.mask, alignment=cell.alignment, cure=cure)
    if describe(cell.data).own:
        found["skill"] = _skill(cell, found, task, test, record)
    record.per_image = {name: [round(float(v), 6) for v in values] for name, values in found.items()}
    record.scores = {name: float(np.mean(values)) for name, values in record.per_image.items()}
    if test.groups:
        record.details["groups"] = list(test.groups)


def cure_of(cell: Cell) -> str:
    """What to do about a prediction that is not finite: only what is trained at a rate can have diverged."""
    if cell.options.get("rate") and cell.options.get("steps"):
        return f"the training diverged: lower the learning rate {cell.options['rate']}"
    if "predictor" in cell.options:
        return f"the predictor {cell.options['predictor']!r} gave it: mend the predictor"
    if cell.model == NO_MODEL:
        return f"the method {cell.method!r} gave it: look at the pictures and labels it was shown"
    return f"the model's own codes or maps are not finite: intrinsic-bench check {cell.model}"


def _skill(cell: Cell, found: Mapping[str, Tensor], task: Task, test: Examples, record: Record) -> Tensor:
    """100 (1 - error / mean error of the mean training map), per picture: 0 knows nothing, 100 all.

    Errors on different models' own pictures do not compare: some pictures are easier than others.
    """
    mean_map = method_fit("constant")(task).predict(test)
    name = primary_metric(cell.intrinsic).name
    truth = test.maps[cell.intrinsic]
    nothing = score(cell.intrinsic, mean_map, truth, test.mask, alignment=cell.alignment)[name]
    record.details["mean_map_error"] = float(nothing.double().mean())
    return 100 * (1 - found[name].double() / nothing.double().mean())


def _keep_maps(cell: Cell, store: Store, prediction: Tensor, test: Examples, record: Record) -> None:
    """Picture, truth, prediction and error of the first test pictures, as npz without pickles."""
    k = slice(0, KEPT_MAPS)
    truth, predicted = test.maps[cell.intrinsic][k], prediction[k]
    if cell.intrinsic == "normal":
        error = angular_error(predicted, truth)
    else:
        error = (predicted - truth).square().mean(1, keepdim=True).sqrt()
    arrays: dict[str, Any] = {
        "picture": ((test.pictures[k] + 1) * 127.5).round().clamp(0, 255).byte().numpy(),
        "truth": truth.half().numpy(),
        "prediction": predicted.half().numpy(),
        "error": error.half().numpy(),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with atomic(store.maps / f"{cell.hash}.npz") as file:
        file.write(buffer.getvalue())
    record.maps = f"maps/{cell.hash}.npz"


def _keep_samples(cell: Cell, store: Store, shown: Tensor, record: Record) -> None:
    """Drawn pictures and renders, (3 h w) of 8 bits, as png."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy()).save(buffer, "png", optimize=True)
    with atomic(store.samples / f"{cell.hash}.png") as file:
        file.write(buffer.getvalue())
    record.samples = f"samples/{cell.hash}.png"
