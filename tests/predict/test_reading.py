"""Every kind of picture file: read right, or refused with a reason."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks.predict.reading import ORIENTATION, read_picture
from benchmarks.predict.writing import png16
from generators.errors import UserError
from tests.predict.pictures import chunk, png16_by_hand, smooth

RGB = smooth(20, 30)
DEEP = np.random.default_rng(0).integers(0, 65536, (13, 17, 4), dtype=np.uint16)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_opaque_modes_read_as_pillow_shows_them(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    found = read_picture(saved(tmp_path / "a.png", image))
    assert found.bits == 8 and found.notes == ()
    assert np.array_equal(found.values, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_show_the_background_and_it_is_said(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(30) < 15, 0, 255).astype(np.uint8)[None].repeat(20, 0)))
    found = read_picture(saved(tmp_path / "a.png", image.convert(mode)), background=(10, 200, 30))
    assert (found.values[:, :15] == (10, 200, 30)).all()
    assert np.array_equal(found.values[:, 15:], np.asarray(image.convert(mode).convert("RGB"))[:, 15:])
    assert "background" in found.notes[0]


def test_a_palette_with_a_clear_entry(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).quantize(8)
    path = saved(tmp_path / "a.png", image, transparency=image.getpixel((0, 0)))
    found, clear = read_picture(path, (10, 200, 30)), np.asarray(image) == image.getpixel((0, 0))
    assert (found.values[clear] == (10, 200, 30)).all() and found.notes
    assert np.array_equal(found.values[~clear], np.asarray(image.convert("RGB"))[~clear])


def test_an_opaque_alpha_channel_is_nothing_to_speak_of(tmp_path: Path) -> None:
    found = read_picture(saved(tmp_path / "a.png", Image.fromarray(RGB).convert("RGBA")))
    assert np.array_equal(found.values, RGB) and found.notes == ()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_all_sixteen_bits_of_a_png_are_read(tmp_path: Path, channels: int) -> None:
    deep = DEEP[..., :channels].copy()
    if channels in (2, 4):
        deep[..., -1] = 65535
    (tmp_path / "a.png").write_bytes(png16_by_hand(deep))
    found = read_picture(tmp_path / "a.png")
    color = deep[..., :1].repeat(3, 2) if channels < 3 else deep[..., :3]
    assert found.bits == 16 and np.array_equal(found.values, color)
    assert np.abs(found.eight_bit().astype(int) - color / 257.0).max() <= 0.5


def test_sixteen_bit_alpha_is_composited(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png16_by_hand(DEEP))
    found, share = read_picture(tmp_path / "a.png", (255, 0, 0)), DEEP[..., 3:] / 65535
    expected = DEEP[..., :3] * share + np.array([65535, 0, 0]) * (1 - share)
    assert np.abs(found.values - expected).max() <= 0.5 + 1e-6 and found.notes


def test_a_sixteen_bit_color_that_stands_for_nothing(tmp_path: Path) -> None:
    deep = DEEP[..., :3]
    clear = chunk(b"tRNS", deep[4, 5].astype(">u2").tobytes())
    (tmp_path / "a.png").write_bytes(png16_by_hand(deep, clear))
    found = read_picture(tmp_path / "a.png")
    assert (found.values[4, 5] == 65535).all() and np.array_equal(found.values[0], deep[0])


def test_a_sixteen_bit_gray_tiff(tmp_path: Path) -> None:
    found = read_picture(saved(tmp_path / "a.tif", Image.fromarray(DEEP[..., 0])))
    assert np.array_equal(found.values, DEEP[..., :1].repeat(3, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_we_write_in_sixteen_bits_is_read_back(tmp_path: Path, channels: int) -> None:
    deep = DEEP[..., :channels]
    (tmp_path / "a.png").write_bytes(png16(deep))
    assert np.array_equal(read_picture(tmp_path / "a.png").values[..., :channels], deep)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_honored(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    path = saved(tmp_path / "a.jpg", Image.fromarray(RGB), exif=exif, quality=95)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_picture(path).values, upright)
    deep = smooth(6, 9).astype(np.uint16) * 257
    (tmp_path / "b.png").write_bytes(
        png16_by_hand(deep, chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    )
    plain = Image.fromarray(smooth(6, 9))
    plain.getexif()[ORIENTATION] = turn
    assert np.array_equal(
        read_picture(tmp_path / "b.png").values // 257, np.asarray(ImageOps.exif_transpose(plain))
    )


def test_cmyk_is_converted_and_it_is_said(tmp_path: Path) -> None:
    image = Image.fromarray(RGB).convert("CMYK")
    found = read_picture(saved(tmp_path / "a.tif", image))
    assert np.array_equal(found.values, np.asarray(image.convert("RGB"))) and "CMYK" in found.notes[0]
    again = read_picture(saved(tmp_path / "b.tif", image, icc_profile=b"not a profile"))
    assert np.array_equal(again.values, found.values) and "cannot be applied" in again.notes[0]


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    first, second = Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 255)
    found = read_picture(saved(tmp_path / "a.gif", first, save_all=True, append_images=[second]))
    assert (found.values == 0).all() and "first" in found.notes[0]


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


BAD = {
    "empty": (b"", "empty"),
    "text": (b"surface normals of a room", "no picture"),
    "truncated png": (encoded(Image.fromarray(RGB), "png")[:200], "truncated"),
    "truncated 16 bit": (png16_by_hand(DEEP[..., :3])[:700], "truncated"),
    "truncated jpeg": (encoded(Image.fromarray(RGB), "jpeg")[:-100], "truncated"),
    "no range": (encoded(Image.fromarray(RGB[..., 0].astype(np.float32)), "tiff"), "range"),
}


@pytest.mark.parametrize(("data", "fact"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, data: bytes, fact: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_picture(path)
    assert str(path) in caught.value.asked and fact in caught.value.wrong


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.new("L", (100, 100)))
    for limit in (60, 9000):  # Pillow refuses twice its limit, and warns above it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError) as caught:
            read_picture(path)
        assert "pixels" in caught.value.wrong
