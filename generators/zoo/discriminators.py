"""Discriminators of the zoo's GANs: on frozen features, as StyleGAN-XL's, and on patches of pixels."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from .features import WIDTHS, FeatureNetwork


def _halving(inputs: int, outputs: int) -> list[nn.Module]:
    """A strided convolution of unit spectral norm.

    Without the batch norm of projected GANs: with it the heads won within 10,000 pictures, and the
    generator learned less from them.
    """
    return [spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]


class PatchDiscriminator(nn.Module):
    """Pictures (b 3 h w) to one logit for each patch of 22 x 22 pixels (Isola et al. 2017).

    Frozen features that have learned to remove noise do not see it: this one looks at the pixels.
    """

    def __init__(self, widths: tuple[int, ...] = (48, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise((3, *widths)):
            layers += _halving(inputs, outputs)
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found.flatten(1)


def _head(inputs: int, size: int) -> nn.Sequential:
    """Strided convolutions down to 4 x 4, then one logit per place."""
    layers: list[nn.Module] = []
    width = inputs
    while size > 4:
        wider = min(2 * width, 128)
        layers += _halving(width, wider)
        width, size = wider, size // 2
    layers += [spectral_norm(nn.Conv2d(width, 128, 3, padding=1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(128, 1, 1)))


class ProjectedDiscriminator(nn.Module):
    """Logits (b n) of four heads on frozen features mixed by frozen random convolutions.

    Sauer et al., "Projected GANs Converge Faster" (2021), section 3: cross-channel mixing (1 x 1)
    and cross-scale mixing (3 x 3, from small to large), both random and fixed.
    """

    def __init__(self, features: FeatureNetwork, resolution: int = 64, seed: int = 41) -> None:
        super().__init__()
        self.features = features.eval().requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.across = nn.ModuleList(nn.Conv2d(w, w, 1, bias=False) for w in WIDTHS)
            self.scales = nn.ModuleList(
                nn.Conv2d(above, w, 3, padding=1, bias=False)
                for w, above in zip(WIDTHS, (*WIDTHS[1:], WIDTHS[-1]), strict=True)
            )
            for layer in [*self.across, *self.scales]:
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
                layer.requires_grad_(False)
            self.heads = nn.ModuleList(_head(w, resolution >> k) for k, w in enumerate(WIDTHS, 1))

    def train(self, mode: bool = True) -> ProjectedDiscriminator:
        """Training mode for the heads; the features keep their statistics."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        maps = [mix(f) for mix, f in zip(self.across, self.features(x), strict=True)]
        mixed: list[Tensor] = []
        above: Tensor | None = None
        for level in range(len(maps) - 1, -1, -1):
            h = self.scales[level](maps[level] if above is None else above)
            if above is not None:
                h = functional.interpolate(h, scale_factor=2.0) + maps[level]
            above = h
            mixed.insert(0, h)
        return torch.cat([head(m).flatten(1) for head, m in zip(self.heads, mixed, strict=True)], 1)
