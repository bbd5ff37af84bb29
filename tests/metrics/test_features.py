"""Feature spaces: resizing, protocols, sets by shards, statistics in files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from benchmarks import features
from benchmarks.cache import Cache
from benchmarks.data.folder import read_picture
from benchmarks.features import SPACES, Protocol, extractors, measure_features, sets
from benchmarks.features.extractors import Extractor, load_extractor
from benchmarks.features.protocol import check_same, declared_protocol, differences
from benchmarks.features.reference import KEY, read_reference, save_reference
from benchmarks.features.resize import FILTERS, check_resize, opened, picture_tensor, size_of
from benchmarks.features.sets import FeatureSet, file_part, gathered, parts_of, shard_features
from benchmarks.metrics.frechet import FeatureStatistics, frechet_distance
from generators.errors import UserError


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


# Resizing.


def test_box_is_the_mean_and_antialias_is_not_rounded() -> None:
    image = picture(32, 32)
    blocks = np.asarray(image, np.float64).reshape(8, 4, 8, 4, 3).mean((1, 3)).transpose(2, 0, 1)
    box = picture_tensor(image, "box", 8, False)
    assert box.dtype == torch.uint8 and np.abs(box.numpy() - blocks).max() <= 1, "rounded twice"
    smooth = picture_tensor(image, "antialias", 8, False)
    assert smooth.dtype == torch.float32 and (smooth != smooth.round()).any()
    assert smooth.min() >= 0 and smooth.max() <= 255
    rounded = picture_tensor(image, "bicubic", 8, False)
    assert 0 < (smooth - rounded.float()).abs().max() <= 1, "the same filter, but for rounding twice"


def test_every_filter_gives_another_picture() -> None:
    image = picture(40, 30)
    made = [picture_tensor(image, name, 16, False).float() for name in FILTERS if name != "none"]
    assert all(x.shape == (3, 16, 16) for x in made)
    assert all((a - b).abs().max() > 0 for i, a in enumerate(made) for b in made[:i])


def test_crop_takes_the_middle_and_none_keeps_every_pixel() -> None:
    image = picture(10, 16)
    whole = picture_tensor(image, "none", None, False)
    assert torch.equal(whole, torch.from_numpy(np.array(image)).permute(2, 0, 1))
    assert torch.equal(picture_tensor(image, "none", None, True), whole[:, :, 3:13])
    cropped = picture_tensor(image, "lanczos", 10, True)
    assert (cropped.float() - whole[:, :, 3:13].float()).abs().max() == 0
    assert (picture_tensor(image, "lanczos", 10, False).float() - cropped.float()).abs().max() > 0


def test_pictures_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    picture(10, 16).save(path, exif=exif)
    assert size_of(path) == (16, 10)
    assert opened(path.read_bytes(), path).size == (10, 16)


def test_gray_of_16_bits_keeps_its_levels(tmp_path: Path) -> None:
    path, levels = tmp_path / "deep.png", np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(levels * 257).save(path)
    for found in (opened(path.read_bytes(), path), Image.fromarray(shown(path, 16))):
        assert np.array_equal(np.asarray(found), np.repeat(levels[..., None], 3, 2))


def shown(path: Path, size: int) -> np.ndarray:
    """A picture (size size 3) as a predictor is shown it, 8 bits."""
    values = (read_picture(path, size).permute(1, 2, 0).numpy() + 1) * 127.5
    return np.rint(values).astype(np.uint8)


@pytest.mark.parametrize(("name", "size"), [("box", None), ("none", 64), ("linear", 64), ("box", 2)])
def test_a_filter_needs_its_size(name: str, size: int | None) -> None:
    with pytest.raises(UserError):
        check_resize(name, size)


# Protocols.


PROTOCOL = Protocol("inception", "words", "ab" * 32, "box", "64x64", False)


def test_protocols_differ_by_name() -> None:
    other = Protocol("inception", "words", "cd" * 32, "lanczos", "64x64", True)
    found = differences(PROTOCOL, other)
    assert [text.split()[0] for text in found] == ["weights", "resize", "crop"]
    with pytest.raises(UserError, match="resize is 'box' and 'lanczos'"):
        check_same(PROTOCOL, other, "--reference x")
    check_same(PROTOCOL, Protocol.read(json.loads(json.dumps(PROTOCOL.facts()))), "the same")


def test_weights_that_nobody_declared_are_no_difference() -> None:
    given = {"features": "inception", "resize": "box", "size": "64", "crop": "no", "count": "50000"}
    declared, count = declared_protocol(given, "words", "x.npz")
    assert count == 50_000 and declared.size == "64x64" and differences(PROTOCOL, declared) == []
    stated, _ = declared_protocol(given | {"weights": "ef" * 32}, "words", "x.npz")
    assert [text.split()[0] for text in differences(PROTOCOL, stated)] == ["weights"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": None}, "not declared: size"),
        ({"colour": "sRGB"}, "unknown: colour"),
        ({"size": "big"}, "cannot be"),
        ({"crop": "maybe"}, "cannot be"),
        ({"count": "1"}, "cannot be"),
    ],
)
def test_a_declaration_is_whole(change: dict[str, str | None], said: str) -> None:
    given = {"features": "inception", "resize": "box", "size": "64", "crop": "no", "count": "50"} | change
    with pytest.raises(UserError, match=said):
        declared_protocol({k: v for k, v in given.items() if v is not None}, "words", "x.npz")


def test_a_stored_protocol_of_another_shape_is_refused() -> None:
    for stored in (None, {}, PROTOCOL.facts() | {"crop": "no"}, PROTOCOL.facts() | {"more": "x"}):
        with pytest.raises(ValueError, match="a protocol has"):
            Protocol.read(stored)


# Sets by shards.


class Counting:
    """Mean and deviation of each color, and how often it was asked."""

    def __init__(self, breaks_after: int | None = None) -> None:
        self.pictures, self.breaks_after = 0, breaks_after

    def __call__(self, pictures: Tensor) -> Tensor:
        self.pictures += len(pictures)
        if self.breaks_after is not None and self.pictures > self.breaks_after:
            raise KeyboardInterrupt
        x = pictures.float() / 255
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Ten pictures, in shards of four."""
    monkeypatch.setattr(sets, "SHARD", 4)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(10):
        picture(12, 12, i).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def parts(files: list[Path]) -> list[sets.Part]:
    return [file_part(files[r.start : r.stop], "box", 8, False, 3) for r in parts_of(len(files))]


