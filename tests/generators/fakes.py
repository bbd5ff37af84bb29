"""A small latent generator that keeps the contract, and families made on the spot."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import nn

from generators.base import GeneratorSpec, Sample

SPEC = GeneratorSpec(
    name="fake.good",
    family="Fake",
    title="Fake",
    takes="both",
    space="latents",
    resolution=16,
    domain="none",
    licence="Apache-2.0",
    lora_targets=("into", "out"),
    target_sets={"last": "out"},
)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(12, 20, 1), nn.Conv2d(20, 12, 3, padding=1)
        self.noise = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.noise(torch.tanh(self.into(x))))


class Fake:
    """Latents are 2 x 2 patches of the picture; tests break one thing at a time in subclasses."""

    def __init__(self, spec: GeneratorSpec = SPEC, **changes: Any) -> None:
        self.spec = replace(spec, **changes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.network = Network().eval().requires_grad_(False)

    def sample(self, seeds: Any, captions: Any = None) -> Sample:
        noise = [torch.randn(12, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
        latent = torch.tanh(torch.stack(noise))
        return Sample(self.decode(latent), {"latent": latent})

    def embed(self, images: torch.Tensor) -> Any:
        return {"latent": self.encode(images)}

    def forward(self, code: Any, intrinsic: str) -> torch.Tensor:
        return self.network(code["latent"])

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_unshuffle(images, 2)

    def decode(self, output: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(output, 2)

    def features(self, code: Any) -> Any:
        return {"into": self.network.into(code["latent"])}


def family(name: str, specs: Any, generator: type = Fake) -> ModuleType:
    """A module with SPECS and load; put it into sys.modules by monkeypatch to import it."""
    module = ModuleType(name)
    module.SPECS = specs  # type: ignore[attr-defined]
    module.load = lambda spec, device="cpu": generator(spec)  # type: ignore[attr-defined]
    return module
