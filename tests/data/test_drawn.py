"""Pictures that a model drew: seeds, prompts and samplers, what the cache keeps, and the folder of `draw`."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors import safe_open

from benchmarks.cache import Cache
from benchmarks.data import ABSENT, DATA, prompts
from benchmarks.data.drawn import load as load_module
from benchmarks.data.drawn import needs, sampler, spec
from benchmarks.data.drawn.load import load
from benchmarks.data.drawn.sampler import COUNTS, FIRST_SEED, SEED_STRIDE, SEEDS, captions, parse
from benchmarks.data.rooms.scenes import scene_parameters
from benchmarks.draw import draw
from benchmarks.session import Session
from benchmarks.suite import make_cell
from generators import registry
from generators.base import Sample
from generators.errors import UserError

DIFFUSION, GAN, BLIND = "sd.rooms64-s1", "stylegan2.rooms64-s1", "dinov2.rooms64-s1"
ALL = ("normal", "depth", "albedo", "shading")


# Prompts.


def test_the_prompts_are_made_again_byte_by_byte() -> None:
    """If the parts were meant to change, renew the file: python -m benchmarks.data.prompts."""
    assert prompts.FILE.read_bytes() == prompts.text().encode()


def test_no_two_prompts_are_alike_and_validation_shares_none() -> None:
    both = [*prompts.read_prompts(), *prompts.validation_prompts()]
    assert len(both) == 1100 == len({prompt.lower() for prompt in both})
    assert len({prompt.rsplit(",", 1)[0] for prompt in both}) > 300  # subjects with a detail


def test_prompts_are_varied_wherever_one_looks() -> None:
    subjects = {name: tuple(parts[0]) for name, parts in prompts.categories().items()}
    assert len(subjects) == 10
    for start in (0, 500, 990):
        window = prompts.read_prompts()[start : start + 10]
        for prompt, known in zip(window, subjects.values(), strict=True):
            assert prompt.startswith(known)


def test_prompts_fit_the_text_encoder() -> None:
    assert max(len(prompt.split()) for prompt in prompts.read_prompts()) <= 25  # of at most 77 tokens


def test_more_prompts_than_there_are() -> None:
    with pytest.raises(ValueError, match="there are"):
        prompts.compose(100_000)


# Names, seeds, samplers.


def test_the_name_holds_what_differs_from_the_models_own() -> None:
    assert parse(f"drawn:{DIFFUSION}").arguments == {"steps": 12, "guidance": 1.0}
    assert parse("drawn:sd.v1-5").arguments == {"steps": 20, "guidance": 7.5}
    assert parse(f"drawn:{GAN}").arguments == {}
    said = parse(f"drawn:{DIFFUSION},steps=12,guidance=2,seed=3")
    assert said.name == f"drawn:{DIFFUSION},seed=3,guidance=2.0" == spec(said.name).name


def test_the_fingerprint_is_of_everything_that_decides_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        DIFFUSION,
        "sd.rooms64-s2",
        f"{DIFFUSION},seed=1",
        f"{DIFFUSION},steps=3",
        f"{DIFFUSION},guidance=2",
    ]
    found = [spec(f"drawn:{name}").fingerprint for name in names]
    assert len(set(found)) == len(found) and spec(f"drawn:{DIFFUSION},steps=12").fingerprint == found[0]
    other = replace(DATA["rooms"], fingerprint="other captions")
    monkeypatch.setitem(sampler.DATA, "rooms", other)  # type: ignore[arg-type]
    assert spec(f"drawn:{DIFFUSION}").fingerprint != found[0]


def test_no_two_pictures_share_a_seed() -> None:
    first, last = parse(f"drawn:{GAN}"), parse(f"drawn:{GAN},seed={SEEDS - 1}")
    seeds = [s for d in (first, last) for split in COUNTS for s in d.seeds(split, range(COUNTS[split]))]
    assert len(set(seeds)) == len(seeds)
    assert max(COUNTS.values()) <= SEED_STRIDE
    assert FIRST_SEED["test"] + SEEDS * SEED_STRIDE <= FIRST_SEED["validation"]


def test_facts() -> None:
    facts = spec(f"drawn:{GAN}")
    assert (
        facts.counts == {"validation": 100, "test": 1000} and facts.labels == () and facts.domain == "rooms"
    )
    assert facts.intrinsics == ALL and facts.resolution == 64 and needs(facts.name) == ()


def test_weights_that_are_not_here_are_a_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.delenv("INTRINSIC_BENCH_WEIGHTS", raising=False)
    assert spec("drawn:sd.v1-5").fingerprint == ABSENT
    (need,) = needs("drawn:sd.v1-5")
    assert need.kind == "model" and not need.here
    with pytest.raises(UserError, match=r"intrinsic-bench fetch sd\.v1-5"):
        load("drawn:sd.v1-5", "test", [0], 64, ALL)
    result = call("sd.v1-5", "--count", 1, "--out", tmp_path / "a")
    assert isinstance(result.exception, UserError) and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("drawn:", "names no model"),
        ("drawn:sd.rooms64", "did you mean"),
        (f"drawn:{BLIND}", "makes no pictures of seeds"),
        (f"drawn:{GAN},steps=3", "neither steps nor guidance"),
        (f"drawn:{DIFFUSION},step=3", "did you mean 'steps'"),
        (f"drawn:{DIFFUSION},steps=many", "is no number"),
        (f"drawn:{DIFFUSION},steps=0", "1 to 1000"),
        (f"drawn:{DIFFUSION},seed=-1", "0 to 4999"),
        (f"drawn:{DIFFUSION},guidance=nan", "guidance = nan"),
    ],
)
def test_names_that_mean_nothing(name: str, fact: str) -> None:
    with pytest.raises(UserError, match=fact):
        spec(name)


def test_listing_imports_no_torch() -> None:
    code = (
        f"import sys; from benchmarks.data.drawn import spec; spec('drawn:{GAN}'); spec('drawn:{DIFFUSION}')"
    )
    code += "; import benchmarks.draw; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


def test_rooms_are_told_captions_and_open_models_prompts() -> None:
    rooms, wide = registry.spec(DIFFUSION), registry.spec("sd.v1-5")
    assert captions(rooms, "test", [0, 7]) == list(scene_parameters("reference", [0, 7]).captions)
    assert captions(rooms, "validation", [0]) == list(scene_parameters("reference", [1000]).captions)
    assert captions(wide, "test", [999]) == [prompts.read_prompts()[999]]
    assert captions(wide, "validation", [99]) == [prompts.validation_prompts()[99]]
    assert captions(registry.spec(GAN), "test", [0]) is None


# Pictures.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[int]]:
    """Shards of 3, a cache of its own, and the seeds that the model was asked for."""
    monkeypatch.setattr(load_module, "SHARD", 3)
    monkeypatch.setattr(load_module, "LARGEST_BATCH", 2)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "ops").symlink_to(Path(os.environ["INTRINSIC_BENCH_CACHE"]) / "ops")
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    asked: list[list[int]] = []
    true_load = registry.load

    def watched(name: str, device: str = "cpu") -> Any:
        model = true_load(name, device)
        true_sample = model.sample

        def sample(seeds: Sequence[int], *said: Any, **more: Any) -> Sample:
            asked.append(list(seeds))
            return true_sample(seeds, *said, **more)

        monkeypatch.setattr(model, "sample", sample)
        return model

    monkeypatch.setattr(registry, "load", watched)
    return asked


@pytest.mark.parametrize("model", [GAN, f"{DIFFUSION},steps=2"])
def test_pictures_are_those_of_their_seeds_and_prompts(model: str, small: list[list[int]]) -> None:
    name = f"drawn:{model}"
    found = load(name, "test", [4, 1], 64, ALL)
    first = FIRST_SEED["test"]
    assert small == [[first, first + 1], [first + 2], [first + 3, first + 4], [first + 5]]
    drawn = parse(name)
    said = captions(drawn.spec, "test", [4])
    alone = registry.load(drawn.model).sample([first + 4], said, **drawn.arguments).images
    assert (found.pictures[0] - alone[0].clamp(-1, 1)).abs().max() < 1.01 / 127.5
    assert found.maps == {} and found.mask.all() and found.pictures.shape == (2, 3, 64, 64)
    assert found.captions[0] == (said[0] if said else "")


def test_a_drawing_that_broke_off_continues(small: list[list[int]]) -> None:
    name = f"drawn:{GAN}"
    once = load(name, "test", range(3), 64, ALL)
    drawn = len(small)
    more = load(name, "test", range(6), 64, ALL)
    assert torch.equal(more.pictures[:3], once.pictures)
    first = FIRST_SEED["test"]
    assert small[drawn:] == [[first + 3, first + 4], [first + 5]]
    assert torch.equal(load(name, "test", range(6), 64, ALL).pictures, more.pictures)
    assert len(small) == drawn + 2
    other = load(f"{name},seed=1", "test", range(3), 64, ALL)
    assert not torch.equal(other.pictures, once.pictures)


def test_what_a_gpu_drew_is_not_what_a_cpu_draws(
    small: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(f"drawn:{GAN}", "test", range(3), 64, ALL)
    drawn, watched = len(small), registry.load
    monkeypatch.setattr(registry, "load", lambda model, device: watched(model, "cpu"))
    monkeypatch.setattr(load_module, "device_here", lambda: "cuda")
    for deterministic, times in ((False, 2), (True, 3), (False, 3)):
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda said=deterministic: said)
        load(f"drawn:{GAN}", "test", range(3), 64, ALL)
        assert len(small) == times * drawn


ROOMS: dict[str, Any] = {"train_data": "rooms", "train_labels": "exact", "test": 2}


@pytest.mark.parametrize("labels", ["", "rooms-network"])
def test_a_session_keeps_them_apart_too(
    small: list[list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, labels: str
) -> None:
    """One cache of two machines: what one sees is not what the other's GPU drew, nor made of that."""
    cell = make_cell("none", "normal", "constant", data=f"drawn:{GAN}", labels="rooms-network", **ROOMS)
    watched, level = registry.load, {"cpu": 0, "cuda": 255}
    monkeypatch.setattr(registry, "load", lambda model, device: watched(model, "cpu"))
    seen = []
    for device in ("cuda", "cpu"):
        monkeypatch.setattr(load_module, "device_here", lambda said=device: said)
        monkeypatch.setattr(
            load_module,
            "_draw",
            lambda model, drawn, split, rows, said=device: torch.full(
                (len(rows), 3, 64, 64), level[said], dtype=torch.uint8
            ),
        )
        found = Session(Cache(tmp_path / "cache")).pictures(cell, "test")
        seen.append(found.maps["normal"] if labels else found.pictures)
    assert not torch.equal(*seen)


