"""The mean map of pictures of one size, scored on pictures of another."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from benchmarks import make_cell
from benchmarks.execute import execute
from benchmarks.store import Store
from probes.controls import fit_constant
from probes.intrinsics import INTRINSICS
from probes.task import Task
from tests.probes.tiny import examples


@pytest.mark.parametrize("name", list(INTRINSICS))
def test_the_mean_map_has_the_size_of_the_pictures(name: str) -> None:
    train, test = examples(6, 0), examples(3, 1)
    probe = fit_constant(Task(None, INTRINSICS[name], train, train, {}, 0))
    assert torch.equal(probe.predict(test), probe.mean.expand(3, -1, -1, -1))  # to the last bit
    for size in (8, 40):
        mask = functional.interpolate(test.mask.float(), size=(size, size)).bool()
        found = probe.predict(type(test)(test.pictures, test.maps, mask))
        assert found.shape == (3, INTRINSICS[name].channels, size, size)
        if name == "normal":
            torch.testing.assert_close(found.norm(dim=1), torch.ones(3, size, size))
    large = functional.interpolate(probe.mean, size=(40, 40), mode="bilinear")
    assert name == "normal" or torch.equal(found[:1], large)


@pytest.mark.parametrize("method", ["constant", "pixels"])
def test_controls_are_scored_at_another_size(tmp_path: Path, method: str) -> None:
    cell = make_cell("none", "normal", method, size=16, test_size=24, train=3, validation=2, test=2)
    store = Store(tmp_path)
    store.prepare()
    assert 0 < execute(cell, store, lambda share, phase: None).scores["mean_angular_error"] < 90
