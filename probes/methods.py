"""The methods and their options, as data: no torch is imported to list or check them."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from generators.errors import UserError, unknown

RELATIVE = "unit"  # alignment of cells that ask for depth without unit: probes.intrinsics.relative_depth

TRAINING: dict[str, Any] = {
    "steps": 200,  # optimizer steps
    "batch": 16,  # pictures per step
    "rate": 1e-3,  # AdamW learning rate, at its greatest; see "schedule" in EXTRAS
    "timestep": None,  # of a diffusion model; None for the model's own protocol
    "noise": 0.0,  # share of random-init weights blended into the model's before anything else
}

LORA: dict[str, Any] = TRAINING | {
    "rank": 8,
    "targets": "all",  # a target set of the model
    "variant": "lora",  # "lora", "dora", "rslora"
    "labels": "true",  # "shuffled": the control with maps of other pictures
}
# Of the methods that learn a text and no weights; the rate is in units of the text's root mean square.
QUESTION: dict[str, Any] = {"steps": 200, "batch": 16, "rate": 0.05, "labels": "true"}
EXTRAS: dict[str, Any] = {  # of every method that trains a network; see Method.extras
    "precision": "float32",  # "bfloat16": products in it, adapters and loss in float32
    "checkpointing": False,  # compute blocks again in the backward pass: less memory, more time
    "compile": False,  # torch.compile of the network's forward pass
    "schedule": "cosine",  # of the rate: up over the first 5 % of the steps, down to zero; or "constant"
    "decay": 0.0,  # AdamW's weight decay
    "dropped": 0.05,  # of a model that samples: share of examples without text, without picture, without both
}
ADAPTED: dict[str, Any] = EXTRAS | {  # of the methods that train an adapter
    "init": "kaiming",  # of its first matrix: uniform, as peft's own; "gaussian": deviation 1 / rank
}


@dataclass(frozen=True)
class Method:
    """One way of asking.

    Attributes:
        fit: "module:function" that takes a Task and gives a Probe (see probes.task).
        options: every option with its default; a cell always holds them all.
        needs: "model" if it asks a generator, "picture" if it is a control without one, "samples"
            if it measures what a generator draws.
        title: as tables call it.
        control: whether it is a control, shown apart from the probes.
        seeds: whether it asks only models that make pictures from seeds: they alone have latents.
        trains: whether it looks at training pictures at all.
        forwards: whether it predicts by the generator's `forward`, and so takes the model's own options.
        asks: a model's own option without which it cannot be asked ("strength": it edits noised pictures).
        extras: options that a cell holds only where they differ from their default, so that cells made
            before there was such an option keep their names. A default here never changes.
    """

    fit: str
    options: Mapping[str, Any]
    needs: str
    title: str
    control: bool = False
    seeds: bool = False
    trains: bool = True
    forwards: bool = False
    asks: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "lora": Method(
        "probes.lora:fit",
        LORA,
        "model",
        "LoRA",
        forwards=True,
        extras=ADAPTED,
    ),
    "linear": Method(
        "probes.linear:fit",
        {
            "layer": "best",  # a layer's name, or the best one on the validation split
            "timestep": None,
            "noise": 0.0,
            "labels": "true",
        },
        "model",
        "linear probe",
    ),
    "finetune": Method(
        "probes.finetune:fit",
        TRAINING | {"rate": 2e-4},
        "model",
        "fine-tuning",
        forwards=True,
        extras=EXTRAS,
    ),
    "latent_offset": Method(
        "probes.latent_offset:fit",
        {key: value for key, value in TRAINING.items() if key != "timestep"}
        | {
            "rate": 0.1,  # in units of the code's root mean square
            "space": "w+",  # or "style": the outputs of the affine layers
            "labels": "true",
        },
        "model",
        "latent offset",
        seeds=True,
    ),
    "sdedit": Method(
        "probes.lora:fit", LORA, "model", "SDEdit", forwards=True, asks="strength", extras=ADAPTED
    ),
    "textual_inversion": Method(
        "probes.editing:fit_textual_inversion",
        QUESTION,
        "model",
        "textual inversion",
        forwards=True,
        asks="strength",
    ),
    "visii": Method(
        "probes.editing:fit_visii", QUESTION, "model", "VISII", forwards=True, asks="image_guidance"
    ),
    "instruct_pix2pix": Method(
        "probes.editing:fit_instruct_pix2pix",
        {},
        "model",
        "InstructPix2Pix",
        forwards=True,
        asks="image_guidance",
    ),
    "ceiling": Method("probes.controls:fit_ceiling", {}, "model", "decoder ceiling", control=True),
    "constant": Method("probes.controls:fit_constant", {}, "picture", "mean map", control=True),
    "pixels": Method(
        "probes.controls:fit_pixels", {"patch": 5}, "picture", "RGB patch + position", control=True
    ),
}


def register(name: str, added: Method) -> None:
    """Add a method, as benchmarks.methods does; raises ValueError if the name is taken by another one.

    It has to be added wherever cells are planned and computed: workers are processes of their own.
    """
    if METHODS.setdefault(name, added) != added:
        raise ValueError(f"the method {name!r} exists: {METHODS[name]}")


def method(name: str) -> Method:
    """A method by name; raises UserError with near names if there is none."""
    if name not in METHODS:
        raise unknown("method", name, METHODS, "see: intrinsic-bench ls methods")
    return METHODS[name]


def _as_default(value: Any, default: Any) -> Any:
    """A number in the type of its default; an integral one as an integer where there is none."""
    if isinstance(default, float):
        return float(value) + 0.0  # -0.0 is 0.0, too
    if isinstance(default, bool):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_type(name: str, key: str, value: Any, default: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    numeric = default is None or (isinstance(default, (int, float)) and not isinstance(default, bool))
    fits = number if numeric else isinstance(value, type(default))
    if isinstance(default, int) and isinstance(value, float) and not value.is_integer():
        fits = False
    if not fits and not (value is None and default is None):
        raise UserError(
            f"option {key} = {value!r} of method {name!r}",
            f"it has the type {type(value).__name__}",
            f"the default is {default!r}",
            "give a value of the default's type",
        )


def fill_options(
    name: str, given: Mapping[str, Any], asks: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All options of a method, the given ones over the defaults, types checked.

    Args:
        asks: the model's own options (GeneratorSpec.asks), for a method that takes them.
    """
    asked = method(name)
    defaults = {**asked.options, **(asks or {})} if asked.forwards else asked.options
    known = {**defaults, **asked.extras}
    for key, value in given.items():
        if key not in known:
            raise unknown(f"option of method {name!r}", key, known)
        _check_type(name, key, value, known[key])
    # 1 and 1.0 are the same value and must give the same cell.
    filled = {k: _as_default(v, known[k]) for k, v in {**defaults, **given}.items()}
    return {k: v for k, v in filled.items() if k in defaults or v != asked.extras[k]}


def method_fit(name: str) -> Callable[..., Any]:
    """The function that does the method's work."""
    module, function = method(name).fit.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
