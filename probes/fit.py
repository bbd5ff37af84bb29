"""The one training loop, for everything that trains a generator's network on cached codes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from generators.base import Denoiser, Generator
from generators.draws import Draws
from generators.errors import UserError

from .intrinsics import Intrinsic, squared_error
from .memory import Parts, Short, attempt, explained, portions
from .precision import Feed, Losses, autocast, device_of, optimizer_for, prepared
from .ranks import Ranks
from .task import Examples, Task, stream

WARMUP = 0.05  # share of the steps
CLIP = 1.0  # greatest norm of the gradient, as in diffusers' trainers
BATCH = 32  # pictures predicted together
LOOK = 50  # steps on a CUDA device between two looks at the losses: each makes the host wait

# (code, name of the intrinsic) -> output space, as Generator.forward.
Forward = Callable[[Mapping[str, Tensor], str], Tensor]
# (code, target in output space, draws), and where the target is valid if not everywhere -> scalar.
Loss = Callable[..., Tensor]


class Diverged(RuntimeError):
    """Training gave a loss or a weight that is not finite."""


def schedule(step: int, steps: int, kind: str = "cosine") -> float:
    """Factor on the learning rate: linear warm-up, then half a cosine to zero; 1 of the kind "constant"."""
    if kind == "constant":
        return 1.0
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


def output_loss(
    generator: Generator, intrinsic: Intrinsic, output: Tensor, target: Tensor, valid: Tensor | None = None
) -> Tensor:
    """MSE in latent space, the intrinsic's own loss in pixel space (paper, section 3).

    Args:
        valid: (b 1 h w) bool, where the target (b c h w) is valid; None for everywhere.
    """
    if generator.spec.space == "latents":
        return squared_error(output, target, valid)
    return intrinsic.pixel_loss(output, target, valid)


def loss_of(task: Task, forward: Forward, question: Callable[[], Tensor] | None = None) -> Loss:
    """What training minimizes: the error of what `forward` gives, or a denoiser's own loss.

    Args:
        question: embedding (1 l d) a denoiser is asked with, where it is not the intrinsic's own.
    """
    generator, intrinsic = task.model, task.intrinsic
    if isinstance(generator, Denoiser):
        denoiser = generator
        asked = question or (lambda: denoiser.question(intrinsic.name))
        more: dict[str, Any] = {"drop": task.options["dropped"]} if "dropped" in task.options else {}
        return lambda code, target, draws, *valid: denoiser.loss(code, asked(), target, draws, *valid, **more)

    def loss(code: Mapping[str, Tensor], target: Tensor, draws: Draws, valid: Tensor | None = None) -> Tensor:
        output = forward(code, intrinsic.name)
        _check_output(output, target, generator.spec.name)
        output = output.float()  # no matter in which precision the network ran
        valid = valid if valid is None else valid.to(output.device)
        return output_loss(generator, intrinsic, output, target.to(output.device), valid)

    return loss


def _check_output(output: object, target: Tensor, name: str) -> None:
    """Raise UserError unless what a model's `forward` gives can be set beside its targets, pixel by pixel."""
    if not isinstance(output, Tensor):
        wrong = f"it gave a {type(output).__name__}, no tensor"
    elif output.shape != target.shape:
        wrong = f"it gave {tuple(output.shape)}, its targets have {tuple(target.shape)}"
    else:
        return
    raise UserError(f"forward of {name!r}", wrong, "", f"see: intrinsic-bench check {name}")


def shuffled(n: int, generator: torch.Generator) -> Tensor:
    """A permutation of n >= 2 rows that leaves none in its place (one random cycle)."""
    order = torch.randperm(n, generator=generator)
    result = torch.empty(n, dtype=torch.long)
    result[order] = order.roll(1)
    return result


