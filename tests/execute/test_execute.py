"""One cell from beginning to end on the embedded world: scores, maps, adapter, caches, repetition."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import Record, health_stores, make_cell, run
from benchmarks import execute as executing
from benchmarks.cache import VARIABLE, Cache
from benchmarks.data.load import load_pictures
from benchmarks.execute import execute
from benchmarks.session import Session
from benchmarks.store import Store
from generators.errors import UserError
from generators.finding import OK
from probes.intrinsics import INTRINSICS
from probes.task import Examples

SMALL = {"train": 12, "validation": 4, "test": 6}


def done(cell, folder: Path) -> Record:  # type: ignore[no-untyped-def]
    store = Store(folder)
    store.prepare()
    return execute(cell, store, lambda share, phase: None)


@pytest.mark.parametrize(
    ("model", "intrinsic", "method", "options"),
    [
        ("none", "normal", "constant", {}),
        ("none", "albedo", "pixels", {"patch": 3}),
        ("none", "depth", "supervised", {}),
        ("sd.rooms64-s5", "shading", "ceiling", {}),
        ("sd.rooms64-s1", "depth", "linear", {}),
        ("sd.rooms64-s1", "normal", "lora", {"steps": 2, "batch": 4}),
        ("sd.rooms64-random", "normal", "lora", {"steps": 2, "batch": 4, "variant": "dora", "noise": 0.5}),
        ("sd.rooms64-s1", "albedo", "finetune", {"steps": 2, "batch": 4, "timestep": 10}),
    ],
)
def test_every_method_gives_a_full_record_and_the_same_one_twice(
    tmp_path: Path, model: str, intrinsic: str, method: str, options: dict[str, object]
) -> None:
    cell = make_cell(model, intrinsic, method, options, **SMALL)
    record = done(cell, tmp_path / "a")
    assert record.status == "done" and all(np.isfinite(list(record.scores.values())))
    assert all(len(values) == 6 for values in record.per_image.values())
    assert {"trainable", "total"} <= record.parameters.keys() and record.seconds["total"] > 0
    assert record.environment["implementation"] and record.environment["torch"] == torch.__version__
    assert (record.generator.get("name") == model) == (model != "none")
    with np.load(tmp_path / "a" / str(record.maps), allow_pickle=False) as maps:
        assert maps["prediction"].shape == maps["truth"].shape and maps["error"].shape[1] == 1
        assert maps["picture"].dtype == np.uint8
    assert (tmp_path / "a" / str(record.adapter)).is_dir()
    assert done(cell, tmp_path / "b").outcome() == record.outcome()


def test_a_run_from_python(tmp_path: Path) -> None:
    """The README's example."""
    cell = make_cell("sd.rooms64-s5", "normal", "linear", train=12, validation=4, test=6)
    record = run(cell, store=tmp_path)
    assert 0 < record.scores["mean_angular_error"] < 90
    assert (tmp_path / str(record.maps)).exists() and (tmp_path / str(record.adapter)).is_dir()


def test_another_seed_trains_on_other_pictures_and_is_tested_on_the_same(tmp_path: Path) -> None:
    session = Session(Cache(None))
    cells = [make_cell("none", "depth", "constant", seed=seed, **SMALL) for seed in (0, 1)]
    train = [session.pictures(cell, "train").pictures for cell in cells]
    test = [session.pictures(cell, "test").pictures for cell in cells]
    assert not torch.equal(*train) and torch.equal(*test)


def test_frozen_parts_are_computed_once(tmp_path: Path) -> None:
    cell = make_cell("sd.rooms64-s1", "normal", "lora", **SMALL)
    first = Session(Cache(tmp_path)).examples(cell, "train", INTRINSICS["normal"])
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert len(files) == 3  # pictures, codes, targets
    other = make_cell("sd.rooms64-s5", "normal", "lora", **SMALL)  # another stage, the same autoencoder
    again = Session(Cache(tmp_path)).examples(other, "train", INTRINSICS["normal"])
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == files
    assert torch.equal(first.code["latent"], again.code["latent"])
    assert first.output is not None and again.output is not None and torch.equal(first.output, again.output)


def test_a_deterministic_gpu_takes_nothing_that_was_computed_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(executing, "_sessions", {})
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for device in ("cpu", "cuda", "cuda:1"):
        before = executing.session(device)
        before.cache.get({"kind": "codes"}, lambda: {"x": torch.zeros(1)})
        with monkeypatch.context() as patch:
            patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
            after = executing.session(device)
        found = after.cache.get({"kind": "codes"}, lambda: {"x": torch.ones(1)})["x"]
        assert before.cache.folder == tmp_path and after.device == device
        assert after.cache.folder == (tmp_path if device == "cpu" else tmp_path / "deterministic")
        assert found == (0 if device == "cpu" else 1) and (after is before) == (device == "cpu")
        assert executing.session(device) is before
    (seen,) = health_stores.cache(tmp_path)
    assert seen.mark == OK and "2 files, " in seen.text


