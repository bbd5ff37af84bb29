"""Pictures, arrays, archives, weights and adapters."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from benchmarks.data.diode import archives
from benchmarks.data.diode import read as diode
from benchmarks.data.folder import read_picture as read_folder_picture
from benchmarks.data.own.files import one_channel, read_array, read_stored
from benchmarks.features import reference, script
from benchmarks.features.inception import read_state as read_inception
from benchmarks.features.protocol import Protocol
from benchmarks.features.resize import opened, size_of
from benchmarks.features.sets import FeatureSet
from benchmarks.metrics.frechet import FeatureStatistics
from benchmarks.predict.reading import read_picture
from benchmarks.predict.sheets import _thumb
from benchmarks.predictors.paradigms.predictor import WEIGHTS as PARADIGMS
from benchmarks.predictors.paradigms.predictor import load_network as load_paradigms
from benchmarks.predictors.rooms import WEIGHTS as ROOMS
from benchmarks.predictors.rooms import load_rooms_network
from benchmarks.report.drawn import _halves
from benchmarks.report.qualitative import ARRAYS, read_maps
from generators.checkpoints import read_config, read_lightning, read_network
from generators.checkpoints.bare_state import write_state
from generators.checkpoints.flat_state import read_flat
from probes.adapter_layouts import file_settings, parse, read_file, with_settings
from probes.adapters import CONFIG, FACTS, LORA, read_facts, read_tensors
from tests.checkpoints import mutations
from tests.data.diode_tree import pack, write_tree
from tests.fuzz.format import Format
from tests.predict.pictures import png16_by_hand

RANDOM = np.random.default_rng(0)


def written(write: Callable[[Path], object], name: str = "file") -> bytes:
    """What a function writes into a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


# Pictures.


@functools.cache
def pictures() -> list[bytes]:
    """Small pictures of every kind the project reads; the first is a PNG."""
    values = RANDOM.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    found = []
    for mode, kind, more in (
        ("RGB", "PNG", {}), ("RGBA", "PNG", {}), ("L", "PNG", {}), ("P", "PNG", {}), ("LA", "PNG", {}),
        ("RGB", "JPEG", {"exif": exif(6)}), ("CMYK", "JPEG", {}), ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "BMP", {}), ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("P", "GIF", {}), ("RGB",
        "PPM", {}),
    ):  # fmt: skip
        out = io.BytesIO()
        Image.fromarray(values).convert(mode).save(out, kind, **more)
        found.append(out.getvalue())
    deep = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 65536, (6, 8), dtype=np.uint16)).save(deep, "PNG")
    wide = png16_by_hand(RANDOM.integers(0, 65536, (6, 8, 3), dtype=np.uint16))
    return [*found, deep.getvalue(), wide]


def exif(turn: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = turn
    return found


@functools.cache
def diode_picture() -> list[bytes]:
    out = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(out, "PNG")
    return [out.getvalue()]


def read_for_distance(path: Path) -> None:
    size_of(path)
    assert opened(path.read_bytes(), path).mode == "RGB"


# Arrays.


def npy(*shapes: tuple[int, ...]) -> list[bytes]:
    def one(shape: tuple[int, ...]) -> bytes:
        return written(lambda p: np.save(p, RANDOM.random(shape).astype(np.float32) + 0.5), "a.npy")

    return [one(shape) for shape in shapes]


def with_mask(folder: Path) -> None:
    np.save(folder / "mask.npy", np.ones((6, 8), np.float32))


def unit_normals() -> list[bytes]:
    values = np.zeros((6, 8, 3), np.float32)
    values[..., 2] = 1
    return [written(lambda p: np.save(p, values), "a.npy")]


def npz(arrays: dict[str, Any]) -> list[bytes]:
    def one(save_: Callable[..., object]) -> bytes:
        return written(lambda p: save_(p, **arrays), "a.npz")

    return [one(np.savez), one(np.savez_compressed)]


def maps() -> list[bytes]:
    return npz({name: RANDOM.random((2, 3, 4, 4)).astype(np.float32) for name in ARRAYS})


def statistics() -> FeatureStatistics:
    return FeatureStatistics.of(RANDOM.random((5, 3)))


DECLARED = {"features": "rooms", "resize": "none", "size": "64", "crop": "no", "count": "5"}


def exr() -> list[bytes]:
    import OpenEXR

    def write(path: Path) -> None:
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        channels = {"RGB": RANDOM.random((6, 8, 3)).astype(np.float32)}
        with OpenEXR.File(header, channels) as file:
            file.write(str(path))

    return [written(write, "a.exr")]


# Weights.


def tensors(**more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"a": torch.rand(3, 4, generator=generator), "b": torch.rand(2, generator=generator), **more}


def own_reference() -> list[bytes]:
    protocol = Protocol("rooms", "rooms v1", "0" * 16, "none", "64x64", False)
    kept = FeatureSet(statistics(), RANDOM.random((2, 3)), "0" * 16, protocol)
    return [written(lambda p: reference.save_reference(p, kept), "a.safetensors")]


LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def lora() -> dict[str, torch.Tensor]:
    name = f"base_model.model.{LAYER}"
    return {f"{name}.lora_A.weight": torch.ones(4, 8), f"{name}.lora_B.weight": torch.ones(8, 4)}


def adapter_file() -> list[bytes]:
    plain = {f"unet.{LAYER}.lora_A.weight": torch.ones(4, 8), f"unet.{LAYER}.lora_B.weight": torch.ones(8, 4)}
    said = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8})}
    return [save(plain, said), save(lora(), {"format": "pt"})]