def test_another_size_is_resampled(small: list[list[int]]) -> None:
    whole, half = (load(f"drawn:{GAN}", "validation", range(2), size, ALL).pictures for size in (64, 32))
    assert half.shape == (2, 3, 32, 32)
    mean = torch.nn.functional.avg_pool2d(whole, 2)
    assert (half - mean).abs().mean() < 0.05


@pytest.mark.parametrize("rows", [[], [1000], [-1]])
def test_rows_that_are_not_there(rows: list[int]) -> None:
    with pytest.raises(UserError, match="it has 1000"):
        load(f"drawn:{GAN}", "test", rows, 64, ALL)


# The command.


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "prompts.csv").read_text().splitlines()))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(draw, [str(a) for a in arguments])


def test_a_folder_of_pictures_codes_and_prompts(tmp_path: Path) -> None:
    result = call(GAN, "--count", 3, "--seed", 7, "--out", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "3 pictures drawn, 0 were there" in result.stdout
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    pairs = [f"00000000{s}.{end}" for s in (7, 8, 9) for end in ("png", "safetensors")]
    assert names == sorted([*pairs, "draw.json", "prompts.csv"])
    model = registry.load(GAN)
    with safe_open(tmp_path / "a" / "000000008.safetensors", "pt") as file:
        code = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert file.metadata() == {"model": GAN, "seed": "8"}
    with torch.no_grad():
        made = model.forward(code, "normal")[0].clamp(-1, 1)
    seen = np.array(Image.open(tmp_path / "a" / "000000008.png")).astype(np.float32) / 127.5 - 1
    assert np.abs(made.permute(1, 2, 0).numpy() - seen).max() < 1.01 / 127.5
    facts = json.loads((tmp_path / "a" / "draw.json").read_text())
    assert facts["weights"] == registry.identity(GAN) and facts["seed"] == 7 and facts["sampler"] == {}


def test_it_continues_and_keeps_what_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "a"
    asked = (DIFFUSION, "--steps", 2, "--out", out)
    assert call(*asked, "--count", 2).exit_code == 0
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("0*")}
    (out / "000000001.safetensors").unlink()  # as a kill between the two files leaves it
    result = call(*asked, "--count", 3)
    assert "2 pictures drawn, 1 were there" in result.stdout, result.output
    assert before["000000000.png"] == (out / "000000000.png").stat().st_mtime_ns
    rows = table(out)
    assert [r["prompt"] for r in rows] == list(scene_parameters("reference", range(3)).captions)
    assert [r["picture"] for r in rows] == [f"00000000{s}.png" for s in range(3)]
    assert "0 pictures drawn, 1 were there" in call(*asked, "--count", 1).stdout
    assert len(table(out)) == 3
    assert not list(out.glob(".*"))