def measured(files: list[Path], network: Counting, folder: Path, lines: list[str]) -> FeatureSet:
    cache = Cache(folder / "cache")
    return gathered(parts(files), Extractor("test", "00", network), PROTOCOL, cache, lines.append)


def test_shards_together_are_the_whole_set(files: list[Path], tmp_path: Path) -> None:
    assert [len(rows) for rows in parts_of(10)] == [4, 4, 2]
    lines: list[str] = []
    found = measured(files, Counting(), tmp_path, lines)
    images = [picture_tensor(opened(path.read_bytes(), path), "box", 8, False) for path in files]
    whole = FeatureStatistics.of(Counting()(torch.stack(images)).numpy())
    assert found.statistics.count == 10 and found.rows is not None and len(found.rows) == 10
    assert np.allclose(found.statistics.covariance, whole.covariance, rtol=1e-6, atol=1e-9)
    assert len(lines) == 3 and all("computed now" in line for line in lines)


def test_what_was_interrupted_continues(files: list[Path], tmp_path: Path) -> None:
    stopped = Counting(breaks_after=6)
    with pytest.raises(KeyboardInterrupt):
        measured(files, stopped, tmp_path, [])
    rest, lines = Counting(), list[str]()
    found = measured(files, rest, tmp_path, lines)
    assert rest.pictures == 6, "the first shard of four was kept"
    assert ["in the cache" in line for line in lines] == [True, False, False]
    again = Counting()
    assert measured(files, again, tmp_path, []).pictures == found.pictures and again.pictures == 0


