"""Small trees and archives in DIODE's format, of rooms whose depth and normals are known in closed form."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 128, 96  # an eighth of DIODE's
FOCAL, CENTER = (886.81 / 8, 927.06 / 8), (512 / 8, 384 / 8)
EACH = 3  # pictures of a scan, unless said otherwise
SCANS = {  # partition: place: scans of scenes
    "train": {
        "indoors": ["00000/00001", "00000/00002", "00001/00003"],
        "outdoor": ["00007/00082", "00008/00085"],
    },
    "val": {"indoors": ["00019/00183", "00020/00184"], "outdoor": ["00022/00196"]},
}


def room(turn: float, width: int = WIDTH, height: int = HEIGHT) -> dict[str, NDArray[Any]]:
    """Picture (h w 3), depth (h w 1), mask (h w), normal (h w 3; x right, y up, z towards the camera).

    A room of 4 x 2.6 x 6 meters, seen from its middle by a camera turned by some degrees.
    """
    scale = width / 1024
    x = (np.arange(width) - 512 * scale) / (886.81 * scale)
    y = (384 * scale - np.arange(height)) / (927.06 * scale)
    rays = np.stack([*np.meshgrid(x, y), -np.ones((height, width))], -1)
    a, b = np.radians(turn), np.radians(-8)
    yaw = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    camera = yaw @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    world = rays @ camera.T
    distances = np.abs(np.array([2.0, 1.3, 3.0]) / np.where(np.abs(world) < 1e-9, 1e-9, world))
    axis = distances.argmin(-1)
    depth = distances.min(-1)
    facing = np.zeros_like(world)
    np.put_along_axis(facing, axis[..., None], -np.sign(np.take_along_axis(world, axis[..., None], -1)), -1)
    picture = np.uint8(60 + 50 * axis + np.linspace(0, 40, width)[None])
    return {
        "picture": np.stack([picture, picture[::-1], picture[:, ::-1]], -1),
        "depth": depth[..., None].astype(np.float32),
        "mask": np.ones((height, width), np.float32),
        "normal": (facing @ camera).astype(np.float32),
    }


def stem_of(partition: str, place: str, scan: str, i: int) -> str:
    """The name of the i-th picture of a scan."""
    return f"{scan.replace('/', '_')}_{place}_{i:02}0_010"


def scan_folder(root: Path, partition: str, place: str, scan: str) -> Path:
    scene, number = scan.split("/")
    return root / partition / place / f"scene_{scene}" / f"scan_{number}"


def write(folder: Path, stem: str, maps: Mapping[str, NDArray[Any]], normals: bool = True) -> None:
    """The files of one picture."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(maps["picture"]).save(folder / f"{stem}.png")
    np.save(folder / f"{stem}_depth.npy", maps["depth"])
    np.save(folder / f"{stem}_depth_mask.npy", maps["mask"])
    if normals:
        np.save(folder / f"{stem}_normal.npy", maps["normal"])


def write_tree(
    root: Path,
    each: int = EACH,
    scans: Mapping[str, Mapping[str, Iterable[str]]] = SCANS,
    normals: bool = True,
) -> list[str]:
    """A tree with some pictures of each scan, and the list of the devkit; paths below it, without endings.

    The last picture of each validation scan is not on the list.
    """
    written, turn = [], 17.0
    meta: dict[str, Any] = {}
    for partition, places in scans.items():
        for place, all_scans in places.items():
            for scan in all_scans:
                folder = scan_folder(root, partition, place, scan)
                stems = [stem_of(partition, place, scan, i) for i in range(each)]
                for stem in stems:
                    write(folder, stem, room(turn), normals)
                    written.append((folder / stem).relative_to(root).as_posix())
                    turn += 11
                listed = stems[:-1] if partition == "val" else stems
                scene = (
                    meta.setdefault(partition, {}).setdefault(place, {}).setdefault(folder.parent.name, {})
                )
                scene[folder.name] = listed
    (root / "diode_meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return written


def pack(root: Path, partition: str, normals: bool, prefix: str = "") -> bytes:
    """A .tar.gz as DIODE's: the maps, or the normals alone, of a partition."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path in sorted((root / partition).rglob("*")):
            if path.is_file() and path.name.endswith("_normal.npy") == normals:
                tar.add(path, f"{prefix or partition}/{path.relative_to(root / partition).as_posix()}")
    return packed.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
