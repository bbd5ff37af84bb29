"""Files of a store and of the cache, and the settings and numbers that suites and reports are made of."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import at_work, state
from benchmarks.cache import Cache
from benchmarks.cell import Record, unsealed
from benchmarks.claims import machine
from benchmarks.compare import read_record as read_compared
from benchmarks.data.diode.tree import read_meta
from benchmarks.data.drawn.sampler import sampler
from benchmarks.data.own.index import VERSION, _memo, checked, read_index
from benchmarks.data.own.settings import FILE, read_settings
from benchmarks.data.prompts import read_prompts
from benchmarks.draw import FACTS, Drawing
from benchmarks.health_stores import damage, one_store
from benchmarks.label import SIDECAR, _continued
from benchmarks.plan import estimates
from benchmarks.predict.inputs import Source
from benchmarks.predict.sidecar import forget, is_finished, source_facts, write_sidecar
from benchmarks.remote import RemoteStore
from benchmarks.report.ceiling import read_ceilings
from benchmarks.report.paper.counts import read_counts
from benchmarks.report.paper.published import SHEETS, read_published
from benchmarks.report.reading import read_store
from benchmarks.store import Store
from benchmarks.suite import load_suite
from generators.checkpoints.transfer import Part
from generators.ops.lock import owner as lock_owner
from tests.data import own_folder
from tests.fuzz.format import Format
from tests.report import synthetic

PAPER = Path(__file__).parents[2] / "results" / "published"


def one_record() -> Record:
    """A small record of everything a record can hold."""
    made = synthetic.record(synthetic.cell("sd.rooms64-s5", "normal", "lora", train=64))
    made.per_image = {name: values[:3] for name, values in made.per_image.items()}
    return made


CELL = one_record().cell
RECORD = f"records/{CELL.hash}.json"


def text(value: Any) -> list[bytes]:
    return [(json.dumps(value, indent=1) + "\n").encode()]


def folder_of(path: Path, levels: int = 1) -> Path:
    return path.parents[levels]


# Records.


def use(record: Record | None) -> None:
    """What runner and reports take for granted in a record they were given."""
    if record is None:
        return
    assert isinstance(record.reason, str) and record.status in ("done", "failed")
    values = [*record.scores.values(), *(v for each in record.per_image.values() for v in each)]
    assert all(type(v) in (int, float) and math.isfinite(v) for v in values)
    assert record.to_json() and str(record.cell)


def read_record(path: Path) -> None:
    use(Store(folder_of(path)).read(CELL))


def read_records(path: Path) -> None:
    """As reports do, which look at the numbers of each picture only where they need them."""
    for record in read_store(folder_of(path)).records.values():
        assert all(type(value) in (int, float) and math.isfinite(value) for value in record.scores.values())
        assert all(isinstance(part, dict) for part in (record.parameters, record.details, record.generator))


def look(path: Path) -> None:
    """What `status` tells of the store of a file."""
    store = path.parent if path.name == "suite.json" else folder_of(path)
    state.Reader(store).look()


def in_store(folder: Path) -> None:
    """A suite of one cell, beside which the record is put."""
    (folder / "records").mkdir(parents=True, exist_ok=True)
    synthetic.write_suite(folder, [CELL])


def with_record(folder: Path) -> None:
    in_store(folder)
    synthetic.write_record(folder, one_record())


def suite_text() -> list[bytes]:
    suite = {"name": "synthetic", "title": "A suite", "question": "Does it know?"}
    cell = CELL.facts() | {"hash": CELL.hash}
    return text(suite | {"cells": [cell, cell | {"impossible": "no"}]})


def claims() -> list[bytes]:
    return text({"pid": os.getpid(), "host": machine(), "started": "1", "since": "2026-01-01T00:00:00Z"})


def read_claim(path: Path) -> None:
    found = Store(folder_of(path)).owner(path)
    assert found is not None and str(found) and found.dead in (True, False)


def signs() -> list[bytes]:
    named = {"hash": CELL.hash, "model": CELL.model, "intrinsic": "normal", "method": "lora", "seed": 0}
    when = {"since": "2026-01-01T00:00:00Z", "at": "2026-01-01T00:00:10Z"}
    return text(named | {"host": "elsewhere", "pid": 5, "share": 0.5, "phase": "train"} | when)


def read_sign(path: Path) -> None:
    found = at_work.works_of(folder_of(path), {CELL.hash: CELL.facts()}, [], 1e9)
    assert all(isinstance(work.phase, str) for work in found)
    look(path)


def examine(path: Path) -> None:
    """What `doctor` says of the store of a file: it finds fault with anything, and never fails itself."""
    store = path.parent if path.name == "suite.json" else folder_of(path)
    assert all(found.mark and found.text for found in one_store(store))


def at_url(path: Path) -> RemoteStore:
    """The store of a file, as a machine sees it that has fetched nothing yet."""
    store = path.parent if path.name == "suite.json" else folder_of(path)
    mirror = store.with_name("mirror")
    shutil.rmtree(mirror, ignore_errors=True)
    return RemoteStore(f"file://{store}", mirror)


def sweep(path: Path) -> None:
    Store(folder_of(path)).sweep()


# The cache.

KEY = {"kind": "pictures", "rows": [0, 2]}
TENSORS = {"pictures": torch.arange(6, dtype=torch.uint8), "half": torch.ones(2, dtype=torch.bfloat16)}
ENTRY = Cache(Path("cache")).path(KEY)
assert ENTRY is not None, "a cache with a folder has a file for every key"


def entries() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder))
        cache.get(KEY, lambda: TENSORS)
        path = cache.path(KEY)
        assert path is not None
        return [path.read_bytes()]


def read_entry(path: Path) -> None:
    found = Cache(folder_of(path)).get(KEY, lambda: TENSORS)
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items()) and len(found) == len(
        TENSORS
    )


# Settings.

SUITE = b"""name = "small"
title = "A small suite"
question = "Does it know?"
train = 64
seeds = [0, 1]
twin = ["rooms"]

