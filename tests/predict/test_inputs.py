"""Which pictures are found, and that no two maps share a name."""

import os
from pathlib import Path

import pytest

from benchmarks.predict.inputs import find_sources
from generators.errors import UserError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(*given: object, out: Path) -> list[str]:
    return [source.name for source in find_sources([str(g) for g in given], out)]


def test_folders_are_searched_in_order_and_keep_their_folders(tmp_path: Path) -> None:
    pics = tmp_path / "pics"
    touch(pics / "b.PNG", pics / "a.jpg", pics / "deep/er/c.webp", pics / "notes.txt")
    touch(pics / ".hidden.png", pics / ".git/x.png")
    assert names(pics, out=tmp_path / "out") == ["a", "b", "deep/er/c"]


def test_files_and_globs(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b/c.png", tmp_path / "odd.picture")
    out = tmp_path / "out"
    assert names(tmp_path / "**/*.png", out=out) == ["a", "b/c"]
    assert names(tmp_path / "odd.picture", out=out) == ["odd"]
    assert names(tmp_path / "a.png", tmp_path, tmp_path / "?.png", out=out) == ["a", "b/c"]  # each once


def test_names_that_would_be_equal_are_made_longer(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    touch(a / "x.png", a / "x.jpg", b / "x.png", b / "only.png", a / "Y.png", b / "y.png")
    found = names(a, b, out=tmp_path / "out")
    assert len({n.casefold() for n in found}) == len(found) == 6
    assert found == ["a/Y", "x.jpg", "a/x", "only", "b/x", "b/y"]
    assert sorted(names(a / "x.png", a / "x.jpg", out=tmp_path / "out")) == ["x.jpg", "x.png"]


def test_its_own_maps_are_not_read(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "maps/a.normal.png")
    assert names(tmp_path, out=tmp_path / "maps") == ["a"]
    with pytest.raises(UserError) as caught:
        find_sources([tmp_path], tmp_path)
    assert "among the pictures" in caught.value.wrong and "maps" in caught.value.todo
    assert names(tmp_path / "a.png", out=tmp_path) == ["a"]  # named in full, it cannot be mistaken
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError) as caught:
        find_sources([tmp_path], tmp_path / "maps")
    assert "output folder" in caught.value.wrong


def test_an_output_folder_beside_or_above_is_fine(tmp_path: Path) -> None:
    touch(tmp_path / "in/a.png")
    assert names(tmp_path / "in", out=tmp_path) == ["a"]
    touch(tmp_path / "in/in/a.png")
    with pytest.raises(UserError) as caught:
        find_sources([tmp_path / "in"], tmp_path)
    assert "among the pictures" in caught.value.wrong


@pytest.mark.parametrize(
    ("made", "asked", "fact", "known"),
    [
        ("a.txt", ".", "has no pictures", "1 .txt"),
        ("room.png", "rooom.png", "no such file", "room.png"),
        ("room.png", "*.jpg", "matches nothing", "no files"),
        ("room.txt", "*.txt", "has no pictures", ".txt"),
    ],
)
def test_nothing_to_do_is_an_error_that_says_what_is_there(
    tmp_path: Path, made: str, asked: str, fact: str, known: str
) -> None:
    touch(tmp_path / made)
    with pytest.raises(UserError) as caught:
        find_sources([os.path.join(tmp_path, asked)], tmp_path / "out")
    assert fact in caught.value.wrong and known in caught.value.known


def test_no_picture_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture is named"):
        find_sources([], tmp_path)