def test_where_memory_runs_out_fewer_pictures_are_drawn_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (GAN, "--count", 5, "--batch", 5)
    whole = call(*asked, "--out", tmp_path / "whole")
    assert whole.exit_code == 0 and "memory" not in whole.stderr
    true_load, seen = registry.load, []

    def narrow(name: str, device: str = "cpu") -> Any:
        model = true_load(name, device)
        true_sample = model.sample

        def sample(seeds: Sequence[int], *said: Any, **more: Any) -> Sample:
            seen.append(list(seeds))
            if len(seeds) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")
            return true_sample(seeds, *said, **more)

        monkeypatch.setattr(model, "sample", sample)
        return model

    monkeypatch.setattr(registry, "load", narrow)
    result = call(*asked, "--out", tmp_path / "parts")
    assert result.exit_code == 0 and "memory ran out: draw pictures, 2 at a time" in result.stderr
    assert seen == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1], [2, 3], [4]]
    for path in (tmp_path / "whole").glob("*.png"):
        pair = (np.array(Image.open(folder / path.name)) for folder in (path.parent, tmp_path / "parts"))
        assert np.abs(np.subtract(*(picture.astype(int) for picture in pair))).max() <= 1
    seen.clear()
    found = load(f"drawn:{GAN}", "test", range(5), 64, ALL)
    assert len(found.pictures) == 5 and max(map(len, seen[-2:])) <= 2


