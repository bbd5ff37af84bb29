"""Paradigms: what is drawn, what is trained on it, and what the shipped weights are worth."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.data.rooms.render import srgb
from benchmarks.metrics.maps import score
from benchmarks.predictors.paradigms import evaluate, predictor, train
from benchmarks.predictors.paradigms.network import FLOOR, ParadigmsNetwork, log_light, split
from benchmarks.predictors.paradigms.paradigms import (
    WHITE,
    Paradigms,
    held_out,
    paradigms,
    to_linear,
    to_srgb,
)
from generators.errors import UserError
from generators.zoo.loop import Budget


def drawn(seed: int = 0, count: int = 24, size: int = 64) -> Paradigms:
    return paradigms(count, size, torch.Generator().manual_seed(seed))


def edges(x: Tensor) -> Tensor:
    """Largest difference of channels between neighbors to the right: (b h w-1)."""
    return (x[..., 1:] - x[..., :-1]).abs().amax(1)


# What is drawn.


def test_the_same_seed_draws_the_same_and_another_seed_others() -> None:
    one, again, other = drawn(3), drawn(3), drawn(4)
    for name in ("picture", "albedo", "shading", "gloss"):
        assert torch.equal(getattr(one, name), getattr(again, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))


def test_a_held_out_paradigm_does_not_depend_on_what_is_drawn_with_it() -> None:
    alone, among = held_out([7], 32), held_out([2, 7, 9], 32)
    assert torch.equal(alone.picture[0], among.picture[1])
    assert len(held_out(range(3), 16)) == 3
    assert not torch.equal(among.picture[0], among.picture[2])


def test_a_paradigm_is_the_same_at_another_size() -> None:
    small, large = drawn(5, 12, 48), drawn(5, 12, 144)
    centers = large.albedo[..., 1::3, 1::3]  # pixel centers of the small one are among the large one's
    assert (small.albedo - centers).abs().amax(1).lt(1e-3).float().mean() > 0.995
    assert (small.shading - large.shading[..., 1::3, 1::3]).abs().mean() < 0.02


def test_the_picture_is_albedo_times_shading_plus_gloss() -> None:
    p = drawn()
    linear = (p.albedo * p.shading + p.gloss).clamp(0, 1)
    torch.testing.assert_close(to_linear(p.picture), linear, atol=2e-6, rtol=1e-5)
    assert p.picture.min() >= -1 and p.picture.max() <= 1
    for field in (p.albedo, p.shading):
        assert field.min() >= 0 and field.max() <= 1


def test_light_is_coded_as_everywhere_else() -> None:
    light = torch.linspace(0, 1, 1001)
    torch.testing.assert_close(to_srgb(light), srgb(light) * 2 - 1)
    torch.testing.assert_close(to_linear(to_srgb(light)), light, atol=1e-6, rtol=1e-5)


def test_albedo_is_piecewise_constant_and_shading_is_not() -> None:
    p = drawn()
    colors = [len(torch.unique(a.flatten(1), dim=1).T) for a in p.albedo]
    tones = [len(torch.unique(s.flatten(1), dim=1).T) for s in p.shading]
    assert max(colors) <= 48 and sorted(colors)[12] >= 4
    assert min(tones) > 500


def test_albedo_jumps_and_shading_varies_smoothly() -> None:
    p = drawn(1)
    albedo, shading = edges(p.albedo), edges(p.shading)
    assert (albedo == 0).float().mean() > 0.75  # flat almost everywhere
    assert (shading == 0).float().mean() < 0.3  # and where it is flat it is saturated
    assert shading.median() > 0 and (shading > 0.1).float().mean() < 0.04  # small steps, few creases
    assert albedo[albedo > 0].median() > 3 * shading[shading > 0].median()


def test_the_brightest_shading_is_one() -> None:
    for size in (32, 64):
        largest = drawn(2, 24, size).shading.amax(1).flatten(1)
        rank = int(largest.shape[1] * WHITE)
        torch.testing.assert_close(largest.kthvalue(rank, dim=1).values, torch.ones(24))


def test_gloss_is_sparse_and_bright() -> None:
    gloss = drawn(0, 64).gloss.amax(1)
    glossy = (gloss > 0).flatten(1).float().mean(1)
    assert 0.1 < (glossy > 0).float().mean() < 0.6  # pictures with some
    assert glossy.max() < 0.3 and gloss.max() > 0.5


def test_paradigms_differ_in_kind() -> None:
    p = drawn(6, 64)
    colors = torch.tensor([len(torch.unique(a.flatten(1), dim=1).T) for a in p.albedo]).float()
    contrast = p.shading.mean(1).flatten(1).std(1)
    assert colors.max() > 4 * colors.min() and contrast.max() > 3 * contrast.min()
    vivid = (p.albedo.amax(1) - p.albedo.amin(1)).flatten(1).mean(1)
    assert vivid.min() < 0.05 and vivid.max() > 0.2


def test_nothing_of_rooms_but_a_block_is_used_to_draw_or_train() -> None:
    folder, found = Path(predictor.__file__).parent, set()
    for name in ("paradigms.py", "network.py", "train.py", "predictor.py"):
        for node in ast.walk(ast.parse((folder / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    ours = {each for each in found if each.startswith("benchmarks")}
    assert ours == {"benchmarks.predictors.rooms.Block"}


@pytest.mark.parametrize(("count", "size"), [(0, 64), (1, 3)])
def test_nothing_is_drawn_from_nonsense(count: int, size: int) -> None:
    with pytest.raises(ValueError, match="count >= 1"):
        paradigms(count, size, torch.Generator())


# The network and its training.


def test_an_untrained_network_explains_the_picture_exactly() -> None:
    torch.manual_seed(0)
    picture = drawn(0, 2, 32).picture
    with torch.no_grad():
        albedo, shading = split(picture, *ParadigmsNetwork()(picture))
    torch.testing.assert_close(albedo * shading, log_light(picture).exp())
    assert (albedo * shading).min() >= FLOOR * 0.999


def test_the_network_has_at_most_a_million_parameters() -> None:
    assert sum(p.numel() for p in ParadigmsNetwork().parameters()) <= 1_000_000
    assert predictor.WEIGHTS.stat().st_size <= 2_000_000


def test_the_true_maps_have_no_loss() -> None:
    p = drawn(0, 4, 32)
    clean = Paradigms(to_srgb(p.albedo * p.shading), p.albedo, p.shading, torch.zeros_like(p.gloss))
    kept = p.shading.amin(1, keepdim=True).flatten(1).amin(1) > 0.02  # floors of log light aside
    assert kept.any()
    clean = Paradigms(*(getattr(clean, n)[kept] for n in ("picture", "albedo", "shading", "gloss")))

    class Knowing(torch.nn.Module):
        def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
            known = (clean.albedo * clean.shading).clamp_min(1e-6).log() - log_light(picture)
            return clean.shading.log(), known

    terms = train.losses(Knowing(), clean, clean.picture)
    assert terms["picture"] < 1e-4 and terms["edges"] < 1e-4
    assert terms["loss"] < 0.01  # the square root of the rms is kept off zero
    wrong = train.losses(Knowing(), clean, clean.picture.flip(3))
    assert wrong["loss"] >= terms["loss"]


def test_pictures_are_shown_as_files_hold_them() -> None:
    picture = drawn(0, 16, 32).picture
    shown = train.seen(picture, torch.Generator().manual_seed(0))
    steps = (shown + 1) * 127.5
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    error = (shown - picture).abs().flatten(1).amax(1)
    assert (error < 0.0041).any() and (error > 0.008).any() and error.max() < 0.08
    assert torch.equal(shown, train.seen(picture, torch.Generator().manual_seed(0)))


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    truth = drawn(9, 8, 32)

    def loss(network: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(train.losses(network, truth, truth.picture)["loss"])

    torch.manual_seed(train.SEED)
    before = loss(ParadigmsNetwork())
    assert loss(train.train_paradigms(tmp_path, Budget(30, 2))) < 0.9 * before


def test_training_that_was_cut_off_ends_as_if_it_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "warmup_then_linear_decay", lambda rate, steps, total: lambda step: rate)
    whole = train.train_paradigms(tmp_path / "whole", Budget(5, 1))
    train.train_paradigms(tmp_path / "cut", Budget(3, 1))
    resumed = train.train_paradigms(tmp_path / "cut", Budget(5, 1))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_command_writes_weights_and_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    out = tmp_path / "own.safetensors"
    done = CliRunner().invoke(
        train.main, ["--out", str(out), "--steps", "2", "--batch", "1"], catch_exceptions=False
    )
    assert done.exit_code == 0 and "2 steps of 1 pictures" in done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own", "own.safetensors"]
    network = predictor.load_network(out)
    assert not any(p.requires_grad for p in network.parameters()) and not network.training
    monkeypatch.setattr(evaluate, "WEIGHTS", out)
    assert evaluate.trained()["steps"] == "2" and evaluate.trained()["batch"] == "1"


# The predictor.


@pytest.fixture(scope="module")
def held() -> Paradigms:
    return held_out(range(1000, 1024), 64)


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (1, 1), (5, 70), (100, 37), (300, 120), (20, 513)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    pictures = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps = predictor.load("cpu")(pictures)
    assert set(maps) == {"albedo", "shading"}
    for values in maps.values():
        assert values.shape == pictures.shape and values.dtype == torch.float32
        assert values.isfinite().all() and values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_empty_pictures_have_maps(value: float) -> None:
    maps = predictor.load("cpu")(torch.full((1, 3, 48, 48), value))
    assert all(m.isfinite().all() for m in maps.values())


def test_maps_do_not_depend_on_the_other_pictures(held: Paradigms) -> None:
    predict = predictor.load("cpu")
    together, alone = predict(held.picture[:20]), predict(held.picture[17:18])
    for name, values in alone.items():
        torch.testing.assert_close(together[name][17:18], values, atol=1e-5, rtol=1e-4)


def test_a_large_picture_is_taken_apart_like_a_small_one() -> None:
    large, small = held_out([3, 4], 512), held_out([3, 4], 256)
    predict = predictor.load("cpu")
    a, b = predict(large.picture)["shading"], predict(small.picture)["shading"]
    shrunk = torch.nn.functional.interpolate(a, 256, mode="bilinear", antialias=True)
    assert (shrunk - b).abs().mean() < 0.03


@pytest.mark.parametrize(
    "pictures", [torch.zeros(3, 64, 64), torch.zeros(1, 1, 64, 64), torch.zeros(0, 3, 8, 8)]
)
def test_other_shapes_are_refused(pictures: Tensor) -> None:
    with pytest.raises(ValueError, match="b 3 h w"):
        predictor.load("cpu")(pictures)


def test_pictures_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        predictor.load("cpu")(torch.full((1, 3, 16, 16), torch.nan))


@pytest.mark.parametrize("broken", ["missing", "half", "other"])
def test_broken_weights_are_named(broken: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    if broken == "half":
        path.write_bytes(predictor.WEIGHTS.read_bytes()[: 1 << 19])
    elif broken == "other":
        save_file({"stem.weight": torch.zeros(3)}, str(path))
    with pytest.raises(UserError, match="cannot be read"):
        predictor.load_network(path)


def test_the_identity_is_that_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = predictor.identity()
    assert len(first) == 12 and int(first, 16) >= 0
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(predictor.WEIGHTS.read_bytes()[:-1] + b"\x01")
    monkeypatch.setattr(predictor, "WEIGHTS", changed)
    assert predictor.identity() != first
    monkeypatch.setattr(predictor, "WEIGHTS", tmp_path / "none")
    assert predictor.identity() == "missing"


def rms(maps: Mapping[str, Tensor], truth: Paradigms, name: str, metric: str) -> float:
    true = getattr(truth, name)
    mask = torch.ones_like(true[:, :1], dtype=torch.bool)
    return float(score(name, maps[name].expand_as(true), true, mask)[metric].mean())


@pytest.mark.parametrize("name", ["albedo", "shading"])
@pytest.mark.parametrize("metric", ["rms", "si_rms"])
def test_the_shipped_weights_beat_the_baselines_on_held_out_paradigms(
    held: Paradigms, name: str, metric: str
) -> None:
    found = rms(predictor.load("cpu")(held.picture), held, name, metric)
    mean = getattr(held, name).mean((0, 2, 3), keepdim=True)
    light = to_linear(held.picture)
    assert found < 0.8 * rms({name: mean}, held, name, metric)
    assert found < 0.8 * rms({name: light}, held, name, metric)


# Its evaluation.


def test_the_evaluation_is_written_the_same_twice(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        evaluate.write(tmp_path / folder, 6)
    for name in ("README.md", "evaluation.csv", "sheet.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    lines = (tmp_path / "one" / "evaluation.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 4 * 2 * 2  # sets, methods, intrinsics, metrics
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_verdict_follows_the_scores() -> None:
    import numpy as np

    some = np.linspace(0.1, 0.2, 50)
    values = {"paradigms": some, "constant": some + 0.05, "picture": some - 0.05, "rooms-network": some[::-1]}
    scores = {("rooms", "albedo", method, "rms"): v for method, v in values.items()}
    assert evaluate.verdict(scores, "rooms", "albedo", "rms") == (
        "albedo, rms: better than the constant; worse than the picture; not told apart from the rooms-network"
    )
