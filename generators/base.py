"""The contract of a generator: what runs in training, what is cached, what space the loss lives in.

A family is a module, built in or a plugin's, with `SPECS`, a list of GeneratorSpec, and
`load(spec, device) -> Generator`. It may have these functions, too; none of them may load a network:

    identity(spec) -> str         which weights the spec stands for here and now: part of every cell, so that
                                  other weights are another cell. Without it: the hash of the file or folder
                                  `source`, or "source@revision", or, of a spec without a source, the hash of
                                  the module.
    frozen_identity(spec) -> str  what makes codes and encodes targets: models that agree in it share what is
                                  cached. Without it: `identity`.
    on_machine(spec) -> bool      whether `load` needs no network; a run without the weights does not begin.
                                  Without it: True, unless `source` is an https address.
    hub_folder(spec) -> Path      fetches the weights where they are not here, for `intrinsic-bench fetch`.
    count(spec, rank=8) -> dict   numbers by name, "parameters" and "lora_parameters" among them, for `show`
                                  and the paper's tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .draws import Draws


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
        control: what was done to its training so that it cannot know a scene ("scrambled": the blocks of
            every picture were in a random order), "" for a model as it is meant.
        lora_targets: module-name suffixes LoRA adapts by default (target set "all").
        target_sets: other named choices of modules: name to regular expression on module names.
        head: name of a module of the network that is not part of the pretrained model: new, made from a
            fixed seed, trained by every method that trains weights, and counted apart; "" for none.
        draws: whether it makes pictures of seeds; one that only sees pictures refuses to sample.
        diffusion_steps: timesteps of a diffusion model, 0 for others; a cell may choose one of them.
        asks: how `forward` is asked, option to default, for a model that samples (see Denoiser): a cell
            holds them all beside the method's options and may choose other values. Empty for others.
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
    control: str = ""
    lora_targets: tuple[str, ...] = ()
    target_sets: Mapping[str, str] = field(default_factory=dict)
    head: str = ""
    draws: bool = True
    diffusion_steps: int = 0
    asks: Mapping[str, Any] = field(default_factory=dict)
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


@runtime_checkable
class Denoiser(Generator, Protocol):
    """A generator that takes many steps: `forward` samples, and training has a loss of its own.

    What a method trains is the network, or the text embedding that stands for the question.
    """

    asked: Mapping[str, Any]  # the values of `spec.asks` in force

    def ask(self, **values: Any) -> None:
        """Set options of `spec.asks` for what follows."""
        ...

    def prompt(self, text: str) -> Tensor:
        """Embedding (1 l d) of a prompt."""
        ...

    def question(self, intrinsic: str) -> Tensor:
        """Embedding (1 l d) that asks for an intrinsic by name."""
        ...

    def words(self, intrinsic: str) -> Tensor:
        """Token embeddings (n e) of an intrinsic's name."""
        ...

    def spell(self, words: Tensor) -> Tensor:
        """Embedding (1 l d) of a prompt made of token embeddings (n e), differentiable."""
        ...

    def loss(
        self,
        code: Mapping[str, Tensor],
        text: Tensor,
        target: Tensor,
        draws: Draws,
        valid: Tensor | None = None,
        drop: float = 0.05,
    ) -> Tensor:
        """Denoising loss of targets (b c h w) in output space, a scalar.

        Args:
            text: embedding (1 l d), differentiable.
            draws: where timesteps, noise and dropped conditions are from.
            valid: where the targets are valid (b 1 h w) bool, None for everywhere.
            drop: share of examples without text, without picture, without both.
        """
        ...

    def draw(self, code: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """Output space (b c h w), sampled as asked, with a text embedding (1 l d) as the question."""
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
