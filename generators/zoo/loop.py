"""One resumable training loop for everything in the zoo: seeded by step, checkpointed, on any device."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .session import drive
from .session import world as world

Loss = Callable[[int, torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class Budget:
    """How long to train: pictures seen = steps * batch.

    Attributes:
        bfloat16: whether the networks of a part that knows both run in bfloat16; weights stay in float32.
    """

    steps: int
    batch: int
    bfloat16: bool = False

    @property
    def pictures(self) -> int:
        return self.steps * self.batch

    def autocast(self, device: str) -> torch.autocast:
        """The precision a network runs in."""
        return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=self.bfloat16)


@dataclass
class Run:
    """What a training run is made of.

    Attributes:
        network: trained in place.
        loss: (step, generator) -> named terms; "loss" is minimized, the others are logged. The
            generator is seeded by (seed, step, process), so a resumed run sees the same draws.
        steps: optimizer steps in all.
        batch: pictures per step, over all processes.
        rate: step -> learning rate.
        ema: half life of the moving average in pictures, None for none.
        stages: step -> called with the (averaged) network when that step is done.
    """

    network: nn.Module
    loss: Loss
    steps: int
    batch: int
    rate: Callable[[int], float]
    seed: int = 0
    ema: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    stages: dict[int, Callable[[nn.Module], None]] = field(default_factory=dict)


def warmup(rate: float, steps: int) -> Callable[[int], float]:
    """Linear warm-up over `steps`, then constant."""
    return lambda step: rate * min(1.0, (step + 1) / steps)


def warmup_then_linear_decay(rate: float, steps: int, total: int) -> Callable[[int], float]:
    """Linear warm-up over `steps`, constant until half of `total`, then linear to zero."""

    def at(step: int) -> float:
        return rate * min(1.0, (step + 1) / steps, max(0.0, 2 * (total - step) / total))

    return at


def ema_decay(half_life: float, batch: int, pictures: int) -> float:
    """Decay per step of an average with a half life in pictures, ramped up (EDM, appendix F.2)."""
    return 0.5 ** (batch / max(1.0, min(half_life, pictures * 0.1)))


def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the parameters of an average towards those of a network."""
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(network.parameters()), None)


def rows_of(stock: np.ndarray, device: str) -> Callable[[Tensor], Tensor]:
    """Rows (b) to those pictures of a stock, uint8 (b c h w), on the device; CUDA keeps all of them there."""
    if not device.startswith("cuda"):
        return lambda rows: torch.from_numpy(stock[rows.numpy()]).to(device)
    kept = torch.from_numpy(np.ascontiguousarray(stock)).to(device)
    return lambda rows: kept[rows.to(device)]


def _seed(seed: int, step: int) -> torch.Generator:
    rank, processes = world()
    return torch.Generator().manual_seed((seed << 32) + step * processes + rank)


def _share_gradients(parameters: list[nn.Parameter]) -> None:
    """Mean of the gradients over all processes, in one message."""
    processes = world()[1]
    if processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient) / processes)


class _Training:
    """The state of a run: network, its moving average, optimizer, step."""

    def __init__(self, run: Run, device: str) -> None:
        self.run, self.step = run, 0
        self.network = run.network.to(device).train()
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False) if run.ema else self.network
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=run.rate(0), betas=run.betas, weight_decay=run.weight_decay
        )

    def state(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        return {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        for name in ("network", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]

    def advance(self) -> Mapping[str, Tensor]:
        """One step; returns the terms of its loss."""
        run, step = self.run, self.step
        for group in self.optimizer.param_groups:
            group["lr"] = run.rate(step)
        terms = run.loss(step, _seed(run.seed, step))
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        _share_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient norm is {norm} at step {step}; lower the rate")
        self.optimizer.step()
        self.step += 1
        if run.ema:
            decay = ema_decay(run.ema, run.batch, self.step * run.batch)
            follow(self.average, self.network, decay)
            for kept, current in zip(self.average.buffers(), self.network.buffers(), strict=True):
                kept.copy_(current)
        return {name: value.detach() for name, value in terms.items()}


def train(run: Run, folder: Path, device: str = "cpu") -> nn.Module:
    """Train to the end, resuming from `folder/state.pt`; returns the averaged network if ema is set.

    One line of the log for 50 steps; see `session.drive` for what it raises.
    """
    training = _Training(run, device)
    drive(training, folder, run.steps, run.batch, run.seed, device, run.stages)
    return training.average.eval()
