"""Discriminators of the zoo's GANs: StyleGAN2's residual one, and StyleGAN-XL's projected one."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from .features import WIDTHS, FeatureNetwork


class _Residual(nn.Module):
    """Two convolutions and an average of four pixels beside a shortcut (Karras et al. 2020, figure 7c)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv1 = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.skip(functional.avg_pool2d(x, 2))
        x = functional.leaky_relu(self.conv0(x), 0.2)
        x = functional.leaky_relu(self.conv1(x), 0.2)
        return (x + y) * math.sqrt(0.5)


def minibatch_deviation(x: Tensor, group: int = 8) -> Tensor:
    """x (b c h w) with one more channel: the mean standard deviation within groups of the batch."""
    group = math.gcd(group, len(x))
    y = x.float().unflatten(0, (-1, group))
    y = (y.var(1, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3), keepdim=True)
    y = y.repeat_interleave(group, 0).expand(-1, -1, *x.shape[2:])
    return torch.cat([x, y.to(x.dtype)], 1)


class ResidualDiscriminator(nn.Module):
    """Pictures (b 3 h w) to logits (b 1)."""

    def __init__(self, resolution: int = 64, base: int = 2048, largest: int = 128) -> None:
        super().__init__()
        widths = [
            min(base // r, largest) for r in (resolution >> k for k in range(int(math.log2(resolution)) - 1))
        ]
        self.from_rgb = nn.Conv2d(3, widths[0], 1)
        self.blocks = nn.ModuleList(_Residual(i, o) for i, o in itertools.pairwise(widths))
        self.conv = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.dense = nn.Linear(widths[-1] * 16, widths[-1])
        self.out = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.from_rgb(x), 0.2)
        for block in self.blocks:
            x = block(x)
        x = functional.leaky_relu(self.conv(minibatch_deviation(x)), 0.2)
        x = functional.leaky_relu(self.dense(x.flatten(1)), 0.2)
        return self.out(x)


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
