"""The layouts adapters are published in, and the one inside: functions from names and tensors to the same.

peft: what peft saves. diffusers: what `load_lora_weights` of today reads. processor: what the attention
processors of diffusers 0.20 saved, as in the files of Du et al. 2023; no diffusers of today loads it, but
integrations in other programs do. All say W + scale * up @ down, with up (out r) and down (r in).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.errors import UserError, unknown
from generators.plain import parse_json

from .adapters import CONFIG, PREFIX

if TYPE_CHECKING:
    from torch import Tensor

LAYOUTS = ("peft", "diffusers", "processor")
DOWN, UP, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
_ATTENTION = (
    r"(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\.attentions\.\d+\.transformer_blocks\.\d+\.attn[12]"
)
_PART = rf"{re.escape(DOWN)}|{re.escape(UP)}|{MAGNITUDE}|alpha"
_OLD = r"\.processor\.to_(?P<which>q|k|v|out)_lora\.(?P<part>down\.weight|up\.weight|alpha)"
PATTERNS = {
    "processor": re.compile(rf"(?:unet\.)?(?P<attention>{_ATTENTION}){_OLD}"),
    "diffusers": re.compile(rf"unet\.(?P<module>.+)\.(?P<part>{_PART}|lora\.down\.weight|lora\.up\.weight)"),
    "peft": re.compile(rf"{re.escape(PREFIX)}(?P<module>.+)\.(?P<part>{_PART})"),
}
_OLD_PARTS = {"down.weight": DOWN, "up.weight": UP, "alpha": "alpha"}
_KNOWN = (
    f"peft: {PREFIX}MODULE.lora_A.weight; diffusers: unet.MODULE.lora_A.weight, or .lora.down.weight; "
    "processor: BLOCK.attn1.processor.to_q_lora.down.weight, with or without unet. before it"
)


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter, whatever layout it came in.

    Attributes:
        tensors: "MODULE.lora_A.weight" (r in), "MODULE.lora_B.weight" (out r), and of DoRA
            "MODULE.lora_magnitude_vector" (out); of any type, in the order of the file.
        rank: of all layers.
        alphas: module to alpha; the scale is alpha / rank, or alpha / sqrt(rank) for rsLoRA.
        rank_stabilized: rsLoRA (Kalajdzievski 2023).
    """

    tensors: Mapping[str, Tensor]
    rank: int
    alphas: Mapping[str, float] = field(default_factory=dict)
    rank_stabilized: bool = False

    @property
    def modules(self) -> list[str]:
        """Names of the layers it adapts, in the order of the file."""
        return [key.removesuffix(f".{DOWN}") for key in self.tensors if key.endswith(f".{DOWN}")]

    @property
    def magnitudes(self) -> bool:
        """Whether it is DoRA (Liu et al. 2024)."""
        return any(key.endswith(f".{MAGNITUDE}") for key in self.tensors)

    def scale(self, module: str) -> float:
        """Factor on the update of one layer."""
        alpha = self.alphas.get(module, float(self.rank))
        return alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


# Names.


def detect(keys: Iterable[str], source: str) -> str:
    """The layout all keys of a file are in; raises UserError naming the first that is in none, or another."""
    listed = list(keys)
    asked = f"the adapter in {source}"
    if not listed:
        raise UserError(asked, "it holds no tensor", _KNOWN, "name another file")
    first = next((name for name, p in PATTERNS.items() if p.fullmatch(listed[0])), None)
    pattern = PATTERNS[first] if first else None
    odd = next((key for key in listed if pattern is None or not pattern.fullmatch(key)), None)
    if first is None or odd is not None:
        so_far = f", where {listed[0]!r} is of the layout {first}" if first else ""
        raise UserError(asked, f"its key {odd!r} is unknown{so_far}", _KNOWN, "convert it to one of these")
    if first == "processor" and len({key.startswith("unet.") for key in listed}) > 1:
        other = next(k for k in listed if k.startswith("unet.") != listed[0].startswith("unet."))
        wrong = f"its keys {listed[0]!r} and {other!r} differ in the prefix unet."
        raise UserError(asked, wrong, _KNOWN, "convert it to one of these")
    return first


