"""The units on a model card are those of the depth that was asked for."""

from dataclasses import asdict

import pytest

from benchmarks import make_cell
from benchmarks.card import card
from benchmarks.cell import Record
from generators import registry
from probes.adapters import LORA
from tests.adapters.small import facts

MODEL = "sd.rooms64-s5"


@pytest.mark.parametrize(("alignment", "head"), [("unit", "| RMS ↓ |"), ("none", "| RMS (m) ↓ |")])
def test_relative_depth_has_no_unit(alignment: str, head: str) -> None:
    cell = make_cell(MODEL, "depth", "lora", alignment=alignment, train=8, validation=4, test=3)
    record = Record(cell, "done", scores={"rms": 0.2}, per_image={"rms": [0.1, 0.2, 0.3]})
    known = facts(MODEL, intrinsic="depth", cell=asdict(cell))
    assert head in card(known, registry.spec(MODEL), "ada/depth", record, frozenset({LORA}))