def read_adapter_file(path: Path) -> None:
    lora, said = parse(read_file(path), str(path)), file_settings(path)
    if said:
        with_settings(lora, said, str(path))


def adapter_facts() -> list[bytes]:
    facts = {"model": "sd.rooms64-s5", "weights": "0" * 16, "intrinsic": "normal", "method": "lora",
             "options": {"rank": 4}, "cell": None}  # fmt: skip
    imported = [facts | {"axes": "omnidata"}, facts | {"intrinsic": "depth", "relative": True}]
    return [json.dumps(each).encode() for each in (facts, *imported)]


def adapter_config() -> list[bytes]:
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["to_q"], "alpha_pattern": {},
            "rank_pattern": {}, "bias": "none", "use_dora": False,
            "base_model_name_or_path": "x"}  # fmt: skip
    return [json.dumps(said).encode()]


def adapter(folder: Path) -> None:
    for name, content in ((FACTS, adapter_facts()[0]), (CONFIG, adapter_config()[0]), (LORA, save(lora()))):
        (folder / name).write_bytes(content)


def read_adapter(path: Path) -> None:
    from benchmarks.adapters import load_lora

    read_facts(path.parent)
    read_tensors(path.parent, path.parent / LORA)
    load_lora(path.parent, "peft")


def torch_files() -> list[bytes]:
    def one(zipped: bool) -> bytes:
        return written(lambda p: torch.save(tensors(), p, _use_new_zipfile_serialization=zipped))

    return [one(True), one(False)]


def networks() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        found = list(mutations.small_files(Path(folder)).values())
    bare = written(lambda p: write_state(p, mutations.tiny_state(), "Generator", mutations.ARGUMENTS))
    return [bare, *found]


def lightning() -> list[bytes]:
    held = {"state_dict": tensors(), "epoch": 3, "global_step": 7}
    return [
        written(lambda p, z=z: torch.save(held, p, _use_new_zipfile_serialization=z)) for z in (True, False)
    ]


CONFIG_YAML = b"""model:
  base_learning_rate: 4.5e-06
  target: taming.models.vqgan.VQModel
  params:
    embed_dim: 256
    ddconfig: {z_channels: 4, ch_mult: [1, 2], double_z: false}
    lossconfig:
      target: x.Y
      params: &p {a: '${model.params.embed_dim}'}
"""


def scripts() -> list[bytes]:
    from tests.metrics.test_script import Small

    torch.manual_seed(0)
    with warnings.catch_warnings():  # torch advises against what published files are made with
        warnings.simplefilter("ignore", DeprecationWarning)
        return [written(lambda p: torch.jit.script(Small().eval()).save(str(p)), "a.pt")]


def read_script(path: Path) -> None:
    script.is_script(path)
    script.checked(path)


