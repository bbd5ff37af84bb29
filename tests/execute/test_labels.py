"""What predictors say of pictures: its range, whose pictures it is kept for, and where it counts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import make_cell, session
from benchmarks.cache import Cache
from benchmarks.cell import Cell
from benchmarks.data.load import Pictures, load_pictures
from benchmarks.execute import Clock, make_task
from benchmarks.predictors.labeling import label_pictures
from benchmarks.predictors.rooms import OUTPUTS, maps_of
from benchmarks.session import Session
from generators import load
from probes.intrinsics import INTRINSICS
from probes.task import Examples

SMALL = {"train": 3, "validation": 2, "test": 2}
MODEL = "stylegan2.rooms64-random"
ALBEDO = INTRINSICS["albedo"]


def own(labels: str = "paradigms", **changes: object) -> Cell:
    asked = {"data": "samples", "labels": labels} | SMALL | changes
    return make_cell(MODEL, "albedo", "lora", **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["albedo", "shading"])
def test_pseudo_truth_is_within_the_range_that_a_probe_can_be_taught(name: str) -> None:
    outputs = torch.linspace(-1, 2, 10 * 4).view(1, 10, 2, 2)
    found = maps_of(outputs, name)
    assert found.min() >= 0 and found.max() <= 1
    assert torch.equal(found, outputs[:, OUTPUTS[name]].clamp(0, 1))
    untrained = Session(Cache(None)).examples(own("rooms-network"), "train", ALBEDO)
    truth = untrained.maps["albedo"]
    assert (truth == 0).any() or (truth == 1).any(), "of no use here: no value had left the range"
    torch.testing.assert_close(ALBEDO.from_picture(ALBEDO.to_picture(truth)), truth)


def test_labels_of_own_pictures_are_kept_for_the_weights_that_drew_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {
        cell.weights: load(name) for cell, name in ((own(), MODEL), (_other(), f"{MODEL[:-6]}scrambled"))
    }
    monkeypatch.setattr(Session, "generator", lambda self, cell: models[cell.weights])
    first, second = (Session(Cache(tmp_path)).examples(c, "test", ALBEDO) for c in (own(), _other()))
    assert not torch.equal(first.pictures, second.pictures)
    assert torch.equal(
        second.maps["albedo"], label_pictures("paradigms", second.pictures, ["albedo"])["albedo"]
    )


def _other() -> Cell:
    return own().with_(weights="retrained")


def test_training_labels_of_their_own_are_asked_of_own_pictures_too() -> None:
    cell = own("rooms-network", train_labels="paradigms")
    here = Session(Cache(None))
    train, test = here.examples(cell, "train", ALBEDO), here.examples(cell, "test", ALBEDO)
    taught = label_pictures("paradigms", train.pictures, ["albedo"])["albedo"]
    assert torch.equal(train.maps["albedo"], taught)
    scored = label_pictures("rooms-network", test.pictures, ["albedo"])["albedo"]
    torch.testing.assert_close(test.maps["albedo"], scored)


def test_what_a_folders_mask_leaves_out_stays_out_when_a_predictor_labels_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half(*asked: object) -> Pictures:
        found = load_pictures(*asked)  # type: ignore[arg-type]
        mask = found.mask.clone()
        mask[..., :32] = False
        return replace(found, mask=mask)

    monkeypatch.setattr(session, "load_pictures", half)
    cell = make_cell("none", "albedo", "constant", labels="paradigms", **SMALL)  # type: ignore[arg-type]
    found = Session(Cache(None)).examples(cell, "test", ALBEDO)
    assert not found.mask[..., :32].any() and found.mask[..., 32:].all()


def test_two_models_of_one_identity_share_no_training_and_no_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untrained networks of one seed have one identity, though their inputs may differ."""
    nothing = Examples(torch.empty(0, 3, 0, 0), {}, torch.empty(0, 1, 0, 0).bool())
    monkeypatch.setattr(Session, "generator", lambda self, cell: None)
    monkeypatch.setattr(Session, "examples", lambda self, cell, split, intrinsic: nothing)
    weights, kept = set(), []
    for number, model in enumerate(("sd.rooms64-random", "sd.objects64-random")):
        cell = make_cell(model, "albedo", "linear", data="rooms", **SMALL)  # type: ignore[arg-type]
        task = make_task(cell, Session(Cache(tmp_path)), Clock(lambda share, phase: None))
        said = {"number": torch.tensor([number])}
        weights.add(cell.weights)
        kept.append(int(task.remember("moments", said.copy)["number"]))
    assert len(weights) == 1 and kept == [0, 1]
