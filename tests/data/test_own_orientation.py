"""How the pictures of a folder lie by EXIF: turned upright together with their maps, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.data.own.load import load, opened
from benchmarks.data.own.read import read_scene
from benchmarks.data.own.settings import FILE
from benchmarks.predict.reading import ORIENTATION, read_picture
from generators.errors import UserError
from tests.data.own_folder import ALL, SIZE, Arrays, rooms_as_arrays, said, write, write_settings

NO_MAPS = dict.fromkeys(ALL)
MASK = {"pattern": '"mask/{stem}.png"', "valid": '"nonzero"'}


@pytest.fixture(scope="module")
def rooms() -> list[Arrays]:
    return rooms_as_arrays()


def with_mask(i: int, maps: Arrays) -> None:
    """A mask without the upper part."""
    maps["mask"] = np.full((SIZE, SIZE), 255, np.uint8)
    maps["mask"][:20] = 0


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
    with pytest.raises(UserError, match=r"(?s)rgb/scene_.*orientation is 3, that of .*\.npy 1.*upright"):
        load(name, "test", [0], 8, ["depth"])
    write_settings(tmp_path, said(depth=None, albedo=None))
    turn(tmp_path / "normal", 3)
    with pytest.raises(UserError, match=r"(?s)normal/.*pixels would turn, its axes would not"):
        load(name, "test", [0], 8, ["normal"])


def test_what_is_turned_alike_is_turned_upright(tmp_path: Path, rooms: list[Arrays]) -> None:
    name = write(tmp_path, rooms, with_mask, said(**NO_MAPS))
    upright = load(name, "test", [0], SIZE, [])
    turn(tmp_path / "rgb", 6)
    turned = load(name, "test", [0], SIZE, [])  # there is no map
    assert torch.equal(turned.pictures, upright.pictures.rot90(-1, (2, 3)))
    write_settings(tmp_path, said(**NO_MAPS, mask=MASK))
    with pytest.raises(UserError, match="orientation is 6"):
        load(name, "test", [0], SIZE, [])
    turn(tmp_path / "mask", 6)
    found = load(name, "test", [0], SIZE, [])
    assert not found.mask[..., -20:].any() and found.mask[..., :-20].all()


def test_the_file_that_does_not_lie_upright_is_named(tmp_path: Path, rooms: list[Arrays]) -> None:
    name = write(tmp_path, rooms, with_mask, said(**NO_MAPS, mask=MASK))
    turn(tmp_path / "mask", 3)
    with pytest.raises(UserError, match=r"orientation is 3, that of .*rgb.* 1\b") as refused:
        load(name, "test", [0], 8, [])
    assert f"file {tmp_path / 'mask'}" in refused.value.asked
    assert refused.value.todo == "save it upright, as the other is"
    turn(tmp_path / "rgb", 2)
    with pytest.raises(UserError, match=r"orientation is 3, that of .*rgb.* 2\b") as refused:
        load(name, "test", [0], 8, [])
    assert refused.value.todo == "save both upright"


def test_how_a_file_lies_is_found_in_the_same_reading(
    tmp_path: Path, rooms: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(*arguments: Any, **options: Any) -> Image.Image:
        seen.append(arguments)
        return opener(*arguments, **options)

    opener, seen = Image.open, list[object]()
    index = opened(write(tmp_path, rooms, with_mask, said(mask=MASK)))
    stem = index.rows["test"][0]
    monkeypatch.setattr(Image, "open", count)
    read_scene(index, "test", stem, ["normal"])
    assert len(seen) == 4  # picture, mask, and twice the normals: the halves of 16 bits


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_a_picture_knows_how_its_file_lay(tmp_path: Path, ending: str) -> None:
    picture, exif = Image.new("RGB", (4, 2)), Image.Exif()
    for said_to_lie, turn in ((1, 1), (6, 6), (9, 1)):  # Pillow turns a TIFF itself
        exif[ORIENTATION] = said_to_lie
        picture.save(tmp_path / f"a.{ending}", exif=exif)
        found = read_picture(tmp_path / f"a.{ending}")
        assert (found.turn, found.size) == (turn, (4, 2) if turn == 6 else (2, 4))
