"""Adversarial training of the zoo's StyleGANs: non-saturating loss, lazy R1, averaged weights.

Karras et al., "Training Generative Adversarial Networks with Limited Data" (2020), for the loss, the
lazy gradient penalty and the adaptive augmentation; Sauer et al., "StyleGAN-XL" (2022), for a
discriminator on frozen features. Resumable: the same call continues from the last checkpoint.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .discriminators import PatchDiscriminator, ProjectedDiscriminator
from .features import FeatureNetwork
from .loop import Budget, ema_decay, follow, rows_of
from .session import Stages, check_finite, drive

CPU_BUDGET = Budget(steps=1750, batch=32)
GPU_BUDGET = Budget(steps=150_000, batch=64)
STAGES = (2 / 35, 1 / 7, 3 / 7, 1.0)  # shares of the training at which a stage is kept
PENALTY_EVERY = 16  # steps between gradient penalties; the penalty is scaled by as much
TARGET = 0.6  # share of real pictures the discriminator may be sure of (Karras et al., section 3.1)
ADAPT = 100_000  # pictures in which the augmentation may go from never to always


@dataclass
class Player:
    """A generator to be trained, and what differs between StyleGAN2 and StyleGAN-XL in training.

    Attributes:
        network: with `mapping` and `synthesis`, trained in place.
        gains: parameter name -> equalized gain; the others have gain 1.
        pictures: (network, z (b z_dim), draws) -> pictures (b 3 h w), moving averages updated.
    """

    network: Any
    gains: Mapping[str, float]
    pictures: Callable[[Any, Tensor, torch.Generator], Tensor]


@dataclass
class Duel:
    """What a GAN training is made of.

    Attributes:
        player: the generator.
        discriminators: name to network, pictures (b 3 h w) to logits (b n); their losses are added.
        penalized: names of the discriminators that get a gradient penalty.
        steps, batch: pictures seen = steps * batch.
        rate: of Adam before equalized gains, for the generator.
        discriminator_rate: of Adam.
        penalty: weight gamma of R1.
        half_life: of the averaged weights, in pictures.
        adaptive: whether the pictures shown to the discriminators are augmented as they overfit.
        stages: step -> called with the averaged generator when that step is done.
    """

    player: Player
    discriminators: Mapping[str, nn.Module]
    steps: int
    batch: int
    penalized: tuple[str, ...] = ()
    rate: float = 0.005
    discriminator_rate: float = 0.002
    penalty: float = 0.5
    half_life: float = 10_000.0
    adaptive: bool = False
    seed: int = 0
    stages: Stages = field(default_factory=dict)


def augment(x: Tensor, probability: float, draws: torch.Generator) -> Tensor:
    """Shift by up to an eighth of the picture, change brightness and contrast: each with `probability`."""
    if probability <= 0:
        return x
    b, side = len(x), x.shape[-1]
    chosen = torch.rand(3, b, generator=draws) < probability
    reach = side // 8
    shifts = torch.randint(-reach, reach + 1, (b, 2), generator=draws) * chosen[0, :, None]
    padded = functional.pad(x, [reach] * 4, mode="reflect")
    rows = [
        padded[i, :, reach + dy : reach + dy + side, reach + dx : reach + dx + side]
        for i, (dx, dy) in enumerate(shifts.tolist())
    ]
    x = torch.stack(rows)
    light = (torch.rand(b, generator=draws) - 0.5) * 0.6 * chosen[1]
    contrast = torch.exp((torch.rand(b, generator=draws) - 0.5) * 0.8 * chosen[2])
    return x * contrast.to(x.device)[:, None, None, None] + light.to(x.device)[:, None, None, None]


def _parameter_groups(player: Player, rate: float) -> list[dict[str, Any]]:
    """Adam with rate * gain on a folded parameter is Adam with `rate` on the official one."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in player.network.named_parameters():
        groups.setdefault(player.gains.get(name, 1.0), []).append(parameter)
    return [{"params": p, "lr": rate * gain, "eps": 1e-8 * gain} for gain, p in groups.items()]


