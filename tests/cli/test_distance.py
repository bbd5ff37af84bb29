"""`distance` on folders of pictures, whole and broken."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.cli import main


def save(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def distance(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["distance", *arguments])
    return done.exit_code, done.output


def test_a_folder_is_at_no_distance_from_itself(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one", 8, 0), save(tmp_path / "two", 8, 1)
    status, text = distance(str(one), "--to", str(one))
    assert status == 0, text
    same = json.loads(text)["frechet_distance"]
    status, text = distance(str(one), "--to", str(two))
    assert status == 0 and json.loads(text)["frechet_distance"] > 10 * abs(same)


def test_noise_is_compared_with_renders(tmp_path: Path) -> None:
    status, text = distance(str(save(tmp_path / "one", 8, 0)), "--renders", "32")
    assert status == 0, text
    facts = json.loads(text)
    assert facts["pictures"] == 8 and facts["reference"] == 32 and facts["frechet_distance"] > 1


@pytest.mark.parametrize("damage", [b"", b"no picture", None])
def test_a_broken_file_is_named(tmp_path: Path, damage: bytes | None) -> None:
    folder = save(tmp_path / "one", 4, 0)
    broken = folder / "02.png"
    broken.write_bytes(broken.read_bytes()[:200] if damage is None else damage)
    status, text = distance(str(folder))
    assert status == 2 and "02.png" in text and "to do:" in text and "Traceback" not in text


def test_a_folder_without_pictures_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    status, text = distance(str(tmp_path))
    assert status == 2 and ".txt" in text and ".png" in text
    assert distance(str(tmp_path / "nowhere"))[0] == 2
