"""ZoeDepth and Depth Anything from small folders in their published layout, as transformers processes."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.predictors import depth_anything, registry, zoedepth
from generators.errors import UserError
from tests.predictors.folders import (
    FULL_ZOEDEPTH,
    full_depth_anything,
    write_depth_anything,
    write_zoedepth,
    zoedepth_config,
)

torch.set_num_threads(1)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    return tmp_path


def pictures(count: int, h: int, w: int) -> Tensor:
    """Smooth pictures of 8 bits, so that no filter is asked for more than it can."""
    drawn = torch.rand(count, 3, 6, 8, generator=torch.Generator().manual_seed(2))
    smooth = torch.nn.functional.interpolate(drawn, size=(h, w), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 127.5 - 1


def arrays(x: Tensor) -> list[np.ndarray]:
    return list(((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def test_the_size_of_a_download_is_that_of_its_parameters() -> None:
    from transformers import DepthAnythingForDepthEstimation, ZoeDepthForDepthEstimation

    with torch.device("meta"):
        zoe = ZoeDepthForDepthEstimation(zoedepth_config(**FULL_ZOEDEPTH))
        anything = DepthAnythingForDepthEstimation(full_depth_anything())
    for name, network in (("zoedepth", zoe), ("depth-anything-v2", anything)):
        size = 4 * sum(p.numel() for p in network.parameters())
        assert registry.describe_predictor(name).bytes == size


class Recorder:
    """A network that remembers what it was shown, and sees the red of every pixel as depth."""

    config = SimpleNamespace(patch_size=14)

    def __init__(self) -> None:
        self.shown: list[Tensor] = []

    def __call__(self, pixel_values: Tensor) -> Any:
        self.shown.append(pixel_values)
        return SimpleNamespace(predicted_depth=pixel_values[:, 0])


@pytest.mark.parametrize("size", [(96, 96), (60, 100), (400, 300)])
def test_zoedepth_is_shown_what_transformers_shows_it(size: tuple[int, int]) -> None:
    from transformers.models.zoedepth.image_processing_pil_zoedepth import ZoeDepthImageProcessorPil

    x, seen = pictures(1, *size), Recorder()
    zoedepth.depth_of(seen, x, flip=False, padding=3)
    expected = ZoeDepthImageProcessorPil(ensure_multiple_of=32)(arrays(x), return_tensors="pt").pixel_values
    assert seen.shown[0].shape == expected.shape
    torch.testing.assert_close(seen.shown[0], expected, rtol=0, atol=1e-4)


def test_zoedepth_brings_the_map_back_to_the_picture() -> None:
    x = pictures(2, 96, 80)
    found = zoedepth.depth_of(Recorder(), x, flip=True, padding=3)
    assert found.shape == (2, 1, 96, 80)
    assert (found - x[:, :1]).abs().max() < 0.05, "what it sees is where it saw it"
    assert (found - x[:, :1].roll(1, 3)).abs().max() > 0.15, "a pixel beside would be seen"


def test_the_mirror_image_is_averaged() -> None:
    class Ramp(Recorder):
        """A network that sees depth grow to the right, whatever it is shown."""

        def __call__(self, pixel_values: Tensor) -> Any:
            ramp = torch.linspace(0, 1, pixel_values.shape[3])
            return SimpleNamespace(predicted_depth=ramp.expand(*pixel_values[:, 0].shape))

    x = pictures(1, 64, 64)
    alone, both = (zoedepth.depth_of(Ramp(), x, flip=flip, padding=3) for flip in (False, True))
    assert alone[0, 0, 0, -1] - alone[0, 0, 0, 0] > 0.4
    torch.testing.assert_close(both, torch.full_like(both, 0.5), rtol=0, atol=1e-5)


def test_a_zoedepth_folder_is_the_network_it_was_written_from(weights: Path) -> None:
    network = write_zoedepth(weights / "zoedepth")
    x = pictures(2, 64, 64)
    found = registry.load("zoedepth")(x)["depth"]
    with torch.no_grad():
        expected = torch.cat([zoedepth.depth_of(network, one, flip=True, padding=3) for one in x.split(1)])
    assert found.shape == (2, 1, 64, 64) and found.std() > 1e-4 and found.min() > 0
    torch.testing.assert_close(found, expected)


def test_a_map_depends_on_its_picture_alone(weights: Path) -> None:
    """Of two pictures, of which each asks for another head, none is seen by the other's."""
    network, x = write_zoedepth(weights / "zoedepth"), pictures(2, 64, 64)
    votes: list[Tensor] = []
    classifier = network.metric_head.mlp_classifier
    classifier.register_forward_hook(lambda module, given, logits: votes.append(logits[0]))
    with torch.no_grad():
        alone = [zoedepth.depth_of(network, one, flip=False, padding=3) for one in x.split(1)]
        first, second = (float(logits[0] - logits[1]) for logits in votes)
        assert first != second
        classifier.linear2.bias[0] -= (first + second) / 2
        network.metric_head.seed_bin_regressors["kitti"].conv2.bias += 2  # it sees all farther away
        alone = [zoedepth.depth_of(network, one, flip=True, padding=3) for one in x.split(1)]
        together = zoedepth.depth_of(network, x, flip=True, padding=3)
    assert len({int(logits.argmax()) for logits in votes[2:6:2]}) == 2, "each asks for another head"
    assert (together - torch.cat(alone)).abs().max() > 0.1, "a batch has one head"
    network.save_pretrained(str(weights / "zoedepth"))
    torch.testing.assert_close(registry.load("zoedepth")(x)["depth"], torch.cat(alone))


