"""Small DINOv2 folders as releases of transformers write them, and a network with the old module names."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from generators import dinov2, spec
from generators.base import GeneratorSpec

SMALL = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "mlp_ratio": 4}
SMALL |= {"image_size": 42, "patch_size": 14}


def small_spec(registers: int = 0, gated: bool = False, **options: Any) -> GeneratorSpec:
    """A published model's spec with a small configuration."""
    found = spec("dinov2.small-registers" if registers else "dinov2.small")
    config = SMALL | {"use_swiglu_ffn": gated}
    more = {"config": config, "registers": registers} | options
    return replace(
        found, resolution=32, target_sets=dinov2._target_sets(4), options={**found.options, **more}
    )


def random_model(registers: int = 0, **options: Any) -> dinov2.Dinov2:
    """A small model made from a seed."""
    return dinov2.load(small_spec(registers, **({"random_seed": 7} | options)))


def lively(backbone: Any) -> Any:
    """The backbone with all parameters away from their first values: zeros, ones and twins hide mistakes."""
    stream = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=stream) * 0.1)
    return backbone.eval()


RENAMED = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.down_proj": "mlp.weights_out",
}


def hub_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names they have on the hub: old releases', and one fused layer in gated blocks."""
    found = {}
    for name, value in state.items():
        for new, old in RENAMED.items():
            name = name.replace(new, old)
        if "mlp.gate_proj" in name:
            up = state[name.replace("gate_proj", "up_proj")]
            name, value = name.replace("gate_proj", "weights_in"), torch.cat([value, up])
        if "mlp.up_proj" not in name:
            found[name] = value.contiguous()
    return found


def write_folder(folder: Path, asked: GeneratorSpec, state: Mapping[str, Tensor]) -> Path:
    """config.json as transformers writes it, and model.safetensors with these tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dinov2.make_config(asked).to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


class OldAttention(nn.Module):
    """Attention with the module names of transformers 4: attention.{query,key,value} and output.dense."""

    def __init__(self, new: Any) -> None:
        super().__init__()
        self.heads = new.num_attention_heads
        self.attention = nn.ModuleDict({"query": new.q_proj, "key": new.k_proj, "value": new.v_proj})
        self.output = nn.ModuleDict({"dense": new.o_proj})

    def forward(self, states: Tensor, attention_mask: Any = None, **_: Any) -> tuple[Tensor, None]:
        q, k, v = (
            self.attention[n](states).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for n in ("query", "key", "value")
        )
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.output["dense"](mixed), None


def with_old_names(model: dinov2.Dinov2) -> dinov2.Dinov2:
    """The same model in modules with the old names."""
    for layer in model.network.backbone.encoder.layer:
        layer.attention = OldAttention(layer.attention)
    asked = replace(model.spec, lora_targets=dinov2.LORA_TARGETS)
    return dinov2.Dinov2(asked, model.network, "cpu")
