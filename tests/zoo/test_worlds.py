"""Controls and second worlds of the zoo: shuffled blocks, small weights, and the commands that use them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.cli import main
from benchmarks.data.rooms.stock import open_stock, render_shard
from generators import registry
from generators.zoo.scramble import scrambled
from generators.zoo.shrink import LARGEST, shrink_file, shrunk


def test_blocks_keep_their_pixels_and_lose_their_places() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 24), np.uint8)
    mixed = scrambled(rgb)

    def blocks(x: np.ndarray) -> list[set[bytes]]:
        corners = [(i, j) for i in range(0, 16, 8) for j in range(0, 24, 8)]
        return [{p[:, i : i + 8, j : j + 8].tobytes() for i, j in corners} for p in x]

    assert blocks(mixed) == blocks(rgb) and not np.array_equal(mixed, rgb)


def test_the_order_of_a_picture_is_its_own_and_does_not_change() -> None:
    same = np.broadcast_to(np.arange(16 * 16, dtype=np.uint8).reshape(1, 1, 16, 16), (4, 3, 16, 16))
    mixed = scrambled(same, block=4)
    assert np.array_equal(mixed, scrambled(same, block=4))
    assert np.array_equal(mixed[:2], scrambled(same[:2], block=4))
    assert not np.array_equal(mixed[0], mixed[1])
    with pytest.raises(ValueError, match="whole blocks"):
        scrambled(same, block=5)


def test_small_weights_are_near_and_what_does_not_fit_stays() -> None:
    torch.manual_seed(0)
    state = {"w": torch.randn(64, 64), "b": torch.randn(64), "big": torch.full((2, 2), 2 * LARGEST)}
    state |= {"n": torch.arange(3)}
    small = shrunk(state)
    assert {k: v.dtype for k, v in small.items()} == {
        "w": torch.float8_e4m3fn, "b": torch.float16, "big": torch.float16, "n": torch.int64,
    }  # fmt: skip
    assert (small["w"].float() - state["w"]).norm() / state["w"].norm() < 0.04
    assert torch.equal(small["big"].float(), state["big"])


def test_a_file_keeps_what_it_says_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(8, 8)}, str(path), {"format": "pt", "class": "Generator"})
    found = CliRunner().invoke(main, ["zoo", "shrink", str(path)])
    assert found.exit_code == 0, found.output
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "class": "Generator"}
        assert torch.equal(file.get_tensor("w").float(), torch.ones(8, 8))
    before, after = shrink_file(path)
    assert before == after  # once is enough


@pytest.mark.parametrize("family", ["sd", "stylegan2", "stylegan-xl", "vqgan", "dinov2"])
def test_every_family_has_its_control(family: str) -> None:
    spec = registry.spec(f"{family}.rooms64-scrambled")
    assert spec.control == "scrambled" and 0 < (spec.trained or 0) < 1
    twins = [s for s in registry.specs() if s.name.startswith(f"{family}.rooms64-s") and not s.control]
    assert any(abs((s.trained or 0) - (spec.trained or 0)) < 1e-9 for s in twins)


def test_a_control_says_whose_training_it_shares(tmp_path: Path) -> None:
    found = CliRunner().invoke(main, ["zoo", "train", str(tmp_path), "unet", "--world", "scrambled"])
    assert found.exit_code == 2 and "--until STAGE" in found.output
    asked = ["zoo", "train", str(tmp_path), "network", "--world", "scrambled", "--until", "s1"]
    assert "no" in CliRunner().invoke(main, asked).output


def test_stocks_of_two_worlds_share_a_folder(tmp_path: Path) -> None:
    for world in ("rooms", "objects"):
        render_shard(tmp_path, 0, 4, 16, world)
    rooms, objects = open_stock(tmp_path), open_stock(tmp_path, "objects")
    assert len(rooms.planes) == len(objects.planes) == 4
    assert not np.array_equal(rooms.planes, objects.planes)
