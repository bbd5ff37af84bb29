"""A stock of rendered scenes on disk, for training the embedded zoo: 8-bit pictures and maps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .render import Rooms, render
from .worlds import VERSIONS

DEPTH_RANGE = 10.0  # meters that 255 stands for
CHANNELS = {"rgb": (0, 3), "normal": (3, 6), "depth": (6, 7), "albedo": (7, 10), "shading": (10, 13)}


@dataclass(frozen=True)
class Stock:
    """Scenes of the split `zoo`: pictures and maps as uint8 (n 13 h w), and their captions."""

    planes: np.ndarray
    captions: Sequence[str]

    def rgb(self) -> np.ndarray:
        """Pictures, uint8 (n 3 h w)."""
        return self.planes[:, :3]


def _bytes(rooms: Rooms) -> np.ndarray:
    maps = [rooms.rgb, rooms.normal / 2 + 0.5, rooms.depth / DEPTH_RANGE, rooms.albedo, rooms.shading]
    return (torch.cat(maps, 1).clamp(0, 1) * 255).round().byte().numpy()


def render_shard(folder: Path, start: int, count: int, size: int = 64, world: str = "rooms") -> Path:
    """Render scenes start ... start + count - 1 of a world's split `zoo` into one .npy file."""
    path = folder / f"{VERSIONS[world]}-{size}-{start:07d}-{count}.npy"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    planes = np.empty((count, 13, size, size), np.uint8)
    captions: list[str] = []
    for offset in range(0, count, 256):
        rooms = render("zoo", range(start + offset, start + min(offset + 256, count)), size, world=world)
        planes[offset : offset + 256] = _bytes(rooms)
        captions.extend(rooms.captions)
    path.with_suffix(".json").write_text(json.dumps(captions))
    np.save(path.with_suffix(".tmp.npy"), planes)
    path.with_suffix(".tmp.npy").rename(path)
    return path


def open_stock(folder: Path, world: str = "rooms") -> Stock:
    """All shards of a world in a folder; raises FileNotFoundError if there is none."""
    version = VERSIONS[world]
    paths = sorted(p for p in folder.glob(f"{version}-*.npy") if ".tmp" not in p.name)
    if not paths:
        raise FileNotFoundError(f"no rendered scenes of {version} in {folder}: run `zoo render` first")
    planes = np.concatenate([np.load(path) for path in paths])
    captions = [c for path in paths for c in json.loads(path.with_suffix(".json").read_text())]
    return Stock(planes, captions)