def _split(key: str, layout: str) -> tuple[str, str]:
    """Module and part of a key of a layout."""
    found = PATTERNS[layout].fullmatch(key)
    if found is None:
        raise ValueError(f"{key!r} is no key of the layout {layout}")
    if layout != "processor":
        return found["module"], _OLD_PARTS.get(found["part"].removeprefix("lora."), found["part"])
    which = "out.0" if found["which"] == "out" else found["which"]
    return f"{found['attention']}.to_{which}", _OLD_PARTS[found["part"]]


def _joined(module: str, part: str, layout: str) -> str:
    """Inverse of `_split`."""
    if layout != "processor":
        return f"{PREFIX if layout == 'peft' else 'unet.'}{module}.{part}"
    attention, _, last = module.rpartition(".to_")
    old = {new: name for name, new in _OLD_PARTS.items()}[part]
    return f"{attention}.processor.to_{last.removesuffix('.0')}_lora.{old}"


# In.


def parse(state: Mapping[str, Tensor], source: str) -> Lora:
    """The adapter in names and tensors of any known layout; no value is changed.

    Without alpha entries the scale is 1: alpha = rank.

    Args:
        source: where it is from, for errors.

    Raises:
        UserError: an unknown key, half a layer, shapes that make no update, or more than one rank.
    """
    layout = detect(state, source)
    tensors, alphas = {}, {}
    for key, value in state.items():
        module, part = _split(key, layout)
        if part == "alpha":
            alphas[module] = _number(key, value, source)
        elif f"{module}.{part}" in tensors:
            wrong = f"its key {key!r} is there a second time, in another spelling"
            raise UserError(f"the adapter in {source}", wrong, _KNOWN, "leave one of them out")
        else:
            tensors[f"{module}.{part}"] = value
    ranks = {module: _rank(module, tensors, source) for module in _modules(tensors, alphas)}
    if len(set(ranks.values())) > 1:
        first = next(iter(ranks))
        other = next(m for m in ranks if ranks[m] != ranks[first])
        raise UserError(
            f"the adapter in {source}",
            f"its layers have the ranks {ranks[first]} ({first}) and {ranks[other]} ({other})",
            "one rank for all layers is supported",
            "split it, or train one of a single rank",
        )
    rank = next(iter(ranks.values()))
    return Lora(tensors, rank, {module: alphas.get(module, float(rank)) for module in ranks})


def _modules(tensors: Mapping[str, Tensor], alphas: Mapping[str, float]) -> list[str]:
    """Every layer that is named, each once."""
    named = [key.rpartition(".lora_")[0] for key in tensors]
    return list(dict.fromkeys([*named, *alphas]))


def _number(key: str, value: Tensor, source: str) -> float:
    if value.numel() != 1 or not math.isfinite(float(value)):
        wrong = f"its {key!r} has the shape {tuple(value.shape)}, or is no number"
        raise UserError(f"the adapter in {source}", wrong, "an alpha is one number", "name another file")
    return float(value)


def _rank(module: str, tensors: Mapping[str, Tensor], source: str) -> int:
    """The rank of one layer; raises UserError unless both halves are there and fit each other."""
    asked = f"the adapter in {source}"
    for part in (DOWN, UP):
        if f"{module}.{part}" not in tensors:
            raise UserError(asked, f"its layer {module!r} lacks {part}", _KNOWN, "name the whole file")
    down, up = tensors[f"{module}.{DOWN}"], tensors[f"{module}.{UP}"]
    fits = min(down.ndim, up.ndim) >= 2 and down.shape[0] == up.shape[1] > 0
    if not fits or not (down.is_floating_point() and up.is_floating_point()):
        raise UserError(
            asked,
            f"the tensors of its layer {module!r} make no update: {tuple(down.shape)} {down.dtype} "
            f"and {tuple(up.shape)} {up.dtype}",
            "down is (rank, in), up is (out, rank)",
            "name another file",
        )
    return int(down.shape[0])