def test_contents_decide_not_names(files: list[Path], tmp_path: Path) -> None:
    first = measured(files, Counting(), tmp_path, [])
    moved = files[0].parent.with_name("moved")
    files[0].parent.rename(moved)
    files = sorted(moved.iterdir())
    again = Counting()
    assert measured(files, again, tmp_path, []).pictures == first.pictures and again.pictures == 0
    picture(12, 12, 99).save(files[5])
    changed = measured(files, again, tmp_path, [])
    assert again.pictures == 4, "only the shard of the picture that changed"
    assert changed.pictures != first.pictures


def test_another_protocol_is_another_shard(files: list[Path], tmp_path: Path) -> None:
    cache, network = Cache(tmp_path / "cache"), Counting()
    first, *_ = parts(files)
    other = Protocol(**(PROTOCOL.facts() | {"resize": "lanczos"}))
    for protocol, count in ((PROTOCOL, 4), (PROTOCOL, 4), (other, 8)):
        shard_features(first, Extractor("test", "00", network), protocol, cache)
        assert network.pictures == count


def test_a_picture_that_changes_meanwhile_is_noticed(files: list[Path], tmp_path: Path) -> None:
    part, *_ = parts(files)
    assert len(part.key) == 64
    picture(12, 12, 77).save(files[1])
    cache = Cache(tmp_path / "cache")
    with pytest.raises(UserError, match="changed while"):
        shard_features(part, Extractor("test", "00", Counting()), PROTOCOL, cache)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_large_sets_keep_some_rows_of_their_own_draw(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = measured(files, Counting(), tmp_path, [])
    monkeypatch.setattr(sets, "KEPT", 5)
    found = measured(files, Counting(), tmp_path, [])
    assert found.statistics.count == 10 and found.rows is not None and everything.rows is not None
    assert len(found.rows) == 5
    assert all((everything.rows == row).all(1).any() for row in found.rows)
    assert np.array_equal(found.rows, measured(files, Counting(), tmp_path, []).rows)  # type: ignore[arg-type]


def test_numbers_that_are_none_are_refused() -> None:
    broken = Extractor("test", "00", lambda x: torch.full((len(x), 3), torch.nan))
    with pytest.raises(UserError, match="NaN"):
        broken(torch.zeros(2, 3, 8, 8))
    with pytest.raises(UserError, match="shape"):
        Extractor("test", "00", lambda x: x)(torch.zeros(2, 3, 8, 8))


# Statistics in files.


@pytest.fixture
def reference(files: list[Path], tmp_path: Path) -> tuple[Path, FeatureSet]:
    found, path = measured(files, Counting(), tmp_path, []), tmp_path / "reference.safetensors"
    save_reference(path, found)
    return path, found


def test_a_reference_comes_back_as_it_was(reference: tuple[Path, FeatureSet]) -> None:
    path, found = reference
    read = read_reference(path, {})
    assert read.protocol == found.protocol and read.pictures == found.pictures
    assert read.statistics.count == 10 and np.array_equal(read.rows, found.rows)  # type: ignore[arg-type]
    assert frechet_distance(read.statistics, found.statistics) < 1e-9
    with safe_open(path, "numpy") as file:
        assert file.get_tensor("mean").dtype == np.float64 == file.get_tensor("covariance").dtype


def test_a_damaged_reference_is_refused(reference: tuple[Path, FeatureSet], tmp_path: Path) -> None:
    path, _ = reference
    bad = tmp_path / "bad.safetensors"
    whole = path.read_bytes()
    bad.write_bytes(whole[:-40])
    with pytest.raises(UserError, match="cannot be read"):
        read_reference(bad, {})
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    bad.write_bytes(bytes(flipped))
    with pytest.raises(UserError, match="not those it was written with"):
        read_reference(bad, {})
    save_file({"mean": np.zeros(3)}, bad)
    with pytest.raises(UserError, match="does not say how"):
        read_reference(bad, {})
    save_file({"mean": np.zeros(3)}, bad, {KEY: "[1]"})
    with pytest.raises(UserError, match="does not say how"):
        read_reference(bad, {})
    with pytest.raises(UserError, match="no such file"):
        read_reference(tmp_path / "nowhere.npz", {})
    with pytest.raises(UserError, match="says itself"):
        read_reference(path, {"count": "3"})


DECLARED = {"features": "inception", "resize": "box", "size": "64", "crop": "no", "count": "100"}


def test_the_fields_npz_is_read_as_declared(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(100, 5))
    path = tmp_path / "field.npz"
    np.savez(path, mu=rows.mean(0), sigma=np.cov(rows, rowvar=False))
    found = read_reference(path, DECLARED)
    assert found.rows is None and found.protocol.weights == "" and found.statistics.count == 100
    assert frechet_distance(found.statistics, FeatureStatistics.of(rows)) < 1e-9
    with pytest.raises(UserError, match="not declared: features"):
        read_reference(path, {})
    with pytest.raises(UserError, match="feature space"):
        read_reference(path, DECLARED | {"features": "inceptoin"})
    with pytest.raises(UserError, match="no filter 'bilinear'"):
        read_reference(path, DECLARED | {"resize": "bilinear"})


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.array([print, 1], object), "sigma": np.eye(2)}, "pickled objects"),
        ({"mu": np.zeros(3)}, "it holds mu"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "shapes"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "NaN"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "not symmetric"),
    ],
)
def test_another_npz_is_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=said):
        read_reference(path, DECLARED)


