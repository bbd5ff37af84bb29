"""Both stages of taming VQGAN together: a transformer over the first stage's codes, and its condition.

Names of parameters are those of Net2NetTransformer's checkpoints, arguments those of their configs
(Esser et al. 2021). A sequence is the condition's codes and then the picture's, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .mingpt import GPT, visible
from .sampling import draw
from .vqgan import VQModel

# What a config's params may hold beside what decides the network in evaluation.
TRAINING_ONLY = {
    *("ckpt_path", "ignore_keys", "image_key", "first_stage_key", "cond_stage_key", "lossconfig", "monitor"),
    *("colorize_nlabels", "batch_resize_range", "scheduler_config", "lr_g_factor", "learning_rate"),
    *("kl_weight", "temperature_scheduler_config", "sane_index_shape"),
    *("pkeep", "attn_pdrop", "embd_pdrop", "resid_pdrop"),
}
FIRST_STAGES = ("VQModel", "GumbelVQ")
FIRST_STAGE, UNCONDITIONAL = "__is_first_stage__", "__is_unconditional__"


class StartOfSequence(nn.Module):
    """No condition: one code, always the same, so that there is something to begin with."""

    def __init__(self, sos_token: int) -> None:
        super().__init__()
        self.sos_token = sos_token

    def codes(self, given: Tensor) -> Tensor:
        """(b 1), for anything with b rows."""
        return torch.full((len(given), 1), self.sos_token, device=given.device)


class ClassLabel(nn.Module):
    """The condition is a class (b), its code the number."""

    def codes(self, given: Tensor) -> Tensor:
        """(b 1)."""
        return given.long().reshape(len(given), 1)


class CoordStage(nn.Module):
    """The condition is where a crop lies in its picture: coordinates (b 1 h w) in [0, 1].

    Args:
        n_embed: coordinate 1 has this code.
        down_factor: side of the squares whose mean is one code.
    """

    def __init__(self, n_embed: int, down_factor: int) -> None:
        super().__init__()
        self.n_embed, self.down_factor = n_embed, down_factor

    def codes(self, given: Tensor) -> Tensor:
        """(b h/d w/d); raises ValueError for coordinates outside [0, 1]."""
        if given.ndim != 4 or given.shape[1] != 1 or not (given.min() >= 0 and given.max() <= 1):
            raise ValueError(f"coordinates (b 1 h w) in [0, 1] are needed, not {tuple(given.shape)}")
        sides = given.shape[2] // self.down_factor, given.shape[3] // self.down_factor
        mean = functional.adaptive_avg_pool2d(given, sides)
        return (self.n_embed * mean[:, 0].clamp(0, 1)).round().long()  # half to even


Condition = VQModel | StartOfSequence | ClassLabel | CoordStage


class Net2NetTransformer(nn.Module):
    """First stage, transformer and condition.

    Args:
        downsample_cond_size: side to which a given condition is resized first (nearest); 0 leaves it.
    """

    def __init__(
        self,
        transformer: GPT,
        first_stage_model: VQModel,
        cond_stage_model: Condition,
        downsample_cond_size: int = 0,
    ) -> None:
        super().__init__()
        self.transformer, self.first_stage_model = transformer, first_stage_model
        self.cond_stage_model, self.downsample_cond_size = cond_stage_model, downsample_cond_size

    def condition(self, given: Tensor) -> Tensor:
        """Codes (b n) of a condition; any tensor with b rows does for an unconditional model."""
        if self.downsample_cond_size:
            given = functional.interpolate(given, size=(self.downsample_cond_size,) * 2)
        return self.cond_stage_model.codes(given).flatten(1)

    def forward(self, codes: Tensor, condition: Tensor) -> Tensor:
        """Logits (b n v): those at i are of the i-th of the picture's codes (b n), given all before."""
        logits: Tensor = self.transformer(torch.cat([condition, codes], 1)[:, :-1])
        return logits[:, condition.shape[1] - 1 :]

    def draw(self, codes: Tensor, condition: Tensor, steps: int, **how: Any) -> Tensor:
        """The picture's codes (b m + steps), of which the first m are given; `how` as of sampling.draw."""
        start = torch.cat([condition, codes], 1)
        return torch.cat([codes, draw(self.transformer, start, steps, **how)], 1)


# From a config to a network, as published files say it.


def _params(config: Mapping[str, Any], needed: str, optional: str = "") -> dict[str, Any]:
    """What decides the network; raises ValueError for what is missing, or not known."""
    names = {*needed.split(), *optional.split()}
    missing = [name for name in needed.split() if name not in config]
    unknown = sorted(set(config) - names - TRAINING_ONLY)
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] * bool(missing)
        said += [f"has {', '.join(unknown)}, which nobody here knows"] * bool(unknown)
        raise ValueError(f"the config {' and '.join(said)}")
    return {name: value for name, value in config.items() if name in names and value is not None}


