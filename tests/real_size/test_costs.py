"""The arithmetic that plans are made with, counted again on the meta device: nothing is computed."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.costs import FORWARD, UNET, VAE_DECODE, VAE_ENCODE
from generators import dinov2, registry
from generators.stable_diffusion import UNET_V1, UNET_V2, VAE_SD


def counted(call) -> float:  # type: ignore[no-untyped-def]
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        call()
    return float(counter.get_total_flops()) / 1e12


@pytest.mark.parametrize(
    ("key", "config", "places", "width"),
    [("v1", UNET_V1, 64, 768), ("v2", UNET_V2, 64, 1024), ("v2@768", UNET_V2, 96, 1024)],
)
def test_unet(key: str, config: dict[str, object], places: int, width: int) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
        x, text, t = torch.empty(1, 4, places, places), torch.empty(1, 77, width), torch.zeros(1)
        found = counted(lambda: unet(x, t, encoder_hidden_states=text))
    assert found == pytest.approx(UNET[key][1], rel=1e-3)
    assert UNET[key][0] == 8 * places


def test_autoencoder() -> None:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL.from_config(VAE_SD)
        found = [
            counted(lambda: vae.encode(torch.empty(1, 3, 512, 512))),
            counted(lambda: vae.decode(torch.empty(1, 4, 64, 64))),
        ]
    assert found == pytest.approx([VAE_ENCODE[1], VAE_DECODE[1]], rel=1e-3)


@pytest.mark.parametrize("name", ["stylegan-xl.ffhq256", "stylegan-xl.imagenet256"])
def test_stylegan_xl(name: str) -> None:
    from generators.networks.stylegan_xl import generator_from_kwargs

    with torch.device("meta"):
        synthesis = generator_from_kwargs(**registry.spec(name).options["config"]).synthesis
        found = counted(lambda: synthesis(torch.empty(1, synthesis.num_ws, 512)))
    assert found == pytest.approx(FORWARD[name][1], rel=1e-3)


@pytest.mark.parametrize("size", ["small", "giant"])
def test_dinov2(size: str) -> None:
    spec = registry.spec(f"dinov2.{size}")
    with torch.device("meta"):
        backbone = dinov2._classes(False)[0](dinov2.make_config(spec))
        found = counted(lambda: backbone(torch.empty(1, 3, 518, 518)))
    assert found == pytest.approx(FORWARD[spec.name][1], rel=1e-3)


def test_vqgan() -> None:
    from generators.networks.net2net import network

    spec = registry.spec("vqgan.ffhq256")
    with torch.device("meta"):
        stage = network(spec.options["class"], spec.options["config"]).first_stage_model
        found = counted(lambda: stage.decode(torch.empty(1, 256, 16, 16)))
    assert found == pytest.approx(FORWARD[spec.name][1], rel=1e-3)
