"""How the pictures of a folder lie by EXIF: turned upright together with their maps, or refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.data.own.load import load
from benchmarks.data.own.settings import FILE
from benchmarks.predict.reading import ORIENTATION, read_picture
from generators.errors import UserError
from tests.data.own_folder import ALL, SIZE, Arrays, rooms_as_arrays, said, write, write_settings


@pytest.fixture(scope="module")
def rooms() -> list[Arrays]:
    return rooms_as_arrays()


def turn(path: Path, orientation: int) -> None:
    """Say of all pictures of a folder that they have to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for file in path.iterdir():
        values = read_picture(file).eight_bit()
        Image.fromarray(values).save(file, exif=exif)
    (path.parent / FILE).touch()  # the folder is looked at anew


def test_a_picture_that_is_turned_without_its_maps_is_refused(tmp_path: Path, rooms: list[Arrays]) -> None:
    name = write(tmp_path, rooms, settings=said(normal=None))
    turn(tmp_path / "rgb", 3)  # upside down: its size is the same
    with pytest.raises(UserError, match=r"(?s)orientation is 3, that of scene.*\.npy 1.*upright"):
        load(name, "test", [0], 8, ["depth"])
    write_settings(tmp_path, said(depth=None, albedo=None))
    turn(tmp_path / "normal", 3)
    with pytest.raises(UserError, match=r"(?s)normal/.*pixels would turn, its axes would not"):
        load(name, "test", [0], 8, ["normal"])


def test_what_is_turned_alike_is_turned_upright(tmp_path: Path, rooms: list[Arrays]) -> None:
    def half(i: int, maps: Arrays) -> None:
        maps["mask"] = np.full((SIZE, SIZE), 255, np.uint8)
        maps["mask"][:20] = 0

    plain = dict.fromkeys(ALL)
    name = write(tmp_path, rooms, half, said(**plain))
    upright = load(name, "test", [0], SIZE, [])
    turn(tmp_path / "rgb", 6)
    turned = load(name, "test", [0], SIZE, [])  # there is no map
    assert torch.equal(turned.pictures, upright.pictures.rot90(-1, (2, 3)))
    write_settings(tmp_path, said(**plain, mask={"pattern": '"mask/{stem}.png"', "valid": '"nonzero"'}))
    with pytest.raises(UserError, match="orientation is 6"):
        load(name, "test", [0], SIZE, [])
    turn(tmp_path / "mask", 6)
    found = load(name, "test", [0], SIZE, [])
    assert not found.mask[..., -20:].any() and found.mask[..., :-20].all()
