"""Picture files of every kind, written by hand where Pillow cannot; and an adapter made on the spot."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from generators import registry
from probes.adapters import AdapterFacts, write_facts

MODEL = "sd.rooms64-s5"
COLOR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # channels to PNG's number


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _predicted(filter_: int, left: NDArray[Any], above: NDArray[Any], corner: NDArray[Any]) -> NDArray[Any]:
    """What a PNG filter predicts (PNG specification, section 9.2)."""
    if filter_ == 4:
        base = left + above - corner
        by_left, by_above, by_corner = abs(base - left), abs(base - above), abs(base - corner)
        other = np.where(by_above <= by_corner, above, corner)
        return np.where((by_left <= by_above) & (by_left <= by_corner), left, other)
    return [0 * left, left, above, (left + above) // 2][filter_]


def png16_by_hand(values: NDArray[np.uint16], extra: bytes = b"") -> bytes:
    """A PNG of 16 bits of (h w c), its rows filtered in all five ways in turn.

    Args:
        extra: chunks before the data.
    """
    h, w, c = values.shape
    rows = values.astype(">u2").view(np.uint8).reshape(h, w * c * 2).astype(int)
    lines, above, step = [], np.zeros(w * c * 2, int), 2 * c
    for y, row in enumerate(rows):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        difference = (row - _predicted(y % 5, left, above, corner)) % 256
        lines.append(bytes([y % 5]) + difference.astype(np.uint8).tobytes())
        above = row
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, COLOR_TYPE[c], 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + extra
        + chunk(b"IDAT", zlib.compress(b"".join(lines)))
        + chunk(b"IEND", b"")
    )


def smooth(h: int, w: int, phase: float = 0.0) -> NDArray[np.uint8]:
    """A picture (h w 3) without sharp edges."""
    y, x = np.mgrid[0:h, 0:w]
    waves = [np.sin(x / w * 5 + phase), np.cos(y / h * 4 + phase), np.sin((x / w + y / h) * 3 - phase)]
    return np.rint((np.stack(waves, 2) + 1) * 127.5).astype(np.uint8)


def write_adapter(folder: Path, generator: Any, intrinsic: str, **changes: Any) -> Path:
    """An adapter with random weights for the first attention layers of a generator."""
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    pattern = r"down_blocks\.0\..*\.attn[12]\.to_(q|k|v|out\.0)"
    adapted = get_peft_model(generator.network, LoraConfig(r=2, lora_alpha=2, target_modules=pattern))
    adapted.save_pretrained(str(folder))
    adapted.unload()
    generator.network.requires_grad_(False)
    path, random = folder / "adapter_model.safetensors", torch.Generator().manual_seed(0)
    save_file({k: 0.2 * torch.randn(v.shape, generator=random) for k, v in load_file(path).items()}, path)
    model = generator.spec.name
    facts = {"model": model, "weights": registry.identity(model), "intrinsic": intrinsic, "method": "lora"}
    write_facts(folder, AdapterFacts(**{**facts, "options": {}, "cell": {"data": "rooms"}, **changes}))
    return folder
