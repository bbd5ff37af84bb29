"""Low-rank adapters (Hu et al. 2022) through peft: the paper's method."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from generators.base import Generator
from generators.errors import UserError, unknown

from .fit import TrainedProbe
from .task import Task, seed_for

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
}
# How the matrix A starts, as peft calls it: Kaiming's uniform numbers, or normal ones of deviation 1 / rank,
# as in the paper's code. B starts at zero.
INITIAL: dict[str, bool | str] = {"kaiming": True, "gaussian": "gaussian"}


def target_pattern(generator: Generator, targets: str) -> str:
    """Regular expression for the module names of a target set; raises UserError if there is no such set."""
    spec = generator.spec
    known = {"all": rf"(.*\.)?({'|'.join(re.escape(t) for t in spec.lora_targets)})"} | dict(spec.target_sets)
    if targets not in known:
        raise unknown(f"target set of {spec.name}", targets, known)
    return known[targets]


Layer = nn.Linear | nn.Conv1d | nn.Conv2d


def target_layers(generator: Generator, pattern: str) -> dict[str, Layer]:
    """Linear and convolution layers whose full name matches."""
    return {
        name: module
        for name, module in generator.network.named_modules()
        if isinstance(module, Layer) and re.fullmatch(pattern, name)
    }


def _check(generator: Generator, rank: int, targets: str, pattern: str) -> None:
    layers = target_layers(generator, pattern)
    if not layers:
        raise UserError(
            f"LoRA on the target set {targets!r} of {generator.spec.name}",
            "no layer of the network has such a name",
            f"pattern {pattern}",
            "choose another target set: intrinsic-bench show " + generator.spec.name,
        )
    # Above a layer's own rank an adapter of it is redundant, as on the four outputs of StyleGAN-XL's input,
    # which the paper counts at rank 8; above every layer's it means nothing.
    widest = max(min(layer.weight.shape[:2]) for layer in layers.values())
    if not 1 <= rank <= widest:
        raise UserError(
            f"LoRA of rank {rank} on {generator.spec.name}",
            f"its {len(layers)} target layers have rank {widest} at most",
            f"ranks 1 to {widest}",
            "choose a smaller rank",
        )


class LoraProbe(TrainedProbe):
    """A generator with a trained adapter, and its head trained beside it if it has one."""

    def __init__(self, task: Task) -> None:
        from peft import LoraConfig, get_peft_model

        generator, rank = task.model, int(task.options["rank"])
        pattern = target_pattern(generator, task.options["targets"])
        _check(generator, rank, task.options["targets"], pattern)
        if task.options["variant"] not in VARIANTS:
            raise unknown("LoRA variant", task.options["variant"], VARIANTS)
        initial = task.options.get("init", "kaiming")
        if initial not in INITIAL:
            raise unknown("initialization of LoRA", initial, INITIAL)
        head = generator.spec.head
        self.head = (head, generator.network.get_submodule(head)) if head else None
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,  # scale 1, as in the paper's code
            target_modules=pattern,
            init_lora_weights=INITIAL[initial],
            modules_to_save=[head] if head else None,  # peft trains a copy of it and saves it
            **VARIANTS[task.options["variant"]],
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(task.seed, "adapter"))
            self.adapted = get_peft_model(generator.network, config)
        self.adapted.peft_config["default"].base_model_name_or_path = generator.spec.name
        try:
            parameters, head_parameters = self._trained()
            super().__init__(task, parameters, head=head_parameters)
        except BaseException:
            self.release()
            raise

    def _trained(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The adapter's parameters, and those of the copy of the head."""
        named = [(name, p) for name, p in self.adapted.named_parameters() if p.requires_grad]
        adapter = [p for name, p in named if ".modules_to_save." not in name]
        return adapter, [p for name, p in named if ".modules_to_save." in name]

    def save(self, folder: Path) -> None:
        """Write adapter_config.json and adapter_model.safetensors, the trained head within."""
        self.adapted.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)

    def release(self) -> None:
        """Take the adapter off the network, put its first head back, and freeze it again."""
        self.adapted.unload()
        if self.head:  # peft leaves the trained copy there
            self.generator_network.set_submodule(*self.head)
        self.generator_network.requires_grad_(False)

    @property
    def generator_network(self) -> nn.Module:
        """The network below the adapter."""
        found: nn.Module = self.adapted.get_base_model()
        return found


def fit(task: Task) -> LoraProbe:
    """Train an adapter on the task's target set."""
    return LoraProbe(task)
