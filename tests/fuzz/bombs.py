"""Files made to harm a reader: too deep, too large once unpacked, executable, or only oddly written."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

from tests.fuzz.damage import npy_with, png_chunks, png_of

Case = tuple[str, bytes]
SENTINEL = "EXECUTED"  # the file an attack would leave in the working folder
DEEP = 100_000
KEYS = 16  # of an object that are given odd values one by one
HUGE = "1" + "0" * 400


def written_oddly(sound: bytes) -> Iterator[Case]:
    """A text with other line ends, encodings and marks, and bytes that are none."""
    yield "empty", b""
    yield "a space", b" "
    yield "zeros", b"\0" * 64
    yield "a byte order mark", b"\xef\xbb\xbf" + sound
    yield "CRLF", sound.replace(b"\n", b"\r\n")
    yield "CR", sound.replace(b"\n", b"\r")
    yield "invalid UTF-8", sound[: len(sound) // 2] + b"\xff\xfe\xc3" + sound[len(sound) // 2 :]
    yield "Latin-1", sound.replace(b"e", b"\xe9")
    yield "UTF-16", sound.decode("utf-8", "replace").encode("utf-16")
    yield "UTF-32", sound.decode("utf-8", "replace").encode("utf-32")
    yield "twice", sound + sound
    yield "followed by rubbish", sound + b"\0rubbish"


def json_bombs(sound: bytes) -> Iterator[Case]:
    yield from written_oddly(sound)
    yield "deep lists", b"[" * DEEP + b"]" * DEEP
    yield "deep objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP
    yield "unclosed lists", b"[" * DEEP
    for word in (
        b"null",
        b"true",
        b"0",
        b'"text"',
        b"[]",
        b"{}",
        b"NaN",
        b"-Infinity",
        b'"\\ud800"',
        b"[{}]",
    ):
        yield f"only {word.decode()}", word
    yield "a number of 10,000 digits", b"9" * 10_000
    value = json.loads(sound)
    if isinstance(value, dict):
        first = next(iter(value))
        yield "a key twice", b'{"%s": null, ' % first.encode() + sound.lstrip()[1:]
        for key in list(value)[:KEYS]:
            for text in (
                HUGE,
                "1e999",
                "-1e999",
                "NaN",
                "Infinity",
                "9" * 5000,
                '"\\ud800"',
                "[" * 3000 + "]" * 3000,
            ):
                others = {k: v for k, v in value.items() if k != key}
                rest = json.dumps(others)[1:-1]
                made = f"{{{rest}{', ' if rest else ''}{json.dumps(key)}: {text}}}"
                yield f"{key}: {text[:12]}", made.encode()


def toml_bombs(sound: bytes) -> Iterator[Case]:
    yield from written_oddly(sound)
    yield "deep lists", b"a = " + b"[" * DEEP + b"]" * DEEP
    yield "deep tables", b"a = " + b"{a = " * DEEP + b"1" + b"}" * DEEP
    yield "deep dots", b".".join([b"a"] * 5000) + b" = 1"
    yield "a number of 10,000 digits", b"a = " + b"9" * 10_000
    yield "huge", f"a = {HUGE}\n".encode() + sound
    yield "not finite", b"a = nan\nb = -inf\n" + sound


def yaml_bombs(sound: bytes) -> Iterator[Case]:
    yield from written_oddly(sound)
    yield "run", b'!!python/object/apply:os.system ["touch %s"]' % SENTINEL.encode()
    yield "new", b'!!python/object/new:os.system ["touch %s"]' % SENTINEL.encode()
    yield "module", b"a: !!python/module:os"
    laughs = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    yield "a billion laughs", laughs.encode()
    yield "deep lists", b"a: " + b"[" * DEEP
    yield "deep indents", "".join(" " * i + "a:\n" for i in range(1200)).encode()
    yield "itself", b"a: &a [*a]"


def text_bombs(sound: bytes) -> Iterator[Case]:
    yield from written_oddly(sound)
    yield "one long line", b"x" * 2_000_000
    yield "many lines", b"\n" * 200_000
    yield "a quote that does not end", b'"' + sound


def npy_bombs(sound: bytes) -> Iterator[Case]:
    yield "empty", b""
    for shape in ("(1000000000000,)", "(1000000, 1000000)", "(9223372036854775807,)",
    "(4611686018427387904, 4)",
                  "(300000000000,)"):  # fmt: skip
        yield f"says {shape}", npy_with(sound, shape=shape)
    yield "objects", npy_with(sound, descr="'|O'") + pickled()
    yield "structured objects", npy_with(sound, descr="[('a', '|O')]") + pickled()
    yield "a pickle", pickled()
    yield "a header that says it is long", sound[:6] + b"\2\0" + struct.pack("<I", 2**32 - 1) + sound[10:]
    yield "a header that runs", npy_with(sound, shape=f"__import__('os').system('touch {SENTINEL}')")
    yield "a zip", npz({"a.npy": sound})


def pickled() -> bytes:
    """A pickle that runs a command, written by hand."""
    return b"cos\nsystem\n(S'touch " + SENTINEL.encode() + b"'\ntR."


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def npz_bombs(sound: bytes) -> Iterator[Case]:
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, member in members.items():
        for what, made in npy_bombs(member):
            yield f"{name}: {what}", npz(members | {name: made})
    yield "empty", b""
    yield "an empty zip", npz({})
    yield "zeros of 1.2 GB", npz_of_zeros(members, next(iter(members)), 9 << 27)
    yield "many members", npz({f"{i}.npy": b"" for i in range(3000)})
    yield "a pickle", pickled()
    directory = bytearray(sound)
    at = directory.rfind(b"PK\1\2")
    directory[at + 24 : at + 28] = b"\xfe\xff\xff\xff"  # the size it unpacks to, as the directory says it
    yield "a directory that says 4 GB", bytes(directory)


def npz_of_zeros(members: dict[str, bytes], name: str, size: int) -> bytes:
    """An archive one of whose arrays unpacks to so many zeros: a thousandth of that in the file."""
    out, block = io.BytesIO(), bytes(1 << 24)
    head = npy_with(members[name], shape=f"({size},)", descr="'|u1'")
    start = head[: 10 + struct.unpack("<H", head[8:10])[0]]
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(name, "w", force_zip64=True) as file:
            file.write(start)
            for _ in range(size // len(block)):
                file.write(block)
        for other, data in members.items():
            if other != name:
                archive.writestr(other, data)
    return out.getvalue()


def picture_bombs(sound: bytes) -> Iterator[Case]:
    yield "empty", b""
    chunks = png_chunks(sound)
    for width, height in ((2**31 - 1, 2**31 - 1), (31_623, 31_623), (1_000_000_000, 1), (1, 2**31 - 1),
    (0, 0),
                          (20_000, 8_000)):  # fmt: skip
        head = struct.pack(">II", width, height) + chunks[0][1][8:]
        yield f"PNG of {width} x {height}", png_of([(b"IHDR", head), *chunks[1:]])
        bmp = struct.pack("<IiiHHIIiiII", 40, width, min(height, 2**31 - 1), 1, 24, 0, 0, 0, 0, 0, 0)
        yield f"BMP of {width} x {height}", b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + bmp
        yield f"PPM of {width} x {height}", f"P6 {width} {height} 255\n".encode() + b"\0" * 100
        gif = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
        yield f"GIF of {width} x {height}", b"GIF89a" + gif + b"\0\0\0," + b"\0" * 4 + gif + b"\0\2\0;"
    text = b"comment\0\0" + zlib.compress(bytes(80 << 20), 9)
    yield "a text of 80 MB in a PNG", png_of([chunks[0], (b"zTXt", text), *chunks[1:]])
    profile = b"icc\0\0" + zlib.compress(bytes(80 << 20), 9)
    yield "a profile of 80 MB in a PNG", png_of([chunks[0], (b"iCCP", profile), *chunks[1:]])
    yield (
        "data of 200 MB in a small PNG",
        png_of([chunks[0], (b"IDAT", zlib.compress(bytes(200 << 20))), chunks[-1]]),
    )
    script = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({SENTINEL}) (w) file closefile\nshowpage"
    yield "PostScript", script.encode()
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    yield "a pickle", pickled()


def safetensors_bombs(sound: bytes) -> Iterator[Case]:
    yield "empty", b""
    for length in (0, 1, 7, 2**31, 2**40, 2**63, 2**64 - 1):
        yield f"a header of {length}", struct.pack("<Q", length) + sound[8:]
    size = int.from_bytes(sound[:8], "little")
    data = sound[8 + size :]

    def of(header: bytes) -> bytes:
        return struct.pack("<Q", len(header)) + header + data

    for what, made in json_bombs(sound[8 : 8 + size]):
        if not what.startswith(("UTF-32", "a number of")):
            yield f"header: {what}", of(made)
    for shape in ([10**12], [2**62, 4], [0, 10**12], [-1]):
        yield (
            f"says {shape}",
            of(b'{"a":{"dtype":"F32","shape":%s,"data_offsets":[0,4]}}' % str(shape).encode()),
        )
    yield "empty tensors", of(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}')
    over = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
    over += b'"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}'
    yield "tensors that overlap", of(over)
    yield "a pickle", pickled()
    yield "a zip", npz({"data.pkl": pickled()})


def archive_bombs(sound: bytes) -> Iterator[Case]:
    yield "empty", b""
    yield "a text", b"nothing of the kind"
    yield "gzip of nothing", gzip.compress(b"")
    yield "zeros of 300 MB", gzip.compress(bytes(300 << 20), 9)
    yield "a pickle", pickled()
    inside = "val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_010.png"
    for name, how in (
        ("../../outside.png", {}),
        ("/tmp/outside.png", {}),
        (f"val/../../../{inside}", {}),
        (inside, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        (inside, {"type": tarfile.LNKTYPE, "linkname": "../../../etc/passwd"}),
        (inside, {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        (inside, {"type": tarfile.FIFOTYPE}),
        (inside, {"mode": 0o6777, "uid": 0}),
    ):
        yield f"{name} {how}", tar_of({name: b"content"}, **how)


def tar_of(files: dict[str, bytes], **how: object) -> bytes:
    """A tar.gz of some members, whose facts are set as `how` says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content) if not how.get("type") else 0
            for key, value in how.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def binary_bombs(sound: bytes) -> Iterator[Case]:
    yield "empty", b""
    yield "a pickle", pickled()
    yield "a zip with a pickle", npz({"archive/data.pkl": pickled(), "archive/version": b"3\n"})
    yield "zeros", bytes(4096)


BOMBS: dict[str, Callable[[bytes], Iterator[Case]]] = {
    "json": json_bombs, "toml": toml_bombs, "yaml": yaml_bombs, "text": text_bombs, "npy": npy_bombs,
    "npz": npz_bombs, "picture": picture_bombs, "safetensors": safetensors_bombs, "archive": archive_bombs,
    "binary": binary_bombs,
}  # fmt: skip
