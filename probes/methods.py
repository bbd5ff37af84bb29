"""The methods and their options, as data: no torch is imported to list or check them."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from generators.errors import UserError, unknown

TRAINING: dict[str, Any] = {
    "steps": 200,  # optimizer steps
    "batch": 16,  # pictures per step
    "rate": 1e-3,  # AdamW learning rate; linear warm-up over the first 5 % of the steps
    "timestep": None,  # of a diffusion model; None for the model's own protocol
    "noise": 0.0,  # share of random-init weights blended into the model's before anything else
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
    """

    fit: str
    options: Mapping[str, Any]
    needs: str
    title: str
    control: bool = False
    seeds: bool = False


METHODS: dict[str, Method] = {
    "lora": Method(
        "probes.lora:fit",
        TRAINING
        | {
            "rank": 8,
            "targets": "all",  # a target set of the model
            "variant": "lora",  # "lora", "dora", "rslora"
            "labels": "true",  # "shuffled": the control with maps of other pictures
        },
        "model",
        "LoRA",
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
    "finetune": Method("probes.finetune:fit", TRAINING | {"rate": 2e-4}, "model", "fine-tuning"),
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
    "ceiling": Method("probes.controls:fit_ceiling", {}, "model", "decoder ceiling", control=True),
    "constant": Method("probes.controls:fit_constant", {}, "picture", "mean map", control=True),
    "pixels": Method(
        "probes.controls:fit_pixels", {"patch": 5}, "picture", "RGB patch + position", control=True
    ),
}


def register(name: str, added: Method) -> None:
    """Add a method of another package; raises ValueError if the name is taken by another one."""
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
        return float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fill_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a method, the given ones over the defaults, types checked."""
    defaults = method(name).options
    for key, value in given.items():
        if key not in defaults:
            raise unknown(f"option of method {name!r}", key, defaults)
        default = defaults[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        numeric = default is None or isinstance(default, (int, float))
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
    # 1 and 1.0 are the same value and must give the same cell.
    return {k: _as_default(v, defaults[k]) for k, v in {**defaults, **given}.items()}


def method_fit(name: str) -> Callable[..., Any]:
    """The function that does the method's work."""
    module, function = method(name).fit.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
