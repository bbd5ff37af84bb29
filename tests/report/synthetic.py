"""Small stores for the tests of reports, without a model: numbers and maps that look like the real ones."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cell import NO_INTRINSIC, NO_MODEL, Cell, Record
from probes.methods import fill_options

STAGES = {"random": 0.0, "s1": 0.02, "s2": 0.1, "s3": 0.3, "s4": 0.6, "s5": 1.0}
FRECHET = {"random": 10.3, "s1": 6.2, "s2": 3.9, "s3": 2.0, "s4": 1.1, "s5": 0.57}
INTRINSICS = ("normal", "depth", "albedo", "shading")
CHANNELS = {"normal": 3, "depth": 1, "albedo": 3, "shading": 3}
PRIMARY = {"normal": "mean_angular_error", "depth": "rms", "albedo": "rms", "shading": "rms"}
BEST = {"normal": 23.0, "depth": 0.5, "albedo": 0.11, "shading": 0.13}
METHOD_FACTOR = {"lora": 1.0, "linear": 1.12, "finetune": 0.94, "constant": 1.6, "pixels": 1.35}
METHOD_FACTOR |= {"supervised": 0.5, "ceiling": 0.2}


def cell(model: str, intrinsic: str, method: str, seed: int = 0, **changes: Any) -> Cell:
    """A cell with every option filled; `changes` are options of the method (but `labels`), else fields."""
    known = set(fill_options(method, {})) - {"labels"}
    options = {k: v for k, v in changes.items() if k in known}
    fields = {k: v for k, v in changes.items() if k not in options}
    basic: dict[str, Any] = {
        "data": "rooms",
        "world": "w1",
        "size": 64,
        "train": 250,
        "validation": 50,
        "test": 40,
    }
    weights = "" if model == NO_MODEL else f"hash-{model}"
    filled = fill_options(method, options)
    return Cell(model, weights, intrinsic, method, filled, seed=seed, **(basic | fields))


def generator(model: str) -> dict[str, Any]:
    """What a record keeps of a generator's spec."""
    if model == NO_MODEL:
        return {}
    family, tag = model.split(".")
    facts = {"name": model, "family": family, "takes": "images", "trained": None}
    if family == "sd":
        stage = STAGES[tag.removeprefix("rooms64-")]
        word = f"{stage:.0%} trained" if stage else "random"
        return facts | {"title": f"SD rooms, {word}", "domain": "rooms", "trained": stage}
    return facts | {"title": f"GAN {tag}", "domain": "faces", "takes": "seeds"}


def difficulty(c: Cell) -> float:
    """Error relative to the best model's LoRA: falls with training, rank, training pictures."""
    stage = generator(c.model).get("trained")
    share = 1.0 if stage is None else stage * (1 - float(c.options.get("noise") or 0))
    factor = METHOD_FACTOR[c.method] * (1.45 - 0.42 * share**0.35)
    factor *= (250 / c.train) ** 0.08 * (8 / c.options.get("rank", 8)) ** 0.03
    return factor * (1.5 if c.options.get("labels") == "shuffled" else 1.0)


def record(c: Cell) -> Record:
    """A finished record, its numbers drawn from the cell's own stream."""
    rng = np.random.default_rng(zlib.crc32(c.hash.encode()))
    environment = {
        "versions": {"torch": "2.13.0", "diffusers": "0.36.0"},
        "commit": "0123abc",
        "device": "cpu",
        "threads": 1,
        "peak_memory_mb": round(float(rng.uniform(700, 900)), 1),
    }
    common: dict[str, Any] = {"environment": environment, "generator": generator(c.model)}
    common["seconds"] = {"train": float(rng.uniform(8, 12))}
    if c.method == "frechet":
        value = FRECHET.get(c.model.removeprefix("sd.rooms64-"), 4.0 + 3.0 * rng.random())
        scores = {"frechet_distance": value, "kernel_distance": value / 40}
        return Record(c, "done", scores=scores, details={"samples": c.options["samples"]}, **common)
    if c.method == "ceiling":  # one decoder for all stages
        rng = np.random.default_rng(len(c.intrinsic))
    base = BEST[c.intrinsic] * (0.2 if c.method == "ceiling" else difficulty(c)) * rng.normal(1, 0.01)
    per_image = {PRIMARY[c.intrinsic]: (base * rng.lognormal(0, 0.15, c.test)).tolist()}
    extra = {"normal": "median_angular_error", "depth": "abs_rel"}.get(c.intrinsic, "si_rms")
    per_image[extra] = [0.8 * v for v in per_image[PRIMARY[c.intrinsic]]]
    scores = {name: float(np.mean(values)) for name, values in per_image.items()}
    parameters = {"trainable": 141_000, "total": 6_000_000}
    return Record(c, "done", scores=scores, per_image=per_image, parameters=parameters, **common)


def _truth(intrinsic: str, h: int, number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : h * 1j]
    cx, cy, radius = rng.uniform(-0.4, 0.4), rng.uniform(-0.3, 0.3), rng.uniform(0.3, 0.6)
    ball = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
    if intrinsic == "normal":
        up = np.where(y > 0.3, 0.95, 0.0)
        n = np.stack([np.where(ball, (x - cx) / radius, 0.0), np.where(ball, -(y - cy) / radius, up)])
        return np.concatenate([n, np.sqrt(np.clip(1 - (n**2).sum(0, keepdims=True), 0, 1))])
    if intrinsic == "depth":
        return np.where(ball, 2.0, 4.5 - 1.5 * np.clip(y, 0, 1))[None]
    color = (
        rng.uniform(0.1, 0.9, (3, 1, 1))
        if intrinsic == "albedo"
        else np.array([1.0, 0.9, 0.7])[:, None, None]
    )
    shade = 0.6 - 0.4 * x if intrinsic == "shading" else 0.4 + 0.3 * ((np.floor(4 * x) + np.floor(4 * y)) % 2)
    return np.where(ball, color, shade[None] * np.ones((3, 1, 1)))


