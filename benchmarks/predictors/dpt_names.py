"""DPT-hybrid: the tensors of its original checkpoints under the names that transformers gives them.

Original: the network of Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021 (DPT-hybrid),
over timm's vit_base_resnet50_384, as its authors' checkpoints and Omnidata's name it. The map is total:
a tensor that is missing, unknown or of another shape is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from generators.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "model."  # of every name in a Lightning checkpoint
BODY, SCRATCH = "pretrained.model.", "scratch."
UNUSED = (f"{BODY}head.weight", f"{BODY}head.bias")  # timm's ImageNet classes: no part of the network

# One original tensor is one of transformers', or the rows of several: query, key and value.
Names = dict[str, tuple[str, ...]]


def _both(original: str, here: str) -> Names:
    return {f"{original}.{kind}": (f"{here}.{kind}",) for kind in ("weight", "bias")}


def _residual_network(depths: tuple[int, ...]) -> Names:
    """The ResNet v2 that cuts the patches: convolutions without bias, each with a group norm."""
    there, here = f"{BODY}patch_embed.backbone.", "dpt.embeddings.backbone.bit."
    found: Names = {f"{there}stem.conv.weight": (f"{here}embedder.convolution.weight",)}
    found |= _both(f"{there}stem.norm", f"{here}embedder.norm")
    for stage, depth in enumerate(depths):
        for block in range(depth):
            a, b = f"{there}stages.{stage}.blocks.{block}.", f"{here}encoder.stages.{stage}.layers.{block}."
            for i in (1, 2, 3):
                found[f"{a}conv{i}.weight"] = (f"{b}conv{i}.weight",)
                found |= _both(f"{a}norm{i}", f"{b}norm{i}")
            if block == 0:
                found[f"{a}downsample.conv.weight"] = (f"{b}downsample.conv.weight",)
                found |= _both(f"{a}downsample.norm", f"{b}downsample.norm")
    return found


def _transformer(layers: int) -> Names:
    found: Names = {
        f"{BODY}cls_token": ("dpt.embeddings.cls_token",),
        f"{BODY}pos_embed": ("dpt.embeddings.position_embeddings",),
        **_both(f"{BODY}patch_embed.proj", "dpt.embeddings.projection"),
        **_both(f"{BODY}norm", "dpt.layernorm"),
    }
    parts = {
        "norm1": "layernorm_before",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    for layer in range(layers):
        a, b = f"{BODY}blocks.{layer}.", f"dpt.encoder.layer.{layer}."
        for kind in ("weight", "bias"):
            split = tuple(f"{b}attention.attention.{part}.{kind}" for part in ("query", "key", "value"))
            found[f"{a}attn.qkv.{kind}"] = split
        for original, renamed in parts.items():
            found |= _both(f"{a}{original}", f"{b}{renamed}")
    return found


def _neck() -> Names:
    """Reassembly of the two deep taps (the shallow need none) and the four fusion blocks, deepest first."""
    found: Names = {}
    for tap in (2, 3):
        a, b = f"pretrained.act_postprocess{tap + 1}.", "neck.reassemble_stage."
        found |= _both(f"{a}0.project.0", f"{b}readout_projects.{tap}.0")
        found |= _both(f"{a}3", f"{b}layers.{tap}.projection")
    found |= _both("pretrained.act_postprocess4.4", "neck.reassemble_stage.layers.3.resize")
    for i in range(4):
        found[f"{SCRATCH}layer{i + 1}_rn.weight"] = (f"neck.convs.{i}.weight",)
        a, b = f"{SCRATCH}refinenet{4 - i}.", f"neck.fusion_stage.layers.{i}."
        found |= _both(f"{a}out_conv", f"{b}projection")
        for unit in (1, 2):
            for conv in (1, 2):
                original = f"{a}resConfUnit{unit}.conv{conv}"
                found |= _both(original, f"{b}residual_layer{unit}.convolution{conv}")
    return found


def _head() -> Names:
    pairs = [_both(f"{SCRATCH}output_conv.{i}", f"head.head.{i}") for i in (0, 2, 4)]
    return {name: here for pair in pairs for name, here in pair.items()}


def dpt_names(depths: tuple[int, ...] = (3, 4, 9), layers: int = 12) -> Names:
    """Original name to those of transformers' DPTForDepthEstimation, for every tensor of a DPT-hybrid.

    Args:
        depths: blocks of the stages of the ResNet.
        layers: blocks of the transformer.
    """
    return _residual_network(depths) | _transformer(layers) | _neck() | _head()


def _refused(what: str, wrong: str, known: str) -> UserError:
    return UserError(f"read {what}", wrong, known, "give the checkpoint of a DPT-hybrid, whole and unchanged")


def _plain(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Tensors without the prefix of Lightning; every one has to have it."""
    for name in state:
        if not name.startswith(PREFIX):
            raise _refused(what, f"it holds the unknown tensor {name!r}", f"all names start with {PREFIX!r}")
    return {name.removeprefix(PREFIX): value for name, value in state.items()}


def renamed(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], names: Names, what: str
) -> dict[str, Tensor]:
    """The state dict for transformers of a Lightning checkpoint's.

    Args:
        state: original names, with the prefix, to tensors.
        shapes: of the network that is to be filled, by its own names.
        names: see `dpt_names`.
        what: the file, for errors.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape.
        ValueError: the map leaves one of the network's out.
    """
    plain = _plain(state, what)
    unknown = [name for name in plain if name not in names and name not in UNUSED]
    missing = [name for name in names if name not in plain]
    if unknown:
        raise _refused(what, f"it holds {len(unknown)} unknown tensors, first {PREFIX + unknown[0]!r}", "")
    if missing:
        raise _refused(what, f"it lacks {len(missing)} tensors, first {PREFIX + missing[0]!r}", "")
    found: dict[str, Tensor] = {}
    for name, targets in names.items():
        parts = plain[name].chunk(len(targets)) if plain[name].ndim else (plain[name],)
        for target, part in zip(targets, parts, strict=True):
            if shapes.get(target) != tuple(part.shape):
                known = f"expected {shapes.get(target)}, the file's part has {tuple(part.shape)}"
                raise _refused(what, f"the tensor {PREFIX + name!r} has another shape", known)
            found[target] = part
    left = sorted(set(shapes) - set(found))
    if left:
        raise ValueError(f"the map of names says nothing of {left[0]!r}")
    return found
