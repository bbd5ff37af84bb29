"""Full fine-tuning: every weight of the network the contract names, and of its head if it has one."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .fit import TrainedProbe
from .task import Task


def split_head(network: nn.Module, head: str) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of a network without its head, and those of the head; "" for no head."""
    named = list(network.named_parameters())
    inside = [bool(head) and name.startswith(f"{head}.") for name, _ in named]
    return (
        [p for (_, p), within in zip(named, inside, strict=True) if not within],
        [p for (_, p), within in zip(named, inside, strict=True) if within],
    )


class FinetunedProbe(TrainedProbe):
    """A generator whose network was trained; its first weights are kept to be put back."""

    def __init__(self, task: Task) -> None:
        network = task.model.network
        self.network = network
        self.before = {
            name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()
        }
        network.requires_grad_(True)
        try:
            parameters, head = split_head(network, task.model.spec.head)
            super().__init__(task, parameters, head=head)
        except BaseException:
            self.release()
            raise

    def save(self, folder: Path) -> None:
        """Write all weights as one safetensors file."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        save_file(weights, str(folder / "network.safetensors"))

    def release(self) -> None:
        """Put the first weights back, and freeze them."""
        self.network.load_state_dict(self.before)
        self.network.requires_grad_(False)


def fit(task: Task) -> FinetunedProbe:
    """Train every weight of the network."""
    return FinetunedProbe(task)
