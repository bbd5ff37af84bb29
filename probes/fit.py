"""The one training loop, for everything that trains a generator's network on cached codes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from generators.base import Generator

from .intrinsics import Intrinsic
from .task import Examples, Task, stream

WARMUP = 0.05  # share of the steps
CLIP = 1.0  # greatest norm of the gradient, as in diffusers' trainers
BATCH = 32  # pictures predicted together

# (code, name of the intrinsic) -> output space, as Generator.forward.
Forward = Callable[[Mapping[str, Tensor], str], Tensor]


class Diverged(RuntimeError):
    """Training gave a loss or a weight that is not finite."""


def schedule(step: int, steps: int) -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine to zero."""
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def batches(count: int, batch: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of `steps` batches: every picture once an epoch, in a new order each time."""
    batch = min(batch, count)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:batch]
        order = order[batch:]


def output_loss(generator: Generator, intrinsic: Intrinsic, output: Tensor, target: Tensor) -> Tensor:
    """MSE in latent space, the intrinsic's own loss in pixel space (paper, section 3)."""
    if generator.spec.space == "latents":
        return functional.mse_loss(output, target)
    return intrinsic.pixel_loss(output, target)


def shuffled(n: int, generator: torch.Generator) -> Tensor:
    """A permutation of n >= 2 rows that leaves none in its place (one random cycle)."""
    order = torch.randperm(n, generator=generator)
    result = torch.empty(n, dtype=torch.long)
    result[order] = order.roll(1)
    return result


def train(task: Task, parameters: list[nn.Parameter], forward: Forward) -> tuple[dict[str, Any], float]:
    """Train parameters with AdamW.

    Args:
        parameters: of task.generator.network, or of `forward`.
        forward: task.generator.forward, or one that changes the code before it.

    Returns:
        Details (mean loss of the first and last tenth of the steps), and steps per second.

    Raises:
        Diverged: a loss is not finite.
    """
    generator, options, steps = task.model, task.options, int(task.options["steps"])
    if task.train.output is None:
        raise TypeError("training needs targets in the generator's output space")
    targets = task.train.output
    if options.get("labels") == "shuffled":
        targets = targets[shuffled(len(targets), stream(task.seed, "labels"))]
    optimizer = torch.optim.AdamW(parameters, lr=float(options["rate"]), weight_decay=0.0)
    losses: list[float] = []
    started = time.monotonic()
    rows_of = batches(len(targets), int(options["batch"]), steps, stream(task.seed, "batches"))
    for step, rows in enumerate(rows_of):
        for group in optimizer.param_groups:
            group["lr"] = float(options["rate"]) * schedule(step, steps)
        code = {name: value[rows] for name, value in task.train.code.items()}
        output = forward(code, task.intrinsic.name)
        loss = output_loss(generator, task.intrinsic, output, targets[rows].to(output.device))
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise Diverged(
                f"the loss is {losses[-1]} at step {step} of {steps}: lower the rate {options['rate']}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        task.progress((step + 1) / steps)
    tenth = max(1, steps // 10)
    details = {
        "loss_first": sum(losses[:tenth]) / tenth,
        "loss_last": sum(losses[-tenth:]) / tenth,
    }
    return details, steps / max(1e-9, time.monotonic() - started)


@torch.no_grad()
def predict(
    generator: Generator, intrinsic: Intrinsic, code: Mapping[str, Tensor], forward: Forward
) -> Tensor:
    """Maps (n c h w) of codes: forward, decode, and the map of the picture, in batches."""
    count = len(next(iter(code.values())))
    found = []
    for start in range(0, count, BATCH):
        part = {name: value[start : start + BATCH] for name, value in code.items()}
        picture = generator.decode(forward(part, intrinsic.name))
        found.append(intrinsic.from_picture(picture).float().cpu())
    return torch.cat(found)


class TrainedProbe:
    """A generator that was trained and now draws maps; the base of LoRA, fine-tuning, latent offsets.

    Args:
        parameters: what is trained.
        forward: code to output space, where it is not the generator's own.
        head: the parameters of the generator's new head (spec.head), trained beside them, counted apart.
    """

    def __init__(
        self,
        task: Task,
        parameters: list[nn.Parameter],
        forward: Forward | None = None,
        head: Sequence[nn.Parameter] = (),
    ) -> None:
        self.generator, self.intrinsic = task.model, task.intrinsic
        self.forward = forward or task.model.forward
        self.parameters = sum(p.numel() for p in parameters)
        self.head_parameters = sum(p.numel() for p in head)
        self.details, self.steps_per_second = train(task, [*parameters, *head], self.forward)
        held = task.validation
        error = task.intrinsic.error(self.predict(held), held.maps[task.intrinsic.name], held.mask)
        self.details["validation_error"] = float(error)  # for choosing options, never the test error

    def predict(self, examples: Examples) -> Tensor:
        """Maps (n c h w) in natural units."""
        return predict(self.generator, self.intrinsic, examples.code, self.forward)
