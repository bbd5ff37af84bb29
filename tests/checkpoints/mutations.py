"""Corrupted and random pickles from a seed: small files damaged in every way, and random opcodes."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from generators.checkpoints.restricted import CALLS
from tests.checkpoints.attacks import START, STOP, TARGETS, by_line, by_stack, text
from tests.checkpoints.emulate import storage_stream, write_nvidia, write_tensorflow

ARGUMENTS = {
    "z_dim": 2,
    "c_dim": 0,
    "w_dim": 2,
    "img_resolution": 4,
    "img_channels": 1,
    "mapping_kwargs": {"num_layers": 1},
    "synthesis_kwargs": {"channel_base": 8, "channel_max": 2},
}


def tiny_state() -> dict[str, Tensor]:
    """A StyleGAN2 of 4x4 pixels."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "synthesis.b4.const": (2, 4, 4),
        "synthesis.b4.conv1.weight": (2, 2, 3, 3),
        "synthesis.b4.conv1.bias": (2,),
        "synthesis.b4.conv1.noise_strength": (),
        "synthesis.b4.conv1.noise_const": (4, 4),
        "synthesis.b4.conv1.affine.weight": (2, 2),
        "synthesis.b4.conv1.affine.bias": (2,),
        "synthesis.b4.torgb.weight": (1, 2, 1, 1),
        "synthesis.b4.torgb.bias": (1,),
        "synthesis.b4.torgb.affine.weight": (2, 2),
        "synthesis.b4.torgb.affine.bias": (2,),
        "mapping.w_avg": (2,),
        "mapping.fc0.weight": (2, 2),
        "mapping.fc0.bias": (2,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


NVIDIA_STATE = ("mapping.w_avg", "mapping.fc0.weight", "mapping.fc0.bias")


def small_files(folder: Path) -> dict[str, bytes]:
    """One small file of every layout and protocol, by name."""
    state = tiny_state()
    some = {name: state[name] for name in NVIDIA_STATE}
    variants = {
        "nvidia-2": {"protocol": 2},
        "nvidia-4": {"protocol": 4},
        "nvidia-5": {"protocol": 5, "core": "numpy._core"},
        "dill-3": {"protocol": 3, "dill": True, "cuda": True, "ordered": True},
    }
    for name, options in variants.items():
        write_nvidia(folder / name, "Generator", ARGUMENTS, some, poison="print(1)", **options)  # type: ignore[arg-type]
    for protocol in (2, 4):
        write_tensorflow(
            folder / f"tensorflow-{protocol}", ARGUMENTS, state, protocol=protocol, poison="print(1)"
        )
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Damage.

EXTREMES = [struct.pack("<I", n) for n in (0, 1, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)]
CODES = bytes(range(0x28, 0x9A))


def flip(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def overwrite(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(len(data))] = chance.choice(CODES)


def insert(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    at = chance.randrange(len(data))
    data[at:at] = bytes(chance.choice(CODES) for _ in range(chance.choice((1, 2, 5))))


def stretch(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    """A length, a count or an index becomes an extreme one."""
    at = chance.randrange(len(data))
    data[at : at + 4] = chance.choice(EXTREMES)


def cut(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    del data[chance.randrange(len(data)) :]


def drop(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 2, 8, 64, 512))]


def repeat(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    at, length = chance.randrange(len(data)), chance.choice((1, 4, 32, 256))
    data[at:at] = data[at : at + length]


def splice(data: bytearray, chance: random.Random, others: list[bytes]) -> None:
    """A part of another file in the place of one of this file."""
    other, length = chance.choice(others), chance.choice((4, 32, 256, 2048))
    start, at = chance.randrange(len(other)), chance.randrange(len(data))
    data[at : at + length] = other[start : start + length]


DAMAGES: tuple[Callable[[bytearray, random.Random, list[bytes]], None], ...] = (
    flip, overwrite, insert, stretch, cut, drop, repeat, splice,
)  # fmt: skip


def damaged(files: list[bytes], chance: random.Random) -> tuple[int, bytes]:
    """Which file it was, and what has become of it."""
    index = chance.randrange(len(files))
    data = bytearray(files[index])
    for _ in range(chance.choice((1, 1, 1, 2))):
        chance.choice(DAMAGES)(data, chance, files)
        if not data:
            break
    return index, bytes(data)


# Random opcodes.

NAMES = [*CALLS, *TARGETS, ("dnnlib.tflib.network", "Network"), ("torch.nn.modules.sparse", "Embedding")]
TEXTS = ("latin1", "f4", "set", "os", "system", "state", "type", "class", "version", "G_ema", "C", "<",
         "_modules", "_parameters", "_buffers", "variables", "static_kwargs", "components", "")  # fmt: skip
ATOMS = [b"N", b"\x88", b"\x89", b"K\0", b"K\1", b"K\x06", b"J\xff\xff\xff\xff", b"M\xff\xff", b"]", b"}",
         b")", b"\x8f", b"\x8a\x09" + b"\xff" * 8 + b"\1", b"G\x7f\xf8\0\0\0\0\0\0", b"C\4\0\0\x80?", b"(",
         b"(", b"\x96\4\0\0\0\0\0\0\0\0\0\x80?"]  # fmt: skip
WORK = [b"R", b"R", b"R", b"\x81", b"\x92", b"b", b"b", b"\x85", b"\x86", b"\x87", b"t", b"l", b"d", b"a",
        b"e", b"s", b"u", b"\x90", b"\x91", b"0", b"1", b"2", b"\x94", b"h\0", b"h\1", b"h\2", b"q\1",
        b"\x93", b"Q"]  # fmt: skip
STORAGE = storage_stream(torch.arange(4.0))
LOADED = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(STORAGE)) + STORAGE + b"\x85R"


def random_opcodes(chance: random.Random) -> bytes:
    """A stream of opcodes with sound arguments in an order that is mostly senseless."""
    parts = [START]
    for _ in range(chance.choice((5, 20, 60))):
        kind = chance.random()
        if kind < 0.25:
            name = chance.choice(NAMES)
            parts.append(chance.choice((by_line, by_stack))(*name))
        elif kind < 0.4:
            parts.append(text(chance.choice(TEXTS)))
        elif kind < 0.43:
            parts.append(LOADED)
        else:
            parts.append(chance.choice(ATOMS if kind < 0.7 else WORK))
    return b"".join(parts) + STOP


def random_call(chance: random.Random) -> bytes:
    """One call of one name with random arguments, inside a file that is otherwise sound."""
    count = chance.randrange(8)
    arguments = [random_value(chance, 0) for _ in range(count)]
    name = chance.choice((by_line, by_stack))(*chance.choice(NAMES))
    called = name + b"(" + b"".join(arguments) + b"t" + chance.choice((b"R", b"\x81"))
    if chance.random() < 0.5:
        called += random_value(chance, 0) + b"b"
    return START + b"}" + text("G_ema") + called + b"s" + STOP


def random_value(chance: random.Random, depth: int) -> bytes:
    kind = chance.random()
    if depth < 3 and kind < 0.3:
        inside = b"".join(random_value(chance, depth + 1) for _ in range(chance.randrange(7)))
        return b"(" + inside + chance.choice((b"t", b"l"))
    if depth < 3 and kind < 0.4:
        pairs = [text(chance.choice(TEXTS)) + random_value(chance, depth + 1) for _ in range(3)]
        return b"(" + b"".join(pairs) + b"d"
    if kind < 0.5:
        return LOADED
    if kind < 0.6:
        return by_line(*chance.choice(NAMES))
    return text(chance.choice(TEXTS)) if kind < 0.75 else chance.choice(ATOMS[:-3])
