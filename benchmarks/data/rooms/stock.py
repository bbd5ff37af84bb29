"""A stock of rendered scenes on disk, for training the embedded zoo: 8-bit pictures and maps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from generators.errors import UserError

from .render import Rooms, render
from .worlds import VERSIONS

DEPTH_RANGE = 10.0  # meters that 255 stands for
CHANNELS = {"rgb": (0, 3), "normal": (3, 6), "depth": (6, 7), "albedo": (7, 10), "shading": (10, 13)}


@dataclass(frozen=True)
class Stock:
    """Scenes of the split `zoo`: pictures and maps as uint8 (n 13 h w), and their captions.

    Attributes:
        fingerprint: the world's version, pixels a side, and how many scenes.
    """

    planes: np.ndarray
    captions: Sequence[str]
    fingerprint: str

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


def _range(path: Path) -> tuple[int, int, int]:
    """Size, first scene and number of scenes of a shard, as its name says."""
    size, start, count = path.stem.split("-")[-3:]
    return int(size), int(start), int(count)


def _refused(folder: Path, wrong: str, paths: Sequence[Path], todo: str) -> UserError:
    return UserError(f"the rendered scenes in {folder}", wrong, ", ".join(p.name for p in paths[:20]), todo)


def _check_shards(folder: Path, paths: Sequence[Path]) -> None:
    """Raise UserError unless shards hold the scenes 0, 1, 2 ... of one size, each once."""
    if len({_range(path)[0] for path in paths}) > 1:
        raise _refused(folder, "they are of several sizes", paths, "keep those of one size in a folder")
    end = 0
    for path in paths:
        _, start, count = _range(path)
        if start < end:
            wrong = f"{path.name} holds scenes again that another file holds"
            raise _refused(folder, wrong, paths, "delete one of the two, with its .json")
        if start > end:
            wrong = f"scenes {end} to {start - 1} are missing"
            raise _refused(folder, wrong, paths, "let `zoo render` end: run it again")
        end = start + count


def open_stock(folder: Path, world: str = "rooms") -> Stock:
    """All shards of a world in a folder, in the order of their scenes.

    Raises:
        UserError: there is none, or they are not the scenes 0, 1, 2 ... of one size, each once.
    """
    version = VERSIONS[world]
    found = (p for p in folder.glob(f"{version}-*.npy") if ".tmp" not in p.name)
    paths = sorted(found, key=_range)
    if not paths:
        raise _refused(
            folder, f"there are none of {version}", paths, "run `intrinsic-bench zoo render` first"
        )
    _check_shards(folder, paths)
    planes = np.concatenate([np.load(path) for path in paths])
    captions = [c for path in paths for c in json.loads(path.with_suffix(".json").read_text())]
    return Stock(planes, captions, f"{version}-{_range(paths[0])[0]}-{len(planes)}")
