"""The code that trained the zoo: resumable, seeded, and what it writes is what the adapters load."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from benchmarks.cli import main
from benchmarks.data.rooms.stock import open_stock, render_shard
from generators import load, stylegan2, stylegan_xl, vqgan
from generators.errors import UserError
from generators.stable_diffusion import WEIGHTS_VARIABLE
from generators.zoo.autoencoder import transform_colors
from generators.zoo.diffusion import CPU_BUDGET, GPU_BUDGET, SCHEDULE, min_snr_weight, new_unet, stage_steps
from generators.zoo.loop import Budget, Run, ema_decay, train, warmup, warmup_then_linear_decay
from generators.zoo.session import Session, Unfinished, session


def _run(steps: int, stages: dict[int, list[str]] | None = None) -> Run:
    torch.manual_seed(0)
    network = nn.Linear(4, 2)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        x = torch.randn(8, 4, generator=generator)
        return {"loss": (network(x) - x[:, :2]).square().mean()}

    kept = {step: (lambda net, names=names: names.append("kept")) for step, names in (stages or {}).items()}
    return Run(network, loss, steps, 8, warmup(0.05, 3), seed=3, ema=16.0, stages=kept)


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = train(_run(20), tmp_path / "whole")
    with session(Session(ends=0.0)), pytest.raises(Unfinished):
        train(_run(20), tmp_path / "cut")
    train(_run(11), tmp_path / "cut")
    resumed = train(_run(20), tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    other = train(_run(19), tmp_path / "other")
    assert not torch.equal(next(whole.parameters()), next(other.parameters()))


def test_stages_are_kept_at_their_steps(tmp_path: Path) -> None:
    names: list[str] = []
    train(_run(6, {2: names, 5: names}), tmp_path)
    assert names == ["kept", "kept"]


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    run = _run(3)
    broken = Run(
        run.network, lambda s, g: {"loss": run.network.weight.sum() * torch.inf}, 3, 8, warmup(0.1, 1)
    )
    with pytest.raises(FloatingPointError, match="lower the rate"):
        train(broken, tmp_path)


def test_stages_are_the_shares_the_names_promise() -> None:
    assert stage_steps(Budget(3000, 64)) == {"s1": 60, "s2": 300, "s3": 900, "s4": 1800, "s5": 3000}
    assert GPU_BUDGET.pictures > CPU_BUDGET.pictures


def test_the_schedule_is_stable_diffusions() -> None:
    from diffusers import DDPMScheduler

    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    assert alphas[-1] == pytest.approx(0.00466, abs=1e-4)
    weight = min_snr_weight(alphas)
    assert weight[-1] == 1 and 0 < weight[0] < 0.01 and (weight <= 1).all()


def test_rates_and_averages() -> None:
    decayed = warmup_then_linear_decay(1.0, 10, 100)
    assert decayed(0) == 0.1 and decayed(30) == 1.0 and decayed(75) == 0.5 and decayed(100) == 0
    assert ema_decay(1000, 64, 10) < ema_decay(1000, 64, 10_000) < 1


def test_the_untrained_unet_is_its_seed() -> None:
    assert torch.equal(new_unet(1).conv_in.weight, new_unet(1).conv_in.weight)
    assert not torch.equal(new_unet(1).conv_in.weight, new_unet(2).conv_in.weight)


def test_color_transforms_stay_in_range_and_differ() -> None:
    x = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = transform_colors(x, torch.Generator().manual_seed(1))
    changed = (y != x).flatten(1).any(1)
    assert y.abs().max() <= 1 and 0.6 < changed.float().mean() < 0.95
    assert torch.equal(y, transform_colors(x, torch.Generator().manual_seed(1)))


def test_a_stock_is_rendered_once_and_read_in_order(tmp_path: Path) -> None:
    second = render_shard(tmp_path, 4, 4, 16)
    render_shard(tmp_path, 0, 4, 16)
    before = second.stat().st_mtime_ns
    assert render_shard(tmp_path, 4, 4, 16).stat().st_mtime_ns == before
    stock = open_stock(tmp_path)
    assert stock.planes.shape == (8, 13, 16, 16) and len(stock.captions) == 8
    with pytest.raises(UserError, match="zoo render"):
        open_stock(tmp_path / "empty")


@pytest.mark.slow
def test_every_command_of_the_zoo_on_a_tiny_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def zoo(*arguments: str) -> None:
        done = CliRunner().invoke(main, ["--debug", "zoo", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    folder = str(tmp_path)
    zoo("render", folder, "--scenes", "96", "--shard", "48")
    for what in ("text", "autoencoder", "network", "unet"):
        zoo("train", folder, what, "--steps", "2" if what != "unet" else "50", "--batch", "4")
    zoo("train", folder, "features", "--steps", "2", "--batch", "4")
    for family, read in (("stylegan2", stylegan2.read), ("stylegan-xl", stylegan_xl.read)):
        zoo("train", folder, family, "--steps", "13", "--batch", "2")
        kept = sorted(p.stem for p in (tmp_path / f"{family}.rooms64").iterdir())
        assert kept == ["s1", "s2", "s3", "s4"]
        first, last = (read(tmp_path / f"{family}.rooms64" / f"{s}.safetensors") for s in ("s1", "s4"))
        assert not torch.equal(first.mapping.fc0.weight, last.mapping.fc0.weight)
    zoo("train", folder, "vqgan", "--steps", "10", "--batch", "2")
    zoo("train", folder, "vqgan-transformer", "--steps", "10", "--batch", "2")
    kept = [tmp_path / "vqgan.rooms64" / f"s{k}.safetensors" for k in (1, 2, 3, 4)]
    first, *_, last = (vqgan.read(path).state_dict() for path in kept)
    changed = {name.split(".")[0] for name, value in first.items() if not torch.equal(value, last[name])}
    assert changed == {"first_stage_model", "transformer"}
    zoo("train", folder, "dinov2", "--steps", "8", "--batch", "2")
    assert sorted(p.name for p in (tmp_path / "dinov2.rooms64").iterdir()) == ["s1", "s2"]
    assert (tmp_path / "network" / "rooms.safetensors").stat().st_size > 1e6
    for what in ("velocity", "editing"):
        zoo("train", folder, what, "--steps", "2", "--batch", "4")
    made = tmp_path / "sd.rooms64"
    assert {"unet", "unet-s1", "unet-s2", "unet-s3", "unet-s4", "vae", "text_encoder"} <= {
        p.name for p in made.iterdir()
    }
    monkeypatch.setenv(WEIGHTS_VARIABLE, folder)
    assert load("ip2p.rooms64").network.get_parameter("conv_in.weight").shape[1] == 16
    pictures = load("sd.rooms64-s5").sample([1], ["a red box in a room with a plain floor"], steps=2).images
    assert pictures.shape == (1, 3, 64, 64)
    zoo("grid", "sd.rooms64-s5", "--out", str(tmp_path / "grid.png"), "--columns", "2", "--steps", "2")
    assert (tmp_path / "grid.png").stat().st_size > 1000
