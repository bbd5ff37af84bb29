"""Marigold's three pipelines from small folders in their published layout."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.data.axes import from_marigold
from benchmarks.predictors import marigold, registry
from benchmarks.predictors.base import PredictorSpec
from generators.errors import UserError
from tests.predictors.folders import APPEARANCE, LIGHTING, write_marigold

torch.set_num_threads(1)

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "marigold-normals": ("Normals", {"use_full_z_range": True}),
    "marigold-depth": ("Depth", {}),
    "marigold-iid": ("Intrinsics", {"target_properties": LIGHTING}),
}
SMALL = {"steps": 2, "ensemble": 1, "seed": 0, "resolution": 64}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for weights; the options are those of a small picture."""
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    use(monkeypatch, SMALL)
    return tmp_path


def use(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    def describe(name: str) -> PredictorSpec:
        return replace(registry.describe_predictor(name), options=options)

    monkeypatch.setattr(marigold, "describe_predictor", describe)


def pictures(count: int, seed: int = 3) -> Tensor:
    return torch.rand(count, 3, 48, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def expected(pipeline: Any, x: Tensor, ensemble: int = 1, seed: int = 0) -> Tensor:
    """What the library's own pipeline says of one picture after another."""
    from probes.task import seed_for

    pipeline.set_progress_bar_config(disable=True)
    found = []
    for picture in (x + 1) / 2:
        seeds = [seed_for(seed, f"marigold member {i}") for i in range(ensemble)]
        generator = [torch.Generator().manual_seed(s) for s in seeds]
        found.append(
            pipeline(
                picture[None],
                num_inference_steps=2,
                ensemble_size=ensemble,
                processing_resolution=64,
                generator=generator,
                output_type="pt",
            ).prediction
        )
    return torch.cat(found)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_folder_is_the_pipeline_it_was_written_from(weights: Path, name: str, variant: str | None) -> None:
    kind, config = KINDS[name]
    pipeline = write_marigold(weights / name, kind, variant, **config)
    x = pictures(2)
    said = expected(pipeline, x)
    found = registry.load(name)(x)
    assert set(found) == set(registry.describe_predictor(name).intrinsics)
    if kind == "Normals":
        torch.testing.assert_close(found["normal"], from_marigold(said), rtol=0, atol=2e-2)
        torch.testing.assert_close(found["normal"].norm(dim=1), torch.ones(2, 48, 48))
    elif kind == "Depth":
        torch.testing.assert_close(found["depth"], said, rtol=0, atol=1e-2)
    else:
        torch.testing.assert_close(found["albedo"], said[0::3], rtol=0, atol=1e-3)
        torch.testing.assert_close(found["shading"], said[1::3], rtol=0, atol=1e-3)
        assert (found["albedo"] - found["shading"]).abs().max() > 0.1


def test_a_map_depends_on_its_picture_alone(weights: Path) -> None:
    write_marigold(weights / "marigold-depth", "Depth")
    predict, x = registry.load("marigold-depth"), pictures(3)
    together, alone = predict(x)["depth"], predict(x[2:])["depth"]
    assert (together[0] - together[2]).abs().max() > 0.01
    torch.testing.assert_close(together[2:], alone, rtol=0, atol=1e-3)


def test_the_seed_and_the_ensemble_decide_the_map(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = write_marigold(weights / "marigold-iid", "Intrinsics", target_properties=LIGHTING)
    x = pictures(1)
    first = registry.load("marigold-iid")(x)["albedo"]
    use(monkeypatch, SMALL | {"seed": 1})
    other = registry.load("marigold-iid")(x)["albedo"]
    use(monkeypatch, SMALL | {"ensemble": 3})
    many = registry.load("marigold-iid")(x)["albedo"]
    assert (first - other).abs().max() > 0.01
    torch.testing.assert_close(many, expected(pipeline, x, ensemble=3)[:1], rtol=0, atol=1e-3)


def test_the_options_are_part_of_the_identity(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_marigold(weights / "marigold-depth", "Depth")
    first = registry.identity("marigold-depth")
    spec = replace(registry.describe_predictor("marigold-depth"), options={**SMALL, "seed": 5})
    monkeypatch.setattr(registry, "describe_predictor", lambda name: spec)
    second = registry.identity("marigold-depth")
    assert first != second and first.partition("-")[0] == second.partition("-")[0]


def test_the_appearance_model_is_refused(weights: Path) -> None:
    write_marigold(weights / "marigold-iid", "Intrinsics", target_properties=APPEARANCE)
    with pytest.raises(UserError, match="its albedo is in 'srgb' color"):
        registry.load("marigold-iid")


def test_another_pipelines_folder_is_refused(weights: Path) -> None:
    write_marigold(weights / "marigold-normals", "Depth")
    with pytest.raises(UserError, match="holds another pipeline: MarigoldDepthPipeline"):
        registry.load("marigold-normals")


def test_a_folder_that_is_not_whole_is_refused(weights: Path) -> None:
    write_marigold(weights / "marigold-normals", "Normals")
    file = weights / "marigold-normals" / "vae" / "diffusion_pytorch_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        registry.load("marigold-normals")
    file.unlink()
    with pytest.raises(UserError, match="lacks vae/diffusion_pytorch_model"):
        registry.load("marigold-normals")


def test_the_size_of_a_download_is_that_of_its_parameters() -> None:
    """Two bytes of each: the half-precision files are fetched."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    def count(network: Any) -> int:
        return sum(p.numel() for p in network.parameters())

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
            )
        )
        vae = diffusers.AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **blocks)
        for name, targets in (("marigold-normals", 1), ("marigold-depth", 1), ("marigold-iid", 3)):
            unet = diffusers.UNet2DConditionModel(
                in_channels=4 * (1 + targets),
                out_channels=4 * targets,
                cross_attention_dim=1024,
                attention_head_dim=[5, 10, 20, 20],
                use_linear_projection=True,
            )
            size = 2 * (count(text) + count(vae) + count(unet))
            assert registry.describe_predictor(name).bytes == size
