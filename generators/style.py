"""What StyleGAN2 and StyleGAN-XL share behind the contract: seeds in, w as the code, pictures out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import GeneratorSpec, PixelSpace, Sample
from .errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Activations = Callable[[Any, "Tensor"], dict[str, "Tensor"]]


class StyleGenerator(PixelSpace):
    """A StyleGAN; see generators.base.Generator.

    The code of a picture is its w after mapping and truncation, one vector for each layer
    (b num_ws w_dim). Only the synthesis network may be adapted. Everything runs in float32.

    Args:
        spec: options `truncation_psi` and `truncation_cutoff` belong to the model.
        network: a generator of `generators.networks` with `mapping` and `synthesis`.
        activations: (synthesis network, ws) -> activations (b c h w) by name, for the linear probe.
    """

    def __init__(self, spec: GeneratorSpec, network: Any, activations: Activations, device: str) -> None:
        whole = network.to(device).eval().requires_grad_(False)
        self.spec, self.device, self.activations = spec, device, activations
        self.network, self.mapping = whole.synthesis, whole.mapping
        self.psi: float = spec.options.get("truncation_psi", 1.0)
        self.cutoff: int | None = spec.options.get("truncation_cutoff")

    @property
    def implementation(self) -> str:
        """Which implementations of the operations have run in this process: "cpu", "ref", ..., or several."""
        from .ops import implementation

        return implementation()

    def _latents(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """z (b z_dim) and, for a conditional model, one-hot labels (b c_dim), each drawn from its seed."""
        import torch

        z, labels = [], []
        for seed in seeds:
            draws = torch.Generator().manual_seed(int(seed))
            z.append(torch.randn(self.mapping.z_dim, generator=draws))
            labels.append(int(torch.randint(max(1, self.mapping.c_dim), (1,), generator=draws)))
        if not self.mapping.c_dim:
            return torch.stack(z).to(self.device), None
        one_hot = torch.nn.functional.one_hot(torch.tensor(labels), self.mapping.c_dim)
        return torch.stack(z).to(self.device), one_hot.float().to(self.device)

    def sample(self, seeds: Sequence[int], captions: Sequence[str] | None = None) -> Sample:
        """Pictures (b 3 h w) in [-1, 1] and their ws; captions mean nothing to a StyleGAN."""
        import torch

        with torch.no_grad():
            z, c = self._latents(seeds)
            ws = self.mapping(z, c, truncation_psi=self.psi, truncation_cutoff=self.cutoff)
            return Sample(self.network(ws).clamp(-1, 1), {"w": ws})

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """There is no way from a picture to its w: raises UserError."""
        raise UserError(
            f"the code of given pictures for {self.spec.name}",
            "a StyleGAN makes its pictures from seeds and cannot be shown any",
            "its own pictures can be probed: data set 'samples'",
            "use data = 'samples', or a model that takes pictures",
        )

    def forward(self, code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
        """Pictures (b 3 h w), about [-1, 1], of ws; a StyleGAN is not told which intrinsic is meant."""
        found: Tensor = self.network(code["w"].to(self.device))
        return found

    def features(self, code: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Activations (b c h w) of every block or layer before it is turned into colors."""
        return self.activations(self.network, code["w"].to(self.device))
