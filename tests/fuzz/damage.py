"""Damage from a seed: of bytes, as the checkpoints' tests do it, and of what a format is made of.

Shaped damage keeps a file's outer form (JSON stays JSON, checksums of PNG and zip are right), so that
what is wrong is met further inside.
"""

from __future__ import annotations

import copy
import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from tests.checkpoints.mutations import damaged as damaged

Shape = Callable[[bytes, random.Random], bytes]

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, -(2**63), 10**30, 0.5, -0.0, float("nan"), float("inf"), 1e308,
    "", " ", "x", "\0", "../../etc/passwd", "/etc/passwd", "<script>alert(1)</script>", "a" * 5000,
    "é\U0001f600",
    [], [None], [[]], {}, {"": None}, [0] * 50, {"a": {"b": {}}},
)  # fmt: skip


def odd(chance: random.Random) -> Any:
    """A value nobody thinks of, for this place alone."""
    return copy.deepcopy(chance.choice(ODD))


# JSON.


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [found for key, each in inner for found in places(each, (*path, key))]


def changed(value: Any, chance: random.Random) -> Any:
    """A JSON value with one place replaced, dropped or doubled; the value itself is not kept whole."""
    *way, last = chance.choice(places(value)[1:] or [(None,)])
    if last is None or not isinstance(value, dict | list):
        return odd(chance)
    inner = value
    for key in way:
        inner = inner[key]
    what = chance.random()
    if what < 0.7:
        inner[last] = odd(chance)
    elif what < 0.85:
        del inner[last]
    elif isinstance(inner, dict):
        inner[chance.choice(("extra", "__class__", "", "hash", "self"))] = odd(chance)
    else:
        inner.append(odd(chance))
    return value


def shaped_json(content: bytes, chance: random.Random) -> bytes:
    value = json.loads(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        value = changed(value, chance)
    return json.dumps(value).encode()


# TOML, YAML, CSV and other texts: words are exchanged.

_WORD = re.compile(r'"[^"\n]*"|[-\w.+]+|[\[\]{}=,:]')
_WORDS = ("0", "-1", "nan", "inf", "1e999", "true", '""', '"x"', "[]", "{}", "[[]]", "{a = 1}", "=",
    '"""', "'",
          "1979-05-27", "10" * 60, '"\\u0000"', "!!python/object/apply:os.system [id]", "*a", "&a",
          "#")  # fmt: skip


def shaped_text(content: bytes, chance: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    for _ in range(chance.choice((1, 1, 2, 3))):
        found = list(_WORD.finditer(text))
        if not found:
            break
        one, other = chance.choice(found), chance.choice(found)
        put = chance.choice(_WORDS) if chance.random() < 0.7 else other.group()
        text = text[: one.start()] + put + text[one.end() :]
    return text.encode()


# safetensors: the header is JSON, the data stays.


def shaped_safetensors(content: bytes, chance: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if chance.random() < 0.6:
        header = changed(header, chance)
    else:
        named = [name for name in header if name != "__metadata__"]
        entry = header[chance.choice(named)]
        what = chance.choice(("dtype", "shape", "data_offsets"))
        sizes = (0, 1, 2, 2**31, 2**40, 2**62, 2**64 - 1, -1)
        odd = {"dtype": ("F64", "U8", "BF16", "F8_E4M3", "I64", "BOOL", "C64", "X"), "shape": sizes,
               "data_offsets": sizes}  # fmt: skip
        entry[what] = chance.choice(odd["dtype"]) if what == "dtype" else [
            chance.choice(sizes) for _ in range(chance.choice((0, 1, 2, 4)))
        ]  # fmt: skip
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


# NPY and NPZ.

_SHAPES = ("(1000000000000,)", "(1000000,1000000)", "()", "(0,)", "(-1,)", "(2,2,2,2,2)",
    "(9223372036854775807,)",
           "(1,)*70", "3", "(1.5,)", "None", "(" * 150 + ")" * 150)  # fmt: skip
_TYPES = ("<f8", "|O", "<U1000000", "|V100", "<M8[ns]", "<c16", "|b1", "|S0", ">f4", "f", "<f16",
    "<i8", "<u4",
          "[('a', '<f4')]", "<f3", "x")  # fmt: skip


def npy_with(content: bytes, **said: str) -> bytes:
    """An NPY file with other words in its header: descr, fortran_order, shape."""
    size = struct.unpack("<H", content[8:10])[0]
    header = content[10 : 10 + size].decode("latin1")
    for name, value in said.items():
        stop = r"(\([^)]*\)|'[^']*'|True|False)"
        header = re.sub(f"'{name}': {stop}", lambda _, n=name, v=value: f"'{n}': {v}", header)
    raw = header.encode("latin1")
    return content[:8] + struct.pack("<H", len(raw)) + raw + content[10 + size :]


def shaped_npy(content: bytes, chance: random.Random) -> bytes:
    what = chance.random()
    if what < 0.4:
        return npy_with(content, shape=chance.choice(_SHAPES))
    if what < 0.8:
        kind = chance.choice(_TYPES)
        return npy_with(content, descr=kind if kind.startswith("[") else f"'{kind}'")
    return npy_with(content, fortran_order=chance.choice(("True", "None", "1")))


def shaped_npz(content: bytes, chance: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name, out = chance.choice(list(members)), io.BytesIO()
    what = chance.random()
    if what < 0.6:
        members[name] = shaped_npy(members[name], chance)
    elif what < 0.75:
        del members[name]
    elif what < 0.9:
        members[chance.choice(("../x.npy", "/x.npy", "a.npy", "a.txt", "."))] = members[name]
    else:
        members[name] = members[chance.choice(list(members))]
    with zipfile.ZipFile(out, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for each, data in members.items():
            archive.writestr(each, data)
    return out.getvalue()


# PNG: chunks with right checksums.


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 8 <= len(content):
        size = struct.unpack(">I", content[at : at + 4])[0]
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += size + 12
    return found


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    made = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def shaped_picture(content: bytes, chance: random.Random) -> bytes:
    if not content.startswith(b"\x89PNG"):
        return damaged([content], chance)[1]
    chunks = png_chunks(content)
    at = chance.randrange(len(chunks))
    kind, data = chunks[at]
    what = chance.random()
    if what < 0.5 and data:
        raw = bytearray(data)
        for _ in range(chance.choice((1, 1, 3))):
            raw[chance.randrange(len(raw))] = chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 0x7F, 0x80, 0xFF))
        chunks[at] = (kind, bytes(raw))
    elif what < 0.7:
        del chunks[at]
    elif what < 0.85:
        extra = chance.choice((b"tRNS", b"PLTE", b"eXIf", b"zTXt", b"iCCP", b"acTL", b"gAMA", b"iTXt"))
        chunks.insert(
            max(1, at), (extra, bytes(chance.randrange(256) for _ in range(chance.choice((0, 2, 6, 40)))))
        )
    else:
        chunks.insert(at, chance.choice(chunks))
    return png_of(chunks)


SHAPED: dict[str, Shape] = {
    "json": shaped_json, "lines": shaped_text, "toml": shaped_text, "yaml": shaped_text, "text": shaped_text,
    "safetensors": shaped_safetensors, "npy": shaped_npy, "npz": shaped_npz, "picture": shaped_picture,
}  # fmt: skip
