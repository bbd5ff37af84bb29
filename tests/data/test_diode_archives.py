"""DIODE's archives from a server on this machine, and from a file: whole, half, wrong, hostile, in parts."""

import hashlib
import io
import shutil
import tarfile
import tomllib
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.cli import main
from benchmarks.data import describe
from benchmarks.data.diode import archives, needs
from benchmarks.data.diode.archives import ARCHIVES, Archive, fetch
from benchmarks.data.diode.load import load
from generators.errors import UserError
from tests.checkpoints.local_server import File, Server, local, serving
from tests.data.diode_tree import md5, pack, write_tree

SCANS = {"val": {"indoors": ["00019/00183"], "outdoor": ["00022/00196"]}}
FILES = 2 * 2 * 3  # scans, pictures, files without normals


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The archives of a small tree, and its list."""
    folder = tmp_path_factory.mktemp("made")
    write_tree(folder, 2, SCANS)
    maps, normals = pack(folder, "val", False), pack(folder, "val", True, prefix="val_normals")
    return {
        "val.tar.gz": maps,
        "val_normals.tar.gz": normals,
        "diode_meta.json": (folder / "diode_meta.json").read_bytes(),
    }


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTRINSIC_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "data" / "diode"


@pytest.fixture
def server(made: dict[str, bytes]) -> Iterator[Server]:
    with serving() as found:
        found.files.update({name: File(body) for name, body in made.items()})
        yield found


def small(name: str, made: dict[str, bytes], server: Server | None = None) -> Archive:
    """A published archive, but of the small tree."""
    archive = ARCHIVES[name]
    file = archive.url.rpartition("/")[2]
    body = made[file]
    found = replace(archive, about=len(body), bytes=len(body) if archive.bytes else None, pictures=4)
    found = replace(found, url=server.url(file)) if server else found
    return (
        replace(found, md5=md5(body))
        if archive.md5
        else replace(found, sha256=hashlib.sha256(body).hexdigest())
    )


def get(archive: Archive, server: Server | None = None, **more: Any) -> list[str]:
    """Fetch, and what was said."""
    said: list[str] = []
    network = {"network": local(server)} if server else {}
    fetch(archive, progress=lambda *_: None, say=said.append, **network, **more)
    return said


def unpacked(root: Path) -> list[str]:
    return sorted(
        p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and "scan_" in str(p)
    )


def test_facts_of_the_archives() -> None:
    """Addresses are https, every hash is there, names are those that needs and fetch use."""
    assert list(ARCHIVES) == [
        "diode.meta",
        "diode.val",
        "diode.val-normals",
        "diode.train",
        "diode.train-normals",
    ]
    for archive in ARCHIVES.values():
        assert archive.url.startswith("https://")
        assert (len(archive.md5), len(archive.sha256)) in ((32, 0), (0, 64))
    assert ARCHIVES["diode.train-normals"].md5 == "9c0617ebe1eaf1928fdf3344e1c42aef"
    assert (
        7e9 < ARCHIVES["diode.val"].unpacked < 10e9 and 2e11 < ARCHIVES["diode.train-normals"].unpacked < 3e11
    )


def test_the_ledger_says_the_same() -> None:
    manifest = Path(__file__).parents[2] / "third_party" / "manifest.toml"
    (entry,) = (e for e in tomllib.loads(manifest.read_text())["entry"] if e["id"] == "diode")
    said = {file["name"]: file.get("md5", file.get("sha256")) for file in entry["files"]}
    assert said == {a.url.rpartition("/")[2]: a.md5 or a.sha256 for a in ARCHIVES.values()}
    assert entry["licence"] == archives.LICENCE and entry["source"] == f"{archives.BASE}/"


def test_all_of_the_validation_data(root: Path, made: dict[str, bytes], server: Server) -> None:
    said = get(small("diode.val", made, server), server)
    assert said[0] == "diode.val: licence: MIT https://diode-dataset.org"
    assert len(unpacked(root)) == FILES
    assert not list((root / "archives").glob("*.tar.gz*"))  # unpacked, so it is not needed any more
    get(small("diode.val-normals", made, server), server)
    get(small("diode.meta", made, server), server)
    assert len(unpacked(root)) == FILES * 4 // 3
    assert describe("diode").counts == {"test": 2} and describe("diode:val771").counts == {"test": 4}
    assert load("diode", "test", [0], 16).mask.all()
    assert [need.name for need in needs("diode") if not need.here] == ["diode.train"]
    assert archives.state(small("diode.val", made)) == f"unpacked, {FILES} files"
    requests = len(server.requests)
    assert "everything in it is here already" in get(small("diode.val", made, server), server)
    assert len(server.requests) == requests


def test_what_was_deleted_is_fetched_again(root: Path, made: dict[str, bytes], server: Server) -> None:
    get(small("diode.val", made, server), server)
    gone = next(root.rglob("*_depth.npy"))
    gone.unlink()
    get(small("diode.val", made, server), server)
    assert gone.is_file()


def test_what_broke_off_is_continued(root: Path, made: dict[str, bytes], server: Server) -> None:
    server.files["val.tar.gz"].cuts = [len(made["val.tar.gz"]) // 2]
    said = get(small("diode.val", made, server), server)
    assert any("continuing after" in line for line in said)
    assert server.asked("Range")[1] == f"bytes={len(made['val.tar.gz']) // 2}-"
    assert len(unpacked(root)) == FILES


def test_half_a_tarball_from_the_server(root: Path, made: dict[str, bytes], server: Server) -> None:
    """The server has but the first half of it, and says that this is all; its size is not published."""
    server.files["val_normals.tar.gz"].body = made["val_normals.tar.gz"][
        : len(made["val_normals.tar.gz"]) // 2
    ]
    with pytest.raises(UserError, match="it is not the whole file: it ends in the middle") as caught:
        get(small("diode.val-normals", made, server), server)
    assert "run it again" in caught.value.todo
    assert not unpacked(root) and not list((root / "archives").glob("*.tar.gz*"))


def test_half_a_tarball_of_known_size(root: Path, made: dict[str, bytes], server: Server) -> None:
    server.files["val.tar.gz"].body = made["val.tar.gz"][:1000]
    with pytest.raises(UserError, match="has 1,000 bytes, expected are") as caught:
        get(small("diode.val", made, server), server)
    assert "--from PATH" in caught.value.todo and not unpacked(root)


def test_half_a_tarball_from_a_file(root: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    given = tmp_path / "half.tar.gz"
    given.write_bytes(made["val.tar.gz"][:5000])
    whole = len(made["val.tar.gz"])
    with pytest.raises(UserError, match=f"not the whole file: 5,000 of {whole:,} bytes"):
        get(small("diode.val", made), from_path=given)
    with pytest.raises(UserError, match="it ends in the middle, after 5,000 bytes"):
        get(replace(small("diode.val", made), bytes=None), from_path=given)
    assert given.is_file() and not unpacked(root)


def test_a_wrong_md5(root: Path, made: dict[str, bytes], server: Server, tmp_path: Path) -> None:
    """Another whole archive: nothing of it is unpacked; a download goes, a given file stays."""
    other = replace(small("diode.val", made, server), url=server.url("val_normals.tar.gz"), bytes=None)
    wrong = f"it is another file: its md5 is {md5(made['val_normals.tar.gz'])}"
    with pytest.raises(UserError, match=wrong) as caught:
        get(other, server)
    assert caught.value.known == f"expected: md5 {other.md5}"
    given = tmp_path / "val.tar.gz"
    given.write_bytes(made["val_normals.tar.gz"])
    with pytest.raises(UserError, match=wrong) as caught:
        get(replace(other, url=ARCHIVES["diode.val"].url), from_path=given)
    assert f"--from {given}" in caught.value.asked
    assert given.is_file() and not unpacked(root) and not list((root / "archives").glob("*.tar.gz*"))


def test_a_file_of_ones_own_is_used_where_it_is(root: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    given = tmp_path / "mine.tar.gz"
    given.write_bytes(made["val.tar.gz"])
    get(small("diode.val", made), from_path=given)
    assert given.is_file() and len(unpacked(root)) == FILES
    for path, wrong in ((tmp_path, "it is a folder"), (tmp_path / "none", "there is no such file")):
        with pytest.raises(UserError, match=wrong):
            get(small("diode.val", made), from_path=path)


def test_a_part_now_and_another_later(root: Path, made: dict[str, bytes], server: Server) -> None:
    archive = small("diode.val", made, server)
    get(archive, server, only="indoors/scene_00019/*")
    assert len(unpacked(root)) == FILES // 2 and all("indoors" in path for path in unpacked(root))
    assert archives.state(archive) == f"unpacked, {FILES // 2} files (indoors/scene_00019/*)"
    requests = len(server.requests)
    get(archive, server, only="outdoor/*")
    assert len(server.requests) == requests and len(unpacked(root)) == FILES  # the archive is still there
    assert archives.state(archive) == f"unpacked, {FILES} files (indoors/scene_00019/*, outdoor/*)"
    with pytest.raises(UserError, match="none of its files fits 'indoor/"):
        get(archive, server, only="indoor/*")
    get(archive, server)
    assert len(server.requests) == requests and archives.state(archive) == f"unpacked, {FILES} files"
    assert not list((root / "archives").glob("*.tar.gz*"))


def hostile(*members: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member in members:
            member.size = 4 if member.isreg() else 0
            tar.addfile(member, io.BytesIO(b"evil") if member.isreg() else None)
    return packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


INSIDE = "val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010.png"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (member("../../../evil.png"), "outside"),
        (member(f"val/../../../{INSIDE}"), "outside"),
        (member("val/link", tarfile.SYMTYPE, "/etc"), "absolute"),
        (member(INSIDE, tarfile.SYMTYPE, "../x"), "link"),
        (member("val/pipe", tarfile.FIFOTYPE), "special file"),
        (member(INSIDE.replace("val/", "train/")), "it belongs to train"),
    ],
)
def test_a_member_that_leads_elsewhere(
    root: Path, made: dict[str, bytes], tmp_path: Path, bad: tarfile.TarInfo, why: str
) -> None:
    given = tmp_path / "bad.tar.gz"
    given.write_bytes(hostile(bad))
    archive = replace(small("diode.val", made), md5=md5(given.read_bytes()), bytes=None)
    with pytest.raises(UserError, match="it is not unpacked") as caught:
        get(archive, from_path=given)
    assert why in caught.value.wrong
    assert not unpacked(root) and not (tmp_path / "evil.png").exists()


def test_other_files_are_left_out_and_said(root: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    given = tmp_path / "more.tar.gz"
    names = ["val/._x", "/etc/passwd", "val/indoors/run.sh", INSIDE + ".exe", "./" + INSIDE]
    given.write_bytes(hostile(*map(member, names)))
    archive = replace(small("diode.val", made), md5=md5(given.read_bytes()), bytes=None)
    assert "4 files of other kinds were left out" in get(archive, from_path=given)
    assert unpacked(root) == [INSIDE]


def test_a_disk_that_is_too_full(
    root: Path, made: dict[str, bytes], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for the archive, but not for what is in it."""
    archive = small("diode.val", made, server)
    usage = namedtuple("usage", "free")(archive.about + archive.unpacked - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="the disk is too full") as caught:
        get(archive, server)
    assert not server.requests and "INTRINSIC_BENCH_DATA" in caught.value.todo
    get(archive, server, only="indoors/*")


