"""From picture files to files of maps: reading, the model and writing at the same time."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Generator as Stream
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.adapter_maps import intrinsic_of
from benchmarks.files import storage_error
from benchmarks.store import Store
from generators import registry
from generators.base import Generator
from generators.errors import UserError

from .clock import Clock
from .inputs import Source, find_sources
from .layout import check_policy, granularity_of, plan_layout, prepare
from .reading import read_picture
from .settings import Question, Settings, depth_unit, find_question, identity
from .show import Show
from .sidecar import forget, is_finished, sidecar_path, source_facts, write_sidecar
from .writing import FORMATS, clipped, color_limits, encoded, meaning, png8, save, viewed

if TYPE_CHECKING:
    from .network import Artist, Job

FAILED = 3  # exit status where some pictures could not be done
FAILURES = "failed.json"


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        written: sidecars of the maps made now.
        skipped: sidecars of those that were finished before.
        failed: picture to the reason it has no map.
        contact: contact sheets.
        notes: picture to what was decided for it and may surprise.
        seconds: phase to seconds, those of threads added up; "total" is wall time of the stream.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    contact: list[Path] = field(default_factory=list)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """Exit status: 0 all is done, 3 some pictures failed."""
        return FAILED if self.failed else 0


def predict_pictures(
    pictures: Sequence[str | Path],
    adapter: str | Path | None,
    out: str | Path,
    *,
    model: str | None = None,
    intrinsic: str | None = None,
    settings: Settings | None = None,
    overwrite: bool = False,
    show: Show | None = None,
    clock: Clock | None = None,
) -> Outcome:
    """Draw the maps of pictures into a folder, continuing what is there.

    Args:
        pictures: files, folders (with their folders) and globs.
        adapter: its folder; None is an error that says how to get one.
        model, intrinsic: as the adapter's facts say; where given they have to agree.
        overwrite: make again what is there, otherwise it is skipped if it was made with the same settings.
        clock: adds up seconds by phase.

    Raises:
        UserError: what was asked for cannot be done, or the folder cannot be written. A picture that
            cannot be read is no error: it is in the outcome, and the others are done.
    """
    settings, show, place = settings or Settings(), show or Show(None), Path(out)
    settings.check()
    question = find_question(adapter, model, intrinsic, settings.asks)
    policy = settings.resize or ("keep" if question.spec.space == "latents" else "square")
    sources = find_sources(pictures, place)
    _make(place)
    said = identity(question, settings, policy)
    outcome, todo = Outcome(), list(sources)
    if not overwrite:
        paths = {source: sidecar_path(place, source, question.intrinsic) for source in sources}
        done = {source for source in sources if is_finished(paths[source], source, said)}
        outcome.skipped = [paths[source] for source in sources if source in done]
        todo = [source for source in sources if source not in done]
    if todo:
        work = _Work(question, settings, policy, place, said, show, clock or Clock(), outcome)
        work.run(todo, len(sources) - len(todo))
    _finish(place, question.intrinsic, settings, sources, outcome)
    return outcome


def _make(place: Path) -> None:
    """Make the folder, and sweep what a killed run left half written."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = storage_error(error, f"make the folder {place}", option="--out DIR")
        if found is None:
            raise
        raise UserError(found.asked, found.wrong, "", found.todo) from error
    Store(place).sweep()


def _finish(
    place: Path, intrinsic: str, settings: Settings, sources: Sequence[Source], outcome: Outcome
) -> None:
    """The list of what failed, and contact sheets of all that is there."""
    if outcome.failed:
        listed = [{"picture": name, "reason": reason} for name, reason in outcome.failed.items()]
        save(place / FAILURES, (json.dumps({"failed": listed}, indent=1) + "\n").encode())
    else:
        (place / FAILURES).unlink(missing_ok=True)
    if settings.sheet:
        from .sheets import write_contact_sheets

        made = {p.resolve() for p in (*outcome.written, *outcome.skipped)}
        there = [s for s in sources if sidecar_path(place, s, intrinsic).resolve() in made]
        sheets = [(s.name, place / f"{s.name}.{intrinsic}.sheet.png") for s in there]
        outcome.contact = write_contact_sheets(place, intrinsic, sheets) if sheets else []


