"""Labels in memory, through the cache, as files, and as a method; the rooms' own network needs no weights."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

from benchmarks.data import samples
from benchmarks.data.load import load_pictures
from benchmarks.label import SIDECAR, label, label_into
from benchmarks.metrics.maps import score
from benchmarks.predictors import labeling, registry
from benchmarks.predictors.labeling import fit, label_pictures
from generators.errors import UserError
from probes import memory
from probes.intrinsics import INTRINSICS, RELATIVE_DEPTH
from probes.task import Examples, Task

torch.set_num_threads(1)
ROOMS = "rooms-network"


@pytest.fixture(scope="module")
def rooms() -> Any:
    return load_pictures("rooms", "test", range(12), 64)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """No other test meets a predictor that one of these made up."""
    labeling.forget()
    yield
    labeling.forget()


# In memory.


def test_the_rooms_labels_are_those_of_the_samples(rooms: Any) -> None:
    eight = ((rooms.pictures + 1) * 127.5).round().to(torch.uint8)
    shares: list[float] = []
    found = label_pictures(ROOMS, eight, tuple(INTRINSICS), progress=shares.append, batch=5)
    expected = samples.label(eight)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[f"maps.{name}"], rtol=0, atol=1e-5)
    assert shares == pytest.approx([5 / 12, 10 / 12, 1.0])


def test_where_memory_runs_out_fewer_pictures_are_labeled_at_once(
    rooms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = label_pictures(ROOMS, rooms.pictures, ["depth"])["depth"]
    load, asked = registry.load, []

    def narrow(name: str, device: str) -> Any:
        predict = load(name, device)

        def at_most_two(shown: Tensor) -> Any:
            asked.append(len(shown))
            if len(shown) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")
            return predict(shown)

        return at_most_two

    labeling.forget()
    memory.forget()
    monkeypatch.setattr(labeling, "load_predictor", narrow)
    shares: list[float] = []
    found = label_pictures(ROOMS, rooms.pictures, ["depth"], progress=shares.append)["depth"]
    assert asked == [4, 2, 2, 2, 2, 2, 2] and shares[-1] == 1
    assert memory.shortages() == [f"memory ran out: predict by {ROOMS}, 2 at a time"]
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)


def test_bytes_and_numbers_are_the_same_pictures(rooms: Any) -> None:
    eight = ((rooms.pictures[:2] + 1) * 127.5).round().to(torch.uint8)
    a, b = (label_pictures(ROOMS, x, ["depth"])["depth"] for x in (eight, rooms.pictures[:2]))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_maps_have_the_pictures_size_whatever_it_is(rooms: Any) -> None:
    x = torch.nn.functional.interpolate(rooms.pictures[:2], size=(50, 70))
    found = label_pictures(ROOMS, x, ["normal", "depth"])
    assert found["normal"].shape == (2, 3, 50, 70) and found["depth"].shape == (2, 1, 50, 70)
    torch.testing.assert_close(found["normal"].norm(dim=1), torch.ones(2, 50, 70))
    assert label_pictures(ROOMS, x[:0], ["depth"])["depth"].shape == (0, 1, 50, 70)


@pytest.mark.parametrize(
    ("name", "intrinsics", "wrong"),
    [
        ("rooms-netwrk", ["depth"], "did you mean 'rooms-network'"),
        ("zoedepth", ["normal"], "it does not give this"),
        (ROOMS, [], "nothing is asked for"),
    ],
)
def test_what_is_not_given_is_refused(rooms: Any, name: str, intrinsics: list[str], wrong: str) -> None:
    with pytest.raises(UserError, match=wrong):
        label_pictures(name, rooms.pictures, intrinsics)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, "it gave no map"),
        ({"depth": torch.ones(2, 3, 64, 64)}, r"the shape \(2, 3, 64, 64\)"),
        ({"depth": torch.full((2, 1, 64, 64), torch.nan)}, "NaN or infinity"),
    ],
)
def test_a_predictor_that_breaks_the_contract_is_named(
    rooms: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, Tensor], wrong: str
) -> None:
    monkeypatch.setattr(labeling, "load_predictor", lambda name, device: lambda pictures: given)
    with pytest.raises(UserError, match=wrong):
        label_pictures(ROOMS, rooms.pictures[:2], ["depth"])


# As a method.


def task(intrinsic: str, **options: Any) -> Task:
    nothing = Examples(torch.empty(0, 3, 64, 64), {}, torch.empty(0, 1, 64, 64, dtype=torch.bool))
    return Task(None, INTRINSICS[intrinsic], nothing, nothing, options, seed=0)


def test_the_method_gives_the_predictors_maps(rooms: Any, tmp_path: Path) -> None:
    identity = registry.identity(ROOMS)
    probe = fit(task("depth", predictor=ROOMS, identity=identity))
    found = probe.predict(Examples(rooms.pictures, rooms.maps, rooms.mask))
    assert torch.equal(found, label_pictures(ROOMS, rooms.pictures, ["depth"])["depth"])
    assert probe.meters and probe.parameters == 0
    assert probe.details == {"predictor": ROOMS, "identity": identity, "depth": "metric"}
    probe.save(tmp_path / "adapter")
    probe.release()


def test_the_method_computes_on_the_tasks_device_and_tells_how_it_goes(
    rooms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, str]] = []

    def fake(name: str, device: str) -> Any:
        loaded.append((name, device))
        return lambda shown: {"depth": torch.ones_like(shown[:, :1])}

    monkeypatch.setattr(labeling, "load_predictor", fake)
    shares: list[float] = []
    asked = replace(task("depth", predictor=ROOMS), device="cuda:1", progress=shares.append)
    probe = fit(asked)
    assert not shares
    probe.predict(Examples(rooms.pictures[:10], rooms.maps, rooms.mask))
    assert loaded == [(ROOMS, "cuda:1")]
    assert shares == pytest.approx([0.4, 0.8, 1.0])


def test_affine_depth_is_relative_depth_where_that_is_asked_for(
    rooms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    affine = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.2
    monkeypatch.setattr(labeling, "load_predictor", lambda name, device: lambda pictures: {"depth": affine})
    examples = Examples(rooms.pictures[:2], rooms.maps, rooms.mask)
    asked = task("depth", predictor="marigold-depth", identity="")
    plain = fit(asked)
    assert not plain.meters and torch.equal(plain.predict(examples), affine)
    turned = fit(replace(asked, intrinsic=RELATIVE_DEPTH)).predict(examples)
    assert torch.equal(turned.flatten(1).argmax(1), affine.flatten(1).argmin(1)), "the nearest is 1"
    assert turned.amin((1, 2, 3)).tolist() == [0, 0] and turned.amax((1, 2, 3)).tolist() == [1, 1]


def test_disparity_is_no_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(registry.describe_predictor("zoedepth"), depth="disparity")
    monkeypatch.setattr(labeling, "describe_predictor", lambda name: spec)
    with pytest.raises(UserError, match="it gives disparity"):
        label_pictures("zoedepth", torch.zeros(1, 3, 32, 32), ["depth"])


def test_the_method_refuses_other_weights_and_other_intrinsics() -> None:
    with pytest.raises(UserError, match="others than when the cell was planned"):
        fit(task("depth", predictor=ROOMS, identity="0123"))
    with pytest.raises(UserError, match="it gives: depth"):
        fit(task("normal", predictor="zoedepth", identity=""))


# As files.


@pytest.fixture
def folder(tmp_path: Path, rooms: Any) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for i, name in enumerate(("a.png", "b.png", "c.jpg", "c.png")):
        eight = ((rooms.pictures[i] + 1) * 127.5).round().to(torch.uint8)
        Image.fromarray(eight.permute(1, 2, 0).numpy()).save(place / name)
    return place


def run(*arguments: object) -> Any:
    return CliRunner().invoke(label, [str(a) for a in arguments])


def test_a_folder_of_pictures_becomes_maps_and_a_sidecar(folder: Path, tmp_path: Path, rooms: Any) -> None:
    out = tmp_path / "maps"
    done = run("--predictor", ROOMS, "--data", folder, "--out", out, "--size", 64, "--intrinsic", "normal")
    assert done.exit_code == 0, done.output
    names = ["a", "b", "c.jpg", "c.png"]
    assert {p.name for p in out.iterdir()} == {
        SIDECAR,
        *(f"{n}.normal{end}" for n in names for end in (".npy", ".png")),
    }
    said = json.loads((out / SIDECAR).read_text())
    assert said["finished"] == 4 and said["seconds"] > 0 and not said["errors"]
    assert said["predictor"]["licence"] == "Apache-2.0" and said["predictor"]["convention"]
    assert said["settings"]["identity"] == registry.identity(ROOMS)
    assert set(said["settings"]["pictures"]) == set(names)
    assert said["versions"]["torch"] and said["values"]["axes"].startswith("x right")
    found = torch.from_numpy(np.load(out / "a.normal.npy")).permute(2, 0, 1)
    expected = label_pictures(ROOMS, rooms.pictures[:1], ["normal"])["normal"][0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("aside", ["", "maps/.."])
def test_maps_never_lie_among_the_pictures(folder: Path, aside: str) -> None:
    before = sorted(folder.iterdir())
    done = run("--predictor", ROOMS, "--data", folder, "--out", folder / aside, "--intrinsic", "normal")
    assert isinstance(done.exception, UserError)
    assert done.exception.wrong == "they would lie among the pictures, and the next run would read them"
    assert done.exception.todo == f"choose another folder, as --out {folder / 'maps'}"
    assert sorted(folder.iterdir()) == before


def test_maps_may_lie_in_a_folder_below_the_pictures(folder: Path) -> None:
    for _ in range(2):
        found = label_into(ROOMS, str(folder), folder / "maps", size=64, intrinsics=["normal"])
        assert found["finished"] == 4


def test_a_data_set_with_exact_truth_tells_the_predictors_error(tmp_path: Path, rooms: Any) -> None:
    out = tmp_path / "maps"
    done = run("--predictor", ROOMS, "--data", "rooms", "--count", 12, "--out", out)
    assert done.exit_code == 0, done.output
    said = json.loads((out / SIDECAR).read_text())["errors"]
    assert set(said) == set(INTRINSICS) and set(said["depth"]) == {"none", "scale-shift"}
    maps = label_pictures(ROOMS, rooms.pictures, tuple(INTRINSICS))
    for name in INTRINSICS:
        expected = score(name, maps[name], rooms.maps[name], rooms.mask)
        assert said[name]["none"] == pytest.approx(
            {k: float(v.mean()) for k, v in expected.items()}, abs=1e-3
        )
    assert f"normal: mean_angular_error {said['normal']['none']['mean_angular_error']:.4g}" in done.output


def test_a_second_run_draws_only_what_is_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import benchmarks.label as module

    monkeypatch.setattr(module, "STEP", 1)
    out = tmp_path / "maps"
    first = label_into(ROOMS, str(folder), out, size=64)
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.name != SIDECAR}
    (out / "b.depth.npy").unlink()
    drawn: list[str] = []
    second = label_into(ROOMS, str(folder), out, size=64, say=drawn.append)
    assert drawn == ["3 of 4 pictures are finished", "[2/4] b"]
    after = {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.name != SIDECAR}
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} == {n for n in after if n.startswith("b.")}
    assert second["seconds"] > first["seconds"]


def test_an_interrupted_run_continues(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.label as module

    monkeypatch.setattr(module, "STEP", 2)
    original, out = module._write_maps, tmp_path / "maps"

    def stop(place: Path, name: str, maps: Any) -> None:
        if name == "c.jpg":
            raise KeyboardInterrupt
        original(place, name, maps)

    monkeypatch.setattr(module, "_write_maps", stop)
    asked = ("--predictor", ROOMS, "--data", folder, "--out", out, "--size", 64)
    assert run(*asked).exit_code == 130
    monkeypatch.setattr(module, "_write_maps", original)
    done = run(*asked)
    assert done.exit_code == 0 and "2 of 4 pictures are finished" in done.output


def test_nothing_of_others_is_overwritten(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    out.mkdir()
    (out / "b.depth.npy").write_text("mine")
    with pytest.raises(UserError, match=r"b\.depth\.npy, which this command did not write"):
        label_into(ROOMS, str(folder), out, size=64)
    assert [p.name for p in out.iterdir()] == ["b.depth.npy"]
    (out / "b.depth.npy").unlink()
    (out / SIDECAR).write_text("{}")
    with pytest.raises(UserError, match="is not of this command"):
        label_into(ROOMS, str(folder), out, size=64)


def test_maps_of_other_settings_are_not_mixed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    label_into(ROOMS, str(folder), out, size=64, intrinsics=["depth"])
    with pytest.raises(UserError, match="size: 64 then, 32 now"):
        label_into(ROOMS, str(folder), out, size=32, intrinsics=["depth"])
    (folder / "a.png").write_bytes((folder / "b.png").read_bytes())
    with pytest.raises(UserError, match="pictures: "):
        label_into(ROOMS, str(folder), out, size=64, intrinsics=["depth"])


def test_missing_weights_leave_nothing_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path / "none"))
    out = tmp_path / "maps"
    with pytest.raises(UserError, match="intrinsic-bench fetch zoedepth"):
        label_into("zoedepth", str(folder), out, size=64)
    assert not out.exists()
    with pytest.raises(UserError, match="no model is named"):
        label_into(ROOMS, "samples", out)
