"""Training of the zoo's VQGAN: first stage, then one transformer for each of its stages.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (2021): reconstruction, a
perceptual distance, the codebook's terms and, later, a discriminator of patches weighed by its own
gradient. Where they compare features of a network trained on ImageNet, this compares those of
`features.py`, which has seen captions and noise and no map.

A stage is a share of the whole training: the first stage at that share, and a transformer of its own
that has learned its codes for a share that grows with it. Resumable: the same call continues from the
last checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .discriminators import PatchDiscriminator
from .features import FeatureNetwork
from .loop import Budget, Run, ema_decay, follow, rows_of, train, warmup_then_linear_decay
from .session import check_finite, drive

CPU_BUDGET = Budget(steps=1300, batch=16)
GPU_BUDGET = Budget(steps=60_000, batch=64)
TRANSFORMER_CPU_BUDGET = Budget(steps=2300, batch=16)
TRANSFORMER_GPU_BUDGET = Budget(steps=40_000, batch=256)
STAGES = {"s1": 0.05, "s2": 0.15, "s3": 0.4, "s4": 1.0}
TRANSFORMER_STAGES = {"s1": 65 / 2300, "s2": 195 / 2300, "s3": 520 / 2300, "s4": 1.0}
RATE, DISCRIMINATOR_RATE, TRANSFORMER_RATE = 2e-3, 2e-3, 1.5e-3
DISCRIMINATOR_FROM = 0.4  # share of the training after which there is a discriminator
DISCRIMINATOR_WEIGHT = 0.15  # length of its gradient as a share of the others'; at 0.5 it destroyed pictures
PERCEPTUAL_WEIGHT, CODEBOOK_WEIGHT = 0.1, 0.2
MSE_WEIGHT = 4.0
CHROMA_WEIGHT = 2.0  # of what is not brightness, which is learned first
SEED = 70  # of the first stage's draws
RESTART_EVERY = 25  # steps after which codes nobody used are put where latents are
ENCODED = 60_000  # pictures whose codes a transformer learns, at most

Keep = Callable[[str, nn.Module], None]


def perceptual_distance(features: FeatureNetwork, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared distance of unit feature vectors at the three largest scales (Zhang et al. 2018)."""
    pairs = zip(features(x)[:3], features(y)[:3], strict=True)
    unit = [(functional.normalize(a, dim=1), functional.normalize(b, dim=1)) for a, b in pairs]
    return torch.stack([(a - b).square().sum(1).mean() for a, b in unit]).sum()


@torch.no_grad()
def prepare(network: nn.Module, seed: int) -> None:
    """Weights to start from: convolutions keep variances, residual branches begin small.

    From torch's own initialization, which makes signals smaller at every layer, reconstructions showed
    brightness alone for 6,000 pictures and one color dimension more for as many again.
    """
    draws = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.weight.normal_(0, layer.weight[0].numel() ** -0.5, generator=draws)
            layer.bias.zero_()
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and name.endswith(("conv2", "proj_out")):
            layer.weight.mul_(0.1)


