"""DIODE on small trees in its own format: names, splits, maps, and what is wrong with a tree."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data import ABSENT, describe, diode
from benchmarks.data.diode import splits, tree
from benchmarks.data.diode.load import groups, load
from benchmarks.data.diode.names import canonical, parse
from generators.errors import UserError
from tests.data.diode_tree import EACH, SCANS, scan_folder, stem_of, write_tree


def file(root: Path, ending: str, scan: str = "00019/00183", i: int = 0) -> Path:
    """One file of a validation scan indoors."""
    return scan_folder(root, "val", "indoors", scan) / f"{stem_of('val', 'indoors', scan, i)}{ending}"


def stems(name: str, split: str, indices: range) -> list[str]:
    return [e.stem for e in splits.rows(tree.read_tree(), parse(name), split, indices)]


# Names.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("diode", "diode"),
        ("diode:", "diode"),
        ("diode:val612", "diode"),
        ("diode:erode=2,indoors", "diode:indoors,erode=2"),
        ("diode:indoors, erode=02", "diode:indoors,erode=2"),
        ("diode:clip=80.0,val771,outdoor", "diode:outdoor,val771,clip=80"),
        ("diode:flip=zy,maps=depth", "diode:maps=depth,flip=yz"),
    ],
)
def test_a_name_has_one_canonical_form(name: str, expected: str) -> None:
    assert canonical(name) == expected == canonical(expected)


@pytest.mark.parametrize(
    "name",
    [
        "diode:indoor",
        "diode:indoors,outdoor",
        "diode:erode=0",
        "diode:erode=-1",
        "diode:erode=x",
        "diode:clip=0",
        "diode:clip=inf",
        "diode:flip=w",
        "diode:flip=xx",
        "diode:maps=normal",
        "diode:val612,val771",
        "diode:a=b",
    ],
)
def test_a_wrong_option_is_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        canonical(name)
    assert name in caught.value.asked
    assert "erode=PIXELS" in caught.value.known


# What is there.


def test_without_a_file_it_can_be_planned_and_says_what_to_fetch(root: Path) -> None:
    spec = describe("diode")
    assert spec.fingerprint == ABSENT and spec.counts == {"test": 612}
    assert spec.licence == "MIT" and spec.groups == "scan"
    assert describe("diode:val771").counts == {"test": 771}
    found = {need.name: need for need in diode.needs("diode")}
    assert list(found) == ["diode.val", "diode.meta", "diode.val-normals", "diode.train"]
    assert not any(need.here for need in found.values())
    assert found["diode.val"].command == "intrinsic-bench fetch diode.val"
    assert found["diode.val"].bytes == 2_774_625_282


def test_needs_are_those_of_the_split_and_the_maps(full: Path) -> None:
    def names(name: str, *asked: object) -> list[str]:
        return [need.name.partition(".")[2] for need in diode.needs(name, *asked)]  # type: ignore[arg-type]

    assert names("diode:maps=depth", ["test"]) == ["val", "meta"]
    assert names("diode:val771", ["test"], ["normal"]) == ["val", "val-normals"]
    assert names("diode", ["train"], ()) == ["train"]
    assert names("diode", ["train"], ["normal"]) == ["train", "train-normals"]
    assert all(need.here for need in diode.needs("diode", intrinsics=["normal", "depth"]))
    assert "9 of 771 pictures" in diode.needs("diode")[0].note


def test_listing_imports_no_torch(full: Path) -> None:
    code = "import sys; from benchmarks.data import describe, needs; describe('diode')\n"
    code += "needs('diode', ('test',), ('normal',))\n"
    code += "from benchmarks.data.diode.archives import rows; list(rows())\nprint('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_both_validation_lists(full: Path) -> None:
    scans = sum(len(found) for found in SCANS["val"].values())
    assert describe("diode").counts["test"] == scans * (EACH - 1)
    assert describe("diode:val771").counts["test"] == scans * EACH
    official = set(stems("diode", "test", range(scans * (EACH - 1))))
    assert official < set(stems("diode:val771", "test", range(scans * EACH)))
    assert describe("diode").fingerprint != describe("diode:val771").fingerprint


def test_without_the_list_only_the_archive_s_can_be_used(full: Path) -> None:
    (full / "diode_meta.json").unlink()
    assert describe("diode:val771").counts["test"] == 9
    assert [need.name for need in diode.needs("diode") if not need.here] == ["diode.meta"]
    with pytest.raises(UserError, match="there are 0"):
        load("diode", "test", [0], 16)


def test_a_list_that_is_none(full: Path) -> None:
    for text in ("{", "[]", '{"val": []}', '{"val": {}}', '{"val": {"indoors": {"s": {"t": [3]}}}}'):
        (full / "diode_meta.json").write_text(text)
        with pytest.raises(UserError, match="it is no diode_meta") as caught:
            describe("diode")
        assert "fetch diode.meta" in caught.value.todo


def test_places(full: Path) -> None:
    assert describe("diode:indoors").counts["test"] == 4
    assert describe("diode:outdoor").counts["test"] == 2
    assert all("_indoors_" in stem for stem in stems("diode:indoors", "test", range(4)))


def test_official_splits_share_no_scan(full: Path) -> None:
    counts = describe("diode").counts
    found = {split: set(groups("diode", split, range(counts[split]))) for split in splits.SPLITS}
    assert found["validation"] and not found["train"] & found["validation"]
    assert found["test"] == {"scene_00019/scan_00183", "scene_00020/scan_00184", "scene_00022/scan_00196"}
    assert not found["test"] & (found["train"] | found["validation"])
    assert counts["train"] + counts["validation"] == 5 * EACH


def test_a_part_of_a_tree_works(root: Path) -> None:
    write_tree(root, 2, {"val": {"indoors": ["00019/00183"]}})
    assert describe("diode").counts == {"test": 1}
    found = load("diode", "test", [0], 16)
    assert found.groups == ("scene_00019/scan_00183",)
    with pytest.raises(UserError, match="split 'train' of diode") as caught:
        load("diode", "train", [0], 16)
    assert "test 1" in caught.value.known


def test_missing_normals_are_left_out_and_counted(full: Path) -> None:
    file(full, "_normal.npy").unlink()
    assert describe("diode").counts["test"] == 5
    assert diode.skipped("diode") == {"val: normals missing": 1}
    assert describe("diode:maps=depth").counts["test"] == 6
    assert diode.skipped("diode:maps=depth") == {}
    with pytest.raises(UserError) as caught:
        load("diode", "test", range(6), 16)
    assert "1 left out, val: normals missing" in caught.value.known


def test_missing_depth_is_left_out_and_counted(full: Path) -> None:
    file(full, "_depth_mask.npy").unlink()
    file(full, ".png", i=1).unlink()
    assert diode.skipped("diode") == {"val: picture, depth or mask missing": 2}
    assert describe("diode").counts["test"] == 4


def test_without_normals_depth_works_and_normals_say_what_to_fetch(root: Path) -> None:
    write_tree(root, 2, normals=False)
    assert load("diode", "test", [0], 16, ["depth"]).maps["depth"].shape == (1, 1, 16, 16)
    assert diode.skipped("diode") == {}
    with pytest.raises(UserError) as caught:
        load("diode", "train", [0], 16, ["normal"])
    assert caught.value.todo == "intrinsic-bench fetch diode.train-normals"


def test_the_fingerprint_changes_with_any_file(full: Path) -> None:
    before = describe("diode").fingerprint
    assert describe("diode:erode=2").fingerprint == before
    np.save(file(full, "_depth_mask.npy"), np.ones((96, 128)))  # eight bytes a pixel, as some of DIODE's
    assert describe("diode").fingerprint != before
    assert describe("diode:outdoor").fingerprint not in (before, ABSENT)


def test_what_is_settled_is_not_looked_at_again(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in full.glob("*/*/*/*"):
        os.utime(folder, (1_500_000_000, 1_500_000_000))
    before = describe("diode")
    tree._memory.clear()  # as a new process
    monkeypatch.setattr("os.scandir", lambda _: pytest.fail("a folder is listed again"))
    assert describe("diode") == before
    monkeypatch.undo()


def test_a_change_is_seen(full: Path) -> None:
    before = describe("diode:val771").counts["test"]
    for folder in full.glob("*/*/*/*"):
        os.utime(folder, (1_500_000_000, 1_500_000_000))
    describe("diode")
    file(full, ".png").unlink()
    assert describe("diode:val771").counts["test"] == before - 1


# Rows.


@pytest.fixture
def wide(root: Path) -> Path:
    """Names only: 12 scans of 4 scenes, of 5 to 16 pictures each."""
    for i in range(12):
        folder = scan_folder(root, "train", "indoors", f"{i % 4:05}/{i:05}")
        folder.mkdir(parents=True)
        for k in range(5 + i):
            for ending in tree.ENDINGS:
                stem = f"{i % 4:05}_{i:05}_indoors_{k:03}_010"
                (folder / f"{stem}{ending}").write_bytes(b"x")
    return root


def test_any_prefix_is_spread_over_scans_and_scenes(wide: Path) -> None:
    count = describe("diode").counts["train"]
    found = groups("diode", "train", range(count))
    scans = len(set(found))
    assert scans == 11  # one of twelve is for validation
    for n in range(1, 5 * scans + 1):
        seen = Counter(found[:n])
        assert max(seen.values()) - min(seen[group] for group in set(found)) <= 1
    assert len({group.split("/")[0] for group in found[:4]}) == 4
    assert len(set(stems("diode", "train", range(count)))) == count


def test_rows_are_the_same_again_and_differ_by_seed(wide: Path) -> None:
    n = describe("diode").counts["train"]
    first = stems("diode", "train", range(n))
    tree._memory.clear()
    assert stems("diode", "train", range(n)) == first
    second = stems("diode", "train", range(100_000, 100_000 + n))
    assert second != first and sorted(second) == sorted(first)
    assert stems("diode", "train", range(5)) == first[:5]


def test_order_does_not_depend_on_where_it_is_nor_on_other_scans(wide: Path) -> None:
    scans = {g: i for i, g in enumerate(groups("diode", "train", range(11)))}
    within = [s for s in stems("diode", "train", range(describe("diode").counts["train"])) if "_00011_" in s]
    folder = scan_folder(wide, "train", "indoors", "00003/00099")
    folder.mkdir()
    for ending in tree.ENDINGS:
        (folder / f"00003_00099_indoors_000_000{ending}").write_bytes(b"x")
    counts = describe("diode").counts["train"]
    assert [s for s in stems("diode", "train", range(counts)) if "_00011_" in s] == within
    assert scans


def test_a_row_beyond_the_pictures_names_the_counts(full: Path) -> None:
    for split, row in (("test", 6), ("validation", 99), ("train", 100_000 + 50), ("test", -1)):
        with pytest.raises(UserError, match=f"split '{split}'") as caught:
            load("diode", split, [0, row], 16)
        assert "test 6" in caught.value.known
    with pytest.raises(UserError, match="it does not exist"):
        load("diode", "zoo", [0], 16)


def test_the_list_is_json_of_the_devkit_s_layout(full: Path) -> None:
    """The builder's own format, against the layout that is documented."""
    meta = json.loads((full / "diode_meta.json").read_text())
    assert meta["val"]["indoors"]["scene_00019"]["scan_00183"][0] == "00019_00183_indoors_000_010"
