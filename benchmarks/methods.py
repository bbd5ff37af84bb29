"""The methods that live above the probes: they need data, predictors or metrics. No torch is imported."""

import hashlib
from pathlib import Path

from probes.methods import Method, register

from .predictors.registry import identity

NETWORK = Path(__file__).parent / "predictors" / "rooms.safetensors"

PREDICTOR = "rooms-network"  # whose maps the method "predictor" gives unless told otherwise


def network_hash() -> str:
    """Which supervised network is installed: it decides its own maps and every Frechet distance."""
    return hashlib.sha256(NETWORK.read_bytes()).hexdigest()[:12] if NETWORK.exists() else "missing"


_network = network_hash()
register(
    "supervised",
    Method(
        "benchmarks.predictors.rooms:fit",
        {"network": identity(PREDICTOR)},
        "picture",
        "supervised",
        control=True,
        trains=False,
    ),
)
register(
    "predictor",
    Method(
        "benchmarks.predictors.labeling:fit",
        {"predictor": PREDICTOR, "identity": ""},  # the identity is filled in: it decides the maps
        "picture",
        "predictor",
        control=True,
        trains=False,
    ),
)
register(
    "frechet",
    Method(
        "benchmarks.quality:measure",
        {"samples": 2048, "reference": 4096, "steps": 12, "guidance": 1.0, "network": _network},
        "samples",
        "Frechet distance",
        extras={
            "second": "",  # another feature space (benchmarks.features), "" for none
            "second_weights": "",  # identity of its weights, which decide the numbers
            "precision": "float32",  # "bfloat16": a diffusion model's products in it, features in float32
        },
    ),
)
