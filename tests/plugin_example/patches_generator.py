"""A generator in a package of one's own: a small convolutional network from pictures to pictures."""

from generators import GeneratorSpec, UserError

FACTS = {"takes": "images", "space": "pixels", "resolution": 64, "domain": "none", "licence": "Apache-2.0"}
FACTS |= {"draws": False}  # it maps pictures to pictures
TARGETS = ("into", "mix", "out")  # what LoRA adapts
SPECS = [GeneratorSpec("patches.toy64", "Patches", "Random patches", lora_targets=TARGETS, **FACTS)]


def load(spec, device="cpu"):
    """One of SPECS, loaded; torch is imported here, so that listing models stays quick."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = {"patches": nn.PixelUnshuffle(4), "into": nn.Conv2d(48, 96, 1), "gelu": nn.GELU()}
        layers |= {"mix": nn.Conv2d(96, 96, 3, padding=1), "tanh": nn.Tanh(), "out": nn.Conv2d(96, 48, 1)}
        network = nn.Sequential()
        for name, layer in (layers | {"pixels": nn.PixelShuffle(4)}).items():
            network.add_module(name, layer)
    return Patches(spec, network.to(device).eval().requires_grad_(False))


class Patches:
    def __init__(self, spec, network):
        self.spec, self.network = spec, network

    def sample(self, seeds, captions=None):
        raise UserError(f"samples of {self.spec.name}", "it maps pictures to pictures and draws none")

    def embed(self, images):  # computed once for a picture, and cached
        return {"picture": images}

    def forward(self, code, intrinsic):  # what runs in training
        return self.network(code["picture"])

    def encode(self, images):  # the loss is in pixels: nothing to do
        return images

    def decode(self, output):
        return output

    def features(self, code):  # what the linear probe reads
        return {"into": self.network[:3](code["picture"]), "mix": self.network[:5](code["picture"])}
