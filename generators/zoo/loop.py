"""One resumable training loop for everything in the zoo: seeded by step, checkpointed, on any device."""

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

Loss = Callable[[int, torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class Budget:
    """How long to train: pictures seen = steps * batch."""

    steps: int
    batch: int

    @property
    def pictures(self) -> int:
        return self.steps * self.batch


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


def world() -> tuple[int, int]:
    """(rank, processes) of data-parallel training; (0, 1) where there is one process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


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


def save_state(path: Path, state: dict[str, object]) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train(run: Run, folder: Path, device: str = "cpu", every: float = 120.0) -> nn.Module:
    """Train to the end, resuming from `folder/state.pt`; returns the averaged network if ema is set.

    Writes a checkpoint every `every` seconds and one log line (JSON) per 50 steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = run.network.to(device).train()
    average = copy.deepcopy(network).eval().requires_grad_(False) if run.ema else network
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=run.rate(0), betas=run.betas, weight_decay=run.weight_decay)
    checkpoint, first = folder / "state.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    def snapshot(step: int) -> None:
        save_state(
            checkpoint,
            {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
            },
        )

    started = saved = time.monotonic()
    for step in range(first, run.steps):
        for group in optimizer.param_groups:
            group["lr"] = run.rate(step)
        terms = run.loss(step, _seed(run.seed, step))
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        _share_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient norm is {norm} at step {step}; lower the rate")
        optimizer.step()
        if run.ema:
            _average(average, network, ema_decay(run.ema, run.batch, (step + 1) * run.batch))
        done = step + 1
        if world()[0]:  # the first process alone writes
            continue
        if done in run.stages:
            run.stages[done](average)
        if done % 50 == 0 or done == run.steps:
            line: dict[str, float] = {"step": done, "pictures": done * run.batch}
            line |= {name: round(float(value.detach()), 5) for name, value in terms.items()}
            line["seconds"] = round(time.monotonic() - started, 1)
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if time.monotonic() - saved > every or done == run.steps:
            snapshot(done)
            saved = time.monotonic()
    return average.eval()


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
    for kept, current in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(current)
