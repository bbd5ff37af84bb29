"""What cells of the published models cost on a GPU, by the arithmetic they do. Imports no torch.

Counted, not timed: the products of one forward pass, by torch.utils.flop_counter on the meta device
(tests/real_size/test_costs.py counts again). How fast a device does them is the reader's assumption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from generators import registry
from generators.base import GeneratorSpec
from probes.methods import method

from .cell import NO_MODEL, Cell

# TFLOP (2 per multiply-add) of one forward pass of one picture: family -> (pixels a side, TFLOP).
UNET: Mapping[str, tuple[int, float]] = {"v1": (512, 0.8033), "v2": (512, 0.8043), "v2@768": (768, 2.1491)}
VAE_ENCODE, VAE_DECODE = (512, 1.1167), (512, 2.5145)
FORWARD: Mapping[str, tuple[int, float]] = {
    "stylegan2.ffhq256": (256, 0.0298),
    "stylegan2.bedroom256": (256, 0.0298),
    "stylegan2.ffhq1024": (1024, 0.1485),
    "stylegan-xl.ffhq256": (256, 1.1949),
    "stylegan-xl.imagenet256": (256, 2.9935),
    "vqgan.ffhq256": (256, 0.2527),
    "dinov2.small": (518, 0.0934),
    "dinov2.base": (518, 0.3031),
    "dinov2.large": (518, 1.0136),
    "dinov2.giant": (518, 3.5667),
}
# Passes one training step costs: forward, and backward to activations (2), or to weights as well (3).
PASSES: Mapping[str, int] = {"finetune": 3}
RATE = 100.0  # TFLOP/s a GPU is assumed to keep up: a third of an A100 in bfloat16, by its data sheet


def _scaled(cost: tuple[int, float], side: int) -> float:
    return cost[1] * (side / cost[0]) ** 2


def _forward(spec: GeneratorSpec, side: int) -> float | None:
    """TFLOP of one pass at some pixels a side; None for a model nobody counted."""
    if spec.diffusion_steps and not spec.embedded:
        config: Mapping[str, Any] = spec.options.get("unet_config", {})
        version = "v2" if config.get("cross_attention_dim") == 1024 else "v1"
        return _scaled(UNET["v2@768" if version == "v2" and side >= 768 else version], side)
    name = spec.name.replace("-registers", "")
    return _scaled(FORWARD[name], side) if name in FORWARD else None


def _training(cell: Cell, once: float) -> float:
    """TFLOP of what is fitted, and of the autoencoder for its pictures."""
    options, asked = cell.options, method(cell.method)
    found = 0.0
    if asked.needs == "model" and asked.trains:
        steps = options["steps"] * options.get("batch", 1) if "steps" in options else 0
        found = once * (PASSES.get(cell.method, 2) * steps if steps else cell.train)
    if registry.spec(cell.model).space == "latents":
        found += _scaled(VAE_ENCODE, cell.size) * 2 * cell.train
    return found


def _predicting(cell: Cell, once: float, large: float) -> float:
    """TFLOP of the maps of validation and test pictures."""
    spec, options, side = registry.spec(cell.model), cell.options, cell.test_size or cell.size
    branches = (options.get("guidance", 1) != 1) + 1 if spec.asks else 1
    found = int(options.get("sampler_steps", 1)) * branches * (once * cell.validation + large * cell.test)
    if spec.space != "latents":
        return float(found)
    small = _scaled(VAE_ENCODE, cell.size) + _scaled(VAE_DECODE, cell.size)
    return (
        found + small * cell.validation + (_scaled(VAE_ENCODE, side) + _scaled(VAE_DECODE, side)) * cell.test
    )


def tflop(cell: Cell) -> tuple[float, float] | None:
    """TFLOP of fitting and of predicting; None where the model was not counted, or there is none.

    The predictors' and samplers' own work (labels, drawn pictures, codes of a transformer) is not in it.
    """
    if cell.model == NO_MODEL:
        return None
    spec = registry.spec(cell.model)
    once, large = _forward(spec, cell.size), _forward(spec, cell.test_size or cell.size)
    if once is None or large is None:
        return None
    return _training(cell, once), _predicting(cell, once, large)


def gpu_text(cells: Iterable[Cell], shared: Callable[[Cell], str]) -> str:
    """One line about a GPU's time on some cells; "" where none of their models was counted.

    Args:
        shared: what cells that share one training have in common, "" of one that shares none.
    """
    fitting: dict[str, float] = {}
    predicting, left_out = 0.0, 0
    for cell in cells:
        found = tflop(cell)
        if found is None:
            left_out += 1
            continue
        fitting[shared(cell) or cell.hash] = found[0]
        predicting += found[1]
    if not fitting:
        return ""
    total = sum(fitting.values()) + predicting
    more = f", {left_out} cells not counted" if left_out else ""
    work = f"{total / 1000:,.0f} PFLOP of arithmetic"
    return f"on a GPU: {work}, about {duration(total / RATE)} at an assumed {RATE:g} TFLOP/s{more}"


def duration(amount: float) -> str:
    """Seconds as a person says them."""
    if amount < 90:
        return f"{amount:.0f} s"
    return f"{amount / 60:.0f} min" if amount < 5400 else f"{amount / 3600:.1f} h"