class _Work:
    """The stream of pictures: threads read ahead, the model draws, threads write."""

    def __init__(
        self,
        question: Question,
        settings: Settings,
        policy: str,
        place: Path,
        said: Mapping[str, Any],
        show: Show,
        clock: Clock,
        outcome: Outcome,
    ) -> None:
        self.question, self.settings, self.policy, self.place = question, settings, policy, place
        self.said, self.show, self.clock, self.outcome = said, show, clock, outcome
        self.writing: deque[tuple[Job, Future[Path]]] = deque()

    def run(self, todo: Sequence[Source], finished: int) -> None:
        """Do all pictures; whatever happens, what was drawn is written."""
        from probes import memory
        from probes.adapters import attached

        from .network import Artist

        memory.forget()

        question, settings = self.question, self.settings
        generator = registry.load(question.spec.name, settings.device)
        self.granularity = granularity_of(generator)
        check_policy(self.policy, question.spec.name, self.granularity)
        shown_as = intrinsic_of(question.facts)
        artist = Artist(generator, shown_as, settings.precision, settings.device, self.clock)
        with attached(generator, question.adapter, question.facts), _showing(self.show):
            _ask(generator, question.asks)  # over what the adapter was trained with
            self.show.start(len(todo), finished)
            started = time.perf_counter()
            self._stream(artist, todo)
            self.outcome.seconds = self.clock.seconds | {"total": time.perf_counter() - started}

    def _stream(self, artist: Artist, todo: Sequence[Source]) -> None:
        from .network import Batches

        batches = Batches(self.settings.batch)
        with ThreadPoolExecutor(self.settings.writers, "writer") as self.writers:
            try:
                with closing(self._read_ahead(todo)) as jobs:
                    for job in jobs:
                        for batch in batches.add(job):
                            self._draw(artist, batch)
                for batch in batches.rest():
                    self._draw(artist, batch)
            finally:  # also on Ctrl-C: what was drawn is written
                self._collect(0)

    # Reading.

    def _read_ahead(self, todo: Sequence[Source]) -> Stream[Job, None, None]:
        """Decoded pictures in order; never more of them in memory than the model soon needs."""
        ahead = 2 * self.settings.batch + self.settings.readers
        left, coming = deque(todo), deque[tuple[Source, Future[Any]]]()
        with ThreadPoolExecutor(self.settings.readers, "reader") as readers:
            try:
                while left or coming:
                    while left and len(coming) < ahead:
                        source = left.popleft()
                        coming.append((source, readers.submit(self._read, source)))
                    source, future = coming.popleft()
                    with self.clock.phase("waiting"):
                        found = future.exception() or future.result()
                    if isinstance(found, OSError):  # it was there when it was listed
                        self._fail(source, f"it cannot be read: {found}")
                    elif isinstance(found, UserError):
                        self._fail(source, found.wrong + (f"; {found.known}" if found.known else ""))
                    elif isinstance(found, BaseException):
                        raise found
                    else:
                        yield found
            finally:
                readers.shutdown(wait=True, cancel_futures=True)

    def _read(self, source: Source) -> Job:
        from .network import Job

        with self.clock.phase("reading"):
            picture = read_picture(source.path, self.settings.background)
            layout = plan_layout(self.policy, picture.size, self.question.spec.resolution, self.granularity)
            facts = source_facts(source.path, picture.sha256, picture.size, picture.bits)
            seen = picture.eight_bit() if self.settings.sheet else None
            return Job(source, layout, facts, picture.notes, prepare(picture.values, layout), seen)

    def _fail(self, source: Source, reason: str) -> None:
        self.outcome.failed[str(source.path)] = reason
        self.show.done(str(source.path), reason)

    # Drawing and writing.

    def _draw(self, artist: Artist, batch: list[tuple[Job, int]]) -> None:
        for job in artist.work(batch):
            values = None if job.reason else artist.natural(job)
            if values is None:
                precision = self.settings.precision
                self._fail(job.source, job.reason or f"the model draws NaN or infinity in {precision}")
            else:
                self.writing.append((job, self.writers.submit(self._write, job, values)))
        self._collect(self.settings.batch + 2 * self.settings.writers)

    def _collect(self, most: int) -> None:
        """Take in what is written, and wait until at most so many are not."""
        while self.writing and (len(self.writing) > most or self.writing[0][1].done()):
            job, future = self.writing.popleft()
            try:
                with self.clock.phase("waiting"):
                    self.outcome.written.append(future.result())
            except OSError as error:  # of this picture: a full or read-only disk is a UserError
                self._fail(job.source, f"its map cannot be written: {error}")
                continue
            if job.notes:
                self.outcome.notes[str(job.source.path)] = job.notes
            self.show.done(job.source.name)

    def _write(self, job: Job, values: Any) -> Path:
        with self.clock.phase("writing"):
            return write_maps(self.place, self.question, self.settings, self.said, job, values)


def write_maps(
    place: Path,
    question: Question,
    settings: Settings,
    said: Mapping[str, Any],
    job: Job,
    values: Any,
) -> Path:
    """All files of one picture's map (h w c), the sidecar last; returns its path."""
    intrinsic, alignment, shown = question.intrinsic, question.facts.alignment, settings.shown
    stem = f"{job.source.name}.{intrinsic}"
    sidecar = sidecar_path(place, job.source, intrinsic)
    sidecar.parent.mkdir(parents=True, exist_ok=True)
    forget(sidecar)  # of --overwrite: while its files are replaced it is not finished
    files = {form: encoded(form, intrinsic, values, shown, alignment) for form in shown.formats}
    ends = {form: FORMATS[form] for form in shown.formats}
    if job.seen is not None:
        from .sheets import sheet

        pair = sheet(job.seen, viewed(intrinsic, values, shown, alignment))
        files["sheet"], ends["sheet"] = png8(pair), ".sheet.png"
    for form, data in files.items():
        save(place / f"{stem}{ends[form]}", data)
    values_mean = {k: v for k, v in meaning(intrinsic, alignment).items() if k in (*shown.formats, "axes")}
    facts: dict[str, Any] = {
        "outputs": {form: Path(f"{stem}{end}").name for form, end in ends.items()},
        "settings": said,
        "source": job.facts,
        "shown_to_the_model": {"size": list(job.layout.canvas), "pieces": len(job.layout.boxes)},
        "values": values_mean,
        "clipped": clipped(intrinsic, values, alignment),
        "notes": list(job.notes),
    }
    if intrinsic == "depth":
        facts["values"] = values_mean | {"unit": depth_unit(question.facts)}
        facts["range"] = [float(values.min()), float(values.max())]
        facts["colors_over"] = list(color_limits(values, shown, alignment))
    write_sidecar(sidecar, facts)
    return sidecar


def _ask(generator: Generator, asks: Mapping[str, Any]) -> None:
    """Tell a model that samples how it is asked."""
    from generators.base import Denoiser

    if isinstance(generator, Denoiser):
        generator.ask(**asks)


@contextmanager
def _showing(show: Show) -> Iterator[None]:
    try:
        yield
    finally:
        show.stop()