LARGEST = 1e9  # of an alpha


def with_settings(lora: Lora, settings: Mapping[str, Any], source: str) -> Lora:
    """An adapter in peft's layout with the scales its adapter_config.json states; raises UserError."""
    asked = f"the adapter in {source}"
    if settings.get("rank_pattern") or settings.get("r") != lora.rank:
        rank = settings.get("rank_pattern") or settings.get("r")
        raise UserError(asked, f"{CONFIG} says rank {str(rank)[:60]}", f"rank of its tensors: {lora.rank}")
    if bool(settings.get("use_dora")) != lora.magnitudes:
        said = f"{CONFIG} says use_dora = {str(settings.get('use_dora'))[:60]}"
        raise UserError(asked, said, f"magnitudes in its file: {lora.magnitudes}", "copy the folder again")
    common, pattern = settings.get("lora_alpha"), settings.get("alpha_pattern") or {}
    if not isinstance(pattern, dict):
        raise UserError(
            asked, f"{CONFIG}: alpha_pattern is no object", "", "export it from where it was made"
        )
    odd, scales = sorted(set(pattern) - set(lora.modules)), [common, *pattern.values()]
    strange = next(([s] for s in scales if type(s) not in (int, float) or not -LARGEST < s < LARGEST), [])
    if odd or strange:
        wrong = (
            f"alpha_pattern has {odd[0][:100]!r}, no full name of a layer"
            if odd
            else f"an alpha of it is {str(strange[0])[:100]}"
        )
        raise UserError(asked, f"{CONFIG}: {wrong}", "", "export it from where it was made")
    assert common is not None, "it is a number, as checked above"
    alphas = {module: float(pattern.get(module, common)) for module in lora.modules}
    return replace(lora, alphas=alphas, rank_stabilized=bool(settings.get("use_rslora")))


def settings_of(lora: Lora, targets: Any = None) -> dict[str, Any]:
    """Arguments of peft's LoraConfig that say how the tensors are applied.

    Args:
        targets: target_modules; the full names of the layers by default.
    """
    common, pattern = _alphas(lora)
    return {
        "r": lora.rank,
        "lora_alpha": common,
        "alpha_pattern": pattern,
        "target_modules": targets or sorted(lora.modules),
        "use_dora": lora.magnitudes,
        "use_rslora": lora.rank_stabilized,
    }


def _alphas(lora: Lora) -> tuple[float, dict[str, float]]:
    """The most frequent alpha, as an integer where it is one, and those of the other layers."""
    values = [lora.alphas.get(module, float(lora.rank)) for module in lora.modules]
    common = max(dict.fromkeys(values), key=values.count)
    others = {m: lora.alphas[m] for m, value in zip(lora.modules, values, strict=True) if value != common}
    return (int(common) if common.is_integer() else common), others


# Out.


def to_peft(lora: Lora) -> dict[str, Tensor]:
    """Names and tensors as peft saves them; scales go to adapter_config.json (`settings_of`)."""
    return _renamed(lora.tensors, "peft")


def to_diffusers(lora: Lora, source: str) -> dict[str, Tensor]:
    """Names and tensors as `load_lora_weights` of diffusers reads them; scales go to the file's metadata.

    Raises:
        UserError: a layer that no UNet of diffusers has.
    """
    _check_modules(lora, re.compile(_UNET), "diffusers", "layers of a UNet2DConditionModel", source)
    return _renamed(lora.tensors, "diffusers")


_UNET = r"(down_blocks|up_blocks)\.\d+\..+|mid_block\..+|conv_in|conv_out|(time|class|add)_embedding\..+"


