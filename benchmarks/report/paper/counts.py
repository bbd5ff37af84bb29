"""Parameter counts of the paper's models, counted on their architectures; needs torch, but no weights.

python -m benchmarks.report.paper results/paper/counts.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generators import registry
from generators.errors import UserError
from generators.plain import parse_json

from .layout import Counts
from .worlds import PAPER

RANK = 8  # that LoRA is counted at
KEPT = ("parameters", "lora_parameters", "transformer", "head_parameters")
COMMAND = "python -m benchmarks.report.paper results/paper/counts.json"


def count_models() -> dict[str, dict[str, int]]:
    """Model -> its counts, of those KEPT that its family tells."""
    found = {}
    for name in sorted(set(PAPER.models.values())):
        spec = registry.spec(name)
        told: dict[str, Any] = dict(registry.family_module(name).count(spec))
        found[name] = {key: int(told[key]) for key in KEPT if key in told}
    return found


def write_counts(path: Path) -> Path:
    """Writes the counts as JSON, to a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"command": COMMAND, "models": count_models()}, indent=1) + "\n"
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
    return path


def read_counts(path: Path) -> Counts:
    """Counts by model, none where there is no file; raises UserError on a broken one."""
    if not path.exists():
        return {}
    try:
        models = parse_json(path.read_text(encoding="utf-8"))["models"]
        found = {name: {key: _whole(value) for key, value in told.items()} for name, told in models.items()}
        for told in found.values():
            _ = told["parameters"], told["lora_parameters"]
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise UserError(
            f"the parameter counts {path}", f"it cannot be read: {type(error).__name__}: {error}", "",
            f"count again: {COMMAND}",
        ) from error  # fmt: skip
    return found


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{repr(value)[:100]} is no count")
    return value


def lora_share(counts: Counts, model: str) -> dict[str, float]:
    """LoRA's share of a model's parameters, counted on the architecture, and what it is a share of."""
    told = counts.get(model)
    if not told:
        return {}
    whole = told["parameters"]
    return {"trainable_percent": 100 * told["lora_parameters"] / whole, "parameters": whole}


def millions(counts: Counts, model: str) -> dict[str, float]:
    """Millions of parameters; VQGAN's with its transformer, as the paper counts them."""
    told = counts.get(model)
    if not told:
        return {}
    total = told["parameters"] + told.get("transformer", 0)
    return {"trainable_m": told["lora_parameters"] / 1e6, "total_m": total / 1e6}


def at_rank(told: Mapping[str, float], rank: float) -> dict[str, float]:
    """LoRA's parameters, which are proportional to its rank, from those at the rank they were counted at."""
    trainable, whole = told["lora_parameters"] * rank / RANK, told["parameters"]
    return {"trainable_m": trainable / 1e6, "trainable_percent": 100 * trainable / whole, "parameters": whole}
