"""What a generator draws is looked at before a number or a file is made of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from benchmarks import make_cell, quality
from benchmarks.cache import Cache
from benchmarks.cli import main
from benchmarks.data import samples
from benchmarks.data.drawn import load as drawn
from benchmarks.data.drawn.sampler import parse
from benchmarks.session import Session
from generators import registry
from generators.base import Sample
from generators.errors import UserError
from generators.sampled import check_sample

from .fakes import SPEC, Fake

MODEL = "stylegan2.rooms64-random"


class Drawer(Fake):
    """Draws zeros, with NaN in one value of its last picture."""

    def __init__(self) -> None:
        super().__init__(registry.spec(MODEL))

    def sample(self, seeds: Any, captions: Any = None) -> Sample:
        images = torch.zeros(len(seeds), 3, 64, 64)
        images[-1, 0, 0, 0] = torch.nan
        return Sample(images, {"w": torch.zeros(len(seeds), 4)})


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda name, device="cpu": Drawer())


def frechet() -> object:
    cell = make_cell(MODEL, "none", "frechet", {"samples": 4, "reference": 4})
    return list(quality.drawn_pictures(cell, Session(Cache(None))))


def own() -> object:
    return samples.draw(registry.load(MODEL), "test", range(4))


def shown() -> object:
    return drawn._draw(registry.load(MODEL), parse(f"drawn:{MODEL}"), "test", range(4))


@pytest.mark.parametrize("use", [frechet, own, shown])
@pytest.mark.usefixtures("broken")
def test_no_picture_is_made_of_what_is_no_number(use: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=f"(?s)1 of them hold NaN.*check {MODEL}"):
        use()


@pytest.mark.usefixtures("broken")
def test_no_file_is_made_of_what_is_no_number(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["draw", MODEL, "--count", "2", "--out", str(tmp_path / "out")])
    assert result.exit_code != 0 and "NaN or infinity" in f"{result.output}{result.exception}"
    assert not list((tmp_path / "out").glob("*.png"))


def sample(images: object) -> Sample:
    return Sample(images, {"w": torch.zeros(2, 1)})  # type: ignore[arg-type]


def test_a_sound_sample_is_given_back() -> None:
    good = sample(torch.zeros(2, 3, 16, 16))
    assert check_sample(good, SPEC, 2) is good


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(1, 3, 16, 16), r"shape \(1, 3, 16, 16\); expected \(2, 3, 16, 16\)"),
        (torch.zeros(2, 1, 16, 16), "shape"),
        (torch.zeros(2, 3, 16, 32), "shape"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "torch.uint8"),
        (torch.full((2, 3, 16, 16), -torch.inf), "2 of them"),
        (torch.zeros(2, 3, 16, 16).numpy(), "a ndarray"),
        ([torch.zeros(3, 16, 16)] * 2, "a list"),
    ],
)
def test_what_no_picture_is_made_of(images: Tensor, said: str) -> None:
    with pytest.raises(UserError, match=f"(?s){said}.*check fake.good"):
        check_sample(sample(images), SPEC, 2)


def test_a_sample_has_pictures_and_a_code() -> None:
    with pytest.raises(UserError, match="a NoneType"):
        check_sample(torch.zeros(2, 3, 16, 16), SPEC, 2)
    with pytest.raises(UserError, match="code"):
        check_sample(Sample(torch.zeros(2, 3, 16, 16), None), SPEC, 2)  # type: ignore[arg-type]