def test_a_truncated_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.npz"
    np.savez(path, mu=np.zeros(50), sigma=np.eye(50))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match="cannot be read"):
        read_reference(path, DECLARED)
    with path.open("wb") as file:
        np.save(file, np.zeros(50))
    with pytest.raises(UserError, match="cannot be read"):
        read_reference(path, DECLARED)


# Names.


def test_spaces_say_what_they_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("INTRINSIC_BENCH_WEIGHTS", raising=False)
    assert features.need("rooms") is None and features.need("dinov2-rooms") is None
    inception, dinov2 = features.need("inception"), features.need("dinov2")
    assert inception is not None and not inception.here and inception.bytes == 95_607_719
    assert inception.command == "intrinsic-bench fetch inception" and inception.kind == "features"
    assert dinov2 is not None and dinov2.command == "intrinsic-bench fetch dinov2.large"
    assert features.identity("inception") == "absent" and len(features.identity("dinov2-rooms")) == 16
    with pytest.raises(UserError, match="feature space 'inceptio'"):
        features.need("inceptio")
    load_extractor.cache_clear()
    with pytest.raises(UserError, match="not on this machine") as error:
        load_extractor("inception")
    assert error.value.todo == inception.command
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "inception.torch-fidelity.pth").write_bytes(b"x")
    found = features.need("inception")
    assert found is not None and found.here and len(features.identity("inception")) == 64


def test_features_of_pictures_are_those_of_the_rooms_network() -> None:
    from benchmarks.data.load import load_pictures
    from benchmarks.predictors.rooms import load_rooms_network

    pictures = load_pictures("rooms", "reference", range(6), 64, ()).pictures
    found = measure_features("rooms", pictures)
    with torch.no_grad():
        assert torch.equal(found, load_rooms_network().features(pictures))
    other = measure_features("dinov2-rooms", pictures, batch=4)
    assert other.shape == (6, 144) and (other[0] - other[1]).abs().max() > 1e-3


def test_fd_dinov2_takes_the_class_token_at_224_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of the large model, walked with the zoo's small one."""
    monkeypatch.setattr(extractors, "LARGE", features.SMALL)
    extractor = extractors._dinov2("cpu")
    pictures = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    backbone = extractors._backbone(features.SMALL, "cpu")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((pictures.permute(0, 2, 3, 1) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = backbone(pixels)[:, 0]
    assert torch.allclose(extractor(pictures), expected, atol=1e-4)
    seen: list[Tensor] = []
    monkeypatch.setattr(
        extractors, "_backbone", lambda *_: lambda x: seen.append(x) or torch.zeros(len(x), 5, 3)
    )
    extractors._dinov2("cpu")(pictures[:, :, :100, :60])
    assert seen[0].shape == (2, 3, 224, 224)


def test_spaces_are_whole() -> None:
    for name, space in SPACES.items():
        assert space.name == name and space.extractor and space.source
        check_resize(space.resize, space.size)
