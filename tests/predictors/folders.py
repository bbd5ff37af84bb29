"""Small random folders in the layouts of the published predictors, written by the libraries themselves."""

from pathlib import Path
from typing import Any

import torch


def lively(network: Any, scale: float) -> None:
    """Weights large enough that a map is no constant: any resizing would keep one."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, scale)


def zoedepth_config(**sizes: Any) -> Any:
    """A ZoeDepth with two heads, as Intel/zoedepth-nyu-kitti: small unless sizes are given."""
    from transformers import BeitConfig, ZoeDepthConfig

    small = {
        "image_size": 384,
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    backbone = BeitConfig(
        **{**small, **sizes.pop("backbone", {})}, use_relative_position_bias=True, reshape_hidden_states=False
    )
    widths = {
        "neck_hidden_sizes": [8, 12, 16, 16],
        "fusion_hidden_size": 16,
        "bottleneck_features": 16,
        "bin_embedding_dim": 8,
        "num_relative_features": 8,
        "patch_transformer_hidden_size": 128,  # transformers' classifier after it takes no other
        "patch_transformer_intermediate_size": 16,
        "patch_transformer_num_attention_heads": 2,
    }
    heads = [
        {"name": "nyu", "n_bins": 64, "min_depth": 1e-3, "max_depth": 10.0},
        {"name": "kitti", "n_bins": 64, "min_depth": 1e-3, "max_depth": 80.0},
    ]
    return ZoeDepthConfig(
        backbone_config=backbone,
        bin_configurations=heads,
        num_patch_transformer_layers=4,
        **{**widths, **sizes},
    )


# Of the published checkpoint, as its conversion in transformers states them.
FULL_ZOEDEPTH: dict[str, Any] = {
    "backbone": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "out_features": ["stage6", "stage12", "stage18", "stage24"],
    },
    "neck_hidden_sizes": [256, 512, 1024, 1024],
    "fusion_hidden_size": 256,
    "bottleneck_features": 256,
    "bin_embedding_dim": 128,
    "num_relative_features": 32,
    "patch_transformer_intermediate_size": 1024,
    "patch_transformer_num_attention_heads": 4,
}


def write_zoedepth(folder: Path) -> Any:
    from transformers import ZoeDepthForDepthEstimation

    torch.manual_seed(3)
    network = ZoeDepthForDepthEstimation(zoedepth_config()).eval()
    lively(network, 0.15)
    network.save_pretrained(str(folder))
    return network


def full_depth_anything() -> Any:
    """The published large metric model's configuration."""
    from transformers import DepthAnythingConfig, Dinov2Config

    backbone = Dinov2Config(
        image_size=518,
        patch_size=14,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        out_indices=[5, 12, 18, 24],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    return DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=1024,
        neck_hidden_sizes=[256, 512, 1024, 1024],
        fusion_hidden_size=256,
        head_hidden_size=32,
        depth_estimation_type="metric",
        max_depth=20,
    )


def write_depth_anything(folder: Path, kind: str = "metric") -> Any:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.manual_seed(4)
    backbone = Dinov2Config(
        image_size=518,
        patch_size=14,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 8, 12, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    network = DepthAnythingForDepthEstimation(config).eval()
    lively(network, 0.2)
    network.save_pretrained(str(folder))
    return network


LIGHTING: dict[str, Any] = {
    "target_names": ["albedo", "shading", "residual"],
    "albedo": {"prediction_space": "linear"},
    "shading": {"prediction_space": "linear", "up_to_scale": True},
    "residual": {"prediction_space": "linear", "up_to_scale": True},
}
APPEARANCE: dict[str, Any] = {
    "target_names": ["albedo", "material"],
    "albedo": {"prediction_space": "srgb"},
    "material": {"prediction_space": "stack", "sub_target_names": ["roughness", "metallicity", None]},
}


def write_marigold(folder: Path, kind: str, variant: str | None = None, **config: Any) -> Any:
    """A pipeline of a kind: "Normals", "Depth" or "Intrinsics"."""
    import diffusers

    targets = len(config["target_properties"]["target_names"]) if kind == "Intrinsics" else 1
    torch.manual_seed(6)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4 * (1 + targets),
        out_channels=4 * targets,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        use_linear_projection=True,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    scheduler = diffusers.DDIMScheduler(
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
        beta_schedule="scaled_linear",
    )
    text, tokenizer = _text()
    pipeline = getattr(diffusers, f"Marigold{kind}Pipeline")(
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        text_encoder=text,
        tokenizer=tokenizer,
        prediction_type=kind.lower(),
        default_denoising_steps=4,
        default_processing_resolution=64,
        **config,
    )
    pipeline.save_pretrained(str(folder), variant=variant)
    _as_published(folder / "tokenizer")
    return pipeline


def _as_published(folder: Path) -> None:
    """The tokenizer's files of 2023: what `save_pretrained` writes today is one file, tokenizer.json."""
    import shutil

    for name in ("vocab.json", "merges.txt"):
        shutil.copy(_tokenizer_folder() / name, folder / name)
    (folder / "tokenizer.json").unlink(missing_ok=True)


def _tokenizer_folder() -> Path:
    from generators import registry
    from generators.hub import local_folder

    embedded = local_folder(registry.spec("sd.rooms64-s5"))
    assert embedded is not None
    return embedded / "tokenizer"


def _text() -> tuple[Any, Any]:
    """A small text encoder, and the tokenizer of the embedded Stable Diffusion."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(_tokenizer_folder()))
    config = CLIPTextConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        vocab_size=len(tokenizer) + 8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
    )
    return CLIPTextModel(config), tokenizer