def diffusers_metadata(lora: Lora) -> dict[str, str]:
    """Metadata of the safetensors file, empty where the tensors say it all: scale 1 in every layer.

    Releases of diffusers that read no metadata (before 0.35) would scale by 1 whatever is written.
    """
    import json

    if all(lora.scale(module) == 1 for module in lora.modules):
        return {}
    said = {f"unet.{key}": value for key, value in settings_of(lora).items()}
    return {"lora_adapter_metadata": json.dumps(said, sort_keys=True)}


def to_processor(lora: Lora, source: str) -> dict[str, Tensor]:
    """Names and tensors as the attention processors of diffusers 0.20 saved them, applied with scale 1.

    A scale that is a power of two is folded into `up`, which changes no digit of it.

    Raises:
        UserError: DoRA, layers other than attention, or a scale that cannot be folded exactly.
    """
    if lora.magnitudes:
        raise _inexpressible(source, "processor", "it is DoRA: its magnitudes have no name there", "")
    attention = re.compile(rf"{_ATTENTION}\.to_(q|k|v|out\.0)")
    _check_modules(lora, attention, "processor", "to_q, to_k, to_v, to_out.0 of attention", source)
    folded = dict(lora.tensors)
    for module in lora.modules:
        key = f"{module}.{UP}"
        folded[key] = _folded(folded[key], lora.scale(module), module, source)
    return _renamed(folded, "processor")


def _folded(up: Tensor, scale: float, module: str, source: str) -> Tensor:
    """`up` times a scale, if that can be undone to the last bit."""
    import torch

    if scale == 1:
        return up
    scaled = up * scale
    exact = scale > 0 and math.frexp(scale)[0] == 0.5 and torch.equal(scaled / scale, up)
    if not exact:
        wrong = f"the scale of its layer {module!r} is {scale:.6g}, which cannot be folded in exactly"
        raise _inexpressible(source, "processor", wrong, "scale 1, or a power of two")
    return scaled


def _renamed(tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    found = {}
    for key, value in tensors.items():
        module, _, part = key.rpartition(".lora_")
        found[_joined(module, f"lora_{part}", layout)] = value
    return found


def _check_modules(lora: Lora, pattern: re.Pattern[str], layout: str, known: str, source: str) -> None:
    for module in lora.modules:
        if not pattern.fullmatch(module):
            raise _inexpressible(source, layout, f"its layer {module!r} has no name there", known)


def _inexpressible(source: str, layout: str, wrong: str, known: str) -> UserError:
    others = " or ".join(name for name in LAYOUTS if name != layout)
    return UserError(
        f"{source} in the layout {layout}", wrong, f"it takes {known}" if known else "", f"export as {others}"
    )


# Files.


def read_file(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a .safetensors, or of a .bin, .pt, .pth of torch.save; runs nothing of it.

    Raises:
        UserError: the file is missing, truncated, names code, or holds anything but tensors.
    """
    from generators.checkpoints.flat_state import read_flat

    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in (".bin", ".pt", ".pth"):
        raise unknown("kind of adapter file", path.suffix, (".safetensors", ".bin", ".pt", ".pth"))
    return {name: value.clone() for name, value in read_flat(path).items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(str(path))
    except (OSError, SafetensorError) as error:
        wrong = f"it cannot be read, or is truncated: {str(error)[:200]}"
        raise UserError(f"the adapter in {path}", wrong, "a safetensors file", "copy it again") from error
    return found


def file_settings(path: Path) -> dict[str, Any]:
    """What a diffusers file's metadata says of how to apply it, as `settings_of`; empty if nothing."""
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return {}
    with safe_open(str(path), framework="pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata")
    try:
        said = parse_json(text) if text else {}
        return {key.removeprefix("unet."): value for key, value in said.items()}
    except (ValueError, AttributeError) as error:
        wrong = f"its metadata cannot be read: {error}"
        raise UserError(f"the adapter in {path}", wrong, "", "copy it again") from error
