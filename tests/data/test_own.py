"""A folder of one's own: what is declared is read, what is not is asked for, what is wrong is found."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.color import srgb
from benchmarks.data import ABSENT, canonical_name
from benchmarks.data import own as own_module
from benchmarks.data.load import Pictures
from benchmarks.data.own import index as index_module
from benchmarks.data.own import needs, spec
from benchmarks.data.own.conventions import OURS, decode_normals, parse_axes, ray_lengths, say_axes, to_linear
from benchmarks.data.own.files import read_array
from benchmarks.data.own.index import folder_of
from benchmarks.data.own.load import groups, load, opened
from benchmarks.data.own.settings import FILE, read_settings
from benchmarks.predict.writing import png16
from generators.errors import UserError
from tests.data.own_folder import (
    ALL,
    SETTINGS,
    SIZE,
    Arrays,
    call,
    rooms_as_arrays,
    said,
    write,
    write_settings,
)


@pytest.fixture(scope="module")
def rooms() -> list[Arrays]:
    return rooms_as_arrays()


def everything(name: str, size: int = SIZE) -> Pictures:
    return load(name, "test", range(spec(name).counts["test"]), size, ALL)


def number(name: str, split: str, row: int) -> int:
    """Which of the rooms a row is."""
    return int(opened(name).rows[split][row].split("-")[1])


# What is read.


def test_pictures_and_maps_come_back_in_our_conventions(tmp_path: Path, rooms: list[Arrays]) -> None:
    name = write(tmp_path, rooms)
    facts = spec(name)
    assert (facts.title, facts.licence, facts.resolution) == ("My rooms", "CC0", 48)
    assert facts.counts == {"train": 6, "test": 4} and facts.splits == ("train", "test")
    found = everything(name)
    assert found.mask.all() and not found.masks and found.groups == ()
    for row in range(4):
        truth = rooms[number(name, "test", row)]
        picture = (found.pictures[row].permute(1, 2, 0).numpy() + 1) / 2
        assert np.abs(picture - truth["rgb"]).max() < 0.51 / 255
        for kind in ALL:
            assert np.abs(found.maps[kind][row].permute(1, 2, 0).numpy() - truth[kind]).max() < 1e-4, kind


@pytest.mark.parametrize(
    "axes", [OURS, "x left, y down, z away", "x away, y up, z right", "X Right Y Down Z from the camera away"]
)
def test_declared_axes_are_undone(tmp_path: Path, rooms: list[Arrays], axes: str) -> None:
    matrix = parse_axes(axes, "")

    def store(i: int, maps: Arrays) -> None:
        maps["normal"] = maps["normal"] @ matrix  # its inverse is its transpose

    name = write(tmp_path, rooms, store, said(normal={"axes": f'"{axes}"'}))
    found = everything(name).maps["normal"][0].permute(1, 2, 0).numpy()
    assert np.abs(found - rooms[number(name, "test", 0)]["normal"]).max() < 1e-4


def test_units_kinds_spaces_and_scales_are_undone(tmp_path: Path, rooms: list[Arrays]) -> None:
    def store(i: int, maps: Arrays) -> None:
        maps["depth"] = maps["depth"] * 1000 * ray_lengths(SIZE, SIZE, 60)[..., None]
        maps["albedo"] = srgb(maps["albedo"] / 4)
        maps["shading"] = srgb(maps["shading"])

    settings = said(
        camera={"horizontal_fov": "60"},
        depth={"kind": '"ray"', "unit": '"mm"'},
        albedo={"space": '"srgb"', "scale": "4"},
        shading={"space": '"srgb"'},
    )
    name = write(tmp_path, rooms, store, settings)
    found = everything(name)
    truth = rooms[number(name, "test", 0)]
    for kind in ("depth", "albedo", "shading"):
        assert np.abs(found.maps[kind][0].permute(1, 2, 0).numpy() - truth[kind]).max() < 1e-3, kind


def test_what_is_coded_is_decoded_before_it_is_scaled(tmp_path: Path, rooms: list[Arrays]) -> None:
    def half(i: int, maps: Arrays) -> None:
        maps["albedo"] = np.full_like(maps["albedo"], 0.5)

    name = write(tmp_path, rooms, half, said(albedo={"space": '"srgb"', "scale": "2.0"}))
    assert everything(name).maps["albedo"] == pytest.approx(2 * 0.2140411, abs=1e-6)  # IEC 61966-2-1
    write_settings(tmp_path, said(albedo={"space": '"srgb"', "scale": "8.0"}))
    with pytest.raises(UserError, match=r"1.71233; 100% are not in \[0, 1\]"):
        everything(name)


def test_shares_of_light_beyond_1_are_scaled_where_nothing_is_coded(
    tmp_path: Path, rooms: list[Arrays]
) -> None:
    def brighter(i: int, maps: Arrays) -> None:
        maps["albedo"] = maps["albedo"] * 50

    name = write(tmp_path, rooms, brighter, said(albedo={"space": '"linear"', "scale": "0.02"}))
    truth = rooms[number(name, "test", 0)]["albedo"]
    assert np.abs(everything(name).maps["albedo"][0].permute(1, 2, 0).numpy() - truth).max() < 1e-4
    write_settings(tmp_path, said(albedo={"space": '"srgb"', "scale": "0.02"}))
    with pytest.raises(UserError, match=r"are not in \[0, 1\]"):
        everything(name)


def test_a_mask_and_marks_of_missing_depth(tmp_path: Path, rooms: list[Arrays]) -> None:
    def store(i: int, maps: Arrays) -> None:
        maps["mask"] = np.full((SIZE, SIZE), 255, np.uint8)
        maps["mask"][:, :16] = 0
        maps["depth"][:8] = 0
        maps["depth"][8:10] = np.nan
        maps["depth"][:, :4] = -1e9  # outside the mask nobody looks
        maps["normal"][-8:] = 0
        maps["albedo"][:, :4] = np.nan

    settings = said(
        mask={"pattern": '"mask/{stem}.png"', "valid": '"nonzero"'}, depth={"invalid": '["zero", "nan"]'}
    )
    found = everything(write(tmp_path, rooms, store, settings))
    expected = torch.ones(SIZE, SIZE, dtype=torch.bool)
    expected[:, :16] = False
    assert (found.mask == expected).all()
    assert set(found.masks) == {"depth", "normal"}
    deep = expected.clone()
    deep[:10] = False
    assert (found.mask_of("depth") == deep).all() and (found.maps["depth"][~found.masks["depth"]] == 0).all()
    seen = expected.clone()
    seen[-8:] = False
    assert (found.mask_of("normal") == seen).all()
    assert all(value.isfinite().all() for value in found.maps.values())


def test_the_middle_square_is_resized_and_no_depth_lies_between_two(tmp_path: Path) -> None:
    wide: Arrays = {
        "rgb": np.zeros((32, 64, 3)),
        "normal": np.broadcast_to([0.0, 0.0, 1.0], (32, 64, 3)).copy(),
        "depth": np.where(np.arange(64) % 3 < 1, 2.0, 8.0)[None, :, None].repeat(32, 0),
        "albedo": np.tile(np.array([0.0, 1.0]), 32)[None, :, None].repeat(32, 0).repeat(3, 2),
        "shading": np.full((32, 64, 3), 0.5),
    }
    wide["rgb"][:, 16:48] = 1
    name = write(tmp_path, [wide] * 5)
    found = everything(name, 16)
    assert found.pictures.shape == (2, 3, 16, 16) and (found.pictures > 0.8).all()
    assert set(found.maps["depth"].unique().tolist()) <= {2.0, 8.0}
    assert torch.allclose(found.maps["albedo"], torch.tensor(0.5))
    assert everything(name, 50).maps["normal"].shape == (2, 3, 50, 50)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_16_bits_is_read_to_the_last_bit(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (7, 5, channels)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png16(values))
    found = read_array(tmp_path / "a.png")
    assert found.dtype == np.uint16 and np.array_equal(found, np.broadcast_to(values, (7, 5, 3)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
def test_npy_keeps_its_type(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 5, 3), dtype))
    assert read_array(tmp_path / "a.npy").dtype == dtype


def test_exr_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.exr").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(UserError, match="pip install OpenEXR"):
        read_array(tmp_path / "a.exr")


def test_exr_is_read_where_its_package_is_installed(tmp_path: Path) -> None:
    package = pytest.importorskip("OpenEXR")
    values = np.random.default_rng(0).random((4, 5, 3), np.float32)
    header = {"compression": package.ZIP_COMPRESSION, "type": package.scanlineimage}
    for channels, expected in (({"RGB": values}, values), ({"Z": values[..., 0].copy()}, values[..., :1])):
        with package.File(header, channels) as file:
            file.write(str(tmp_path / "a.exr"))
        assert np.array_equal(read_array(tmp_path / "a.exr"), expected)


def test_conventions_are_their_own_inverses() -> None:
    for text in (OURS, "x down, y left, z away"):
        assert say_axes(parse_axes(text, "")) == text
    light = np.linspace(0, 1, 300, dtype=np.float32)
    assert np.abs(to_linear(srgb(light).astype(np.float32), "srgb") - light).max() < 1e-6
    black = decode_normals(np.zeros((1, 1, 3), np.uint8), "0..1")
    assert (black == 0).all() and np.allclose(
        decode_normals(np.array([[[255, 128, 128]]], np.uint8), "0..1")[0, 0], [1, 0, 0], atol=0.01
    )


# What is in which split.


def test_groups_stay_whole_and_are_named(tmp_path: Path, rooms: list[Arrays]) -> None:
    settings = said(group={"pattern": "'^(scene_[0-9])'", "of": '"scene"'})
    name = write(tmp_path, rooms, settings=settings)
    assert spec(name).groups == "scene"
    train, test = (set(groups(name, s, range(spec(name).counts[s]))) for s in ("train", "test"))
    assert len(train) == 3 and len(test) == 2 and not train & test
    assert load(name, "test", [0, 1], 8, ["depth"]).groups == groups(name, "test", [0, 1])


def test_a_group_in_two_splits_is_refused_or_told(
    tmp_path: Path,
    rooms: list[Arrays],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.txt").write_text("scene_0-0\nscene_1-2\n")
    (tmp_path / "b.txt").write_text("scene_0-1\n")
    listed = {"by": '"lists"', "train": '"a.txt"', "test": '"b.txt"', "seed": ""}
    group = {"pattern": "'^(scene_[0-9])'", "of": '"scene"'}
    name = write(tmp_path, rooms, settings=said(splits=listed, group=group))
    told = "train and test: 1 of [group] scene are in both, as scene_0"
    result = call("check", name)
    assert result.exit_code == 2 and f"wrong   groups     {told}" in result.output
    index_module.remember_checked(opened(name), [])  # as another version of the checks would have done
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r'(?s)in both.*ignore = \["groups"'):
        patch.setattr(index_module, "CHECKED", "checks-3")
        load(name, "train", [0], 8, ["depth"])
    write_settings(tmp_path, said(top={"ignore": '["groups"]'}, splits=listed, group=group))
    load(name, "train", [0], 8, ["depth"])
    assert told in capsys.readouterr().err
    listed = {"by": '"lists"', "train": '"a.txt"', "validation": '"b.txt"', "test": "", "seed": ""}
    write_settings(tmp_path, said(splits=listed, group=group))
    load(name, "train", [0], 8, ["depth"])
    assert f"odd     groups     {told.replace('test', 'validation')}" in capsys.readouterr().err
    (tmp_path / "b.txt").write_text("scene_0-0\n")
    with pytest.raises(UserError, match=r"rgb/scene_0-0\.png is used twice"):
        spec(f"own:{tmp_path}")


def test_pictures_alone_are_labeled_by_predictors(tmp_path: Path, rooms: list[Arrays]) -> None:
    name = write(tmp_path, rooms, settings=said(**dict.fromkeys(ALL)))
    assert spec(name).labels == () and spec(name).intrinsics == ALL
    found = load(name, "test", [0], 32, ALL)
    assert found.maps == {} and found.pictures.shape == (1, 3, 32, 32)
    assert "there is no map to check" in call("check", name).output


def test_a_folder_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTRINSIC_BENCH_DATA", str(tmp_path / "elsewhere"))
    for where, short in {
        "./photos": "./photos",
        "photos/": "./photos",
        ".//photos/.": "./photos",
        "a/photos": "a/photos",
        "./a/photos": "a/photos",
        "/a/b/../photos/": "/a/photos",
        "~/photos/": "~/photos",
        "../photos": "../photos",
        ".": ".",
        "photos": "photos",  # below the variable's folder
    }.items():
        assert canonical_name(f"own:{where}") == f"own:{short}"
        assert (folder_of(f"own:{where}").resolve()) == folder_of(f"own:{short}").resolve()


def test_splits_by_folders_and_by_lists(tmp_path: Path, rooms: list[Arrays]) -> None:
    for split in ("train", "val"):
        write(tmp_path / split, rooms[:4] if split == "train" else rooms[4:6])
        (tmp_path / split / FILE).unlink()
    patterns = {
        k: {"pattern": v["pattern"].replace('"', '"{split}/', 1)}
        for k, v in SETTINGS.items()
        if "pattern" in v
    }
    by = {"by": '"folders"', "seed": "", "train": '"train"', "validation": '"val"', "test": ""}
    write_settings(tmp_path, said(splits=by, **patterns))
    assert spec(f"own:{tmp_path}").counts == {"train": 4, "validation": 2}
    (tmp_path / "train.txt").write_text("# mine\nscene_0-1\nscene_0-0\n")
    patterns = {
        k: {"pattern": v["pattern"].replace('"', '"train/', 1)} for k, v in SETTINGS.items() if "pattern" in v
    }
    listed = {"by": '"lists"', "train": '"train.txt"', "test": "", "seed": ""}
    write_settings(tmp_path, said(splits=listed, **patterns))
    assert opened(f"own:{tmp_path}").rows == {"train": ("scene_0-1", "scene_0-0")}


def test_shares_depend_on_their_seed_alone(tmp_path: Path, rooms: list[Arrays]) -> None:
    rows = []
    for seed in ("0", "0", "1"):
        write(tmp_path / f"{len(rows)}", rooms, settings=said(splits={"seed": seed}))
        rows.append(opened(f"own:{tmp_path / str(len(rows))}").rows)
    assert rows[0] == rows[1] != rows[2]
    assert sorted(rows[0]["train"] + rows[0]["test"]) == sorted(rows[2]["train"] + rows[2]["test"])


def test_each_block_of_training_rows_is_all_of_them_in_an_order_of_its_own(
    tmp_path: Path, rooms: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(tmp_path, rooms, settings=said(group={"pattern": "'-([0-9])$'", "of": '"room"'}))
    rows = opened(name).rows["train"]
    orders = [groups(name, "train", range(start, start + 6)) for start in (0, 100_000, 200_000)]
    assert orders[0] == tuple(stem.split("-")[1] for stem in rows)
    assert len({*orders}) == 3 and len({tuple(sorted(order)) for order in orders}) == 1
    second = load(name, "train", [100_000, 100_001], SIZE, ["depth"])
    assert second.groups == orders[1][:2] == groups(name, "train", [100_000, 100_001])
    truth = rooms[int(second.groups[1])]["depth"][..., 0]
    assert np.array_equal(second.maps["depth"][1, 0].numpy(), truth)
    with pytest.raises(UserError, match=r"(?s)pictures 3 to 6 of split 'train'.*it has 6"):
        groups(name, "train", range(100_003, 100_007))
    with pytest.raises(UserError, match="it has 4"):
        groups(name, "test", [100_000])
    monkeypatch.setattr(own_module, "BLOCK", 5)
    assert spec(name).counts == {"train": 5, "test": 4}


def test_a_missing_map_is_named_or_skipped_and_counted(tmp_path: Path, rooms: list[Arrays]) -> None:
    name = write(tmp_path, rooms)
    (tmp_path / "depth" / "scene_1-3.npy").unlink()
    with pytest.raises(UserError, match=r"depth/scene_1-3\.npy is missing"):
        spec(name)
    write_settings(tmp_path, said(top={"skip_missing": "true"}))
    assert sum(spec(name).counts.values()) == 9 and sum(opened(name).skipped.values()) == 1
    result = call("check", name)
    assert result.exit_code == 0 and "left out because a map is missing" in result.output


# The fingerprint.


def test_the_fingerprint_is_of_contents_and_hashes_once(
    tmp_path: Path, rooms: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write(tmp_path / "a", rooms)
    first = spec(name).fingerprint
    assert spec(write(tmp_path / "b", rooms)).fingerprint == first  # another place, the same data

    def refuse(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(index_module, "_memory", {})
    with monkeypatch.context() as patch:
        patch.setattr(index_module.hashlib, "file_digest", refuse)
        assert spec(name).fingerprint == first
    path = tmp_path / "a" / "depth" / "scene_0-0.npy"
    np.save(path, np.load(path, allow_pickle=False) + 0.1)  # the same size
    monkeypatch.setattr(index_module, "_memory", {})
    assert spec(name).fingerprint != first


def test_a_file_changed_in_use_is_noticed(tmp_path: Path, rooms: list[Arrays]) -> None:
    name = write(tmp_path, rooms)
    load(name, "test", [0], 8, ALL)
    path = opened(name).files("test", opened(name).rows["test"][0])["depth"]
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="changed while"):
        load(name, "test", [0], 8, ALL)


def test_a_plan_imports_no_torch(tmp_path: Path, rooms: list[Arrays]) -> None:
    name = write(tmp_path, rooms)
    code = f"import sys; from benchmarks.data.own import spec, needs; spec({name!r}); needs({name!r})"
    code += "; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False"]


def test_a_folder_that_is_not_there_is_a_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_DATA", str(tmp_path))
    assert spec("own:mine").fingerprint == ABSENT
    (need,) = needs("own:mine")
    assert not need.here and f"intrinsic-bench data init {tmp_path / 'mine'}" in need.command
    with pytest.raises(UserError, match=r"data init"):
        load("own:mine", "test", [0], 8, ALL)
    monkeypatch.delenv("INTRINSIC_BENCH_DATA")
    with pytest.raises(UserError, match="INTRINSIC_BENCH_DATA is not set"):
        spec("own:mine")


# What is not declared.


@pytest.mark.parametrize(
    ("table", "key", "fact"),
    [
        ("picture", "space", '"srgb".*"linear"'),
        ("normal", "axes", "right, left, up, down"),
        ("normal", "encoding", r'"0\.\.1".*"-1\.\.1"'),
        ("depth", "kind", '"z".*"ray"'),
        ("depth", "unit", '"m"; "cm"; "mm".*scale'),
        ("albedo", "space", '"srgb".*"linear"'),
        ("shading", "space", '"srgb".*"linear"'),
        ("splits", "by", '"folders".*"lists".*"fractions"'),
    ],
)
def test_a_convention_that_is_not_declared_is_asked_for(
    tmp_path: Path, table: str, key: str, fact: str
) -> None:
    for value in ("", '"?"'):
        write_settings(tmp_path, said(**{table: {key: value}}))
        with pytest.raises(UserError, match=rf"(?s)\[{table}\].*{key} is not declared.*{fact}"):
            read_settings(tmp_path)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"depth": {"kind": '"disparity"'}}, "no unit"),
        ({"depth": {"kind": '"ray"'}}, "need the field of view"),
        ({"depth": {"scale": "2"}}, "both given"),
        ({"depth": {"invalid": '["empty"]'}}, "known: zero, nan, infinite"),
        ({"normal": {"axes": '"x right, y right, z up"'}}, "leave an axis out"),
        ({"normal": {"axes": '"RDF"'}}, "cannot be read"),
        ({"normal": {"axis": '"x"'}}, "did you mean 'axes'"),
        ({"picture": None}, r"no table \[picture\]"),
        ({"splits": None}, r"no table \[splits\]"),
        ({"splits": {"train": "0.9"}}, "together at most 1"),
        ({"splits": {"train": '"a"'}}, "is no int or float"),
        ({"picture": {"pattern": '"a.png"'}}, r"\{stem\}"),
        ({"picture": {"pattern": '"../{stem}.png"'}}, "below the folder"),
        ({"picture": {"pattern": '"{split}/{stem}.png"'}}, "splits are made by fractions"),
        ({"group": {"pattern": "'scene'"}}, "0 groups"),
        ({"top": {"resolution": "0"}}, "from 1 on"),
        ({"top": {"skip_missing": "1"}}, "is no bool"),
        ({"top": {"ignore": '["all"]'}}, "known: axes"),
        ({"camera": {"horizontal_fov": "200"}}, "between 0 and 180"),
        ({"mask": {"pattern": '"mask/{stem}.png"'}}, "valid is not declared"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], fact: str) -> None:
    write_settings(tmp_path, said(**changes))
    with pytest.raises(UserError, match=f"(?s){fact}"):
        read_settings(tmp_path)


@pytest.mark.parametrize(("text", "fact"), [("a = [", "no TOML"), ("splits = 1\n[picture]\n", "no table")])
def test_a_broken_data_toml(tmp_path: Path, text: str, fact: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match=fact):
        read_settings(tmp_path)
