"""Adapters of relative depth: no meters, near is 1 and bright."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.predict import Settings, Shown, predict_pictures
from benchmarks.predict.reading import read_picture
from benchmarks.predict.settings import find_question, identity
from benchmarks.predict.writing import NO_COLORS, viewed
from generators import registry
from probes.adapters import attached
from probes.methods import RELATIVE
from tests.predict.pictures import MODEL, smooth, write_adapter

CELL = {"data": "objects", "train_data": "rooms", "alignment": RELATIVE}


@pytest.mark.parametrize("colors", ["viridis_r", NO_COLORS])
def test_near_is_bright(colors: str) -> None:
    near_to_far = np.linspace(1, 0, 16, dtype=np.float32)[None, :, None]
    bright = viewed("depth", near_to_far, Shown(colormap=colors), RELATIVE).astype(int).sum(2)[0]
    assert (np.diff(bright) < 0).all()
    in_meters = viewed("depth", 10 - 10 * near_to_far, Shown(colormap="viridis_r")).astype(int).sum(2)[0]
    assert (np.diff(in_meters) < 0).all()


def test_maps_are_of_0_to_1_in_every_format(tmp_path: Path) -> None:
    generator = registry.load(MODEL)
    adapter = write_adapter(tmp_path / "adapter", generator, "depth", cell=CELL)
    Image.fromarray(smooth(64, 64)).save(tmp_path / "a.png")
    settings = Settings("native", Shown(("png8", "png16", "npy"), limits=(0.0, 1.0)))
    predict_pictures([tmp_path / "a.png"], adapter, tmp_path / "out", settings=settings)
    found = np.load(tmp_path / "out" / "a.depth.npy")
    picture = torch.from_numpy(smooth(64, 64).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad(), attached(generator, adapter):
        drawn = generator.decode(generator.forward(generator.embed(picture), "depth"))
    share = (drawn.mean(1)[0].numpy() + 1) / 2
    assert np.abs(found[..., 0] - share).max() < 1e-4
    deep = read_picture(tmp_path / "out" / "a.depth.16bit.png").values[..., 0] / 65535
    assert np.abs(deep - np.clip(share, 0, 1)).max() < 1e-4
    colored = matplotlib.colormaps["viridis_r"](1 - np.clip(found[..., 0], 0, 1), bytes=True)[..., :3]
    assert np.array_equal(read_picture(tmp_path / "out" / "a.depth.png").values, colored)
    said = json.loads((tmp_path / "out" / "a.depth.json").read_text())
    outside = (found < -1e-6) | (found > 1 + 1e-6)
    assert said["clipped"] == pytest.approx(outside.mean(), abs=1e-6)
    assert said["values"]["png16"] == "depth / 1 * 65535, gray"
    assert said["values"]["unit"].startswith("none")


def test_maps_in_meters_are_not_taken_for_relative_ones(tmp_path: Path) -> None:
    generator, said = registry.load(MODEL), []
    for name, cell in (("relative", CELL), ("meters", {**CELL, "alignment": "none"})):
        adapter = write_adapter(tmp_path / name, generator, "depth", cell=cell)
        said.append(identity(find_question(adapter, None, None, {}), Settings(), "native"))
    assert said[0] != said[1] and said[0].items() >= said[1].items()
