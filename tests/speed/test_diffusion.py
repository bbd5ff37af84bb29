"""What the peak of float32 on a GPU is of, and what the title of the ladder says of it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.speed import diffusion, meters


@pytest.mark.parametrize(("device", "says"), [("cuda:0", True), ("cpu", False)])
def test_the_title_says_what_the_peak_is_of(device: str, says: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(bench: Any, rungs: list[diffusion.Rung], *rest: int) -> dict[str, diffusion.Measured]:
        return {rung.name: diffusion.Measured([0.5], 2**30) for rung in rungs}

    monkeypatch.setattr(diffusion, "measure", measure)
    monkeypatch.setattr(diffusion, "matmul_peak", lambda device, dtype: 1e12)
    monkeypatch.setattr(diffusion, "flops", lambda bench, encodes: 10**12)
    monkeypatch.setattr(diffusion, "environment", lambda device: {"device": device})
    bench: Any = SimpleNamespace(
        target=torch.empty(1), pictures=torch.empty(1, 3, 8, 8), model=SimpleNamespace(device=device)
    )
    title = str(diffusion.table(bench, diffusion.ladder(device, False)[:1], 1, 1).title)
    assert ("float32 with TF32" in title) == says == ("seconds of the processor" not in title)


def test_products_are_timed_with_tf32_as_convolutions_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(meters, "SIDES", {"cpu": (8,)})
    monkeypatch.setattr(meters, "wait", lambda device: seen.append(torch.backends.cuda.matmul.allow_tf32))
    before = torch.backends.cuda.matmul.allow_tf32
    meters.matmul_peak("cpu", torch.float32, 1)
    assert seen and all(seen) and torch.backends.cuda.matmul.allow_tf32 == before
