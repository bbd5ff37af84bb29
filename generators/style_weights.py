"""The StyleGANs' specs, and where their weights come from: the zoo's files, or an official pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .base import GeneratorSpec
from .sources import SOURCES
from .weights import ZOO, weights_identity
from .weights import find_weights as find_weights

STAGES = {"random": 0.0, "s1": 2 / 35, "s2": 1 / 7, "s3": 3 / 7, "s4": 1.0}


@dataclass(frozen=True)
class Architecture:
    """What the specs of a StyleGAN family share.

    Attributes:
        name: first part of its models' names.
        title: as tables call it.
        rooms: constructor arguments of the zoo's network.
        random_seed: of the weights training starts from, and of the model NAME.rooms64-random.
        target_sets: choices of layers for LoRA beside all affine ones.
        scrambled: stage whose training the scrambled control shares.
        objects: stages that were trained on the second world, too.
    """

    name: str
    title: str
    rooms: Mapping[str, Any]
    random_seed: int
    target_sets: Mapping[str, str]
    scrambled: str
    objects: tuple[str, ...] = ()

    def _spec(self, tag: str, **fields: Any) -> GeneratorSpec:
        return GeneratorSpec(
            name=f"{self.name}.{tag}",
            family=self.title,
            takes="seeds",
            space="pixels",
            lora_targets=("affine",),
            target_sets=self.target_sets,
            **fields,
        )

    def zoo(self) -> list[GeneratorSpec]:
        """The embedded models: random initialization, and the stages of one training."""
        found = [self._stage(tag, trained) for tag, trained in STAGES.items()]
        found.append(self._stage("scrambled", STAGES[self.scrambled], control="scrambled"))
        return found + [self._stage(tag, STAGES[tag], world="objects") for tag in self.objects]

    def _stage(self, tag: str, trained: float, world: str = "rooms", control: str = "") -> GeneratorSpec:
        options: dict[str, Any] = {"stage": tag, "config": self.rooms}
        share = f"{trained:.0%}".replace("%", " %") if trained else "random init"
        if tag == "random":
            options["random_seed"] = self.random_seed
        return self._spec(
            f"{world}64-{tag}",
            title=f"{self.title} {f'{control} ' if control else ''}{world}, {share}",
            resolution=64,
            domain=world,
            licence="Apache-2.0",
            source=str(ZOO / f"{self.name}.{world}64"),
            citation="this package, generators/zoo",
            trained=trained,
            control=control,
            embedded=True,
            options=options,
        )

    def official(self, tag: str, config: Mapping[str, Any], **fields: Any) -> GeneratorSpec:
        """A published model; `config` counts its parameters without weights, a file brings its own."""
        source = SOURCES[f"{self.name}.{tag}"]
        return self._spec(
            tag,
            licence=source.licence,
            source=source.urls[0] if source.urls else None,
            options={"config": config, "sha256": source.sha256},
            **fields,
        )


def identity(spec: GeneratorSpec) -> str:
    """Hash of the weights, or of the configuration and the seed, with the truncation."""
    cutoff = spec.options.get("truncation_cutoff")
    truncated = f"-psi{spec.options.get('truncation_psi', 1.0)}"
    return weights_identity(spec, truncated if cutoff is None else f"{truncated}-cutoff{cutoff}")


def affine_parameters(network: Any, rank: int) -> int:
    """Parameters of LoRA on every affine layer of the synthesis network."""
    from torch import nn

    layers = [m for n, m in network.synthesis.named_modules() if n.endswith("affine")]
    return sum(rank * (m.in_features + m.out_features) for m in layers if isinstance(m, nn.Linear))


def count_parameters(network: Any, rank: int) -> dict[str, int]:
    """Parameters of a generator, of its synthesis network, and of LoRA on its affine layers."""
    sizes = {"parameters": network, "synthesis": network.synthesis, "mapping": network.mapping}
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in sizes.items()}
    return found | {"lora_parameters": affine_parameters(network, rank)}
