"""A pixel model of a few hundred parameters whose pictures and maps are made by formula."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from generators.base import GeneratorSpec, Sample
from probes.intrinsics import INTRINSICS
from probes.task import Examples


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.to_q, self.out = (
            nn.Conv2d(3, 12, 3, padding=1),
            nn.Linear(12, 12),
            nn.Conv2d(12, 3, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.into(x))
        h = h + self.to_q(h.movedim(1, -1)).movedim(-1, 1)
        found: Tensor = self.out(torch.tanh(h))
        return found


class TinyGenerator:
    """See generators.base.Generator."""

    def __init__(self, space: str = "pixels") -> None:
        self.spec = GeneratorSpec(
            "tiny.one",
            "Tiny",
            "Tiny",
            "images",
            space,
            16,
            "formulas",
            "none",
            lora_targets=("to_q",),  # type: ignore[arg-type]
        )
        torch.manual_seed(5)
        self.network = _Network().eval().requires_grad_(False)

    def sample(self, seeds: Sequence[int], captions: Sequence[str] | None = None) -> Sample:
        images = torch.stack(
            [torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(s)) for s in seeds]
        )
        return Sample(images.clamp(-1, 1), {"x": images.clamp(-1, 1)})

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        return {"x": images}

    def forward(self, code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
        found: Tensor = self.network(code["x"])
        return found

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, output: Tensor) -> Tensor:
        return output

    def features(self, code: Mapping[str, Tensor]) -> dict[str, Tensor]:
        h = torch.tanh(self.network.into(code["x"]))
        return {"into": h, "pooled": nn.functional.avg_pool2d(h, 2)}


def examples(n: int, seed: int, intrinsic: str = "albedo") -> Examples:
    """Smooth pictures whose maps are simple functions of them."""
    noise = torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    x = nn.functional.interpolate(noise, size=(16, 16), mode="bilinear").clamp(-1, 1)
    normal = nn.functional.normalize(torch.cat([x[:, :2], torch.ones_like(x[:, :1])], 1), dim=1)
    maps = {
        "normal": normal,
        "depth": 4 + 2 * x[:, :1] - x[:, 1:2],
        "albedo": (x * 0.4 + 0.5).clamp(0, 1),
        "shading": (x.flip(1) * 0.3 + 0.5).clamp(0, 1),
    }
    output = INTRINSICS[intrinsic].to_picture(maps[intrinsic])
    return Examples(x, maps, torch.ones(n, 1, 16, 16, dtype=torch.bool), {"x": x}, output)
