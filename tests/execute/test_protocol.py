"""Cells that train on other pictures, labels or sizes than they are tested on; masks; relative depth."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import Record, make_cell, run
from benchmarks.cache import Cache
from benchmarks.cell import Cell
from benchmarks.execute import Clock, execute, make_task
from benchmarks.metrics.maps import score
from benchmarks.report import write_report
from benchmarks.runner import run_suite
from benchmarks.session import Session
from benchmarks.store import Store
from benchmarks.suite import Suite
from generators.errors import UserError
from probes.intrinsics import RELATIVE_DEPTH, relative_depth
from probes.methods import method_fit
from probes.task import Task

SMALL = {"train": 12, "validation": 4, "test": 6}
LORA = {"steps": 3, "batch": 4, "rate": 0.01}


def done(cell: Cell, folder: Path) -> Record:
    store = Store(folder)
    store.prepare()
    return execute(cell, store, lambda share, phase: None)


def test_a_question_asked_in_two_ways_is_one_cell() -> None:
    plain = make_cell("sd.rooms64-s1", "normal", "lora", **SMALL)
    told = make_cell(
        "sd.rooms64-s1", "normal", "lora", train_data="rooms", train_labels="exact", test_size=64, **SMALL
    )
    assert told == plain and "train_data" not in plain.facts()
    assert Cell(**plain.facts()) == plain
    assert make_cell("sd.rooms64-s1", "normal", "lora", test_size=128, **SMALL).hash != plain.hash


def test_adapters_learn_from_the_predictor_and_are_scored_against_the_truth(tmp_path: Path) -> None:
    exact = make_cell("sd.rooms64-s5", "normal", "lora", LORA, **SMALL)
    taught = make_cell("sd.rooms64-s5", "normal", "lora", LORA, train_labels="rooms-network", **SMALL)
    records = [done(cell, tmp_path) for cell in (exact, taught)]
    assert records[0].details["loss_first"] != records[1].details["loss_first"]
    truth = [np.load(tmp_path / str(record.maps))["truth"] for record in records]
    np.testing.assert_array_equal(*truth)
    judged = make_cell("sd.rooms64-s5", "normal", "lora", LORA, labels="rooms-network", **SMALL)
    assert (np.load(tmp_path / str(done(judged, tmp_path).maps))["truth"] != truth[0]).any()
    assert len({cell.world for cell in (exact, taught, judged)}) == 3


@pytest.mark.parametrize(("intrinsic", "alignment"), [("normal", "none"), ("depth", "unit")])
def test_a_predictor_agrees_with_itself_and_not_with_the_truth(
    tmp_path: Path, intrinsic: str, alignment: str
) -> None:
    asked = {"predictor": "rooms-network"}
    more = {"alignment": alignment, **SMALL}
    itself = make_cell("none", intrinsic, "predictor", asked, labels="rooms-network", **more)
    truth = make_cell("none", intrinsic, "predictor", asked, **more)
    name = "mean_angular_error" if intrinsic == "normal" else "rms"
    # The maps of an exact agreement differ by what 16 bits of the cache and arccos lose.
    assert done(itself, tmp_path).scores[name] < 1e-2
    assert done(truth, tmp_path).scores[name] > (1 if intrinsic == "normal" else 0.01)


def test_a_larger_test_picture_meets_the_same_adapter(tmp_path: Path) -> None:
    cells = [
        make_cell("sd.rooms64-s5", "normal", "lora", LORA, test_size=size, **SMALL) for size in (64, 128)
    ]
    small, large = (done(cell, tmp_path) for cell in cells)
    shapes = [np.load(tmp_path / str(record.maps))["prediction"].shape[2:] for record in (small, large)]
    assert shapes == [(64, 64), (128, 128)]
    adapters = [
        (tmp_path / str(r.adapter) / "adapter_model.safetensors").read_bytes() for r in (small, large)
    ]
    assert adapters[0] == adapters[1]


def test_a_samplers_training_serves_every_size_of_test_pictures(tmp_path: Path) -> None:
    session = Session(Cache(tmp_path / "cache"))
    options = {**LORA, "sampler_steps": 1}
    for size in (64, 128):
        cell = make_cell("sd-aug.rooms64-s5", "normal", "lora", options, test_size=size, **SMALL)
        task = make_task(cell, session, Clock(lambda share, phase: None))
        method_fit("lora")(task).release()
    assert len(list((tmp_path / "cache" / "fitted").iterdir())) == 1


def test_what_another_kind_of_device_or_protocol_computed_is_not_recalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, key, asked = Cache(tmp_path), {"kind": "codes", "model": "any"}, []

    def ask(device: str) -> None:
        Session(cache, device).kept(key, lambda: asked.append(device) or {"x": torch.zeros(1)})

    for device in ("cpu", "cuda:0", "cpu", "cuda:1"):
        ask(device)
    assert asked == ["cpu", "cuda:0"]
    assert cache.path(key).exists()  # type: ignore[union-attr]  # a CPU's keys are what they were
    monkeypatch.setattr("benchmarks.session.PROTOCOL", 2)
    ask("cpu")
    assert asked == ["cpu", "cuda:0", "cpu"]


def test_relative_depth_is_one_at_the_nearest_and_zero_at_the_farthest() -> None:
    depth = torch.tensor([[0.1, 1.0, 2.0], [3.0, 4.0, 400.0]])[None, None].repeat(1, 1, 40, 40)
    mask = torch.ones_like(depth, dtype=torch.bool)
    found = relative_depth(depth, mask)
    assert found.min() == 0 and found.max() == 1
    assert (found[depth <= 0.5] == 1).all()  # clipped to half a meter
    order = depth.flatten().argsort()
    assert (found.flatten()[order].diff() <= 0).all()
    mask[depth > 300] = False
    without = relative_depth(depth, mask)
    np.testing.assert_allclose(without[0, 0, 0, :3], [1, 1 - 0.5 / 3.5, 1 - 1.5 / 3.5], atol=1e-6)
    assert (without[depth > 300] == 1).all()  # what the mask leaves out
    flat = torch.full((1, 1, 4, 4), 2.0)
    assert (relative_depth(flat, flat > 0) == 1).all()
    picture = RELATIVE_DEPTH.to_picture(found)
    assert torch.allclose(RELATIVE_DEPTH.from_picture(picture), found, atol=1e-6)


def test_relative_depth_is_scored_without_unit() -> None:
    truth = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    truth[:, :, 0, 0] = 0
    mask = torch.ones_like(truth, dtype=torch.bool)
    assert score("depth", truth, truth, mask, "unit")["delta1"].eq(100).all()
    assert torch.allclose(score("depth", truth + 0.1, truth, mask, "unit")["rms"], torch.tensor(0.1).double())
    with pytest.raises(UserError, match="not within 0 and 1"):
        score("depth", truth, truth * 3, mask, "unit")
    with pytest.raises(UserError, match="only depth is aligned"):
        make_cell("none", "normal", "constant", alignment="unit", **SMALL)


@pytest.mark.parametrize("model", ["sd.rooms64-s1", "sd-aug.rooms64-s5", "dinov2.rooms64-s2"])
def test_what_is_not_valid_teaches_nothing(model: str, tmp_path: Path) -> None:
    options = LORA | ({"sampler_steps": 1} if model.startswith("sd-aug") else {})
    cell = make_cell(model, "normal", "lora", options, **SMALL)
    session = Session(Cache(tmp_path))

    def weights(noise: float, masked: bool) -> torch.Tensor:
        task = make_task(cell, session, Clock(lambda share, phase: None))
        assert task.train.output is not None and task.train.valid is None
        output = task.train.output.clone()
        valid = torch.ones_like(output[:, :1], dtype=torch.bool)
        valid[:, :, :3] = False
        # A denoiser sees its target noised: what is invalid must be masked in the loss, and is seen the same.
        if model != "sd-aug.rooms64-s5":
            output[:, :, :3] += noise
        train = replace(task.train, output=output, valid=valid if masked else None)
        fitted = method_fit("lora")(replace_train(task, train))
        trained = [p for p in task.model.network.parameters() if p.requires_grad]
        found = torch.cat([p.detach().flatten().clone() for p in trained])
        fitted.release()
        return found

    assert torch.equal(weights(0.0, True), weights(5.0, True))
    assert not torch.equal(weights(0.0, True), weights(0.0, False))


def replace_train(task: Task, train: object) -> Task:
    return replace(task, train=train, remember=lambda key, compute: compute())  # type: ignore[arg-type]


def test_data_that_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    cell = make_cell("none", "normal", "constant", **SMALL)
    with pytest.raises(UserError, match="the plan was made for another"):
        done(cell.with_(world="another"), tmp_path)


def test_a_cell_of_another_suite_is_taken_over_whole(tmp_path: Path) -> None:
    shared, own = (make_cell("none", name, "constant", **SMALL) for name in ("normal", "depth"))
    first, second = Suite("one", "One", "?", (shared,)), Suite("two", "Two", "?", (shared, own))
    run_suite(first, tmp_path / "one")
    outcome = run_suite(second, tmp_path / "two", share=True)
    assert outcome.computed == 1 and len(outcome.records) == 2
    for kind in ("records", "maps", "adapters"):
        names = [sorted(p.name for p in (tmp_path / store / kind).iterdir()) for store in ("one", "two")]
        assert set(names[0]) <= set(names[1])
    assert (tmp_path / "one" / "records" / f"{shared.hash}.json").read_bytes() == (
        tmp_path / "two" / "records" / f"{shared.hash}.json"
    ).read_bytes()
    again = run_suite(second, tmp_path / "three", share=False)
    assert again.computed == 2
    broken = tmp_path / "one" / "records" / f"{own.hash}.json"
    broken.write_text("{")
    fourth = Store(tmp_path / "four")
    fourth.prepare()
    assert fourth.adopt(own) is not None  # the whole one is found beside the broken one


def test_what_a_store_has_not_kept_is_not_named_by_who_takes_it_over(tmp_path: Path) -> None:
    """A report looks for what records name."""
    own = make_cell("none", "normal", "constant", **SMALL)
    run_suite(Suite("one", "One", "?", (own,)), tmp_path / "one")
    for name in ("maps", "logs"):
        shutil.rmtree(tmp_path / "one" / name)
    run_suite(Suite("two", "Two", "?", (own,)), tmp_path / "two", share=True)
    taken, before = (Store(tmp_path / name).read(own) for name in ("two", "one"))
    assert taken is not None and before is not None
    assert before.maps and before.log and (taken.maps, taken.log) == (None, None)
    assert taken.adapter and (tmp_path / "two" / taken.adapter).is_dir()
    assert taken.outcome() == before.outcome()
    assert write_report(tmp_path / "two", tmp_path / "two" / "report")


def test_a_run_refuses_what_is_missing_before_it_computes(tmp_path: Path) -> None:
    here = make_cell("none", "normal", "constant", **SMALL)
    absent = make_cell("none", "normal", "predictor", {"predictor": "omnidata-v2"}, **SMALL)
    with pytest.raises(UserError, match="omnidata-v2") as raised:
        run([here, absent], store=tmp_path)
    assert "intrinsic-bench fetch omnidata-v2" in raised.value.todo
    assert not list((tmp_path / "records").glob("*.json"))


@pytest.mark.parametrize("method", ["lora", "linear"])
def test_training_in_parts_is_training_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from benchmarks import session
    from tests.data.own_folder import rooms_as_arrays, said, write

    shares = said(splits={"train": "0.5", "validation": "0.2", "test": "0.3"})
    data = write(tmp_path / "mine", rooms_as_arrays(), settings=shares)
    counts = {"train": 4, "validation": 1, "test": 2, "data": data, "size": 64}
    options = LORA if method == "lora" else {}
    cell = make_cell("sd.rooms64-s1", "normal", method, options, **counts)
    found = []
    for chunk in (500, 2):
        monkeypatch.setattr(session, "CHUNK", chunk)
        task = make_task(cell, Session(Cache(tmp_path / str(chunk))), Clock(lambda share, phase: None))
        assert task.parts is not None and task.train.pictures.numel() == 0
        probe = method_fit(method)(task)
        found.append(probe.predict(task.validation))
        probe.release()
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_intervals_are_by_group() -> None:
    """Ten pictures of two scans say as little as two pictures: the interval says so."""
    from benchmarks.metrics.statistics import mean_over_seeds

    values = np.array([[1.0] * 5 + [3.0] * 5])
    alone, together = mean_over_seeds(values), mean_over_seeds(values, clusters=["a"] * 5 + ["b"] * 5)
    assert alone.value == together.value == 2.0 and together.n == 2
    assert (together.low, together.high) == (1.0, 3.0)
    assert alone.low is not None and alone.high is not None and 1.0 < alone.low < alone.high < 3.0
    uneven = mean_over_seeds(np.array([[1.0, 1.0, 4.0]]), clusters=["a", "a", "b"])
    assert uneven.value == 2.0 and (uneven.low, uneven.high) == (1.0, 4.0)


def test_too_few_pictures_are_planned_and_refused(tmp_path: Path) -> None:
    from benchmarks.plan import plan
    from tests.data.own_folder import rooms_as_arrays, write

    data = write(tmp_path / "mine", rooms_as_arrays())  # 6 to train, 4 to test
    more = {"train": 60, "validation": 4, "test": 4, "train_data": "rooms", "data": data}
    enough = make_cell("none", "normal", "constant", **more)
    short = make_cell("none", "normal", "constant", **{**more, "test": 5})
    assert not plan(Suite("s", "S", "?", (enough,)), tmp_path / "a").short
    made = plan(Suite("s", "S", "?", (enough, short)), tmp_path / "a")
    assert made.short == (f"test = 5 of data set {short.data!r}, which has 4 on this machine",)
    assert f"too few pictures: {made.short[0]}" in str(made)
    with pytest.raises(UserError, match="which has 4 on this machine"):
        run_suite(Suite("s", "S", "?", (enough, short)), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def shares_told(cell: Cell, folder: Path, asked: str) -> list[float]:
    """Shares of a cell that are reported in one phase; those of all phases never fall."""
    told: list[tuple[float, str]] = []
    store = Store(folder)
    store.prepare()
    execute(cell, store, lambda share, phase: told.append((share, phase)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    return [share for share, phase in told if phase == asked]


def test_a_predictor_computes_on_the_cells_device_and_tells_how_it_goes(tmp_path: Path) -> None:
    cell = make_cell("none", "depth", "predictor", {"predictor": "rooms-network"}, **SMALL)
    here = Session(Cache(None), "cuda:1")
    assert make_task(cell, here, Clock(lambda share, phase: None)).device == "cuda:1"
    predicting = shares_told(cell, tmp_path, "predict")
    assert predicting == pytest.approx([0.92, 0.92 + 0.05 * 4 / 6, 0.97])


def test_how_fitting_goes_is_told(tmp_path: Path) -> None:
    cell = make_cell("sd.rooms64-s1", "depth", "linear", **{**SMALL, "train": 30})
    fitting = shares_told(cell, tmp_path, "fit")
    sums = [0.05 + 0.85 * 0.7 * count / 30 for count in (25, 30)]
    assert fitting == pytest.approx([0.05, *sums, 0.05 + 0.85 * 0.7])


def test_the_supervised_network_answers_in_relative_depth_where_that_is_asked_for(tmp_path: Path) -> None:
    """It is the predictor `rooms-network`: the same maps, and the same score, by either name."""
    more = {"alignment": "unit", **SMALL}
    supervised = make_cell("none", "depth", "supervised", **more)
    predictor = make_cell("none", "depth", "predictor", {"predictor": "rooms-network"}, **more)
    assert done(supervised, tmp_path).scores == pytest.approx(done(predictor, tmp_path).scores)
