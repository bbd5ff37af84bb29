"""Training under real limits of memory; run as a program: what it prints is one JSON text a line.

`python -m tests.fit.memory_limits MIB ...`: for each, this process may take so many mebibytes more than it
has then; 0 for no limit.
"""

import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from generators.errors import UserError
from probes import finetune, memory
from probes.intrinsics import INTRINSICS
from probes.methods import fill_options
from probes.task import Examples, Task
from tests.probes.tiny import TinyGenerator, examples

SIDE = 192


def large(n: int, seed: int) -> Examples:
    """Pictures of SIDE pixels, of which one training step keeps some 15 MiB each."""
    small = examples(n, seed)
    x, albedo = (
        nn.functional.interpolate(t, size=(SIDE, SIDE), mode="bilinear")
        for t in (small.pictures, small.maps["albedo"])
    )
    mask = torch.ones(n, 1, SIDE, SIDE, dtype=torch.bool)
    return replace(
        small, pictures=x, maps={"albedo": albedo}, mask=mask, code={"x": x}, output=2 * albedo - 1
    )


def task() -> Task:
    """Fine-tuning on pictures of which every third has no valid pixel."""
    valid = torch.rand(16, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) > 0.3
    train = replace(large(16, 0), valid=valid & (torch.arange(16) % 3 > 0)[:, None, None, None])
    options = fill_options("finetune", {"steps": 3, "batch": 16})
    return Task(TinyGenerator(), INTRINSICS["albedo"], train, large(36, 1), options, 0, method="finetune")


def run(asked: Task) -> dict[str, Any]:
    """What came of the task, or why nothing did."""
    memory.forget()
    try:
        probe = finetune.fit(asked)
        mean = float(probe.predict(asked.validation).mean())
        probe.release()
    except UserError as error:
        return {"error": str(error), "memory": isinstance(error, MemoryError)}
    return {"details": probe.details, "mean": mean, "at_once": memory.at_once()}


def limit(mebibytes: int) -> None:
    """Let this process take so much more than it has."""
    words = Path("/proc/self/status").read_text().split()
    most = int(words[words.index("VmSize:") + 1]) * 1024 + mebibytes * 2**20 if mebibytes else -1
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def main(limits: list[int]) -> None:
    torch.set_num_threads(1)
    asked = task()
    nn.Conv2d(3, 3, 3)(torch.rand(1, 3, 8, 8)).sum().backward()  # whatever is made once is made
    torch.optim.AdamW([nn.Parameter(torch.ones(1))])
    for mebibytes in limits:
        limit(mebibytes)
        found = run(asked)
        limit(0)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]])
