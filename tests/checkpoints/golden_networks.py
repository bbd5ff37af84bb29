"""The networks of the golden files: state, arguments, attributes of modules."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

DIRECTORY = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parents[1] / "golden")


@dataclass(frozen=True)
class Golden:
    """One network as its golden file describes it."""

    path: Path

    def __str__(self) -> str:
        return self.path.stem

    @property
    def facts(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8"))

    def state(self) -> dict[str, Tensor]:
        tensors = load_file(self.path.with_suffix(".safetensors"))
        return {name[3:]: tensor for name, tensor in tensors.items() if name.startswith("sd.")}

    @property
    def class_name(self) -> str:
        return self.facts.get("cls", "Generator")

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The constructor's arguments; those of a super-resolution network name its stem by a path."""
        if "init_kwargs" in self.facts:
            return self.facts["init_kwargs"]
        return {"path_stem": "stem.pkl", **self.facts["superres_kwargs"][-1]}


def networks(pattern: str) -> list[Golden]:
    """The golden networks whose file name matches, those with a state only."""
    paths = sorted(DIRECTORY.glob(pattern))
    return [Golden(path) for path in paths if "state_dict" in json.loads(path.read_text(encoding="utf-8"))]


def flat_arguments(init_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a StyleGAN2 as StyleGAN3's code stores them: those of the synthesis network not nested."""
    rest = {name: value for name, value in init_kwargs.items() if name != "synthesis_kwargs"}
    return rest | {"fused_modconv_default": "inference_only", **init_kwargs["synthesis_kwargs"]}


def clamps(state: Mapping[str, Tensor], conv_clamp: float | None) -> dict[str, dict[str, Any]]:
    """What every layer of a StyleGAN2 says of its clamp, by module."""
    layers = (name.removesuffix(".affine.weight") for name in state if name.endswith(".affine.weight"))
    return {layer: {"conv_clamp": conv_clamp} for layer in layers}


def layer_attributes(golden: Golden) -> dict[str, dict[str, Any]]:
    """Attributes of an XL synthesis network by module, with NumPy values where official files have them."""
    facts = golden.facts
    if "specs" not in facts:
        return {}
    layers = {f"synthesis.{each['name']}": each for each in facts["specs"]["layers"]}
    members = {"w_dim": facts["w_dim"], "num_ws": facts["num_ws"], "layer_names": facts["layer_names"]}
    return {
        "synthesis": members | {"output_scale": 0.25},
        "synthesis.input": numpy_values(facts["specs"]["input"]),
        **{name: numpy_values(each) for name, each in layers.items()},
    }


def numpy_values(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Floats as NumPy scalars, pairs as NumPy arrays, truth values as NumPy's where the name says fp16."""
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        if name == "use_fp16":
            found[name] = np.bool_(value)
        elif isinstance(value, float):
            found[name] = np.float64(value)
        elif name.endswith("size") and isinstance(value, list):
            found[name] = np.array(value)
        else:
            found[name] = value
    return found
