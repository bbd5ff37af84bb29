"""The distance of drawn pictures from renders: two feature spaces, one drawing, nothing large in memory."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import features, make_cell, quality
from benchmarks.cache import Cache
from benchmarks.cell import Cell, Record
from benchmarks.data import captions
from benchmarks.execute import execute
from benchmarks.metrics import METRICS
from benchmarks.session import Session
from benchmarks.speed.sampling_sd import timed
from benchmarks.store import Store
from generators.base import Sample
from generators.errors import UserError

GAN, SD = "stylegan2.rooms64-random", "sd.rooms64-s1"
SECOND = "dinov2-rooms"
FEW = {"samples": 40, "reference": 20, "steps": 2}
RECORDS = Path(__file__).parents[2] / "results"


def cell(model: str = GAN, data: str = "rooms", **options: object) -> Cell:
    return make_cell(model, "none", "frechet", FEW | options, data=data)


def measured(asked: Cell, folder: Path | None = None) -> quality.Measured:
    return quality.measure(asked, Session(Cache(folder)), lambda share: None)


def test_cells_that_ask_for_nothing_new_keep_their_names() -> None:
    assert set(cell().options) == {"samples", "reference", "steps", "guidance", "network"}
    assert cell(second="", precision="float32").hash == cell().hash
    others = [cell(second=SECOND), cell(precision="bfloat16"), cell(second=SECOND, second_weights="a")]
    assert len({each.hash for each in (cell(), *others)}) == 4
    paths = [p for p in RECORDS.glob("rooms*/records/*.json") if '"method": "frechet"' in p.read_text()]
    assert paths
    for path in paths:
        old = Record.from_json(path.read_text()).cell
        if "second" not in old.options:
            again = make_cell(old.model, "none", "frechet", old.options, data=old.data, weights=old.weights)
            assert again.with_(world=old.world).hash == path.stem


def test_a_second_space_leaves_the_first_as_it_is_and_has_names_of_its_own(tmp_path: Path) -> None:
    one, two = measured(cell(), tmp_path), measured(cell(second=SECOND), tmp_path)
    assert {k: two.scores[k] for k in one.scores} == one.scores and torch.equal(one.shown, two.shown)
    assert {k: two.details[k] for k in one.details} == one.details
    assert set(two.scores) - set(one.scores) == {"frechet_distance_2", "kernel_distance_2"}
    assert set(two.scores) <= set(METRICS) and all(METRICS[name].lower_is_better for name in two.scores)
    assert one.details["extractor"] == features.describe("rooms").extractor
    assert "DINOv2" in two.details["extractor_2"] and "renders" in two.details["trained_2"]
    assert two.details["weights_2"] == features.identity(SECOND)
    assert not [name for name in one.details if name.endswith("_2")]


def test_both_distances_are_those_of_pictures_drawn_one_by_one(tmp_path: Path) -> None:
    from benchmarks.data.load import load_pictures

    asked = cell(second=SECOND)
    generator = Session(Cache(None)).generator(asked)
    assert generator is not None
    alone = torch.cat([generator.sample([quality.SEED + i]).images for i in range(40)])
    renders = load_pictures("rooms", "reference", range(20), 64).pictures
    found = measured(asked, tmp_path).scores
    for space, end in (("rooms", ""), (SECOND, "_2")):
        a, b = (features.measure_features(space, pictures) for pictures in (alone, renders))
        expected, _ = quality.distances(a, b)
        assert {name: found[name + end] for name in expected} == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("model", [GAN, SD, "vqgan.rooms64-s1"])
def test_a_picture_depends_on_its_seed_and_not_on_the_batch(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}
    for batch in (5, 3):
        monkeypatch.setattr(quality, "BATCH", batch)
        drawn[batch] = torch.cat(list(quality.drawn_pictures(cell(model, samples=7), Session(Cache(None)))))
    apart = (drawn[5].int() - drawn[3].int()).abs()
    assert drawn[5].shape == (7, 3, 64, 64) and apart.max() <= 1  # of 255
    assert (drawn[5][0].int() - drawn[5][1].int()).abs().max() > 20, "the check above could not fail"


class Spy:
    """Stands for measure_features and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int]] = []

    def __call__(self, space: str, pictures: Tensor, device: str = "cpu", batch: int = 32) -> Tensor:
        self.shown.append((space, len(pictures)))
        return pictures[:, :, :2, :2].flatten(1)