def _total(losses: Iterable[Tensor]) -> Tensor:
    """Sum over discriminators of the mean over pictures and places."""
    return torch.stack([loss.mean() for loss in losses]).sum()


class Trainer:
    """The state of a duel: networks, optimizers, averaged generator, augmentation, step."""

    parts = ("generator", "average", "discriminators", "optimizer", "opponent")

    def __init__(self, duel: Duel, rgb: np.ndarray, device: str = "cpu") -> None:
        self.duel, self.device = duel, device
        self.rows, self.count = rows_of(rgb, device), len(rgb)
        self.generator = duel.player.network.to(device).train()
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.discriminators = nn.ModuleDict(duel.discriminators).to(device).train()
        self.discriminators.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        betas = (0.0, 0.99)
        self.optimizer = torch.optim.Adam(_parameter_groups(duel.player, duel.rate), betas=betas)
        trained = [p for p in self.discriminators.parameters() if p.requires_grad]
        self.opponent = torch.optim.Adam(trained, lr=duel.discriminator_rate, betas=betas)
        self.step, self.probability, self.sure = 0, 0.0, 0.0

    def state(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        found: dict[str, Any] = {name: getattr(self, name).state_dict() for name in self.parts}
        return found | {"step": self.step, "probability": self.probability, "sure": self.sure}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name in self.parts:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.probability, self.sure = state["step"], state["probability"], state["sure"]

    def _real(self, draws: torch.Generator) -> Tensor:
        rows = torch.randint(self.count, (self.duel.batch,), generator=draws)
        x = self.rows(rows).float() / 127.5 - 1
        flip = torch.rand(self.duel.batch, 1, 1, 1, generator=draws) < 0.5
        return torch.where(flip.to(self.device), x.flip(3), x)

    def _fake(self, draws: torch.Generator) -> Tensor:
        z = torch.randn(self.duel.batch, self.generator.mapping.z_dim, generator=draws).to(self.device)
        return self.duel.player.pictures(self.generator, z, draws)

    def _logits(self, x: Tensor, draws: torch.Generator) -> dict[str, Tensor]:
        x = augment(x, self.probability, draws).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.split(":")[0], torch.bfloat16):
            return {name: d(x).float() for name, d in self.discriminators.items()}

    def _penalty(self, real: Tensor) -> Tensor:
        """R1 (Mescheder et al. 2018): gamma / 2 times the squared gradient at real pictures."""
        x = real.detach().requires_grad_()
        total = torch.zeros([], device=self.device)
        for name in self.duel.penalized:
            (gradient,) = torch.autograd.grad(self.discriminators[name](x).sum(), x, create_graph=True)
            total = total + gradient.square().sum((1, 2, 3)).mean()
        return total * (self.duel.penalty / 2 * PENALTY_EVERY)

    def _adapt(self, real: dict[str, Tensor]) -> None:
        """Raise or lower the augmentation by how sure the discriminators are of real pictures."""
        sure = sum(v.sign().mean().item() for v in real.values()) / len(real)
        self.sure = 0.99 * self.sure + 0.01 * sure
        if self.duel.adaptive:
            change = math.copysign(self.duel.batch / ADAPT, self.sure - TARGET)
            self.probability = min(0.8, max(0.0, self.probability + change))

    def advance(self) -> dict[str, float]:
        """One step of both players; returns their losses."""
        seed = (self.duel.seed << 32) + self.step
        draws = torch.Generator().manual_seed(seed)
        real, fake = self._real(draws), self._fake(draws)
        on_real, on_fake = self._logits(real, draws), self._logits(fake.detach(), draws)
        loss = _total(functional.softplus(-v) for v in on_real.values())
        loss = loss + _total(functional.softplus(v) for v in on_fake.values())
        if self.duel.penalized and self.step % PENALTY_EVERY == 0:
            loss = loss + self._penalty(real)
        self.opponent.zero_grad(set_to_none=True)
        loss.backward()
        self.opponent.step()
        self._adapt(on_real)
        self.discriminators.requires_grad_(False)
        fooled = self._logits(fake, draws)
        game = _total(functional.softplus(-v) for v in fooled.values())
        self.optimizer.zero_grad(set_to_none=True)
        game.backward()
        for parameter in self.generator.parameters():
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0, 1e5, -1e5)
        self.optimizer.step()
        self._thaw()
        self.step += 1
        self._average()
        terms = {"generator": game.item(), "discriminator": loss.item()}
        terms |= {"sure": self.sure, "augment": self.probability}
        check_finite(terms, self.step)
        return terms

    def _thaw(self) -> None:
        for name, parameter in self.discriminators.named_parameters():
            frozen = any(part in name for part in (".features.", ".across.", ".scales."))
            parameter.requires_grad_(not frozen)

    @torch.no_grad()
    def _average(self) -> None:
        decay = ema_decay(self.duel.half_life, self.duel.batch, self.step * self.duel.batch)
        follow(self.average, self.generator, decay)
        for kept, current in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(current)


