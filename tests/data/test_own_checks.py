"""What the self-checks find in a folder of one's own, and the commands `data init` and `data check`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.color import srgb
from benchmarks.data.own import spec
from benchmarks.data.own.conventions import OURS
from benchmarks.data.own.load import load
from benchmarks.data.own.settings import FILE
from benchmarks.predict.writing import png16
from generators.errors import UserError
from tests.data.own_folder import ALL, COUNT, SETTINGS, SIZE, Arrays, call, rooms_as_arrays, said, write


@pytest.fixture(scope="module")
def rooms() -> list[Arrays]:
    return rooms_as_arrays()


# What is wrong with the data.


def flipped(i: int, maps: Arrays) -> None:
    maps["normal"] = maps["normal"] * [1, -1, 1]


def turned_around(i: int, maps: Arrays) -> None:
    maps["normal"] = -maps["normal"]


def coded_albedo(i: int, maps: Arrays) -> None:
    maps["albedo"] = srgb(maps["albedo"])


def decoded_shading(i: int, maps: Arrays) -> None:
    pass  # it is linear, and declared as sRGB


def disparity(i: int, maps: Arrays) -> None:
    maps["depth"] = 1 / maps["depth"]


def millimeters(i: int, maps: Arrays) -> None:
    maps["depth"] = maps["depth"] * 1000


def holes(i: int, maps: Arrays) -> None:
    maps["depth"][3, 5] = np.nan


def zeros(i: int, maps: Arrays) -> None:
    maps["depth"][3, 5] = 0


def bright(i: int, maps: Arrays) -> None:
    maps["albedo"] = maps["albedo"] * 40


def long(i: int, maps: Arrays) -> None:
    maps["normal"] = maps["normal"] * 0.7


def small(i: int, maps: Arrays) -> None:
    maps["depth"] = maps["depth"][:32]


def no_mask(i: int, maps: Arrays) -> None:
    maps["mask"] = np.zeros((SIZE, SIZE), np.uint8)


MASKED = {"mask": {"pattern": '"mask/{stem}.png"', "valid": '"nonzero"'}}
ALONE: dict[str, Any] = {"depth": None}


@pytest.mark.parametrize(
    ("change", "changes", "fact"),
    [
        (flipped, {}, '(?s)look like "x right, y down, z towards".*ignore = ."axes"'),
        (turned_around, ALONE, "would if -z of ours pointed towards it"),
        (coded_albedo, {}, "albedo is declared linear but looks srgb"),
        (decoded_shading, {"shading": {"space": '"srgb"'}}, "shading is declared srgb but looks linear"),
        (disparity, {}, "depth looks like disparity"),
        (disparity, {"normal": None}, "depth looks like disparity"),
        (millimeters, {}, "millimeters read as meters"),
        (lambda i, m: None, {"depth": {"unit": '"mm"'}}, "meters read as millimeters"),
        (holes, {}, '(?s)1 of its depths are not a number.*invalid = ."nan"'),
        (zeros, {}, '(?s)1 of its depths are 0 or less.*invalid = ."zero"'),
        (bright, {}, r"(?s)not in \[0, 1\].*scale"),
        (long, {}, "no unit vectors"),
        (small, {}, "64 x 32 pixels, its picture 64 x 64"),
        (no_mask, MASKED, "no pixel of it is valid"),
    ],
)
def test_wrong_data_is_refused(
    tmp_path: Path, rooms: list[Arrays], change: Any, changes: dict[str, Any], fact: str
) -> None:
    name = write(tmp_path, rooms, change, said(**changes))
    wanted = [i for i in ALL if i in spec(name).intrinsics]
    with pytest.raises(UserError, match=fact) as caught:
        load(name, "test", [0], 8, wanted)
    assert caught.value.todo


def test_a_check_can_be_overruled_and_says_so(
    tmp_path: Path, rooms: list[Arrays], capsys: pytest.CaptureFixture[str]
) -> None:
    name = write(tmp_path, rooms, flipped, said(top={"ignore": '["axes"]'}))
    load(name, "test", [0], 8, ALL)
    assert "y down" in capsys.readouterr().err
    load(name, "test", [0], 8, ALL)  # once is enough
    assert capsys.readouterr().err == ""


def test_albedo_alone_cannot_be_known(tmp_path: Path, rooms: list[Arrays]) -> None:
    name = write(tmp_path, rooms, coded_albedo, said(shading=None))
    result = call("check", name)
    assert result.exit_code == 0, result.output
    assert "with albedo alone, nobody can tell linear from sRGB" in result.output


@pytest.mark.parametrize(
    ("break_", "fact"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:200]), "cannot be read"),
        (lambda p: np.save(p, np.array([{"a": 1}] * 4, object)), "cannot be read"),
        (lambda p: np.save(p, np.zeros((4, 4, 2))), "shape"),
        (lambda p: np.save(p, np.zeros((4, 4), complex)), "complex"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, rooms: list[Arrays], break_: Any, fact: str) -> None:
    name = write(tmp_path, rooms)
    for path in (tmp_path / "depth").iterdir():
        break_(path)
    with pytest.raises(UserError, match=rf"(?s)depth/scene.*{fact}"):
        load(name, "test", [0], 8, ALL)


@pytest.mark.parametrize("rows", [[], [4], [-1]])
def test_rows_that_are_not_there(tmp_path: Path, rooms: list[Arrays], rows: list[int]) -> None:
    with pytest.raises(UserError, match="it has 4"):
        load(write(tmp_path, rooms), "test", rows, 8, ALL)


# The commands.


def test_init_asks_for_conventions_and_check_tells_what_it_found(tmp_path: Path, rooms: list[Arrays]) -> None:
    name = write(tmp_path, rooms)
    (tmp_path / FILE).unlink()
    made = call("init", tmp_path)
    assert made.exit_code == 0, made.output
    text = (tmp_path / FILE).read_text()
    for table, values in SETTINGS.items():
        if "pattern" in values:
            assert f"[{table}]\npattern = {values['pattern']}  # fits {COUNT} files" in text
    assert "uint16 (64 64 3)" in text and "float32 (64 64 1)" in text
    with pytest.raises(UserError, match="is not declared"):
        spec(name)
    answers = {"axes": OURS, "encoding": "0..1", "kind": "z", "unit": "m"}
    for key, value in answers.items():
        text = text.replace(f'{key} = "?"', f'{key} = "{value}"')
    head, tail = text.split("[albedo]")
    text = (
        head.replace('space = "?"', 'space = "srgb"')
        + "[albedo]"
        + tail.replace('space = "?"', 'space = "linear"')
    )
    (tmp_path / FILE).write_text(text)
    result = call("check", name)
    assert result.exit_code == 0, result.output
    assert "passed  axes" in result.output and "passed  colors" in result.output
    again = call("init", tmp_path)
    assert isinstance(again.exception, UserError) and "is there already" in str(again.exception)
    assert (tmp_path / FILE).read_text() == text


def test_init_finds_splits_and_suffixes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for stem in ("001", "002"):
            for kind in ("rgb", "normal", "depth"):
                Image.new("RGB", (4, 4)).save(tmp_path / split / f"{stem}_{kind}.png")
    assert call("init", tmp_path).exit_code == 0
    text = (tmp_path / FILE).read_text()
    for kind, word in {"picture": "rgb", "normal": "normal", "depth": "depth"}.items():
        assert f'[{kind}]\npattern = "{{split}}/{{stem}}_{word}.png"  # fits 4 files' in text
    assert 'by = "folders"\ntrain = "train"\nvalidation = "val"' in text


def test_maps_beside_pictures_are_no_pictures(
    tmp_path: Path, rooms: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i, maps in enumerate(rooms):
        Image.fromarray(np.rint(maps["rgb"] * 255).astype(np.uint8)).save(f"photos/{i:04}.png")
        Path(f"photos/{i:04}_depth.png").write_bytes(png16(np.rint(maps["depth"] * 1000).astype(np.uint16)))
    assert call("init", "photos").exit_code == 0
    path = Path("photos", FILE)
    text = path.read_text()
    for key, value in {"space": "srgb", "kind": "z", "unit": "mm"}.items():
        text = text.replace(f'{key} = "?"', f'{key} = "{value}"')
    path.write_text(text)
    name = text.partition("intrinsic-bench data check ")[2].partition("\n")[0]
    assert name == f"own:{tmp_path / 'photos'}"
    assert call("check", name).exit_code == 0
    assert spec(name).counts == {"train": 8, "validation": 1, "test": 1}


def test_check_knows_any_data_set(tmp_path: Path) -> None:
    result = call("check", "rooms")
    assert result.exit_code == 0 and "passed  axes" in result.output and "passed  colors" in result.output
    assert isinstance(call("check", f"own:{tmp_path}/none").exception, UserError)


def test_a_flipped_map_fails_the_check(tmp_path: Path, rooms: list[Arrays]) -> None:
    result = call("check", write(tmp_path, rooms, flipped))
    assert result.exit_code == 2 and "wrong   axes" in result.output