def test_the_gpu_with_the_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for free memory or a name asks the current one."""
    told: list[str] = []
    monkeypatch.setattr(executing, "_sessions", {})
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    for device in ("cpu", "cuda", "cuda:1", "cuda:0", "cuda:1"):
        assert executing.session(device).device == device
    assert told == ["cuda:1", "cuda:0", "cuda:1"]


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all", None])
def test_a_broken_cache_file_is_said_and_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: bytes | None
) -> None:
    cache, key = Cache(tmp_path), {"kind": "test", "n": 1}
    expected = cache.get(key, lambda: {"x": torch.arange(4)})
    path = cache.path(key)
    assert path is not None
    path.write_bytes(path.read_bytes()[:-8] if damage is None else damage)
    assert torch.equal(cache.get(key, lambda: {"x": torch.arange(4)})["x"], expected["x"])
    assert "computed again" in capsys.readouterr().err
    calls: list[int] = []
    cache.get(key, lambda: calls.append(1) or {"x": torch.zeros(1)})  # type: ignore[func-returns-value]
    assert not calls  # the mended file is used


def test_a_file_of_another_key_is_not_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.get({"kind": "test", "n": 1}, lambda: {"x": torch.zeros(1)})
    one, two = (cache.path({"kind": "test", "n": n}) for n in (1, 2))
    assert one is not None and two is not None
    one.rename(two)
    assert cache.get({"kind": "test", "n": 2}, lambda: {"x": torch.ones(1)})["x"] == 1


def test_a_failing_method_leaves_the_next_cell_a_whole_model(tmp_path: Path) -> None:
    good = make_cell("sd.rooms64-s1", "normal", "linear", **SMALL)
    expected = done(good, tmp_path / "a").outcome()
    with pytest.raises(UserError, match="at most"):
        done(make_cell("sd.rooms64-s1", "normal", "lora", {"rank": 1000}, **SMALL), tmp_path / "b")
    assert done(good, tmp_path / "c").outcome() == expected


def test_weights_that_changed_since_the_plan_are_refused(tmp_path: Path) -> None:
    cell = make_cell("sd.rooms64-s1", "normal", "linear", **SMALL).with_(weights="0" * 16)
    with pytest.raises(UserError, match="plans anew"):
        done(cell, tmp_path)


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_frechet_distance_falls_with_training_and_names_its_extractor(tmp_path: Path) -> None:
    options = {"samples": 64, "reference": 128, "steps": 4, "guidance": 1.0}
    found = [
        done(make_cell(f"sd.rooms64-{tag}", "none", "frechet", options), tmp_path) for tag in ("random", "s5")
    ]
    assert found[0].scores["frechet_distance"] > found[1].scores["frechet_distance"] > 0
    assert "rooms supervised network" in found[0].details["extractor"]
    sheets = [_pixels(tmp_path / str(record.samples)) for record in found]
    assert all(sheet.shape == (2 * 64, 8 * 64, 3) for sheet in sheets)
    drawn, renders = sheets[1][:64], sheets[1][64:]
    assert not np.array_equal(drawn, sheets[0][:64]) and np.array_equal(renders, sheets[0][64:])
    expected = load_pictures("rooms", "reference", range(8), 64).pictures[3]
    shown = torch.from_numpy(renders[:, 3 * 64 : 4 * 64].copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(shown, expected, rtol=0, atol=0.5 / 127.5 + 1e-6)


def test_maps_are_kept_without_pickles(tmp_path: Path) -> None:
    record = done(make_cell("none", "normal", "constant", **SMALL), tmp_path)
    raw = (tmp_path / str(record.maps)).read_bytes()
    assert np.load(io.BytesIO(raw), allow_pickle=False)["truth"].dtype == np.float16


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([1.0], "it is a list"),
        ({"x": [1.0, 2.0]}, "'x' is no tensor with a row for each of 2 pictures"),
        ({"x": torch.zeros(1, 3)}, "'x' is no tensor with a row for each of 2 pictures"),
    ],
)
def test_codes_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, given: object, said: str) -> None:
    asked, session = make_cell("vqgan.rooms64-s1", "normal", "linear", test=2), Session(Cache(None))
    monkeypatch.setattr(session.generator(asked), "embed", lambda images: given)
    with pytest.raises(UserError, match=said) as raised:
        session.examples(asked, "test", INTRINSICS["normal"])
    assert "intrinsic-bench check" in raised.value.todo


@pytest.mark.parametrize(
    ("model", "method", "options", "cure"),
    [
        ("sd.rooms64-s1", "lora", {"rate": 0.5}, "the training diverged: lower the learning rate 0.5"),
        ("sd.rooms64-s1", "linear", {}, "intrinsic-bench check sd.rooms64-s1"),
        ("none", "predictor", {}, "mend the predictor"),
        ("none", "pixels", {}, "the method 'pixels' gave it"),
    ],
)
def test_only_what_has_a_rate_is_told_to_lower_it(
    model: str, method: str, options: dict[str, object], cure: str
) -> None:
    cell = make_cell(model, "albedo", method, options, **SMALL)
    truth, mask = torch.ones(6, 3, 4, 4), torch.ones(6, 1, 4, 4, dtype=torch.bool)
    test = Examples(torch.zeros(6, 3, 4, 4), {"albedo": truth}, mask)
    with pytest.raises(UserError) as told:
        executing._score(cell, truth * torch.nan, None, test, Record(cell, "running"))  # type: ignore[arg-type]
    assert cure in told.value.todo and ("rate" in told.value.todo) == ("rate" in options)
