"""Self-distillation: it learns without collapsing, hides what it should, and keeps what the adapter loads."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from generators import dinov2 as adapter
from generators import registry
from generators.zoo import dinov2
from generators.zoo.loop import Budget
from tests.zoo.test_vqgan_training import pictures


def backbone() -> Any:
    return adapter.random_backbone(registry.spec("dinov2.rooms64-random"), adapter.RANDOM_SEED)


def small() -> Any:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(7)
    shape = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "mlp_ratio": 2}
    return Dinov2Model(Dinov2Config(image_size=64, patch_size=8, layerscale_value=1.0, **shape))


def test_it_learns_what_it_sees_without_seeing_it(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}
    dinov2.train_dinov2(small(), pictures(64), tmp_path, Budget(150, 8), kept.__setitem__)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.9 * lines[-1]["variance"]  # better than the mean of what it could see
    assert lines[-1]["variance"] > 0.2  # and that has not become the same everywhere
    assert sorted(kept) == ["s1", "s2"]


def test_a_resumed_training_equals_an_undisturbed_one(tmp_path: Path) -> None:
    budget = Budget(3, 4)
    whole = dinov2.train_dinov2(small(), pictures(8), tmp_path / "whole", budget, lambda *_: None)
    both = dinov2.train_dinov2(small(), pictures(8), tmp_path / "parts", budget, lambda *_: None)
    state = torch.load(tmp_path / "parts" / "state.pt", weights_only=True)
    assert state["step"] == 3
    again = dinov2.train_dinov2(small(), pictures(8), tmp_path / "parts", budget, lambda *_: None)
    for name, value in whole.state_dict().items():
        assert torch.equal(both.state_dict()[name], value) and torch.equal(again.state_dict()[name], value)


def test_masks_hide_blocks_and_as_many_in_every_picture() -> None:
    mask = dinov2.block_mask(5, 8, torch.Generator().manual_seed(0))
    assert mask.shape == (5, 64) and set(mask.sum(1).tolist()) == {4 * round(dinov2.MASKED * 16)}
    blocks = mask.view(5, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).flatten(3)
    assert bool((blocks.all(3) == blocks.any(3)).all())


def test_crops_keep_size_and_range_and_differ_from_picture_to_picture() -> None:
    x = torch.from_numpy(pictures(1)).float().repeat(4, 1, 1, 1) / 127.5 - 1
    y = dinov2.crops(x, torch.Generator().manual_seed(1))
    assert y.shape == x.shape and float(y.abs().max()) <= 1
    assert all(not torch.equal(y[0], other) for other in y[1:])


def test_the_teacher_follows_slowly_and_targets_are_normalized() -> None:
    both = dinov2.Distillation(backbone())
    with torch.no_grad():
        for parameter in both.student.parameters():
            parameter.add_(1.0)
    before = next(both.teacher.parameters()).clone()
    both.follow(0.9)
    torch.testing.assert_close(next(both.teacher.parameters()), before + 0.1)
    targets = dinov2.Distillation(backbone()).targets(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert targets.shape == (2, 64, 144)
    assert float(targets.mean(1).abs().max()) < 1e-4
    assert math.isclose(float(targets.square().mean().sqrt()), 1.0, abs_tol=0.3)


def test_a_stage_is_a_folder_of_transformers(tmp_path: Path, monkeypatch: Any) -> None:
    made = backbone()
    dinov2.keep_stage(tmp_path / "dinov2.rooms64-s1", made)
    assert next(made.parameters()).dtype == torch.float32
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    loaded = registry.load("dinov2.rooms64-s1").network
    expected = made.state_dict()
    for name, value in loaded.backbone.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
