"""Several processes that train one probe together, each on its rows of every batch.

What is random is drawn for the whole batch in every process, and gradients are averaged over all rows,
so that the number of processes changes nothing but the order of sums. A process whose memory runs out does
its rows in parts (see probes.memory) and gives the same gradients, later: the others wait for them and need
not know. A process that was started alone is one rank of one, and nothing is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from generators.errors import UserError


class Gone(RuntimeError):
    """Another process of this run has ended before its time."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together: number `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @staticmethod
    def here() -> Ranks:
        """As torch.distributed was told; one of one where it was not."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return Ranks()
        return Ranks(distributed.get_rank(), distributed.get_world_size())

    def check(self, batch: int) -> None:
        """Raise UserError where some process would have no row."""
        if batch < self.count:
            raise UserError(
                f"a batch of {batch} on {self.count} processes",
                "each of them needs a picture",
                f"at most {batch} processes",
                f"start fewer of them, or give the option batch = {self.count} or more",
            )

    def share(self, batch: int) -> slice:
        """This process's rows of a batch; sizes differ by one at most."""
        return slice(batch * self.rank // self.count, batch * (self.rank + 1) // self.count)

    def same_start(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give all processes the first one's values of what is trained."""
        if self.count == 1:
            return
        flat = torch.cat([p.detach().flatten() for p in parameters])
        _exchange(lambda: distributed.broadcast(flat, 0))
        _spread(flat, [p.data for p in parameters])

    def average(self, parameters: Sequence[nn.Parameter], loss: Tensor, weight: float) -> Tensor:
        """Loss over all rows; the gradients become those of all rows, the same in every process.

        Args:
            loss: mean over this process's rows, whose gradients the parameters hold.
            weight: this process's share in the mean over all rows.
        """
        if self.count == 1:
            return loss.detach()
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([*(g.flatten() for g in grads), loss.detach().flatten()]) * weight
        _exchange(lambda: distributed.all_reduce(flat))
        for p, grad in zip(parameters, grads, strict=True):
            p.grad = grad
        _spread(flat[:-1], grads)
        return flat[-1]

    def greatest(self, numbers: tuple[int, int], device: torch.device) -> tuple[int, int]:
        """The greatest pair of numbers that any process gives."""
        if self.count == 1:
            return numbers
        mine = torch.tensor(numbers, device=device)
        all_ = [torch.empty_like(mine) for _ in range(self.count)]
        _exchange(lambda: distributed.all_gather(all_, mine))
        first, second = max(pair.tolist() for pair in all_)
        return int(first), int(second)


def _spread(flat: Tensor, into: Sequence[Tensor]) -> None:
    """Copy a flat tensor back into the tensors it was made of."""
    for target, part in zip(into, flat.split([t.numel() for t in into]), strict=True):
        target.copy_(part.view_as(target))


def _exchange(collective: Callable[[], object]) -> None:
    """Call a collective; one that breaks off means that a process is gone."""
    try:
        collective()
    except RuntimeError as error:
        raise Gone("another process of this run has ended; what it said stands above") from error
