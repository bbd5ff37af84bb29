"""The contract of a generator: what runs in training, what is cached, what space the loss lives in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


class Sample(NamedTuple):
    """What a generator made of seeds."""

    images: Tensor  # (b 3 h w) in [-1, 1]
    code: Mapping[str, Tensor]  # what `forward` takes


@dataclass(frozen=True)
class GeneratorSpec:
    """Facts about a generator, known without loading it and without importing torch.

    Attributes:
        name: "arch.tag", as in "sd.v1-5"; the part before the first dot names the family.
        family: the architecture, for grouping in reports.
        title: as the generator is called in a table.
        takes: what its code is made of: pictures, seeds, or either.
        space: where the loss lives: "pixels", or "latents" with a decoder to pixels.
        resolution: height = width of its pictures.
        domain: what it was trained on; Frechet distances compare within a domain only.
        licence: of the weights.
        source: hub id, address or folder of the weights; None where they are made from a seed.
        revision: hub revision; None for a folder.
        citation: paper or place the weights come from.
        trained: share of its training it has seen, 0 for random initialization, None if unknown.
        lora_targets: module-name suffixes LoRA adapts by default (target set "all").
        target_sets: other named choices of modules: name to regular expression on module names.
        head: name of a module of the network that is not part of the pretrained model: new, made from a
            fixed seed, trained by every method that trains weights, and counted apart; "" for none.
        draws: whether it makes pictures of seeds; one that only sees pictures refuses to sample.
        diffusion_steps: timesteps of a diffusion model, 0 for others; a cell may choose one of them.
        fid: published Frechet inception distance, with its protocol, or None.
        embedded: whether the weights come with this package.
        options: what the family's `load` needs beyond that.
    """

    name: str
    family: str
    title: str
    takes: Literal["images", "seeds", "both"]
    space: Literal["pixels", "latents"]
    resolution: int
    domain: str
    licence: str
    source: str | None = None
    revision: str | None = None
    citation: str = ""
    trained: float | None = None
    lora_targets: tuple[str, ...] = ()
    target_sets: Mapping[str, str] = field(default_factory=dict)
    head: str = ""
    draws: bool = True
    diffusion_steps: int = 0
    fid: tuple[float, str] | None = None
    embedded: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Generator(Protocol):
    """A pretrained image model as `load` returns it: frozen and in evaluation mode.

    A code is a mapping from names to tensors whose first axis is the picture. `forward` is
    differentiable in the parameters of `network` and deterministic.
    """

    spec: GeneratorSpec
    network: nn.Module  # what may be adapted

    def sample(self, seeds: Sequence[int], captions: Sequence[str] | None = None) -> Sample:
        """Pictures (b 3 h w) in [-1, 1] and their codes, one seed per picture; UserError without `draws`."""
        ...

    def embed(self, images: Tensor) -> Mapping[str, Tensor]:
        """Code of pictures (b 3 h w) in [-1, 1]; seed-fed models raise UserError and say why."""
        ...

    def forward(self, code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
        """Code to output space (b c h w), asked for one of the intrinsics by name."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Picture (b 3 h w) in [-1, 1] to output space; the identity for pixel models."""
        ...

    def decode(self, output: Tensor) -> Tensor:
        """Output space to picture (b 3 h w) in about [-1, 1]; the identity for pixel models."""
        ...

    def features(self, code: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Activations (b c h w) by layer name, for the linear probe; the same for all intrinsics."""
        ...


class PixelSpace:
    """What generators share whose output space is the picture itself."""

    device: str

    def encode(self, images: Tensor) -> Tensor:
        """The pictures themselves: the loss is in pixels."""
        return images.to(self.device)

    def decode(self, output: Tensor) -> Tensor:
        """The output itself: it is a picture."""
        return output