def test_a_list_that_is_another_one(
    root: Path, made: dict[str, bytes], server: Server, tmp_path: Path
) -> None:
    given = tmp_path / "list.json"
    given.write_text("{}")
    with pytest.raises(UserError, match="it is another file: its sha256"):
        get(small("diode.meta", made), from_path=given)
    server.files["diode_meta.json"].body = made["diode_meta.json"].replace(b"0", b"1")
    with pytest.raises(UserError, match="sha256"):
        get(small("diode.meta", made, server), server)
    assert not (root / "diode_meta.json").exists()
    given.write_bytes(made["diode_meta.json"])
    get(small("diode.meta", made), from_path=given)
    assert (root / "diode_meta.json").is_file() and given.is_file()


def test_the_command(
    root: Path, made: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHIVES, "diode.val", small("diode.val", made))
    given = tmp_path / "val.tar.gz"
    given.write_bytes(made["val.tar.gz"])
    call = ["fetch", "diode.val", "--from", str(given), "--only", "outdoor/*"]
    found = CliRunner().invoke(main, call)
    assert found.exit_code == 0, found.output
    assert found.stdout == f"{root / 'val'}\n" and "licence: MIT" in found.stderr
    listed = CliRunner().invoke(main, ["fetch", "--list"])
    assert f"unpacked, {FILES // 2} files (outdoor/*)" in listed.stdout
    for wrong in (["fetch", "diode.vall"], ["fetch", "stylegan2.ffhq256", "--only", "x"]):
        refused = CliRunner().invoke(main, wrong)
        assert refused.exit_code == 2 and "wrong:" in refused.stderr