def _kind(config: Mapping[str, Any], default: str) -> tuple[str, Mapping[str, Any]]:
    """Last part of a config's target, and its params."""
    return str(config.get("target", default)).rpartition(".")[2], config.get("params") or {}


def first_stage(kind: str, params: Mapping[str, Any]) -> VQModel:
    """A VQModel or a GumbelVQ of a config's params; raises ValueError."""
    if kind not in FIRST_STAGES:
        raise ValueError(f"a first stage is one of {', '.join(FIRST_STAGES)}, not {kind!r}")
    found = _params(params, "ddconfig n_embed embed_dim", "remap")
    if "remap" in found:
        raise ValueError("its codes are remapped, which needs a file of its own")
    return VQModel(**found, gumbel=kind == "GumbelVQ")


def _condition(config: Any, stage: VQModel, params: Mapping[str, Any]) -> Condition:
    if config == FIRST_STAGE:
        return stage
    if config == UNCONDITIONAL or params.get("unconditional"):
        return StartOfSequence(int(params.get("sos_token", 0)))
    if not isinstance(config, Mapping):
        raise ValueError(f"its condition is {config!r}, which nobody here knows")
    kind, inner = _kind(config, "")
    if kind == "CoordStage":
        return CoordStage(**_params(inner, "n_embed down_factor"))
    if kind == "SOSProvider":
        return StartOfSequence(int(inner.get("sos_token", 0)))
    return ClassLabel() if kind == "Labelator" else first_stage(kind, inner)


def transformer(params: Mapping[str, Any]) -> GPT:
    """A GPT of a config's params; raises ValueError."""
    return GPT(**_params(params, "vocab_size block_size n_layer n_head n_embd", "n_unmasked"))


def joint(params: Mapping[str, Any]) -> Net2NetTransformer:
    """Both stages of a Net2NetTransformer config's params; raises ValueError."""
    optional = "permuter_config downsample_cond_size sos_token unconditional"
    found = _params(params, "transformer_config first_stage_config cond_stage_config", optional)
    permuter, _ = _kind(found.get("permuter_config", {}), "Identity")
    if permuter != "Identity":
        raise ValueError(f"its codes are in the order of {permuter}; only row by row (Identity) is known")
    kind, inner = _kind(found["transformer_config"], "GPT")
    if kind != "GPT":
        raise ValueError(f"its transformer is a {kind}, not a GPT")
    stage = first_stage(*_kind(found["first_stage_config"], "VQModel"))
    condition = _condition(found["cond_stage_config"], stage, found)
    side = max(0, found.get("downsample_cond_size", 0))
    return Net2NetTransformer(transformer(inner), stage, condition, side)


def network(class_name: str, params: Mapping[str, Any]) -> VQModel | Net2NetTransformer:
    """What a class of taming and its config's params describe; raises ValueError."""
    if class_name == "Net2NetTransformer":
        return joint(params)
    return first_stage(class_name, params)


# With weights.


def _check_names(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        said = [f"{len(missing)} tensors are missing, first {missing[0]!r}"] if missing else []
        said += [f"{len(extra)} are too many, first {extra[0]!r}"] if extra else []
        raise ValueError(" and ".join(said))
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)}, by the config it is {tuple(tensor.shape)}"
            raise ValueError(f"{name!r} has the shape {shapes}")


def _check_masks(gpt: GPT) -> None:
    """Files hold the attention masks; the network goes by `n_unmasked`."""
    expected = visible(gpt.block_size, gpt.n_unmasked)
    masks = [value[0, 0] for name, value in gpt.named_buffers() if name.endswith("attn.mask")]
    if any(not torch.equal(mask > 0, expected > 0) for mask in masks):
        raise ValueError(f"its attention masks are not those of n_unmasked = {gpt.n_unmasked}")


def initialized(class_name: str, params: Mapping[str, Any], seed: int) -> VQModel | Net2NetTransformer:
    """A network that was never trained, float32, frozen: every layer's own initialization, from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(class_name, params).eval().requires_grad_(False)


def build(
    class_name: str, params: Mapping[str, Any], state: Mapping[str, Tensor]
) -> VQModel | Net2NetTransformer:
    """The network of a file, float32, frozen; raises ValueError if config and tensors do not fit.

    Args:
        class_name: "VQModel", "GumbelVQ" or "Net2NetTransformer".
        params: the config's `model.params`.
        state: tensors by taming's names, without the losses'.
    """
    with torch.device("meta"):  # large ones would be initialized for nothing
        found = network(class_name, params)
    mine = {name: value for name, value in state.items() if name.rpartition(".")[2] != "colorize"}
    _check_names(mine, found.state_dict())
    copies = {name: value.to(torch.float32, copy=True) for name, value in mine.items()}
    found.load_state_dict(copies, assign=True)
    if isinstance(found, Net2NetTransformer):
        _check_masks(found.transformer)
    return found.eval().requires_grad_(False)
