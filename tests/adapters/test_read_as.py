"""What an imported adapter's pictures mean: the axes of its normals, and depth in meters or relative."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import adapter_maps
from benchmarks.card import card
from benchmarks.data.axes import flip
from benchmarks.predict import Settings, Shown, predict_pictures
from benchmarks.predict.settings import find_question, identity
from generators import registry
from generators.base import Generator
from probes.adapters import AXES, FACTS, LORA, attached, read_facts
from probes.intrinsics import INTRINSICS, RELATIVE_DEPTH
from probes.methods import RELATIVE
from tests.adapters.small import ZOO, zoo_adapter
from tests.adapters.test_adapter_commands import authors, fails, typed
from tests.predict.pictures import smooth


@pytest.fixture(scope="module")
def zoo() -> Generator:
    return registry.load(ZOO)


def imported(folder: Path, zoo: Generator, intrinsic: str, *more: str) -> tuple[Path, str]:
    """An adapter in the authors' layout, imported, and what the command says."""
    file = authors(folder / f"theirs_{intrinsic}.safetensors", zoo)
    out = folder / "-".join([intrinsic, *more])
    result = typed("adapter", "import", file, "--model", ZOO, "--out", out, *more)
    assert result.exit_code == 0, result.output
    return out, result.output


def predicted(folder: Path, adapter: Path) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The map (h w c) of a picture and its sidecar."""
    Image.fromarray(smooth(64, 64)).save(folder / "a.png")
    settings, out = Settings("native", Shown(("npy", "png8"))), folder / f"maps-{adapter.name}"
    assert predict_pictures([folder / "a.png"], adapter, out, settings=settings).status == 0
    stem = f"a.{read_facts(adapter).intrinsic}"
    return np.load(out / f"{stem}.npy"), json.loads((out / f"{stem}.json").read_text())


def drawn(zoo: Generator, adapter: Path) -> torch.Tensor:
    """What the model draws of the same picture (1 3 h w)."""
    picture = torch.from_numpy(smooth(64, 64).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad(), attached(zoo, adapter):
        return zoo.decode(zoo.forward(zoo.embed(picture), read_facts(adapter).intrinsic))


def test_the_authors_normals_are_turned_to_our_axes(tmp_path: Path, zoo: Generator) -> None:
    theirs, told = imported(tmp_path, zoo, "normal")
    ours, told_ours = imported(tmp_path, zoo, "normal", "--axes", "ours")
    assert "read as normals in the axes omnidata: x right, y down, z away" in told
    assert "read as normals in the axes ours" in told_ours
    turned, sidecar = predicted(tmp_path, theirs)
    plain, _ = predicted(tmp_path, ours)
    assert np.abs(turned - plain * [1, -1, -1]).max() < 1e-5 and np.abs(plain[..., 1:]).max() > 0.1
    expected = INTRINSICS["normal"].from_picture(flip(drawn(zoo, theirs), (1, -1, -1)))
    assert np.abs(turned - expected[0].permute(1, 2, 0).numpy()).max() < 1e-4
    assert sidecar["values"]["axes"] == "x right, y up, z towards the camera"
    assert sidecar["settings"]["drawn_axes"] == "omnidata"


def test_the_authors_depth_is_relative(tmp_path: Path, zoo: Generator) -> None:
    theirs, told = imported(tmp_path, zoo, "depth")
    meters, told_meters = imported(tmp_path, zoo, "depth", "--metric")
    assert "read as relative depth: 1 is the nearest point" in told
    assert "read as metric depth: black is 0 m, white 10 m" in told_meters
    assert (read_facts(theirs).alignment, read_facts(meters).alignment) == (RELATIVE, "none")
    found, sidecar = predicted(tmp_path, theirs)
    expected = RELATIVE_DEPTH.from_picture(drawn(zoo, theirs))[0, 0].numpy()
    assert np.abs(found[..., 0] - expected).max() < 1e-4
    assert sidecar["values"]["unit"].startswith("none: the adapter draws relative depth")
    in_meters, sidecar = predicted(tmp_path, meters)
    assert np.abs(in_meters - 10 * found).max() < 1e-3 and sidecar["values"]["unit"].startswith("meters")


@pytest.mark.parametrize("intrinsic", ["normal", "depth"])
def test_maps_read_otherwise_are_other_maps(tmp_path: Path, zoo: Generator, intrinsic: str) -> None:
    option = {"normal": ("--axes", "ours"), "depth": ("--metric",)}[intrinsic]
    folders = imported(tmp_path, zoo, intrinsic)[0], imported(tmp_path, zoo, intrinsic, *option)[0]
    said = [identity(find_question(folder, None, None, {}), Settings(), "native") for folder in folders]
    assert said[0] != said[1] and said[0].items() >= said[1].items()


def test_other_layouts_are_taken_for_ours(tmp_path: Path, zoo: Generator) -> None:
    folder, _ = zoo_adapter(tmp_path / "a", zoo)
    (folder / FACTS).unlink()
    for intrinsic, more in (("normal", ()), ("depth", ()), ("depth", ("--relative",))):
        out = tmp_path / "-".join([intrinsic, *more])
        words = ("--model", ZOO, "--intrinsic", intrinsic, "--out", out)
        assert typed("adapter", "import", folder, *words, *more).exit_code == 0
        assert (read_facts(out).axes, read_facts(out).relative) == ("ours", bool(more))
        said = set(json.loads((out / FACTS).read_text()))
        assert "axes" not in said and ("relative" in said) == bool(more)


@pytest.mark.parametrize(
    ("intrinsic", "option"),
    [
        ("albedo", ("--axes", "omnidata")),
        ("depth", ("--axes", "ours")),
        ("normal", ("--relative",)),
        ("shading", ("--metric",)),
    ],
)
def test_what_an_intrinsic_has_not_is_refused(
    tmp_path: Path, zoo: Generator, intrinsic: str, option: tuple[str, ...]
) -> None:
    file = authors(tmp_path / f"x_{intrinsic}.bin", zoo)
    told = fails("adapter", "import", file, "--model", ZOO, "--out", tmp_path / "o", *option)
    assert f"{' '.join(option)} for {intrinsic}" in told and not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("intrinsic", "layout", "option", "lost"),
    [
        ("normal", "processor", (), ""),
        ("normal", "diffusers", (), "--axes omnidata"),
        ("normal", "processor", ("--axes", "ours"), "--axes ours"),
        ("depth", "diffusers", (), "--relative"),
        ("depth", "processor", ("--metric",), "--metric"),
        ("albedo", "processor", (), ""),
        ("normal", "peft", (), ""),
    ],
)
def test_export_says_what_the_file_does_not(
    tmp_path: Path, zoo: Generator, intrinsic: str, layout: str, option: tuple[str, ...], lost: str
) -> None:
    folder, _ = imported(tmp_path, zoo, intrinsic, *option)
    out = tmp_path / "out.safetensors"
    told = typed("adapter", "export", folder, "--layout", layout, "--out", out).output
    assert told.endswith(f"to import it again, {lost}\n") if lost else told == f"{out}\n"


def test_show_and_card_say_how_it_is_read(tmp_path: Path, zoo: Generator) -> None:
    folder, _ = imported(tmp_path, zoo, "normal")
    axes = "normals in the axes omnidata: x right, y down, z away from the camera"
    assert f"drawn      {axes}" in typed("adapter", "show", folder).output
    text = card(read_facts(folder), registry.spec(ZOO), "ada/normals", None, frozenset({LORA}))
    assert f"What it draws is read as {axes}." in text and "intrinsic_of(facts).from_picture(drawn)" in text


def test_a_map_becomes_the_picture_it_is_read_from(tmp_path: Path, zoo: Generator) -> None:
    assert tuple(adapter_maps.AXES) == AXES
    found = adapter_maps.intrinsic_of(read_facts(imported(tmp_path, zoo, "normal")[0]))
    floor = torch.tensor([0.0, 0.6, 0.8])[None, :, None, None]
    assert torch.allclose(found.to_picture(floor).flatten(), torch.tensor([0.0, -0.6, -0.8]))
    assert torch.allclose(found.from_picture(found.to_picture(floor)), floor)
