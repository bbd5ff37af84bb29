"""The methods that live above the probes: they need data, predictors or metrics. No torch is imported."""

from probes.methods import Method, register

register("supervised", Method("benchmarks.predictors.rooms:fit", {}, "picture", "supervised", control=True))
register(
    "frechet",
    Method(
        "benchmarks.quality:measure",
        {"samples": 2048, "reference": 4096, "steps": 12, "guidance": 1.0},
        "samples",
        "Frechet distance",
    ),
)