def test_another_drawing_does_not_go_into_the_same_folder(tmp_path: Path) -> None:
    out = tmp_path / "a"
    assert call(GAN, "--count", 1, "--out", out).exit_code == 0
    before = (out / "draw.json").read_bytes()
    for other in ((GAN, "--seed", 1), ("stylegan2.rooms64-s2",)):
        error = call(*other, "--count", 1, "--out", out).exception
        assert isinstance(error, UserError) and "holds another drawing" in str(error)
    assert (out / "draw.json").read_bytes() == before


def test_prompts_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("# mine\na red sphere in a room with a blue floor\n\na box\n")
    out = tmp_path / "a"
    assert call(DIFFUSION, "--count", 2, "--steps", 1, "--prompts", mine, "--out", out).exit_code == 0
    rows = table(out)
    assert [r["prompt"] for r in rows] == ["a red sphere in a room with a blue floor", "a box"]


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ((BLIND,), "makes no pictures of seeds"),
        ((GAN, "--steps", 3), "neither steps nor guidance"),
        ((GAN, "--prompts", prompts.FILE), "takes no prompts"),
        ((DIFFUSION, "--prompts", prompts.FILE, "--count", 1001), "fewer prompts"),
        (("nobody",), "no model of this name"),
    ],
)
def test_what_cannot_be_drawn(tmp_path: Path, arguments: tuple[object, ...], fact: str) -> None:
    counted = () if "--count" in arguments else ("--count", 1)
    error = call(*arguments, *counted, "--out", tmp_path / "a").exception
    assert isinstance(error, UserError) and fact in str(error)
    assert not (tmp_path / "a").exists()
