"""Cells on a folder of one's own: how deep it may be, which pictures a seed trains on, the control."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import make_cell
from benchmarks import session as session_module
from benchmarks.cache import Cache
from benchmarks.cell import Cell
from benchmarks.data import DATA
from benchmarks.data.load import Pictures
from benchmarks.execute import Clock, make_task
from benchmarks.needs import shortages
from benchmarks.predictors.registry import describe_predictor
from benchmarks.session import Session, in_parts
from generators.errors import UserError
from probes.intrinsics import DEPTH_METERS, INTRINSICS, RELATIVE_DEPTH, Intrinsic, intrinsic
from probes.linear import fit
from probes.task import Examples, Task
from tests.data.own_folder import Arrays, rooms_as_arrays, said, write
from tests.probes import tiny

MODEL = "sd.rooms64-s1"
SHARES = {"train": "0.5", "validation": "0.2", "test": "0.3"}
DEPTH = INTRINSICS["depth"]


def folder(path: Path, factor: float = 1.0) -> str:
    """Ten rooms of some size with depth alone, five to train, two to validate."""

    def larger(i: int, maps: Arrays) -> None:
        maps["depth"] = maps["depth"] * factor

    alone = dict.fromkeys(("normal", "albedo", "shading"))
    return write(path, rooms_as_arrays(), larger, said(splits=SHARES, **alone))


def cell(data: str, method: str = "lora", **changes: object) -> Cell:
    asked: dict[str, object] = {"train": 4, "validation": 2, "test": 2, "data": data, **changes}
    model = "none" if method in ("constant", "pixels") else MODEL
    return make_cell(model, "depth", method, **asked)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def here() -> Session:
    """One for all, so that the model is loaded once."""
    return Session(Cache(None))


def task(asked: Cell, here: Session) -> Task:
    return make_task(asked, here, Clock(lambda share, phase: None))


# How deep.


@pytest.mark.parametrize("alignment", ["none", "scale", "scale-shift"])
def test_depth_that_targets_would_cut_off_is_refused(tmp_path: Path, here: Session, alignment: str) -> None:
    name = folder(tmp_path, 4)
    for method in ("lora", "finetune", "ceiling"):
        with pytest.raises(
            UserError, match=f"(?s)training maps go to .*ends at {DEPTH_METERS:g} m"
        ) as caught:
            task(cell(name, method, alignment=alignment), here)
        assert 'alignment = "unit"' in caught.value.todo and "clip" not in caught.value.todo


def test_what_encodes_no_depth_and_what_asks_it_without_unit_is_not_refused(
    tmp_path: Path, here: Session
) -> None:
    name = folder(tmp_path, 4)
    for asked in (cell(name, alignment="unit"), *(cell(name, m) for m in ("linear", "constant", "pixels"))):
        assert len(task(asked, here).train) == 4
    assert len(task(cell(folder(tmp_path / "near")), here).train) == 4


@pytest.mark.parametrize(
    ("data", "labels", "asked_as", "refused"),
    [
        ("diode:outdoor", "exact", DEPTH, True),
        ("diode", "zoedepth", DEPTH, True),
        ("diode", "rooms-network", DEPTH, False),
        ("samples", "zoedepth", DEPTH, True),
        ("samples", "rooms-network", DEPTH, False),
        ("rooms", "exact", DEPTH, False),
        ("diode", "exact", RELATIVE_DEPTH, False),
    ],
)
def test_only_what_others_bring_or_say_is_refused(
    data: str, labels: str, asked_as: Intrinsic, refused: bool
) -> None:
    asked = make_cell("none", "depth", "constant").with_(method="lora", data=data, labels=labels)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    at_most, beyond = (torch.full((1, 1, 2, 2), DEPTH_METERS + more) for more in (0.0, 0.5))
    for deep, where, wrong in ((at_most, mask, False), (beyond, ~mask, False), (beyond, mask, refused)):
        seen = Examples(torch.zeros(1, 3, 2, 2), {"depth": deep}, where)
        if not wrong:
            session_module._check_reach(asked, asked_as, seen)
            continue
        with pytest.raises(UserError) as caught:
            session_module._check_reach(asked, asked_as, seen)
        for fits in ("linear", "pixels", "constant"):  # these fit the maps themselves
            session_module._check_reach(asked.with_(method=fits), asked_as, seen)
        assert ("clip=10" in caught.value.todo) == (data == "diode:outdoor")
    assert "samples" in DATA and describe_predictor("rooms-network").embedded


def test_a_models_own_pictures_labeled_by_another_are_refused_too(
    here: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def far(self: Session, found: Pictures, *asked: object) -> Pictures:
        return replace(found, maps={"depth": torch.full_like(found.pictures[:, :1], 51)})

    monkeypatch.setattr(Session, "_predicted", far)
    for labels, alignment, refused in (
        ("zoedepth", "none", True),
        ("zoedepth", "unit", False),
        ("objects-network", "none", False),
    ):
        asked = make_cell(
            "stylegan2.rooms64-random", "depth", "lora", data="samples", labels=labels, alignment=alignment,
            train=2, validation=1, test=1,
        )  # fmt: skip
        with pytest.raises(UserError, match="go to 51 m") if refused else nullcontext():
            here.examples(asked, "train", intrinsic("depth", alignment))


# Which pictures.


def test_every_seed_trains_on_all_of_a_folder_in_another_order(tmp_path: Path) -> None:
    name = folder(tmp_path)
    first, second, again = (
        Session(Cache(None)).pictures(cell(name, "constant", train=5, seed=seed), "train").pictures
        for seed in (0, 3, 3)
    )
    assert torch.equal(second, again) and not torch.equal(first, second)
    assert sorted(first.double().sum((1, 2, 3)).tolist()) == sorted(second.double().sum((1, 2, 3)).tolist())
    seeds = [cell(name, train=train, seed=1) for train in (5, 6)]
    assert shortages(seeds[:1]) == ()
    (short,) = shortages(seeds)
    assert short.startswith("train = 6 of data set") and "which has 5" in short


# The control.


def test_the_control_on_a_folder_is_not_the_probe(tmp_path: Path, here: Session) -> None:
    name = folder(tmp_path)
    true, shuffled = (cell(name, "linear", options={"labels": k}) for k in ("true", "shuffled"))
    assert in_parts(true) and not in_parts(shuffled)
    asked = task(shuffled, here)
    control, probe = fit(asked), fit(task(true, here))
    assert asked.parts is None and not torch.allclose(control.weight, probe.weight, atol=1e-3)


def test_maps_of_other_pictures_are_not_asked_for_part_by_part() -> None:
    train, options = tiny.examples(4, 0, "depth"), {"layer": "best", "labels": "shuffled"}
    asked = Task(tiny.TinyGenerator(), DEPTH, train, train, options, 0)
    assert fit(asked).parameters
    asked.parts = lambda: iter([train])
    with pytest.raises(ValueError, match="part by part"):
        fit(asked)
