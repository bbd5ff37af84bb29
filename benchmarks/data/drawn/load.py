"""Pictures that a model drew: drawn in shards that the cache keeps, so that a drawing can continue."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.cache import Cache, cache_folder
from benchmarks.data.load import Pictures
from benchmarks.data.square import square_picture
from benchmarks.needs import model_need
from generators import registry
from generators.errors import UserError
from generators.sampled import check_sample
from probes.memory import portions

from .sampler import COUNTS, Sampler, captions, parse

if TYPE_CHECKING:
    from generators.base import Generator

SHARD = 50  # pictures that are drawn and kept together
PIXELS = 1 << 21  # of a batch
LARGEST_BATCH = 25


def load(name: str, split: str, indices: Sequence[int], size: int, intrinsics: Sequence[str]) -> Pictures:
    """Pictures of a split by their numbers, without maps: nobody knows their truth.

    They are drawn on a GPU if there is one; noise is from each picture's seed and drawn on the CPU, so the
    device changes no more than rounding does (TF32 in convolutions, by PyTorch's default). What a GPU drew is
    kept apart from what a CPU drew, and what it drew by deterministic algorithms from the rest.

    Raises:
        UserError: there are not as many, or the model's weights are not on this machine.
    """
    drawn = parse(name)
    if not len(indices) or min(indices) < 0 or max(indices) >= COUNTS[split]:
        asked = f"pictures {min(indices)} to {max(indices)}" if len(indices) else "no pictures"
        raise UserError(f"{asked} of split {split!r} of {name}", f"it has {COUNTS[split]}")
    present(drawn.model)
    shards = _shards(drawn, split, sorted({row // SHARD for row in indices}))
    pictures = torch.stack([shards[row // SHARD][row % SHARD] for row in indices])
    mask = torch.ones(len(indices), 1, size, size, dtype=torch.bool)
    said = captions(drawn.spec, split, indices) or [""] * len(indices)
    return Pictures(_sized(pictures, size), {}, mask, tuple(said))


def present(model: str) -> None:
    """Raise UserError if a model's weights are not on this machine."""
    need = model_need(model)
    if need is not None and not need.here:
        raise UserError(
            f"pictures that {model} draws", "its weights are not here", need.licence, need.command
        )


def device_here() -> str:
    """Where pictures are drawn unless someone says otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def drawn_by() -> dict[str, Any]:
    """What keys of drawn pictures and of all that is made of them hold: of a CPU nothing more."""
    if device_here() == "cpu":
        return {}
    return {"device": device_here(), "deterministic": torch.are_deterministic_algorithms_enabled()}


def batch_size(resolution: int) -> int:
    """Pictures that are drawn at once."""
    return max(1, min(LARGEST_BATCH, PIXELS // resolution**2))


def eight_bit(images: Tensor) -> Tensor:
    """Pictures in [-1, 1] as uint8 on the CPU."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def _shards(drawn: Sampler, split: str, numbers: Sequence[int]) -> dict[int, Tensor]:
    """Shard number -> pictures (n 3 h w), 8 bit, of the model's own size."""
    cache, fingerprint = Cache(cache_folder()), drawn.fingerprint()
    model: list[Generator] = []
    found: dict[int, Tensor] = {}
    for number in numbers:
        rows = range(number * SHARD, min((number + 1) * SHARD, COUNTS[split]))
        key: dict[str, Any] = {
            "kind": "drawn",
            "world": fingerprint,
            "split": split,
            "rows": [rows.start, rows.stop],
        }
        key |= drawn_by()

        def compute(rows: range = rows) -> dict[str, Tensor]:
            if not model:
                print(f"{drawn.name}: drawing pictures of its split {split}, once", file=sys.stderr)
                model.append(registry.load(drawn.model, device_here()))
            return {"pictures": _draw(model[0], drawn, split, rows)}

        with _alone(cache.path(key)):
            found[number] = cache.get(key, compute)["pictures"]
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the system if its owner dies
        yield


def _alone(path: Path | None) -> Any:
    """One process draws a shard; others wait for it and find it."""
    return nullcontext() if path is None else _locked(path.with_suffix(".lock"))


def _draw(model: Generator, drawn: Sampler, split: str, rows: range) -> Tensor:
    def some(part: slice) -> Tensor:
        told = captions(drawn.spec, split, rows[part])
        sample = model.sample(drawn.seeds(split, rows[part]), told, **drawn.arguments)
        return eight_bit(check_sample(sample, drawn.spec, len(rows[part])).images)

    parts = portions(len(rows), batch_size(drawn.spec.resolution), some, "draw pictures")
    return torch.cat([found for _, found in parts])


def _sized(pictures: Tensor, size: int) -> Tensor:
    """Pictures (n 3 size size) in [-1, 1] of pictures of 8 bits."""
    from PIL import Image

    if pictures.shape[-1] == size and pictures.shape[-2] == size:
        return pictures.float() / 127.5 - 1
    files = (Image.fromarray(p.permute(1, 2, 0).contiguous().numpy()) for p in pictures)
    return torch.stack([square_picture(image, size) for image in files])