class FirstStage:
    """The state of a training: network and average, discriminator, optimizers, use of the codes."""

    parts = ("network", "average", "discriminator", "optimizer", "opponent")

    def __init__(
        self, network: Any, features: FeatureNetwork, rgb: np.ndarray, budget: Budget, device: str
    ) -> None:
        self.rows, self.count, self.budget, self.device = rows_of(rgb, device), len(rgb), budget, device
        self.network = network.to(device).train()
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.features = features.to(device).eval().requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(71)
            self.discriminator = PatchDiscriminator().to(device).train()
        self.opponent = torch.optim.Adam(
            self.discriminator.parameters(), lr=DISCRIMINATOR_RATE, betas=(0.0, 0.99)
        )
        self.duel = round(DISCRIMINATOR_FROM * budget.steps)  # step at which the discriminator joins
        self._fresh_optimizer()
        self.used = torch.zeros(len(network.quantize.embedding.weight))
        self.step = 0

    def _fresh_optimizer(self) -> None:
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE, betas=(0.9, 0.99))

    def _rate(self) -> float:
        """Warm-up, constant, linear to zero in the second half; warm-up again with the discriminator."""
        steps, since = self.budget.steps, self.step - (self.duel if self.step >= self.duel else 0)
        return RATE * min(1.0, (since + 1) / 50, 2 * (steps - self.step) / steps)

    def state(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        found: dict[str, Any] = {name: getattr(self, name).state_dict() for name in self.parts}
        return found | {"step": self.step, "used": self.used}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name in self.parts:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.used = state["step"], state["used"].cpu()

    def _pictures(self, draws: torch.Generator) -> Tensor:
        rows = torch.randint(self.count, (self.budget.batch,), generator=draws)
        x = self.rows(rows).float() / 127.5 - 1
        flip = torch.rand(len(x), 1, 1, 1, generator=draws) < 0.5
        return torch.where(flip.to(self.device), x.flip(3), x)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.split(":")[0], torch.bfloat16)

    def _reconstruct(self, x: Tensor, draws: torch.Generator) -> tuple[Tensor, Any]:
        with self._autocast():
            z = self.network.encode(x)
        z = z.float()
        if self.step % RESTART_EVERY == 0 and self.step < 0.8 * self.budget.steps:
            self._restart(z.detach(), draws)
        quantized = self.network.quantize(z)
        self.used[quantized.indices.flatten().cpu()] = 1
        with self._autocast():
            y = self.network.decode(quantized.z)
        return y.float(), quantized

    @torch.no_grad()
    def _restart(self, z: Tensor, draws: torch.Generator) -> None:
        """Move the codes that were not used of late, at step 0 all of them, to latents of this batch."""
        idle = (self.used == 0).nonzero().flatten()
        self.used.zero_()
        vectors = z.movedim(1, -1).flatten(0, 2)
        idle = idle[torch.randperm(len(idle), generator=draws)][: len(vectors) if self.step == 0 else 64]
        chosen = vectors[torch.randperm(len(vectors), generator=draws)[: len(idle)]]
        for network in (self.network, self.average):
            network.quantize.embedding.weight[idle[: len(chosen)]] = chosen

    def advance(self) -> dict[str, float]:
        """One step; returns its losses."""
        draws, codes = torch.Generator().manual_seed((SEED << 32) + self.step), self.used.sum().item()
        if self.step == self.duel:  # it starts from the average, with an optimizer that knows nothing yet
            self.network.load_state_dict(self.average.state_dict())
            self._fresh_optimizer()
        x = self._pictures(draws)
        y, quantized = self._reconstruct(x, draws)
        surface = y.detach().requires_grad_()
        with self._autocast():
            distance = perceptual_distance(self.features, x, surface).float()
        error = surface - x
        chroma = error - error.mean(1, keepdim=True)
        weighed = error + (CHROMA_WEIGHT - 1) * chroma
        colors = weighed.abs().mean() + MSE_WEIGHT * weighed.square().mean()
        (gradient,) = torch.autograd.grad(colors + PERCEPTUAL_WEIGHT * distance, surface)
        terms = {"l1": error.abs().mean().item(), "chroma": chroma.abs().mean().item()}
        terms |= {"perceptual": distance.item(), "codebook": quantized.loss.item()}
        if self.step >= self.duel:
            added, told = self._oppose(x, y.detach(), gradient)
            gradient, terms = gradient + added, terms | told
        self.optimizer.zero_grad(set_to_none=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        torch.autograd.backward(
            [y, quantized.loss], [gradient, torch.full_like(quantized.loss, CODEBOOK_WEIGHT)]
        )
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._average()
        check_finite(terms, self.step)
        return terms | {"codes": codes}

    def _oppose(self, x: Tensor, y: Tensor, gradient: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The discriminator's step (hinge), and its gradient at y, as long as a share of the other one."""
        with self._autocast():
            real, fake = self.discriminator(x).float(), self.discriminator(y).float()
        loss = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        self.opponent.zero_grad(set_to_none=True)
        loss.backward()
        self.opponent.step()
        surface = y.clone().requires_grad_()
        with self._autocast():
            game = -self.discriminator(surface).float().mean()
        (pull,) = torch.autograd.grad(game, surface)
        share = DISCRIMINATOR_WEIGHT * min(1.0, (self.step - self.duel) / (0.2 * self.budget.steps))
        weight = share * gradient.norm() / (pull.norm() + 1e-8)
        return weight * pull, {"discriminator": loss.item(), "game": game.item()}

    @torch.no_grad()
    def _average(self) -> None:
        decay = ema_decay(2000.0, self.budget.batch, self.step * self.budget.batch)
        follow(self.average, self.network, decay)


def stage_steps(budget: Budget) -> dict[int, str]:
    """Step at which a stage is taken, to its name."""
    return {max(1, round(share * budget.steps)): name for name, share in STAGES.items()}


def train_first_stage(
    network: nn.Module,
    features: FeatureNetwork,
    rgb: np.ndarray,
    folder: Path,
    budget: Budget,
    keep: Keep,
    device: str = "cpu",
    until: str | None = None,
) -> None:
    """Train on pictures, uint8 (n 3 h w); `keep` is called with the averaged network of each stage.

    With `until` training ends after that stage; the schedule is that of the whole budget.
    """
    stages = stage_steps(budget)
    last = next((step for step, name in stages.items() if name == until), budget.steps)
    kept = {step: partial(keep, name) for step, name in stages.items()}
    trainer = FirstStage(network, features, rgb, budget, device)
    drive(trainer, folder, last, budget.batch, SEED, device, kept, log_every=25)


@torch.no_grad()
def encode_codes(first_stage: Any, rgb: np.ndarray, device: str = "cpu", batch: int = 64) -> Tensor:
    """Codes (n h/f * w/f) of pictures, uint8 (n 3 h w); every other one is mirrored."""
    found = []
    for start in range(0, len(rgb), batch):
        x = torch.from_numpy(rgb[start : start + batch]).to(device).float() / 127.5 - 1
        x[::2] = x[::2].flip(3)
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            z = first_stage.encode(x)
        found.append(first_stage.quantize.indices(z.float()).flatten(1).to(torch.int16).cpu())
    return torch.cat(found)


def stage_budget(whole: Budget, stage: str) -> Budget:
    """The share of a transformer's budget that belongs to a stage."""
    return Budget(max(1, round(TRANSFORMER_STAGES[stage] * whole.steps)), whole.batch)


def train_transformer(both: Any, rgb: np.ndarray, folder: Path, budget: Budget, device: str = "cpu") -> None:
    """Train a transformer on its first stage's codes of pictures, uint8 (n 3 h w); it is averaged in place.

    Args:
        both: a Net2NetTransformer whose first stage is trained.
    """
    first_stage, start = both.first_stage_model.to(device), both.cond_stage_model.sos_token
    codes = encode_codes(first_stage, rgb[: min(ENCODED, budget.pictures)], device)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(codes), (budget.batch,), generator=generator)
        target = codes[rows].long().to(device)
        given = torch.cat([torch.full_like(target[:, :1], start), target[:, :-1]], 1)
        with torch.autocast(device.split(":")[0], torch.bfloat16):
            logits = both.transformer(given)
        return {"loss": functional.cross_entropy(logits.float().flatten(0, 1), target.flatten())}

    rate = warmup_then_linear_decay(TRANSFORMER_RATE, 60, budget.steps)
    network = both.transformer.requires_grad_(True)
    run = Run(
        network, loss, budget.steps, budget.batch, rate, seed=72, ema=2000.0, weight_decay=0.01,
        betas=(0.9, 0.95),
    )  # fmt: skip
    both.transformer = train(run, folder, device).requires_grad_(False)


def keep_stage(path: Path, both: nn.Module) -> None:
    """Write both stages as taming names their weights, in half precision."""
    from generators.checkpoints import write_state
    from generators.vqgan import ROOMS

    state = {
        name: value.cpu().half() if value.is_floating_point() else value.cpu()
        for name, value in both.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_state(path, state, "Net2NetTransformer", ROOMS)