def test_pictures_are_drawn_once_and_no_more_than_a_batch_is_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here, spy = Session(Cache(tmp_path)), Spy()
    drawn: list[int] = []
    asked = cell(second=SECOND, samples=70)
    generator = here.generator(asked)
    assert generator is not None
    sample = generator.sample

    def counted(seeds: Sequence[int], said: Sequence[str]) -> Sample:
        drawn.extend(seeds)
        return sample(seeds, said)

    monkeypatch.setattr(generator, "sample", counted)
    monkeypatch.setattr(quality, "measure_features", spy)
    quality.measure(asked, here, lambda share: None)
    assert drawn == [quality.SEED + i for i in range(70)]
    batches = [(space, count) for count in (32, 32, 6) for space in ("rooms", SECOND)]
    assert spy.shown == [("rooms", 20), (SECOND, 20), *batches]


def test_features_of_the_renders_are_computed_once_for_all_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(cell(second=SECOND, samples=2), tmp_path)
    files = list((tmp_path / "features").glob("*.safetensors"))
    assert len(files) == 2
    spy = Spy()
    monkeypatch.setattr(quality, "measure_features", spy)
    for space in ("rooms", SECOND):
        other = cell(SD, second=SECOND)
        quality.reference_features(other, Session(Cache(tmp_path)), space)
    assert not spy.shown
    quality.reference_features(cell(reference=10), Session(Cache(tmp_path)), "rooms")
    assert spy.shown == [("rooms", 10)]


def test_the_world_of_a_cell_says_what_is_drawn_and_what_it_is_compared_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts, references = {}, {}
    for data in ("rooms", "objects"):
        here, asked = Session(Cache(None)), cell(SD, data, samples=2, reference=4)
        generator = here.generator(asked)
        assert generator is not None

        def sample(seeds: Sequence[int], said: Sequence[str], data: str = data, **more: object) -> Sample:
            prompts[data] = tuple(said)
            return Sample(torch.zeros(len(seeds), 3, 64, 64), {})

        monkeypatch.setattr(generator, "sample", sample)
        list(quality.drawn_pictures(asked, here))
        references[data] = quality.reference_features(asked, here, "rooms")
        assert prompts[data] == captions(data, "reference", range(2))
    assert prompts["rooms"] != prompts["objects"]
    assert not torch.allclose(references["rooms"], references["objects"])


@pytest.mark.parametrize("data", ["diode", f"drawn:{GAN}"])
def test_only_a_world_with_captions_is_compared_with(data: str) -> None:
    with pytest.raises(UserError, match=r"(?s)renders of an embedded world.*rooms, objects"):
        cell(data=data)


def test_pictures_are_compared_with_renders_of_their_size() -> None:
    with pytest.raises(UserError, match=r"(?s)size = 32.*64 pixels a side.*size = 64"):
        make_cell(GAN, "none", "frechet", FEW, size=32)


@pytest.mark.parametrize("model", [SD, GAN])
def test_bfloat16_draws_nearly_the_same_and_is_for_diffusion_models_alone(model: str) -> None:
    drawn = {}
    for precision in ("float32", "bfloat16"):
        asked = cell(model, precision=precision, samples=4, steps=4)
        drawn[precision] = torch.cat(list(quality.drawn_pictures(asked, Session(Cache(None))))).float()
    apart = (drawn["float32"] - drawn["bfloat16"]).abs().mean()
    assert 0 < apart < 2 if model == SD else apart == 0  # of 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"second": "dinov2-room"}, "did you mean 'dinov2-rooms'"),
        ({"second": "rooms"}, "first one in every record"),
        ({"second": SECOND, "second_weights": "0" * 16}, "plans anew"),
    ],
)
def test_a_space_that_is_not_what_was_planned_is_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measured(cell().with_(options={**cell().options, **options}))


def test_a_record_with_both_spaces_is_written_and_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    record = execute(cell(second=SECOND, samples=4, reference=8), store, lambda share, phase: None)
    again = Record.from_json(record.to_json())
    assert again.scores == record.scores and json.loads(record.to_json())["cell"]["options"]["second"]
    assert record.scores["frechet_distance_2"] > 0


def test_ways_are_timed_with_what_they_change() -> None:
    calls = []

    def run(factor: float) -> Tensor:
        calls.append(factor)
        return factor * torch.ones(4)

    found = timed({"exact": lambda: run(1.0), "half": lambda: run(1.5)}, rounds=2)
    assert found["exact"][1] == 0 and found["half"][1] == pytest.approx(0.5)
    assert calls == [1.0, 1.5] * 3 and all(len(took.seconds) == 2 for took, _ in found.values())
