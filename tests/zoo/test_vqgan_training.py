"""The VQGAN's training: it learns, resumes as if nothing had happened, and keeps what the adapter loads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from generators import vqgan as adapter
from generators.networks.net2net import initialized
from generators.zoo import features, vqgan
from generators.zoo.loop import Budget


def pictures(count: int = 24) -> np.ndarray:
    """Squares of one color each, at random places, on gray."""
    rng = np.random.default_rng(2)
    made = np.full((count, 3, 64, 64), 128, np.uint8)
    for picture in made:
        y, x = rng.integers(0, 40, 2)
        picture[:, y : y + 24, x : x + 24] = rng.integers(0, 256, (3, 1, 1))
    return made


def joint() -> Any:
    both: Any = initialized("Net2NetTransformer", adapter.ROOMS, adapter.RANDOM_SEED)
    return both


def first_stage(steps: int, folder: Path, kept: dict[str, dict[str, torch.Tensor]]) -> nn.Module:
    """`steps` steps of a training; `kept` gets the weights of its stages."""
    torch.manual_seed(4)
    network = joint().first_stage_model.requires_grad_(True)
    vqgan.prepare(network, 5)

    def keep(stage: str, average: nn.Module) -> None:
        kept[stage] = {name: value.clone() for name, value in average.state_dict().items()}

    budget = Budget(steps, 2)
    vqgan.train_first_stage(network, features.FeatureNetwork(), pictures(), folder, budget, keep)
    return network


def test_a_resumed_first_stage_equals_an_undisturbed_one() -> None:
    network = joint().first_stage_model.requires_grad_(True)
    vqgan.prepare(network, 5)
    torch.manual_seed(4)
    look = features.FeatureNetwork()

    def trainer() -> vqgan.FirstStage:
        fresh = joint().first_stage_model.requires_grad_(True)
        fresh.load_state_dict(network.state_dict())
        return vqgan.FirstStage(fresh, look, pictures(), Budget(4, 2), "cpu")

    whole, first = trainer(), trainer()
    for _ in range(4):  # the discriminator plays in the last two
        whole.advance()
    first.advance()
    first.advance()
    second = trainer()
    second.restore(first.state())
    second.advance()
    second.advance()
    for name, value in whole.average.state_dict().items():
        torch.testing.assert_close(second.average.state_dict()[name], value, rtol=0, atol=0, msg=name)
    assert second.step == 4


def test_stages_are_kept_and_a_log_is_written(tmp_path: Path) -> None:
    kept: dict[str, dict[str, torch.Tensor]] = {}
    first_stage(25, tmp_path, kept)
    assert sorted(kept) == ["s1", "s2", "s3", "s4"]
    (line,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert line["pictures"] == 50 and {"l1", "chroma", "perceptual", "discriminator", "codes"} <= set(line)
    assert any(not torch.equal(kept["s1"][name], value) for name, value in kept["s4"].items())


def test_colors_are_learned_early() -> None:
    network = joint().first_stage_model.requires_grad_(True)
    vqgan.prepare(network, 5)
    torch.manual_seed(4)
    trainer = vqgan.FirstStage(network, features.FeatureNetwork(), pictures(), Budget(100, 4), "cpu")
    chroma = [trainer.advance()["chroma"] for _ in range(25)]
    assert np.mean(chroma[-5:]) < 0.7 * np.mean(chroma[:5])


def test_codes_nobody_uses_are_put_where_latents_are() -> None:
    network = joint().first_stage_model.requires_grad_(True)
    trainer = vqgan.FirstStage(network, features.FeatureNetwork(), pictures(), Budget(10, 2), "cpu")
    before = network.quantize.embedding.weight.detach().clone()
    trainer.step = 1
    trainer.used[:500] = 1
    z = torch.randn(2, 8, 16, 16)
    trainer._restart(z, torch.Generator().manual_seed(0))
    after = network.quantize.embedding.weight.detach()
    assert torch.equal(after[:500], before[:500])
    rows = {tuple(row.tolist()) for row in z.movedim(1, -1).flatten(0, 2)}
    assert all(tuple(row.tolist()) in rows for row in after[500:])
    assert trainer.used.sum() == 0


def test_a_transformer_learns_its_codes_and_is_kept_in_tamings_names(tmp_path: Path) -> None:
    both = joint()
    codes = vqgan.encode_codes(both.first_stage_model, pictures(6))
    assert codes.shape == (6, 256)
    mirrored = torch.from_numpy(pictures(6)[:1]).float().flip(3) / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16):
        z = both.first_stage_model.encode(mirrored).float()
    assert torch.equal(codes[0].long(), both.first_stage_model.quantize.indices(z).flatten())
    vqgan.train_transformer(both, pictures(4), tmp_path / "run", Budget(3, 2))
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 3 and json.loads(log[-1])["loss"] == pytest.approx(6.2, abs=0.3)
    vqgan.keep_stage(tmp_path / "s4.safetensors", both)
    again = adapter.read(tmp_path / "s4.safetensors").state_dict()
    assert again.keys() == both.state_dict().keys()
    for name, value in both.state_dict().items():
        torch.testing.assert_close(again[name], value, rtol=1e-3, atol=1e-4)


def test_a_stage_is_a_share_of_both_trainings() -> None:
    assert vqgan.stage_steps(Budget(1000, 8)) == {50: "s1", 150: "s2", 400: "s3", 1000: "s4"}
    steps = [vqgan.stage_budget(vqgan.TRANSFORMER_CPU_BUDGET, stage).steps for stage in vqgan.STAGES]
    assert steps == [65, 195, 520, 2300]
    stages = [s for s in adapter.SPECS if s.embedded and s.trained and not s.control]
    trained = {s.options["stage"]: s.trained for s in stages}
    assert trained == vqgan.STAGES
    assert vqgan.GPU_BUDGET.pictures > vqgan.CPU_BUDGET.pictures
