"""What an archive cannot do beside leading elsewhere (tests/data/test_diode_archives.py).

That addresses are https, redirects too, and that a wrong hash leaves nothing, is in tests/checkpoints
(test_transfer.py, test_download.py).
"""

import os
import stat
from pathlib import Path

import pytest

from benchmarks.data.diode import archives
from benchmarks.data.diode.archives import ARCHIVES
from generators.errors import UserError
from tests.fuzz.bombs import tar_of

INSIDE = "val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010.png"


def unpack(content: bytes, folder: Path) -> Path:
    """Unpack as `fetch` does after it has compared the hash; gives the folder of the data."""
    path = folder / "a.tar.gz"
    path.write_bytes(content)
    archives._unpack(ARCHIVES["diode.val"], path, folder / "diode", "", lambda *_: None, lambda _: None)
    return folder / "diode"


def test_modes_and_owners_of_members_are_not_taken_over(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        root = unpack(tar_of({INSIDE: b"content"}, mode=0o6777, uid=12345, gid=12345), tmp_path)
    finally:
        os.umask(before)
    found = (root / INSIDE).stat()
    assert (root / INSIDE).read_bytes() == b"content"
    assert stat.S_IMODE(found.st_mode) == 0o644 and found.st_uid == os.getuid()


@pytest.mark.parametrize(
    "how",
    [
        {"type": b"3", "devmajor": 1, "devminor": 3},
        {"type": b"4", "devmajor": 8, "devminor": 0},
        {"type": b"6"},
        {"type": b"1", "linkname": "../../../outside"},
        {"type": b"1", "linkname": INSIDE},
        {"type": b"2", "linkname": INSIDE},
    ],
    ids=["character device", "block device", "pipe", "hard link out", "hard link in", "link in"],
)
def test_what_is_no_file_is_refused(how: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is not unpacked"):
        unpack(tar_of({INSIDE: b""}, **how), tmp_path)
    assert [p for p in tmp_path.rglob("*") if not p.is_dir()] == [tmp_path / "a.tar.gz"]


def test_a_link_that_is_there_already_is_not_followed(tmp_path: Path) -> None:
    """Somebody has put a link in the tree: what is unpacked does not go through it."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    there = tmp_path / "diode" / INSIDE
    there.parent.mkdir(parents=True)
    there.symlink_to(outside)
    with pytest.raises(UserError, match="it is not unpacked"):
        unpack(tar_of({INSIDE: b"content"}), tmp_path)
    assert outside.read_bytes() == b"precious"


def test_an_archive_that_breaks_off_is_told_and_leaves_whole_files(tmp_path: Path) -> None:
    content = tar_of({INSIDE: os.urandom(50_000)})
    with pytest.raises(UserError) as caught:
        unpack(content[: len(content) // 2], tmp_path)
    assert "cannot be unpacked" in caught.value.wrong
    assert not list((tmp_path / "diode").rglob("*.*"))