def train(task: Task, parameters: list[nn.Parameter], loss_function: Loss) -> tuple[dict[str, Any], float]:
    """Train parameters with AdamW, alone or together with the other processes of this run.

    Args:
        parameters: of task.generator.network, or of what `loss_function` calls.
        loss_function: see `loss_of`.

    Returns:
        Details (mean loss of the first and last tenth of the steps; how the batches were parted, if memory
        ran out), and steps per second.

    Raises:
        Diverged: a loss is not finite.
        UserError: the network or this machine cannot do what precision, checkpointing or compile ask.
        OutOfMemory: there is not enough memory for one picture.
    """
    parts = Parts()
    losses, rate = descend(task, parameters, loss_function, parts)
    tenth = max(1, len(losses) // 10)
    details: dict[str, Any] = {
        "loss_first": sum(losses[:tenth]) / tenth,
        "loss_last": sum(losses[-tenth:]) / tenth,
    }
    return details | parts.facts(), rate


def descend(
    task: Task, parameters: list[nn.Parameter], loss_function: Loss, parts: Parts | None = None
) -> tuple[list[float], float]:
    """`train`, giving the loss of every step, and steps per second.

    Args:
        parts: told how the batches ran, if memory ran out.
    """
    asked = f"train {task.method} on {task.model.spec.name}"
    with explained(asked), prepared(task.model.network, task.options):
        return _descend(task, parameters, loss_function, Parts() if parts is None else parts, asked)


def _descend(
    task: Task, parameters: list[nn.Parameter], loss_function: Loss, parts: Parts, asked: str
) -> tuple[list[float], float]:
    options, steps, ranks = task.options, int(task.options["steps"]), Ranks.here()
    network = task.model.network
    device = device_of(network)
    targets, valid = _targets(task)
    ranks.check(min(int(options["batch"]), len(targets)))
    ranks.same_start(parameters)
    random = stream(task.seed, "denoising")
    rows_of = batches(len(targets), int(options["batch"]), steps, stream(task.seed, "batches"))
    losses = Losses(1 if device.type == "cpu" else LOOK, partial(_refuse, options), task.track)
    optimizer = optimizer_for(parameters, float(options["rate"]), float(options.get("decay", 0.0)))
    feed, weight = Feed(task.train.code, targets, device, valid), _weights(len(targets), valid)

    def gradients(rows: Tensor, share: slice, before: Tensor) -> Tensor:
        """Mean loss of this process's rows, part by part; the parameters hold its gradients."""
        optimizer.zero_grad(set_to_none=True)
        total, mine = torch.zeros((), device=device), rows[share]
        for part in parts.of(len(mine)):
            here = slice(share.start + part.start, share.start + part.stop)
            random.set_state(before)  # each part draws for the whole batch, and the same
            draws = Draws(random, len(rows), here)
            with autocast(network, options):
                loss = loss_function(*feed(rows[here]), draws, *feed.valid(rows[here]))
            loss = loss * weight(rows[here], mine)
            loss.backward()
            total = total + loss.detach()
        return total

    started = time.monotonic()
    for step, rows in enumerate(rows_of):
        for group in optimizer.param_groups:
            group["lr"] = float(options["rate"]) * schedule(step, steps, options.get("schedule", "cosine"))
        share, before = ranks.share(len(rows)), random.get_state()
        while isinstance(loss := attempt(partial(gradients, rows, share, before)), Short):
            parts.halve(share.stop - share.start, step, asked, loss.said)
        losses.add(ranks.average(parameters, loss, weight(rows[share], rows)))
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        task.progress((step + 1) / steps)
        task.watch(step + 1)
    found, rate = losses.look(), steps / max(1e-9, time.monotonic() - started)
    parts.count, parts.since = ranks.greatest((parts.count, parts.since), device)
    return found, rate


def _weights(count: int, valid: Tensor | None) -> Callable[[Tensor, Tensor], float]:
    """What share a part of some rows has in their mean loss, given both.

    A loss is a mean over valid pixels, so rows count by how many of theirs are valid; where none is, and
    where all are, every row counts the same.
    """
    worth = torch.ones(count) if valid is None else valid.flatten(1).sum(1)
    worth = worth.double()

    def weight(part: Tensor, rows: Tensor) -> float:
        whole = float(worth[rows].sum())
        return float(worth[part].sum()) / whole if whole else len(part) / len(rows)

    return weight


def _targets(task: Task) -> tuple[Tensor, Tensor | None]:
    """The maps to learn, in output space, and where they are valid; of other pictures for the control."""
    if task.train.output is None:
        raise TypeError("training needs targets in the generator's output space")
    targets, valid = task.train.output, task.train.valid
    if task.options.get("labels") == "shuffled":
        order = shuffled(len(targets), stream(task.seed, "labels"))
        return targets[order], None if valid is None else valid[order]
    return targets, valid


def _refuse(options: Mapping[str, Any], step: int, loss: float) -> None:
    raise Diverged(
        f"the loss is {loss} at step {step} of {options['steps']}: lower the rate {options['rate']}"
    )


@torch.no_grad()
def predict(
    generator: Generator, intrinsic: Intrinsic, code: Mapping[str, Tensor], forward: Forward
) -> Tensor:
    """Maps (n c h w) of codes: forward, decode, and the map of the picture, in batches that fit memory."""

    def some(rows: slice) -> Tensor:
        part = {name: value[rows] for name, value in code.items()}
        picture = generator.decode(forward(part, intrinsic.name))
        return intrinsic.from_picture(picture).float().cpu()

    count = len(next(iter(code.values())))
    return torch.cat([found for _, found in portions(count, BATCH, some, "predict maps")])


def validation_error(task: Task, forward: Forward | None = None) -> float:
    """The intrinsic's own error on the validation pictures, as the network is now."""
    held = task.validation
    found = predict(task.model, task.intrinsic, held.code, forward or task.model.forward)
    return float(task.intrinsic.error(found, held.maps[task.intrinsic.name], held.mask))


def train_or_recall(
    task: Task, parameters: list[nn.Parameter], loss_function: Loss
) -> tuple[dict[str, Any], float]:
    """`train`, but once for all cells of a denoiser that differ in how it samples alone.

    Processes that train together do not recall: each may have a cache of its own, and all or none must train.
    """
    asks = task.model.spec.asks
    if not asks or Ranks.here().count > 1:
        return train(task, parameters, loss_function)

    def compute() -> dict[str, Tensor]:
        details, rate = train(task, parameters, loss_function)
        found = {f"{k:04}": p.detach().cpu().clone() for k, p in enumerate(parameters)}
        losses = [details["loss_first"], details["loss_last"], rate]
        if "parts" in details:
            found["parts"] = torch.tensor([details["parts"]["parts"], details["parts"]["since_step"]])
        return found | {"losses": torch.tensor(losses, dtype=torch.float64)}

    told = {name: value for name, value in sorted(task.options.items()) if name not in asks}
    kept = task.remember(f"trained {task.method} {task.intrinsic.name} {told}", compute)
    with torch.no_grad():
        for k, parameter in enumerate(parameters):
            parameter.copy_(kept[f"{k:04}"])
    first, last, rate = kept["losses"].tolist()
    count, since = kept["parts"].tolist() if "parts" in kept else (1, 0)
    return {"loss_first": first, "loss_last": last} | Parts(0, count, since).facts(), rate


class TrainedProbe:
    """A generator that was trained and now draws maps; the base of LoRA, fine-tuning, latent offsets.

    Args:
        parameters: what is trained.
        forward: code to output space, where it is not the generator's own.
        question: embedding (1 l d) a denoiser is asked with, where it is not the intrinsic's own.
        head: the parameters of the generator's new head (spec.head), trained beside them, counted apart.
    """

    def __init__(
        self,
        task: Task,
        parameters: list[nn.Parameter],
        forward: Forward | None = None,
        head: Sequence[nn.Parameter] = (),
        question: Callable[[], Tensor] | None = None,
    ) -> None:
        self.generator, self.intrinsic = task.model, task.intrinsic
        self.forward = forward or task.model.forward
        self.parameters = sum(p.numel() for p in parameters)
        self.head_parameters = sum(p.numel() for p in head)
        loss = loss_of(task, self.forward, question)
        self.details, self.steps_per_second = train_or_recall(task, [*parameters, *head], loss)
        # For choosing options, never the test error.
        self.details["validation_error"] = validation_error(task, self.forward)

    def predict(self, examples: Examples) -> Tensor:
        """Maps (n c h w) in natural units."""
        return predict(self.generator, self.intrinsic, examples.code, self.forward)
