"""A made-up store like the whole matrix: five families, each at four stages, untrained and scrambled."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cell import NO_INTRINSIC, Cell, Record
from tests.report.synthetic import PRIMARY, cell, write_record, write_suite

FAMILIES = {
    "sd": "Stable Diffusion",
    "stylegan2": "StyleGAN2",
    "stylegan-xl": "StyleGAN-XL",
    "vqgan": "VQGAN",
}
FAMILIES |= {"sd-aug": "SD AUG"}
SHARES = {"s1": 0.1, "s2": 0.3, "s3": 0.6, "s4": 1.0, "random": 0.0}
RATES = {"sd": 0.005, "stylegan2": 0.01, "stylegan-xl": 0.01, "vqgan": 0.03, "sd-aug": 0.01}
METHODS = ("lora", "linear")


def models(world: str = "rooms", families: tuple[str, ...] = tuple(FAMILIES)) -> list[str]:
    """Every family at every stage, untrained and scrambled."""
    return [f"{f}.{world}64-{tag}" for f in families for tag in (*SHARES, "scrambled")]


def facts(model: str) -> dict[str, Any]:
    """What a record keeps of a generator's spec."""
    family, tag = model.split(".")
    world, tag = tag.split("64-")
    share, control = SHARES.get(tag, 1.0), "scrambled" if tag == "scrambled" else ""
    words = f"{share:.0%}" if share else "random init"
    title = f"{FAMILIES[family]} {control + ' ' if control else ''}{world}, {words}"
    told = {"name": model, "family": FAMILIES[family], "title": title, "domain": world, "trained": share}
    return told | {"control": control, "takes": "images"}


def record(c: Cell, says: float = 0.8) -> Record:
    """A finished record; `says`: how much of the error the Frechet distance tells."""
    rng = np.random.default_rng(zlib.crc32(c.hash.encode()))
    told = facts(c.model)
    own = np.random.default_rng(zlib.crc32(c.model.encode()))
    share = 0.15 if told["control"] else told["trained"]
    skill, luck = 1 - share**0.5, own.normal()
    common: dict[str, Any] = {
        "generator": told,
        "parameters": {"trainable": 9, "total": 1000 + 10 * len(told["family"])},
    }
    if c.method == "frechet":
        distance = (8 + 45 * skill) * float(np.exp(0.15 * luck))
        scores = {"frechet_distance": distance, "kernel_distance": distance / 40}
        scores |= {"frechet_distance_2": 3 + distance**0.9, "kernel_distance_2": distance / 90}
        details = {"samples": 5000, "reference": 4096, "extractor": "rooms", "extractor_2": "dinov2-rooms"}
        return Record(c, "done", scores=scores, details=details, **common)
    chance = says * (skill + 0.1 * luck) + (1 - says) * float(rng.uniform(0, 1))
    base = {"normal": 25.0, "depth": 0.8}[c.intrinsic] * (1 + 0.5 * chance)
    shared = np.random.default_rng(zlib.crc32(c.data.encode())).lognormal(0, 0.3, c.test)
    each = base * shared / shared.mean() * rng.lognormal(0, 0.1, c.test)
    name = PRIMARY[c.intrinsic]
    return Record(c, "done", scores={name: float(each.mean())}, per_image={name: each.tolist()}, **common)


def planned(world: str = "rooms", names: list[str] | None = None, seeds: int = 2) -> list[Cell]:
    """Every model asked for normals and depth by every method, and how well it draws."""
    found = []
    for model in names or models(world):
        rate = RATES[model.split(".")[0]]
        for intrinsic in ("normal", "depth"):
            for seed in range(seeds):
                asked = {"rate": rate, "targets": "convolutions" if "vqgan" in model else "all"}
                found.append(_own(cell(model, intrinsic, "lora", seed, data=world, **asked)))
            found.append(cell(model, intrinsic, "linear", data=world))
        found.append(cell(model, NO_INTRINSIC, "frechet", data=world, samples=5000))
    return found


def _own(c: Cell) -> Cell:
    """With an option of the model's own, where it samples in many steps."""
    return c.with_(options={**c.options, "sampler_steps": 10}) if "sd-aug" in c.model else c


def build(store: Path, records: list[Record]) -> Path:
    """A store of these records."""
    store.mkdir(parents=True, exist_ok=True)
    write_suite(store, [r.cell for r in records])
    for r in records:
        write_record(store, r)
    return store


def matrix(store: Path, says: float = 0.8) -> Path:
    """Thirty models of rooms and twelve of objects."""
    cells = [*planned(), *planned("objects", models("objects", ("sd", "stylegan2")))]
    return build(store, [record(c, says) for c in cells])


def changed(r: Record, **fields: Any) -> Record:
    """The record with other fields; `details` and `generator` are added to."""
    for name in ("details", "generator"):
        if name in fields:
            fields[name] = getattr(r, name) | fields[name]
    return replace(r, **fields)
