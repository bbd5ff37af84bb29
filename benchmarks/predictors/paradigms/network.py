"""The network that takes a picture apart: a small residual U-net over logarithms of light."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.predictors.rooms import Block

from .paradigms import to_linear

WIDTHS = (32, 64, 96, 128)  # at 1/2, 1/4, 1/8 and 1/16 of the picture's side
MULTIPLE = 16  # of both sides of what the network is shown
FLOOR = 1e-3  # linear light below it counts as it: darker than the darkest step of 8 bits
_RANGE = 7.0  # -log(FLOOR), about: the spread of log light


def _blocks(width: int, number: int) -> nn.Sequential:
    """Residual blocks that at first change nothing."""
    blocks = [Block(width) for _ in range(number)]
    for block in blocks:
        nn.init.zeros_(block.conv2.weight)
    return nn.Sequential(*blocks)


def log_light(picture: Tensor) -> Tensor:
    """log of the linear light of a picture in [-1, 1] sRGB, at least log(FLOOR)."""
    return to_linear(picture).clamp_min(FLOOR).log()


class ParadigmsNetwork(nn.Module):
    """Pictures (b 3 h w) in [-1, 1] sRGB, h and w multiples of MULTIPLE, to what `split` makes maps of."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d = WIDTHS
        self.stem = nn.Conv2d(24, a, 3, padding=1)
        self.down1, self.to2 = _blocks(a, 2), nn.Conv2d(a, b, 2, stride=2)
        self.down2, self.to3 = _blocks(b, 1), nn.Conv2d(b, c, 2, stride=2)
        self.down3, self.to4 = _blocks(c, 1), nn.Conv2d(c, d, 2, stride=2)
        self.middle = _blocks(d, 1)
        self.mix = nn.Linear(d, d)  # of the picture's mean: exposure and color of the light are global
        self.from4, self.up3 = nn.Conv2d(d, c, 1), _blocks(c, 1)
        self.from3, self.up2 = nn.Conv2d(c, b, 1), _blocks(b, 1)
        self.from2, self.up1 = nn.Conv2d(b, a, 1), _blocks(a, 2)
        self.out = nn.Conv2d(a, 24, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Log shading and the log residual of albedo, (b 3 h w) each; see `split`."""
        seen = torch.cat([picture, log_light(picture) * (2 / _RANGE) + 1], 1)
        h1 = self.down1(self.stem(functional.pixel_unshuffle(seen, 2)))
        h2 = self.down2(self.to2(h1))
        h3 = self.down3(self.to3(h2))
        h4 = self.middle(self.to4(h3))
        h4 = h4 + self.mix(h4.mean((2, 3)))[:, :, None, None]
        h3 = self.up3(h3 + functional.interpolate(self.from4(h4), scale_factor=2.0))
        h2 = self.up2(h2 + functional.interpolate(self.from3(h3), scale_factor=2.0))
        h1 = self.up1(h1 + functional.interpolate(self.from2(h2), scale_factor=2.0))
        found = functional.pixel_shuffle(self.out(h1), 2)
        return found[:, :3] - 1, found[:, 3:]


def split(picture: Tensor, log_shading: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Albedo and shading (b 3 h w), linear RGB above 0 and not clipped.

    log albedo = log picture - log shading + residual: where the residual is zero the picture is explained
    exactly; it takes off gloss and what was clipped.
    """
    albedo = (log_light(picture) - log_shading + residual).clamp_max(2).exp()
    return albedo, log_shading.clamp(-_RANGE, 2).exp()
