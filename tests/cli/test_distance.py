"""`distance` on folders of pictures, whole and broken."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cli import main
from benchmarks.data.folder import picture_files, read_picture
from benchmarks.features import describe, measure_features, sets
from benchmarks.features.extractors import Extractor
from benchmarks.quality import SPACE, distances

# What makes the extractor of these tests; torch prefers other formats by now.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def save(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def distance(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["distance", *arguments])
    return done.exit_code, done.output


def test_a_folder_is_at_no_distance_from_itself(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one", 8, 0), save(tmp_path / "two", 8, 1)
    status, text = distance(str(one), "--to", str(one))
    assert status == 0, text
    same = json.loads(text)["frechet_distance"]
    status, text = distance(str(one), "--to", str(two))
    assert status == 0 and json.loads(text)["frechet_distance"] > 10 * abs(same)


def test_noise_is_compared_with_renders(tmp_path: Path) -> None:
    status, text = distance(str(save(tmp_path / "one", 8, 0)), "--renders", "32")
    assert status == 0, text
    facts = json.loads(text)
    assert facts["pictures"] == 8 and facts["reference"] == 32 and facts["frechet_distance"] > 1


@pytest.mark.parametrize("damage", [b"", b"no picture", None])
def test_a_broken_file_is_named(tmp_path: Path, damage: bytes | None) -> None:
    folder = save(tmp_path / "one", 4, 0)
    broken = folder / "02.png"
    broken.write_bytes(broken.read_bytes()[:200] if damage is None else damage)
    status, text = distance(str(folder))
    assert status == 2 and "02.png" in text and "to do:" in text and "Traceback" not in text


def test_a_folder_without_pictures_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    status, text = distance(str(tmp_path))
    assert status == 2 and ".txt" in text and ".png" in text
    assert distance(str(tmp_path / "nowhere"))[0] == 2


def test_the_default_is_the_distance_of_the_records(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one", 40, 0), save(tmp_path / "two", 40, 1)
    drawn = [torch.stack([read_picture(path, 64) for path in picture_files(folder)]) for folder in (one, two)]
    a, b = (measure_features(SPACE, pictures) for pictures in drawn)
    expected, std = distances(a, b)
    found = answer(str(one), "--to", str(two))
    assert {name: found[name] for name in expected} == expected and found["kernel"]["std"] == std
    assert found["extractor"] == describe(SPACE).extractor and found["size"] == 64
    assert found["protocol"]["resize"] == "lanczos" and found["protocol"]["crop"] is True


# Features of a file.


class Means(nn.Module):
    """A small extractor, called as the published Inception."""

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        x = img.to(torch.float32) / 255
        return torch.cat([functional.adaptive_avg_pool2d(x, [2, 2]).flatten(1), (x * x).mean([2, 3])], 1)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "means.pt"
    torch.jit.script(Means()).save(str(path))
    return path


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INTRINSIC_BENCH_WEIGHTS", raising=False)


def answer(*arguments: str) -> dict[str, Any]:
    """What is printed to standard output, as JSON."""
    done = CliRunner().invoke(main, ["distance", *arguments])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refusal(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["distance", *arguments])
    assert done.exit_code == 2 and "Traceback" not in done.output, done.output
    return done.output


def inception(weights: Path) -> list[str]:
    return ["--features", "inception", "--weights", str(weights)]


def test_the_filter_is_part_of_the_protocol_and_of_the_number(tmp_path: Path, weights: Path) -> None:
    one, two = save(tmp_path / "one", 8, 0), save(tmp_path / "two", 8, 1)
    found = {}
    for resize in ("box", "lanczos", "bicubic", "antialias"):
        options = [*inception(weights), "--resize", resize, "--size", "24"]
        found[resize] = answer(str(one), "--to", str(two), *options)
    assert {name: facts["protocol"]["resize"] for name, facts in found.items()} == {n: n for n in found}
    assert len({facts["frechet_distance"] for facts in found.values()}) == 4
    assert len({facts["kernel_distance"] for facts in found.values()}) == 4
    facts = found["box"]["protocol"]
    assert facts["size"] == "24x24" and len(facts["weights"]) == 64 and facts["crop"] is False
    assert found["box"]["published_weights"] is None, "the file of this test was never published"


def test_pictures_as_they_are_must_be_of_one_size(tmp_path: Path, weights: Path) -> None:
    one, two = save(tmp_path / "one", 8, 0), save(tmp_path / "two", 8, 1)
    assert answer(str(one), "--to", str(two), *inception(weights))["protocol"]["size"] == "40x50"
    Image.new("RGB", (50, 41)).save(two / "99.png")
    text = refusal(str(one), "--to", str(two), *inception(weights))
    assert "different sizes" in text and "99.png 41x50" in text
    for path in two.iterdir():
        Image.new("RGB", (50, 41)).save(path)
    assert "size is '40x50' and '41x50'" in refusal(str(one), "--to", str(two), *inception(weights))
    assert "--resize" in refusal(str(one), *inception(weights)), "renders have no size of their own"


def test_a_saved_reference_gives_the_same_numbers(tmp_path: Path, weights: Path) -> None:
    one, two = save(tmp_path / "one", 8, 0), save(tmp_path / "two", 9, 1)
    options, kept = [*inception(weights), "--resize", "box", "--size", "24"], tmp_path / "two.safetensors"
    saved = answer(str(two), "--save-reference", str(kept), *options)
    assert saved["pictures"] == 9 and "frechet_distance" not in saved and len(saved["saved_hash"]) == 64
    direct = answer(str(one), "--to", str(two), *options)
    through = answer(str(one), "--reference", str(kept), *options)
    assert through["frechet_distance"] == pytest.approx(direct["frechet_distance"], rel=1e-9)
    assert through["kernel_distance"] == direct["kernel_distance"]
    assert through["reference_hash"] == direct["reference_hash"] == saved["pictures_hash"]
    other = [*inception(weights), "--resize", "lanczos", "--size", "24"]
    assert "resize is 'lanczos' and 'box'" in refusal(str(one), "--reference", str(kept), *other)
    assert "features is 'rooms' and 'inception'" in refusal(str(one), "--reference", str(kept))


def test_the_fields_statistics_are_compared_as_declared(tmp_path: Path, weights: Path) -> None:
    one, two = save(tmp_path / "one", 8, 0), save(tmp_path / "two", 9, 1)
    pictures = torch.stack([torch.from_numpy(np.array(Image.open(p))) for p in picture_files(two)])
    rows = Means()(pictures.permute(0, 3, 1, 2), True).double().numpy()
    field = tmp_path / "field.npz"
    np.savez(field, mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    says = ["features=inception", "resize=none", "size=40x50", "crop=no", "count=9"]
    declared = [word for each in says for word in ("--declare", each)]
    options = [str(one), "--reference", str(field), *inception(weights)]
    found = answer(*options, *declared)
    direct = answer(str(one), "--to", str(two), *inception(weights))
    assert found["frechet_distance"] == pytest.approx(direct["frechet_distance"], rel=1e-5)
    assert found["kernel_distance"] is None and "mean and covariance only" in found["kernel"]["reason"]
    assert found["reference"] == 9 and found["reference_weights"] == "not declared"
    assert "not declared: features" in refusal(*options)
    assert "size is '40x50' and '256x256'" in refusal(*options, *declared[:5], "size=256", *declared[6:])
    assert "KEY=VALUE" in refusal(*options, "--declare", "features")


def test_a_shard_is_computed_once_by_whom_it_is_given_to(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets, "SHARD", 4)
    asked: list[int] = []
    call = Extractor.__call__

    def counted(self: Extractor, pictures: Tensor, batch: int = 32) -> Tensor:
        asked.append(len(pictures))
        return call(self, pictures, batch)

    monkeypatch.setattr(Extractor, "__call__", counted)
    one, two = save(tmp_path / "one", 10, 0), save(tmp_path / "two", 6, 1)
    options = [str(one), "--to", str(two), *inception(weights)]
    first = answer(*options, "--shard", "1/2")
    assert (first["shards"], first["mine"], first["computed"]) == (5, 3, 3) and asked == [4, 2, 2]
    assert answer(*options, "--shard", "1/2")["computed"] == 0
    asked.clear()
    whole = answer(*options)
    assert asked == [4, 4], "what the other process would have done"
    asked.clear()
    assert answer(*options) == whole and not asked
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "other"))
    assert answer(*options)["frechet_distance"] == whole["frechet_distance"] and sum(asked) == 16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shard", "3/2"], "K/N"),
        (["--shard", "0/2"], "K/N"),
        (["--features", "incepton"], "inception"),
        (["--features", "inception"], "intrinsic-bench fetch inception"),
        (["--weights", "x.pt"], "only inception"),
        (["--resize", "none", "--size", "64"], "without resizing there is no size"),
        (["--features", "inception", "--resize", "box"], "--size PIXELS"),
        (["--declare", "count=3"], "not given"),
        (["--reference", "a.npz", "--to", "b"], "one thing"),
        (["--renders", "1"], "two pictures"),
        (["--save-reference", "nowhere/x.safetensors"], "no such folder"),
        (["--sha256", "00"], "only inception"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path: Path, options: list[str], said: str) -> None:
    assert said in refusal(str(save(tmp_path / "one", 4, 0)), *options)


def test_a_file_of_another_hash_is_refused(tmp_path: Path, weights: Path) -> None:
    one = str(save(tmp_path / "one", 4, 0))
    text = refusal(one, *inception(weights), "--sha256", "0" * 64)
    assert "its sha256 is" in text and "0" * 64 in text
    weights.write_bytes(weights.read_bytes()[:500])
    assert "cannot be read" in refusal(one, *inception(weights))


def test_the_zoos_dinov2_is_a_second_space_of_rooms(tmp_path: Path) -> None:
    one = str(save(tmp_path / "one", 8, 0))
    found = answer(one, "--features", "dinov2-rooms", "--renders", "8")
    assert found["reference"] == 8 and found["frechet_distance"] > 0
    assert found["protocol"]["features"] == "dinov2-rooms" and found["kernel_distance"] is not None