def test_a_batch_is_part_of_zoedepths_identity(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that were kept from when a whole batch had one head are not taken for today's."""
    write_zoedepth(weights / "zoedepth")
    now, spec = registry.identity("zoedepth"), registry.describe_predictor("zoedepth")
    before = replace(spec, options={"flip": True, "padding": 3})
    monkeypatch.setattr(registry, "describe_predictor", lambda name: before)
    assert registry.identity("zoedepth") != now


@pytest.mark.parametrize("size", [(100, 100), (60, 100), (600, 700)])
def test_depth_anything_is_shown_what_transformers_shows_it(size: tuple[int, int]) -> None:
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

    x, seen = pictures(1, *size), Recorder()
    back = depth_anything.depth_of(seen, x)
    processor = DPTImageProcessorPil(
        size={"height": 518, "width": 518},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        resample=3,
        image_mean=list(depth_anything.MEAN),
        image_std=list(depth_anything.STD),
    )
    expected = processor(arrays(x), return_tensors="pt").pixel_values
    assert seen.shown[0].shape == expected.shape and back.shape == (1, 1, *size)
    assert (seen.shown[0] - expected).abs().mean() < 0.01, "the library resizes 8-bit pictures"


def test_a_depth_anything_folder_is_the_network_it_was_written_from(weights: Path) -> None:
    network = write_depth_anything(weights / "depth-anything-v2")
    x = pictures(2, 70, 70)
    found = registry.load("depth-anything-v2")(x)["depth"]
    with torch.no_grad():
        expected = depth_anything.depth_of(network, x)
    assert found.shape == (2, 1, 70, 70) and found.std() > 1e-3
    torch.testing.assert_close(found, expected)


def test_a_relative_model_is_refused(weights: Path) -> None:
    write_depth_anything(weights / "depth-anything-v2", "relative")
    with pytest.raises(UserError, match="gives disparity up to scale and shift"):
        registry.load("depth-anything-v2")


@pytest.mark.parametrize("name", ["zoedepth", "depth-anything-v2"])
def test_a_broken_folder_is_refused(weights: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = weights / name
    (write_zoedepth if name == "zoedepth" else write_depth_anything)(folder)
    file = folder / "model.safetensors"
    tensors = load_file(str(file))
    missing = "neck.convs.1.weight"
    save_file({k: v for k, v in tensors.items() if k != missing}, str(file), metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"lacks 1 tensors, first '{missing}'"):
        registry.load(name)
    save_file(tensors | {"more.weight": torch.ones(1)}, str(file), metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"holds unknown 1 tensors, first 'more\.weight'"):
        registry.load(name)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read"):
        registry.load(name)


def test_code_in_a_folder_is_not_executed(weights: Path) -> None:
    folder, marker = weights / "zoedepth", weights / "executed"
    write_zoedepth(folder)
    said = json.loads((folder / "config.json").read_text())
    said["auto_map"] = {"AutoModelForDepthEstimation": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: ...\n")
    registry.load("zoedepth")
    assert not marker.exists()


@pytest.mark.slow
def test_a_full_size_zoedepth_runs() -> None:
    """The published configuration with random weights, 384 x 384; its parameters were counted here."""
    from transformers import ZoeDepthForDepthEstimation

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ZoeDepthForDepthEstimation(zoedepth_config(**FULL_ZOEDEPTH)).eval()
    assert sum(p.numel() for p in network.parameters()) == 345_073_307
    with torch.no_grad():
        depth = network(pixel_values=torch.zeros(1, 3, 384, 384)).predicted_depth
    assert depth.shape == (1, 384, 384) and depth.isfinite().all() and depth.min() > 0
