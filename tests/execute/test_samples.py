"""A generator's own pictures as a data set: who may be asked, what is cached, and that cells run."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import make_cell
from benchmarks.cache import Cache
from benchmarks.cell import Cell
from benchmarks.data import captions, samples
from benchmarks.execute import execute
from benchmarks.session import Session
from benchmarks.store import Store
from generators import load, registry
from generators.errors import UserError
from probes.intrinsics import INTRINSICS

SMALL = {"train": 12, "validation": 4, "test": 6}
OWN = {"data": "samples", "labels": "rooms-network"} | SMALL
MODEL = "stylegan2.rooms64-random"


def cell(method: str = "lora", intrinsic: str = "normal", model: str = MODEL, **options: object) -> Cell:
    return make_cell(model, intrinsic, method, options, **OWN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"steps": 2, "batch": 4}),
        ("lora", {"steps": 2, "batch": 4, "targets": "torgb"}),
        ("latent_offset", {"steps": 2, "batch": 4}),
        ("latent_offset", {"steps": 2, "batch": 4, "space": "style"}),
        ("finetune", {"steps": 2, "batch": 4}),
        ("linear", {}),
        ("constant", {}),
        ("pixels", {"patch": 3}),
    ],
)
def test_every_method_on_a_models_own_pictures(
    tmp_path: Path, method: str, options: dict[str, object]
) -> None:
    asked = cell(method, **options)
    records = []
    for name in ("a", "b"):
        store = Store(tmp_path / name)
        store.prepare()
        records.append(execute(asked, store, lambda share, phase: None))
    first, second = records
    assert first.status == "done" and all(np.isfinite(list(first.scores.values())))
    assert first.outcome() == second.outcome()
    assert first.environment["implementation"] != "torch"
    error = first.details["mean_map_error"]
    expected = 100 * (1 - first.scores["mean_angular_error"] / error)
    assert first.scores["skill"] == pytest.approx(expected, abs=1e-4)
    assert method != "constant" or first.scores["skill"] == pytest.approx(0, abs=1e-4)


def test_splits_share_no_seed_and_the_test_pictures_do_not_depend_on_the_cells() -> None:
    starts = sorted(samples.FIRST_SEED.values())
    assert all(later - earlier >= 10_000_000 for earlier, later in pairwise(starts))
    session = Session(Cache(None))
    normal = INTRINSICS["normal"]
    one = session.examples(cell(), "test", normal)
    two = Session(Cache(None)).examples(cell().with_(seed=3), "test", normal)
    assert torch.equal(one.pictures, two.pictures)
    train = [Session(Cache(None)).examples(cell().with_(seed=s), "train", normal) for s in (0, 1)]
    assert not torch.equal(train[0].pictures, train[1].pictures)


def test_labels_are_what_the_predictor_sees_and_codes_make_the_pictures() -> None:
    from benchmarks.predictors.rooms import SupervisedProbe

    found = Session(Cache(None)).examples(cell(intrinsic="depth"), "train", INTRINSICS["depth"])
    seen = SupervisedProbe(INTRINSICS["depth"]).predict(found)
    assert torch.equal(seen, found.maps["depth"])
    again = load(MODEL).forward(found.code, "depth").clamp(-1, 1)
    assert (again - found.pictures).abs().max() < 1.1 / 255  # eight bits
    torch.testing.assert_close(found.output, INTRINSICS["depth"].to_picture(found.maps["depth"]))


def test_samples_are_drawn_once_for_all_intrinsics_and_methods(tmp_path: Path) -> None:
    Session(Cache(tmp_path)).examples(cell(), "test", INTRINSICS["normal"])
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert len(files) == 1
    Session(Cache(tmp_path)).examples(cell("linear", "albedo"), "test", INTRINSICS["albedo"])
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == files


@pytest.mark.parametrize(
    ("model", "method", "changes", "message"),
    [
        ("sd.v1-5", "lora", {"size": 512}, "takes pictures"),
        ("sd-aug.rooms64-s5", "lora", {}, "takes pictures"),
        ("none", "constant", {}, "model's own"),
        (MODEL, "supervised", {}, "labels"),
        (MODEL, "lora", {"size": 32}, "64 pixels"),
        (MODEL, "lora", {"labels": "exact"}, "label source"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_loads(
    model: str, method: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_cell(model, "normal", method, {}, **(OWN | changes))  # type: ignore[arg-type]


def test_noise_would_change_the_pictures_themselves() -> None:
    with pytest.raises(UserError, match="change with its weights"):
        cell(noise=0.5)


def test_a_seed_fed_model_on_given_pictures_is_told_what_to_do() -> None:
    with pytest.raises(UserError, match="data = 'samples'"):
        make_cell(MODEL, "normal", "lora", **SMALL)  # type: ignore[arg-type]


def test_the_distance_is_measured_against_renders() -> None:
    with pytest.raises(UserError, match="renders"):
        make_cell(MODEL, "none", "frechet", **OWN)  # type: ignore[arg-type]


# A model that draws and takes pictures is shown what it drew.


def test_a_diffusion_model_is_shown_its_own_pictures() -> None:
    model = load("sd.rooms64-scrambled")
    found = samples.examples(samples.draw(model, "test", range(3)))
    assert found.pictures.shape == (3, 3, 64, 64) and set(found.code) == {"latent"}
    torch.testing.assert_close(found.code["latent"], model.embed(found.pictures)["latent"])
    seeds = [samples.FIRST_SEED["test"] + i for i in range(3)]
    said = samples.told(model.spec, seeds)
    assert len(set(said["captions"])) == 3 and said["steps"] == samples.SAMPLER["steps"]
    silent = model.sample(seeds, **{**said, "captions": None}).images
    assert (silent - found.pictures).abs().max() > 0.05  # it listens
    assert samples.told(load(MODEL).spec, seeds) == {}


def test_its_cell_has_a_skill_and_captions_of_its_own_world() -> None:
    made = make_cell("sd.rooms64-s5", "normal", "lora", {"steps": 2}, **OWN)  # type: ignore[arg-type]
    assert made.data == "samples"
    objects = samples.told(registry.spec("sd.objects64-s3"), [5])["captions"]
    assert objects == captions("objects", "reference", [5])