def train_gan(duel: Duel, rgb: np.ndarray, folder: Path, device: str = "cpu") -> Any:
    """Train on pictures, uint8 (n 3 h w); returns the averaged generator. See `session.drive`."""
    trainer = Trainer(duel, rgb, device)
    drive(trainer, folder, duel.steps, duel.batch, duel.seed, device, duel.stages, digits=4)
    return trainer.average


def stage_steps(budget: Budget) -> dict[str, int]:
    """Stage name (s1 ... s4) to the step it is taken at."""
    return {f"s{k}": max(1, round(share * budget.steps)) for k, share in enumerate(STAGES, 1)}


def stylegan2_player() -> Player:
    """The zoo's StyleGAN2 before training; blocks run in bfloat16, weights stay in float32."""
    from generators.networks import stylegan2
    from generators.stylegan2 import RANDOM_SEED, ROOMS

    network = stylegan2.initialize(stylegan2.Generator(**ROOMS), RANDOM_SEED)
    for block in network.synthesis.blocks():
        block.use_fp16 = block.channels_last = True

    def pictures(network: Any, z: Tensor, draws: torch.Generator) -> Tensor:
        ws = network.mapping(z, update_w_avg=True)
        found: Tensor = network.synthesis(
            ws, noise_mode="random", force_fp32=False, dtype=torch.bfloat16, generator=draws
        )
        return found

    return Player(network, network.gains(), pictures)


def stylegan_xl_player() -> Player:
    """The zoo's StyleGAN-XL before training; layers run in bfloat16, weights stay in float32."""
    from generators.networks import stylegan_xl
    from generators.stylegan_xl import RANDOM_SEED, ROOMS

    network = stylegan_xl.generator_from_kwargs(**ROOMS, seed=RANDOM_SEED)

    def pictures(network: Any, z: Tensor, draws: torch.Generator) -> Tensor:
        found: Tensor = network(z, update_emas=True, force_fp32=False, dtype=torch.bfloat16)
        return found

    return Player(network, stylegan_xl.gains(network), pictures)


def keep_stage(family: str, path: Path, network: Any) -> None:
    """Write a generator as the official code names and scales its weights, in half precision."""
    from generators import stylegan2, stylegan_xl
    from generators.checkpoints import write_state
    from generators.networks import stylegan2 as small
    from generators.networks import stylegan_xl as large

    if family == "stylegan2":
        state, config = small.unfold(network), stylegan2.ROOMS
    else:
        state, config = large.unfold(network.state_dict(), large.gains(network)), stylegan_xl.ROOMS
    path.parent.mkdir(parents=True, exist_ok=True)
    half = {name: value.cpu().half().contiguous() for name, value in state.items()}
    write_state(path, half, "Generator", config)


PLAYERS = {"stylegan2": stylegan2_player, "stylegan-xl": stylegan_xl_player}


def projected_duel(family: str, features: FeatureNetwork, budget: Budget, stages: Stages) -> Duel:
    """The zoo's training of a family against a projected discriminator."""
    player = PLAYERS[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(51)
        discriminators = {"projected": ProjectedDiscriminator(features), "patch": PatchDiscriminator()}
    return Duel(player, discriminators, budget.steps, budget.batch, seed=50, stages=stages)
