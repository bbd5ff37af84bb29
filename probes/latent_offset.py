"""One offset of the latent code, the same for every picture: nothing of the network is trained.

Bhattad, McKee, Hoiem, Forsyth, "StyleGAN knows Normal, Depth, Albedo, and More" (NeurIPS 2023): the
generator draws an intrinsic of the picture of w when it is given w + offset, in W+, with a vector for
each layer. The second space is the StyleSpace of Wu et al., "StyleSpace Analysis" (CVPR 2021): what
the affine layers make of w.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generators import registry
from generators.base import Generator
from generators.errors import UserError, unknown

from .fit import BATCH, TrainedProbe
from .lora import target_layers, target_pattern
from .task import Task

SPACES = ("w+", "style")


def latents(generator: Generator, code: Mapping[str, Tensor]) -> Tensor:
    """Entry "w" (b num_ws w_dim) of a code; raises UserError if it holds no such latents."""
    found = code.get("w")
    if found is None or found.ndim != 3 or not found.is_floating_point():
        entries = [f"{name} {str(value.dtype)[6:]} {tuple(value.shape)}" for name, value in code.items()]
        seeded = [spec.name for spec in registry.specs() if spec.takes == "seeds"]
        raise UserError(
            f"a latent offset of {generator.spec.name}",
            'its code has no latents "w" (b num_ws w_dim) to which an offset could be added',
            f"its code holds {', '.join(entries) or 'nothing'}; "
            f"models that draw from seeds: {', '.join(seeded[:30]) or 'none is installed'}",
            "ask a StyleGAN, or ask this model by LoRA",
        )
    return found


def style_layers(generator: Generator) -> dict[str, nn.Linear]:
    """Affine layers of the generator's default target set; raises UserError if it has other ones."""
    found = target_layers(generator, target_pattern(generator, "all"))
    linear = {name: layer for name, layer in found.items() if isinstance(layer, nn.Linear)}
    if not linear or len(linear) < len(found):
        other = [name for name in found if name not in linear]
        raise UserError(
            f"a latent offset in the StyleSpace of {generator.spec.name}",
            f"its default target set holds {'layers that are not linear' if other else 'no layer at all'}",
            f"not linear: {', '.join(other)}" if other else "",
            'an offset in W+ needs no layers: space = "w+"',
        )
    return linear


@torch.no_grad()
def styles(
    generator: Generator, layers: Mapping[str, nn.Linear], code: Mapping[str, Tensor], intrinsic: str
) -> dict[str, Tensor]:
    """What layers give for a code: (b c) each; raises UserError if the generator goes around one."""
    found: dict[str, Tensor] = {}

    def keep(name: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[name] = output.detach().float()

    hooks = [layer.register_forward_hook(partial(keep, name)) for name, layer in layers.items()]
    try:
        generator.forward(code, intrinsic)
    finally:
        for hook in hooks:
            hook.remove()
    unused = [name for name in layers if name not in found]
    if unused:
        raise UserError(
            f"a latent offset in the StyleSpace of {generator.spec.name}",
            f"its pictures are made without calling {', '.join(unused[:10])}",
            f"{len(found)} of {len(layers)} layers of its default target set are called",
            "make the family's target set the layers its forward calls",
        )
    return {name: found[name] for name in layers}


def _root_mean_square(x: Tensor) -> float:
    """Of all values; 1 for a layer that gives zeros, which has no scale of its own."""
    return float(x.square().mean().sqrt()) or 1.0


def _mean_norm(vectors: Mapping[str, Tensor]) -> float:
    """Mean over pictures of the norm of all their vectors (b ...) together."""
    return float(torch.cat([v.flatten(1) for v in vectors.values()], dim=1).norm(dim=1).mean())


class LatentOffsetProbe(TrainedProbe):
    """A generator whose code is moved by what was learned.

    The parameters are offsets in units of the root mean square of what they are added to, measured
    on the first training pictures: the rate then means the same in W+ and in every affine layer,
    whose scales differ by the folded equalized gains (a toRGB layer's styles are tens of times
    smaller than a convolution's).
    """

    def __init__(self, task: Task) -> None:
        generator, self.space = task.model, task.options["space"]
        if self.space not in SPACES:
            raise unknown("space of a latent offset", self.space, SPACES)
        first = {name: value[:BATCH] for name, value in task.train.code.items()}
        vectors = {"w": latents(generator, first).float()}
        layers = style_layers(generator) if self.space == "style" else {}
        if layers:
            vectors = styles(generator, layers, first, task.intrinsic.name)
        device = next(generator.network.parameters()).device
        self.scales = {name: _root_mean_square(value) for name, value in vectors.items()}
        self.parts = {
            name: nn.Parameter(torch.zeros(1, *value.shape[1:], device=device))
            for name, value in vectors.items()
        }
        self.hooks = [
            layer.register_forward_hook(partial(self._shift, name)) for name, layer in layers.items()
        ]
        forward = generator.forward if layers else self._forward_moved
        try:
            super().__init__(task, list(self.parts.values()), forward)
            norm = _mean_norm({name: self.offset(name).detach() for name in self.parts})
            self.details |= {"offset_norm": norm, "offset_relative": norm / max(_mean_norm(vectors), 1e-12)}
        except BaseException:
            self.release()
            raise

    def offset(self, name: str) -> Tensor:
        """What is added: "w" (1 num_ws w_dim), or a layer's (1 c)."""
        return self.scales[name] * self.parts[name]

    def _forward_moved(self, code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
        offset = self.offset("w")
        moved = code["w"].to(offset.device) + offset
        return self.generator.forward({**code, "w": moved.to(code["w"].dtype)}, intrinsic)

    def _shift(self, name: str, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return (output + self.offset(name)).to(output.dtype)

    def save(self, folder: Path) -> None:
        """Write the offsets as offset.safetensors: "w" (1 num_ws w_dim), or (1 c) by layer name."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: self.offset(name).detach().cpu().contiguous() for name in self.parts}
        facts = {"space": self.space, "model": self.generator.spec.name}
        save_file(tensors, str(folder / "offset.safetensors"), metadata=facts)

    def release(self) -> None:
        """Take the hooks off the layers; the network itself never changed."""
        for hook in self.hooks:
            hook.remove()


def fit(task: Task) -> LatentOffsetProbe:
    """Learn one offset for all pictures."""
    return LatentOffsetProbe(task)