def write_maps(store: Path, r: Record, pictures: int = 3, h: int = 64) -> None:
    """Maps of a record: truth with a noise that grows with its error."""
    c = r.cell
    rng = np.random.default_rng(zlib.crc32(c.hash.encode()) + 1)
    domain = 100 if r.generator.get("domain") == "faces" else 0
    truth = np.stack([_truth(c.intrinsic, h, domain + n) for n in range(pictures)])
    prediction = truth + rng.normal(0, 0.15 * difficulty(c) ** 2, truth.shape)
    if c.intrinsic == "normal":
        prediction /= np.linalg.norm(prediction, axis=1, keepdims=True) + 1e-6
        error = np.degrees(np.arccos(np.clip((prediction * truth).sum(1, keepdims=True), -1, 1)))
    else:
        error = np.abs(prediction - truth).mean(1, keepdims=True)
    look = np.stack(
        [_truth("albedo", h, domain + n) * (0.7 + 0.3 * _truth("shading", h, n)) for n in range(pictures)]
    )
    picture = (255 * np.clip(look, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    (store / "maps").mkdir(exist_ok=True)
    half = {"truth": truth, "prediction": prediction, "error": error}
    np.savez(
        store / "maps" / f"{c.hash}.npz",
        picture=picture,
        **{name: value.astype(np.float16) for name, value in half.items()},
    )
    r.maps = f"maps/{c.hash}.npz"


def cells(seeds: int = 3, intrinsics: tuple[str, ...] = INTRINSICS) -> Iterator[Cell]:
    """A suite like rooms.toml, with a family of another domain beside it."""
    stages = [f"sd.rooms64-{s}" for s in STAGES]
    for intrinsic in intrinsics:
        for method in ("constant", "pixels", "supervised"):
            yield cell(NO_MODEL, intrinsic, method)
        for model in stages:
            yield cell(model, intrinsic, "ceiling")
            yield cell(model, intrinsic, "linear")
            yield from (cell(model, intrinsic, "lora", s) for s in range(seeds))
            yield from (cell(model, intrinsic, "finetune", s) for s in range(seeds))
        for gan in ("gan.a", "gan.b", "gan.c"):
            yield from (
                cell(gan, intrinsic, "lora", s, data="faces", world="f1", labels="predicted")
                for s in range(2)
            )
    yield from (cell("sd.rooms64-s5", "normal", "lora", s, rank=r) for r in (2, 32) for s in range(seeds))
    yield from (
        cell("sd.rooms64-s5", "normal", "lora", s, train=n) for n in (16, 64, 1000) for s in range(seeds)
    )
    yield from (cell("sd.rooms64-s5", "normal", "lora", 0, noise=n) for n in (0.25, 0.5, 0.75, 1.0))
    yield from (cell("sd.rooms64-s5", "normal", "linear", 0, noise=n) for n in (0.25, 0.5, 0.75, 1.0))
    yield from (cell("sd.rooms64-s5", "normal", "lora", 0, timestep=t) for t in (99, 499, 999))
    yield _shuffled()
    yield from (cell(m, NO_INTRINSIC, "frechet") for m in stages)
    for gan in ("gan.a", "gan.b", "gan.c"):
        yield cell(gan, NO_INTRINSIC, "frechet", data="faces", world="f1")


def _shuffled() -> Cell:
    true = cell("sd.rooms64-s5", "normal", "lora")
    return true.with_(options=true.options | {"labels": "shuffled"})


def write_suite(store: Path, planned: list[Cell], **changes: Any) -> None:
    """The suite file as the runner writes it."""
    suite: dict[str, Any] = {"name": "synthetic", "title": "A synthetic suite", "question": "Does it know?"}
    suite["cells"] = [asdict(c) | {"hash": c.hash} for c in planned]
    (store / "suite.json").write_text(json.dumps(suite | changes), encoding="utf-8")


def write_record(store: Path, r: Record) -> Path:
    """One record file, named by its cell's hash."""
    (store / "records").mkdir(parents=True, exist_ok=True)
    path = store / "records" / f"{r.cell.hash}.json"
    path.write_text(r.to_json(), encoding="utf-8")
    return path


def build_store(store: Path, seeds: int = 3, intrinsics: tuple[str, ...] = INTRINSICS) -> Path:
    """A whole store: LoRA failed for the shading of s1 and is missing for the depth of s2."""
    store.mkdir(parents=True, exist_ok=True)
    planned = list(cells(seeds, intrinsics))
    write_suite(store, planned)
    for c in planned:
        asked = (c.model, c.intrinsic, c.method)
        if asked == ("sd.rooms64-s2", "depth", "lora"):
            continue
        if asked == ("sd.rooms64-s1", "shading", "lora"):
            failed = Record(
                c, "failed", reason=f"the loss became NaN at step {3 + c.seed}", generator=generator(c.model)
            )
            write_record(store, failed)
            continue
        r = record(c)
        if c.seed == 0 and r.per_image and c.method != "ceiling":
            write_maps(store, r)
        write_record(store, r)
    return store
