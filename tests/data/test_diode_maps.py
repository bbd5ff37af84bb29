"""DIODE's maps: units, axes and masks, what is read, what is wrong with a file, and the check of the axes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.data import describe
from benchmarks.data.diode import splits, tree
from benchmarks.data.diode.check import check
from benchmarks.data.diode.load import load, near_jumps
from benchmarks.data.diode.names import parse
from benchmarks.data.load import groups_of, load_pictures
from generators.errors import UserError
from tests.data.diode_tree import room, scan_folder, stem_of, write


def file(root: Path, ending: str, scan: str = "00019/00183", i: int = 0) -> Path:
    """One file of a validation scan indoors."""
    return scan_folder(root, "val", "indoors", scan) / f"{stem_of('val', 'indoors', scan, i)}{ending}"


def row_of(name: str, scan: str = "00019/00183", i: int = 0) -> int:
    """The test row of one picture."""
    options, stem = parse(name), stem_of("val", "indoors", scan, i)
    there = describe(name).counts["test"]
    return [e.stem for e in splits.rows(tree.read_tree(), options, "test", range(there))].index(stem)


# Maps.


def test_maps_are_in_our_axes_units_and_shapes(full: Path) -> None:
    found = load_pictures("diode", "test", range(6), 48)
    assert found.pictures.shape == (6, 3, 48, 48) and found.maps["normal"].shape == (6, 3, 48, 48)
    assert found.pictures.min() >= -1 and found.pictures.max() <= 1
    assert found.mask.shape == (6, 1, 48, 48) and found.mask.all() and found.mask_of("normal").all()
    assert (found.maps["normal"].norm(dim=1) - 1).abs().max() < 1e-5
    assert groups_of("diode", "test", range(6)) == found.groups
    # The rooms' floor is below, its normal up; the middle square of 128x96 is 96x96.
    maps = room(17.0 + 11 * 15)  # the first validation picture that was written
    row = row_of("diode")
    depth = found.maps["depth"][row, 0]
    cut = torch.from_numpy(maps["depth"][:, 16:112, 0])
    assert torch.equal(depth, cut[1::2, 1::2])  # nearest to the middle of each 2 x 2
    normal = (
        torch.from_numpy(maps["normal"][:, 16:112]).unflatten(0, (48, 2)).unflatten(2, (48, 2)).mean((1, 3))
    )
    expected = torch.nn.functional.normalize(normal, dim=-1)
    assert torch.allclose(found.maps["normal"][row].movedim(0, -1), expected, atol=1e-5)
    assert found.maps["normal"][row, 1, -1].mean() > 0.5  # the floor


def test_the_official_size_is_read(root: Path) -> None:
    """1024x768, float64 mask, as in the archives."""
    maps = room(40.0, 1024, 768)
    maps["mask"] = maps["mask"].astype(np.float64)
    folder = scan_folder(root, "val", "indoors", "00019/00183")
    write(folder, stem_of("val", "indoors", "00019/00183", 0), maps)
    found = load("diode:val771", "test", [0], 64)
    assert found.mask.all() and check("diode:val771")["val"].angle < 1


def test_only_what_is_asked_is_read(full: Path) -> None:
    for path in full.rglob("*_normal.npy"):
        path.write_bytes(b"broken")
    assert set(load("diode", "test", [0], 16, ["depth"]).maps) == {"depth"}
    for path in full.rglob("*_depth.npy"):
        path.write_bytes(b"broken")
    found = load("diode", "test", [0, 1], 16, ())
    assert found.maps == {} and found.mask.all() and found.pictures.shape == (2, 3, 16, 16)


def test_pictures_do_not_depend_on_their_batch(full: Path) -> None:
    every, one = load("diode", "test", range(6), 24), load("diode", "test", [3], 24)
    assert torch.equal(one.pictures[0], every.pictures[3])
    assert torch.equal(one.maps["normal"][0], every.maps["normal"][3])


def test_invalid_pixels_never_leak(full: Path) -> None:
    """Garbage where the mask is 0 or the normal is 0 changes no valid pixel."""
    row = row_of("diode")
    mask = np.ones((96, 128), np.float32)
    mask[20:61, 30:77] = 0
    depth, normal = np.load(file(full, "_depth.npy")), np.load(file(full, "_normal.npy"))
    results = []
    for garbage in (0.0, 1e30, np.nan, -7.0):
        np.save(file(full, "_depth.npy"), np.where(mask[..., None] == 1, depth, np.float32(garbage)))
        np.save(file(full, "_depth_mask.npy"), mask)
        np.save(
            file(full, "_normal.npy"), np.where(mask[..., None] == 1, normal, 0 if garbage == 0 else np.nan)
        )
        results.append(load("diode", "test", [row], 40))
    for found in results:
        assert torch.equal(found.mask, results[0].mask) and not found.mask.all()
        assert torch.equal(found.maps["depth"], results[0].maps["depth"])
        assert torch.equal(found.maps["normal"], results[0].maps["normal"])
        assert torch.equal(found.mask_of("normal"), results[0].mask_of("normal"))
        assert found.maps["depth"][found.mask].min() > 0
        assert torch.isfinite(found.maps["depth"]).all() and torch.isfinite(found.maps["normal"]).all()


def test_depth_is_eroded_at_its_jumps_and_clipped(full: Path) -> None:
    depth = np.full((96, 128, 1), 2.0, np.float32)
    depth[:, 64:] = 9.0
    np.save(file(full, "_depth.npy"), depth)

    def at(options: str) -> tuple[torch.Tensor, torch.Tensor]:
        name = f"diode:maps=depth{options}"
        found = load(name, "test", [row_of(name)], 96, ["depth"])
        return found.maps["depth"][0, 0], found.mask[0, 0]

    plain, mask = at("")
    assert mask.all() and plain[0, 47] == 2 and plain[0, 48] == 9
    _, eroded = at(",erode=16")  # 2 pixels of this eighth
    assert (~eroded[0]).nonzero().flatten().tolist() == [46, 47, 48, 49]
    clipped, mask = at(",clip=5")
    assert mask.all() and clipped.max() == 5 and clipped[0, 47] == 2


def test_a_slope_is_no_jump() -> None:
    depth = torch.linspace(2, 4, 64).expand(1, 1, 64, 64)
    assert not near_jumps(depth, torch.ones_like(depth, dtype=torch.bool), 2).any()
    hole = depth.clone()
    hole[0, 0, 30, 30] = 0.0
    mask = hole > 0
    assert not near_jumps(hole, mask, 2).any()  # an invalid neighbor is none


# What is wrong.


def test_a_mask_of_all_zeros_names_the_file(full: Path) -> None:
    np.save(file(full, "_depth_mask.npy"), np.zeros((96, 128), np.float32))
    with pytest.raises(UserError, match="its mask is all zeros") as caught:
        load("diode", "test", [row_of("diode")], 16, ["depth"])
    assert str(file(full, "_depth.npy")) in caught.value.asked
    assert str(file(full, "_depth_mask.npy")) in caught.value.known


def test_normals_of_all_zeros_name_the_file(full: Path) -> None:
    check("diode")
    path = file(full, "_normal.npy")
    np.save(path, np.zeros((96, 128, 3), np.float32))
    with pytest.raises(UserError, match="all zeros") as caught:
        load("diode", "test", [row_of("diode")], 16, ["normal"])
    assert str(path) in caught.value.asked


def test_nothing_valid_in_the_middle_square(full: Path) -> None:
    mask = np.zeros((96, 128), np.float32)
    mask[:, :8] = 1
    np.save(file(full, "_depth_mask.npy"), mask)
    with pytest.raises(UserError, match="nothing of its middle square is valid"):
        load("diode", "test", [row_of("diode")], 16, ["depth"])


@pytest.mark.parametrize(
    ("ending", "content", "wrong"),
    [
        ("_depth.npy", b"\x93NUMPY half", "cannot be read"),
        ("_depth_mask.npy", b"x", "cannot be read"),
        ("_depth.npy", np.ones((96, 100, 1), np.float32), "it holds"),
        ("_depth.npy", np.ones((96, 128, 3), np.float32), "it holds"),
        ("_depth.npy", np.ones(96, np.float32), "it holds"),
        ("_depth.npy", np.full((96, 128), np.inf, np.float32), "no pixel that its mask calls valid"),
        ("_depth.npy", np.ones((48, 64, 1), np.float32), "its shape is"),
        ("_depth_mask.npy", np.array([["a"]]), "it holds"),
        ("_normal.npy", np.ones((96, 128), np.float32), "it holds"),
        ("_normal.npy", np.full((96, 128, 3), 0.9, np.float32), "they are 1.56 long"),
        (".png", b"\x89PNG", "cannot be read"),
        (".png", Image.new("RGB", (50, 50)), "it is 50x50"),
    ],
)
def test_broken_files_are_named(full: Path, ending: str, content: object, wrong: str) -> None:
    check("diode")
    path = file(full, ending)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, Image.Image):
        content.save(path)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=wrong) as caught:
        load("diode", "test", range(6), 16)
    assert path.name.split(".")[0].removesuffix("_mask") in caught.value.asked


def test_an_object_array_is_not_unpickled(full: Path) -> None:
    with file(full, "_depth.npy").open("wb") as out:
        np.save(out, np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="cannot be read"):
        load("diode", "test", range(6), 16, ["depth"])


# Axes.


def turn_normals(root: Path, signs: tuple[int, int, int]) -> None:
    for path in root.rglob("*_normal.npy"):
        np.save(path, np.load(path) * np.array(signs, np.float32))


def test_the_axes_are_checked_once(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = check("diode")
    assert set(fits) == {"train", "val"}
    assert all(fit.flipped == "" and fit.angle < 1 and fit.pixels > 1000 for fit in fits.values())
    tree._memory.clear()
    monkeypatch.setattr("benchmarks.data.diode.check._fit", lambda *_: pytest.fail("looked at again"))
    assert check("diode:erode=3") == fits


@pytest.mark.parametrize(
    ("signs", "which", "flip"),
    [
        ((1, -1, 1), "the y axis is flipped", "y"),
        ((1, 1, -1), "the z axis is flipped", "z"),
        ((-1, 1, 1), "the x axis is flipped", "x"),
        ((1, -1, -1), "the y and z axes are flipped", "yz"),
    ],
)
def test_flipped_normals_are_named_and_can_be_declared(
    full: Path, signs: tuple[int, int, int], which: str, flip: str
) -> None:
    turn_normals(full, signs)
    with pytest.raises(UserError, match=which) as caught:
        load("diode:indoors", "test", [0], 16)
    assert f"'diode:indoors,flip={flip}'" in caught.value.todo
    assert load("diode:indoors", "test", [0], 16, ["depth"]).mask.all()
    found = load(f"diode:flip={flip}", "test", [row_of("diode")], 48)
    assert found.maps["normal"][0, 1, -1].mean() > 0.5


def test_turning_what_is_right_is_refused(full: Path) -> None:
    with pytest.raises(UserError, match="the y axis is flipped") as caught:
        load("diode:flip=y", "test", [0], 16)
    assert "'diode'" in caught.value.todo


def test_normals_of_other_pictures_do_not_belong_to_the_depth(full: Path) -> None:
    for i, path in enumerate(sorted(full.rglob("*_normal.npy"))):
        random = np.random.default_rng(i).normal(size=(96, 128, 3))
        np.save(path, (random / np.linalg.norm(random, axis=-1, keepdims=True)).astype(np.float32))
    with pytest.raises(UserError, match="they do not belong to the depth"):
        load("diode", "test", [0], 16)


def test_too_little_to_compare(full: Path) -> None:
    for path in full.rglob("*_depth_mask.npy"):
        mask = np.zeros((96, 128), np.float32)
        mask[40:44, 60:64] = 1
        np.save(path, mask)
    with pytest.raises(UserError, match="fewer than 200 pixels"):
        check("diode")


def test_laser_noise_does_not_look_like_flipped_axes(full: Path) -> None:
    """Three millimeters at two to six meters, at an eighth of the size that the noise is measured at."""
    rng = np.random.default_rng(5)
    for path in full.rglob("*_depth.npy"):
        depth = np.load(path)
        np.save(path, depth + rng.normal(0, 0.003, depth.shape).astype(np.float32))
    assert all(fit.flipped == "" and fit.angle < 20 for fit in check("diode").values())