# Archives.


def packed() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path(folder), 1, {"val": {"indoors": ["00019/00183"]}})
        return [pack(Path(folder), "val", False)]


def unpack(path: Path) -> None:
    """As `fetch` does it once the hash is right, which a damaged file's never is."""
    quiet: Any = lambda *_: None  # noqa: E731
    archive = archives.ARCHIVES["diode.val"]
    archives._half(archive, path, archive.bytes or 0)
    archives._unpack(archive, path, path.parent / "diode", "", quiet, quiet)


def formats() -> list[Format]:
    """All of them."""
    picture, array = functools.partial(Format, kind="picture"), functools.partial(Format, kind="npy")
    found = [
        picture(name="picture-predict", file="a.png", samples=pictures, read=read_picture),
        picture(name="picture-folder", file="a.png", samples=pictures,
        read=lambda p: read_folder_picture(p, 16)),
        picture(name="picture-distance", file="a.png", samples=pictures, read=read_for_distance),
        picture(name="picture-own", file="a.png", samples=pictures, read=read_array),
        picture(name="picture-sheet", file="a.png", samples=pictures, read=_thumb),
        picture(name="picture-diode", file="a.png", samples=diode_picture, read=diode.read_picture),
        picture(name="picture-samples", file="a.png", samples=pictures, read=_halves),
        array(name="npy-own", file="a.npy", samples=lambda: npy((6, 8), (6, 8, 1)),
              read=lambda p: one_channel(read_stored(p))),
        array(name="npy-diode-depth", file="a.npy", samples=lambda: npy((6, 8, 1), (6, 8)), prepare=with_mask,
              read=lambda p: diode.read_depth(p, p.parent / "mask.npy"), named="mask"),
        array(name="npy-diode-normal", file="a.npy", samples=unit_normals, read=diode.read_normals),
        Format("npz-maps", "npz", "maps/a.npz", maps, lambda p: read_maps(p.parents[1], "maps/a.npz")),
        Format("npz-statistics", "npz", "a.npz", lambda: [written(lambda p: statistics().save(p))],
               FeatureStatistics.load),
        Format("npz-reference", "npz", "a.npz", lambda: npz({"mu": np.zeros(3), "sigma": np.eye(3)}),
               lambda p: reference.read_reference(p, DECLARED)),
        Format("reference", "safetensors", "a.safetensors", own_reference,
               lambda p: reference.read_reference(p, {})),
        Format("adapter-file", "safetensors", "a.safetensors", adapter_file, read_adapter_file),
        Format("adapter-bin", "binary", "a.bin", torch_files, read_file),
        Format("adapter-weights", "safetensors", LORA, lambda: [save(lora())], read_adapter, prepare=adapter,
               named="adapter"),
        Format("adapter-facts", "json", FACTS, adapter_facts, read_adapter, prepare=adapter, named="adapter"),
        Format("adapter-config", "json", CONFIG, adapter_config, read_adapter, prepare=adapter,
        named="adapter"),
        Format("network", "binary", "a.pkl", networks, read_network, cases=200),
        Format("network-safetensors", "safetensors", "a.safetensors", lambda: networks()[:1], read_network),
        Format("lightning", "binary", "a.ckpt", lightning, read_lightning),
        Format("torch-flat", "binary", "a.pt", torch_files, read_flat),
        Format("inception", "binary", "a.pth", torch_files, read_inception),
        Format("taming-config", "yaml", "a.yaml", lambda: [CONFIG_YAML], read_config),
        Format("torchscript", "binary", "a.pt", scripts, read_script, cases=80),
        Format("predictor-rooms", "safetensors", "a.safetensors", lambda: [ROOMS.read_bytes()],
        load_rooms_network, cases=20),
        Format("predictor-paradigms", "safetensors", "a.safetensors", lambda: [PARADIGMS.read_bytes()],
        load_paradigms, cases=20),
        Format("diode-archive", "archive", "a.tar.gz", packed, unpack, named="diode.val", cases=60),
    ]  # fmt: skip
    if importlib.util.find_spec("OpenEXR"):
        found.append(Format("exr", "binary", "a.exr", exr, read_array))
    return found
