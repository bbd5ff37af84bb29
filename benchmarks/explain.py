"""What options of methods mean, for `intrinsic-bench show METHOD`: texts, defaults, what is allowed."""

from __future__ import annotations

from typing import Any

from generators import registry
from probes.methods import method

from .limits import CHOICES, RANGES, allowed_range

NEEDS = {
    "model": "a model, about an intrinsic",
    "picture": "pictures alone, no model",
    "samples": "what a model draws, no intrinsic",
}
# Option to its meaning; "METHOD.option" where a method means something else by it.
MEANINGS = {
    "steps": "optimizer steps",
    "batch": "pictures of a step",
    "rate": "learning rate of AdamW at its greatest",
    "timestep": "the one a diffusion model is asked at; left out: the model's own",
    "noise": "share of freshly drawn weights that is blended into the model's before anything else",
    "rank": "of the adapter's matrices",
    "targets": "which layers are adapted: `all`, or a target set of the model (show MODEL)",
    "variant": "of the adapter",
    "labels": "`shuffled`: the control, taught maps of other pictures",
    "layer": "a layer's name, or `best`: chosen by the validation pictures",
    "space": "what is moved: w of every layer, or the outputs of the affine layers",
    "patch": "pixels a side of the patch of colors, odd",
    "precision": "`bfloat16`: products in it, adapters and loss in float32",
    "checkpointing": "compute blocks again in the backward pass: less memory, more time",
    "compile": "torch.compile of the network's forward pass",
    "schedule": "of the rate: up over the first 5 % of the steps and down to zero, or none",
    "decay": "weight decay of AdamW",
    "dropped": "of a model that samples: share of examples without text, without picture, without both",
    "init": "of the adapter's first matrix: peft's own, or deviation 1 / rank",
    "predictor": "the one that is scored (ls predictors)",
    "identity": "of the predictor's weights; filled in",
    "network": "identity of the rooms' network; filled in",
    "latent_offset.rate": "learning rate of AdamW, in units of the code's root mean square",
    "textual_inversion.rate": "learning rate of AdamW, in units of the text's root mean square",
    "visii.rate": "learning rate of AdamW, in units of the text's root mean square",
    "frechet.steps": "sampling steps of a diffusion model",
    "frechet.precision": "`bfloat16`: a diffusion model's products in it, features in float32",
    "samples": "pictures that are drawn",
    "reference": "pictures of the world they are compared with",
    "guidance": "on the text: 1 is none",
    "second": "another feature space beside the rooms' network's",
    "second_weights": "identity of its weights; filled in",
    "sampler_steps": "of DPM-Solver++",
    "image_guidance": "on the picture beside the noise",
    "rescale": "how much of guidance's growth in contrast is taken back",
    "strength": "how far into the noise the picture is put before it is edited",
    "noise_seed": "of the noise that sampling starts from",
}


def meaning(asked: str, option: str) -> str:
    """What an option of a method means; "" where nobody has said (a method of another package)."""
    return MEANINGS.get(f"{asked}.{option}", MEANINGS.get(option, ""))


def _allowed(option: str, default: Any) -> str:
    if option in CHOICES:
        return " | ".join(choice or '""' for choice in CHOICES[option])
    if option in RANGES:
        return allowed_range(*RANGES[option])
    return "true | false" if isinstance(default, bool) else ""


def explain(name: str) -> dict[str, Any]:
    """A method as plain data: its facts, and every option with default, what is allowed and its meaning.

    Raises:
        UserError: there is no such method.
    """
    found = method(name)
    options = {**found.options, **found.extras}
    own = dict.fromkeys(key for spec in registry.specs() for key in spec.asks if found.forwards)
    return {
        "name": name,
        "title": found.title,
        "asks": NEEDS[found.needs],
        "control": found.control,
        "options": [_option(name, key, value) for key, value in options.items()],
        "options of models that sample": [_option(name, key, None) for key in own],
    }


def _option(asked: str, key: str, default: Any) -> dict[str, Any]:
    return {
        "option": key,
        "default": default,
        "allowed": _allowed(key, default),
        "meaning": meaning(asked, key),
    }


def explanation(name: str) -> str:
    """`explain` as text."""
    facts = explain(name)
    lines = [f"{name}: {facts['title']}{' (a control)' * facts['control']}", f"asks {facts['asks']}"]
    for heading in ("options", "options of models that sample"):
        rows = facts[heading]
        if rows:
            lines += ["", f"{heading}:"] + [_line(row, defaults=heading == "options") for row in rows]
    if facts["options"]:
        lines += ["", "in a suite: options = { OPTION = VALUE }, or sweep = { OPTION = [VALUES] }"]
    return "\n".join(lines)


def _line(row: dict[str, Any], defaults: bool) -> str:
    value, told = row["default"], "-"
    if value is not None:
        told = str(value).lower() if isinstance(value, bool) else str(value) or '""'
    shown = f"  {row['option']:15}" + (f" {told:12}" if defaults else "")
    return f"{shown} {row['allowed']:24} {row['meaning']}".rstrip()