[[grid]]
models = ["sd.rooms64-s5"]
intrinsics = ["normal"]
methods = ["lora"]
options = { rank = 4 }
sweep = { steps = [10, 20] }
"""


def own_settings() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        own_folder.write_settings(Path(folder), own_folder.SETTINGS)
        return [(Path(folder) / FILE).read_bytes()]


def empty_files(folder: Path) -> None:
    """The files that the settings of a folder of one's own name, with nothing in them."""
    for name, ending in (
        ("rgb", "png"),
        ("normal", "png"),
        ("depth", "npy"),
        ("albedo", "npy"),
        ("shading", "png"),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            (folder / name / f"a_{i}.{ending}").write_bytes(b"")
    (folder / "train.txt").write_text("a_0\na_1\n")


def read_own(path: Path) -> None:
    read_settings(path.parent)
    read_index(path.parent)


def listed(folder: Path) -> None:
    empty_files(folder)
    splits = {"by": '"lists"', "train": '"train.txt"', "test": '"test.txt"', "seed": "", "train_share": ""}
    said = own_folder.said(splits=splits)
    own_folder.write_settings(folder, said)


def read_list(path: Path) -> None:
    read_index(path.parent)


MEMORY = {"version": VERSION, "files": {"rgb/a_0.png": [0, 1, "a"]}, "checked": {"a": ["b"]}}


def own_memo(path: Path) -> None:
    """The memory of a folder's hashes is in the cache: it is put there."""
    folder = path.parent / "own"
    memo = _memo(folder)
    memo.parent.mkdir(parents=True, exist_ok=True)
    memo.write_bytes(path.read_bytes())
    checked(read_index(folder))


def with_own(folder: Path) -> None:
    empty_files(folder / "own")
    own_folder.write_settings(folder / "own", own_folder.SETTINGS)


# Predictions.

SETTINGS = {"model": "sd.rooms64-s5", "size": 64}


def picture(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"a picture")
    (folder / "a.normal.png").write_bytes(b"a map")


PICTURE = hashlib.sha256(b"a picture").hexdigest()


def sidecars() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture(folder)
        facts = {"settings": SETTINGS, "source": source_facts(folder / "a.png", PICTURE, (4, 4), 8)}
        write_sidecar(folder / "a.normal.json", facts | {"outputs": {"map": "a.normal.png"}})
        return [(folder / "a.normal.json").read_bytes()]


def read_sidecar(path: Path) -> None:
    is_finished(path, Source(path.parent / "a.png", "a"), SETTINGS)


def forget_sidecar(path: Path) -> None:
    forget(path)
    picture(path.parent)


def labels() -> list[bytes]:
    return text({"made_by": "intrinsic-bench label", "settings": SETTINGS, "finished": 0, "seconds": 0.0})


def drawing(folder: Path) -> Drawing:
    return Drawing(sampler("sd.rooms64-s5", 0, None, None, asked="draw"), folder, ("a room", "a ball"))


def drawings() -> list[bytes]:
    return text(drawing(Path("drawn")).facts("a hash"))


def read_drawing(path: Path) -> None:
    drawing(path.parent).prepare("a hash")


# Published numbers.


def read_numbers(path: Path) -> None:
    read_published(path.parent)


def all_numbers(folder: Path) -> None:
    for name in SHEETS:
        (folder / f"{name}.csv").write_bytes((PAPER / f"{name}.csv").read_bytes())


def json_format(
    name: str, file: str, samples: Callable[[], Sequence[bytes]], read: Callable[[Path], object], **more: Any
) -> Format:
    return Format(name, "json", file, samples, read, **more)


def formats() -> list[Format]:
    """All of them."""
    # Without its checksum, as earlier versions wrote it: what is damaged must be found by what it says.
    record = lambda: [(unsealed(one_record().to_json()) + "\n").encode()]  # noqa: E731
    return [
        json_format("record", RECORD, record, read_record, prepare=in_store),
        json_format("record-report", RECORD, record, read_records, prepare=in_store, cases=60),
        json_format("record-compare", RECORD, record, lambda p: use(read_compared(p))),
        json_format("record-plan", RECORD, record, lambda p: estimates(Store(folder_of(p))),
        prepare=in_store, errors=()),
        json_format("record-ceiling", RECORD, record, lambda p: read_ceilings(folder_of(p)),
        prepare=in_store, errors=()),
        json_format("record-status", RECORD, record, look, prepare=in_store, errors=(), cases=60),
        json_format("suite", "suite.json", suite_text, lambda p: Store(p.parent).suite(),
        prepare=with_record),
        json_format("suite-report", "suite.json", suite_text, lambda p: read_store(p.parent),
        prepare=with_record),
        json_format("suite-status", "suite.json", suite_text, look, prepare=with_record, cases=60),
        json_format("claim", "claims/0123456789abcdef.json", claims, read_claim),
        json_format("record-doctor", RECORD, record, examine, prepare=in_store, errors=(), cases=60),
        json_format("suite-doctor", "suite.json", suite_text, examine, errors=(), cases=60),
        json_format("claim-doctor", "claims/0123456789abcdef.json", claims, examine, prepare=in_store,
        errors=(), cases=60),
        Format("cache-doctor", "safetensors", "entry.safetensors", entries, damage, errors=(), cases=60),
        json_format("record-url", RECORD, record, lambda p: use(at_url(p).read(CELL)), cases=60),
        json_format("suite-url", "suite.json", suite_text, lambda p: at_url(p).suite(), cases=60),
        json_format("claim-url", "claims/0123456789abcdef.json", claims, lambda p: at_url(p).owner(p),
        cases=60),
        json_format("progress-url", f"progress/{CELL.hash}.json", signs, lambda p: at_url(p).sweep(),
        errors=(), cases=60),
        json_format("progress", f"progress/{CELL.hash}.json", signs, read_sign, prepare=in_store, errors=()),
        json_format("progress-sweep", f"progress/{CELL.hash}.json", signs, sweep, prepare=in_store, errors=(),
        cases=60),
        Format("cache", "safetensors", f"cache/{ENTRY.parent.name}/{ENTRY.name}", entries, read_entry,
        errors=()),
        Format("suite-toml", "toml", "small.toml", lambda: [SUITE], lambda p: load_suite(str(p))),
        Format("own-settings", "toml", FILE, own_settings, read_own, prepare=empty_files, named="data.toml"),
        Format("own-list", "text", "test.txt", lambda: [b"a_2\n# none\na_3\n"], read_list, prepare=listed,
               named="data.toml"),
        json_format("own-memo", "memo.json", lambda: text(MEMORY), own_memo,
                    prepare=with_own, errors=()),
        json_format("sidecar", "a.normal.json", sidecars, read_sidecar, prepare=picture),
        json_format("sidecar-forget", "a.normal.json", sidecars, forget_sidecar, prepare=picture, errors=()),
        json_format("label", SIDECAR, labels, lambda p: _continued(p, SETTINGS), named="maps to"),
        json_format("drawing", FACTS, drawings, read_drawing, named="draw into"),
        json_format("diode-meta", "diode_meta.json", lambda: text(
            {"val": {"indoors": {"scene_00019": {"scan_00183": ["00019_00183_indoors_000_010"]}},
            "outdoor": {}},
             "train": {}}), read_meta),
        json_format("paper-counts", "counts.json", lambda: text(
            {"command": "x", "models": {"a": {"parameters": 5, "lora_parameters": 1}}}), read_counts),
        Format("paper-numbers", "text", "table2.csv", lambda: [(PAPER / "table2.csv").read_bytes()],
        read_numbers,
               prepare=all_numbers, named="published numbers"),
        Format("prompts", "text", "prompts.txt", lambda: [b"# prompts\na room\na red ball\n"], read_prompts),
        json_format("lock", "lock.json", lambda: text({"host": "a", "pid": 3, "start": "b", "since": 1.5}),
                    lock_owner, errors=()),
        json_format("download-part", "file.pkl.part.json", lambda: text(
            {"url": "https://a/b", "total": 10, "validator": '"x"'}),
            lambda p: Part(p.parent / "file.pkl").resumable("https://a/b"), errors=()),
    ]  # fmt: skip
