"""Features of a whole set of pictures, shard by shard; each finished shard stays in the cache.

A shard is SHARD pictures in the order of their names. Its file in the cache is named by the contents of its
pictures and the protocol, so a run that was stopped continues, a renamed folder is not measured again, and
a picture that changed is. Several processes share the work with `--shard K/N`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.frechet import FeatureStatistics
from generators.errors import UserError

from .protocol import Protocol
from .resize import opened, picture_tensor, size_of

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.cache import Cache

    from .extractors import Extractor

# 32 batches of 32: how pictures are put together to batches does not depend on how many there are.
SHARD = 1024
KEPT = 10_000  # feature rows a set keeps for the kernel distance; of larger sets so many are drawn
ROWS_SEED = 2020
FORMAT = 2  # raise when the same pictures and protocol would give other features

Say = Callable[[str], None]


@dataclass(frozen=True)
class FeatureSet:
    """What a distance needs of one set of pictures.

    Attributes:
        statistics: count, mean and covariance of all features.
        rows: (k d) float32, all features or KEPT of them, drawn without replacement; None if unknown.
        pictures: sha256 of the pictures' contents in their order, hexadecimal digits; "" if unknown.
        protocol: how they were measured.
    """

    statistics: FeatureStatistics
    rows: NDArray[np.float32] | None
    pictures: str
    protocol: Protocol


class Part:
    """One shard of a set.

    Args:
        count: how many pictures.
        identify: hash of their contents, hexadecimal digits; asked once, and not before it is needed.
        load: makes the pictures, in batches of tensors (b 3 h w) on 0..255.
    """

    def __init__(
        self, count: int, identify: Callable[[], str], load: Callable[[str], Iterator[Tensor]]
    ) -> None:
        self.count, self._identify, self._load = count, identify, load

    @cached_property
    def key(self) -> str:
        """What the pictures are."""
        return self._identify()

    def pictures(self) -> Iterator[Tensor]:
        """Batches of tensors (b 3 h w) on 0..255, of the very contents the key names."""
        return self._load(self.key)


def parts_of(count: int) -> list[range]:
    """The shards of so many pictures."""
    return [range(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]


def _joined(digests: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


# Pictures in files.


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"picture {path}", f"it cannot be read: {error}", "", "mend or remove it") from error


def _size(path: Path, crop: bool) -> tuple[int, int]:
    """Height and width of a picture as it will be seen."""
    height, width = size_of(path)
    return (min(width, height),) * 2 if crop else (height, width)


def common_size(files: Sequence[Path], crop: bool) -> str:
    """ "HxW" of pictures that nobody resizes; raises UserError unless all have one size."""
    first = _size(files[0], crop)
    for path in files[1:]:
        size = _size(path, crop)
        if size != first:
            raise UserError(
                f"pictures of {path.parent} as they are (--resize none)",
                "they have different sizes",
                f"{files[0].name} {first[0]}x{first[1]}, {path.name} {size[0]}x{size[1]} (height x width)",
                "give --resize FILTER --size PIXELS; both are part of the protocol",
            )
    return f"{first[0]}x{first[1]}"


def file_part(files: Sequence[Path], resize: str, size: int | None, crop: bool, batch: int) -> Part:
    """A shard of pictures in files."""

    def identify() -> str:
        return _joined([hashlib.sha256(_read(path)).hexdigest() for path in files])

    def load(key: str) -> Iterator[Tensor]:
        import torch

        seen = []
        for start in range(0, len(files), batch):
            pictures = []
            for path in files[start : start + batch]:
                data = _read(path)
                seen.append(hashlib.sha256(data).hexdigest())
                pictures.append(picture_tensor(opened(data, path), resize, size, crop))
            yield torch.stack(pictures)
        if _joined(seen) != key:
            raise UserError(
                f"pictures {files[0]} ... {files[-1].name}",
                "some changed while their features were measured; nothing of them was kept",
                f"shards of {SHARD:,} pictures",
                "run again when nobody writes into the folder",
            )

    return Part(len(files), identify, load)


# Renders of rooms.


def render_part(indices: range, size: int, batch: int) -> Part:
    """A shard of the rooms' split `reference`, drawn when it is computed."""

    def identify() -> str:
        from benchmarks.data import describe

        world = describe("rooms").fingerprint
        return _joined([f"rooms {world} reference {indices.start} {indices.stop} {size}"])

    def load(key: str) -> Iterator[Tensor]:
        from benchmarks.data.load import load_pictures

        for start in range(indices.start, indices.stop, batch):
            rows = range(start, min(start + batch, indices.stop))
            pictures = load_pictures("rooms", "reference", rows, size, ()).pictures
            yield ((pictures + 1) * 127.5).round().byte()

    return Part(len(indices), identify, load)


# Both.


def _key(part: Part, protocol: Protocol, device: str) -> dict[str, Any]:
    kind, where = "distance-features", device.partition(":")[0]
    facts = {"format": FORMAT, "pictures": part.key, "device": where}
    return {"kind": kind, "protocol": protocol.facts()} | facts


def shard_features(part: Part, extractor: Extractor, protocol: Protocol, cache: Cache) -> Tensor:
    """Features (n d) of a shard, from the cache or computed and put there."""

    def compute() -> Mapping[str, Tensor]:
        import torch

        return {"features": torch.cat([extractor(pictures, len(pictures)) for pictures in part.pictures()])}

    return cache.get(_key(part, protocol, extractor.device), compute)["features"]


def is_cached(part: Part, protocol: Protocol, cache: Cache, device: str) -> bool:
    """Whether a shard's file is there."""
    path = cache.path(_key(part, protocol, device))
    return path is not None and path.exists()


def _kept_rows(count: int) -> NDArray[np.int64]:
    """Which of so many features are kept for the kernel distance, in their order."""
    if count <= KEPT:
        return np.arange(count)
    return np.sort(np.random.RandomState(ROWS_SEED).choice(count, KEPT, replace=False))


def gathered(
    parts: Sequence[Part], extractor: Extractor, protocol: Protocol, cache: Cache, say: Say
) -> FeatureSet:
    """The whole set: shards that are in the cache are read, the others computed."""
    total, start = sum(part.count for part in parts), 0
    kept, rows = _kept_rows(total), []
    statistics: FeatureStatistics | None = None
    for index, part in enumerate(parts):
        if len(parts) > 1:
            state = "in the cache" if is_cached(part, protocol, cache, extractor.device) else "computed now"
            say(f"shard {index + 1} of {len(parts)}: {state}")
        found = shard_features(part, extractor, protocol, cache).numpy()
        statistics = statistics.update(found) if statistics else FeatureStatistics.of(found)
        rows.append(found[kept[(kept >= start) & (kept < start + part.count)] - start])
        start += part.count
    assert statistics is not None, "a set of pictures is never empty"
    return FeatureSet(statistics, np.concatenate(rows), _joined([part.key for part in parts]), protocol)
