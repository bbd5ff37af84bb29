"""NumPy's types, scalars and arrays as pickles name them, from bytes that have been counted."""

from __future__ import annotations

from typing import Any

from .records import Array, Dtype, Global, Inert, Malformed, Reading, Text, brief, elements, octets, whole

CODES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
LATIN_PIECE = 1 << 16


def encoded(arguments: tuple[Any, ...], reading: Reading) -> bytes:
    """`_codecs.encode(text, "latin1")`: how protocol 2 writes bytes."""
    if len(arguments) != 2 or arguments[1] not in ("latin1", "latin-1"):
        raise Malformed("bytes in a text are expected as latin1")
    text = arguments[0]
    try:
        if isinstance(text, str):
            reading.spend(len(text))
            return text.encode("latin1")
        if isinstance(text, Text):
            return _long_latin(text.view, reading)
    except UnicodeError:
        raise Malformed("bytes in a text are not latin1") from None
    raise Malformed(f"bytes in a text are expected, not {brief(text)}")


def _long_latin(view: memoryview, reading: Reading) -> bytes:
    """Piece by piece: the whole text at once could take four bytes for each of the file's."""
    import codecs

    reading.spend(len(view))
    decoder = codecs.getincrementaldecoder("utf-8")()
    found = bytearray()
    for start in range(0, len(view), LATIN_PIECE):
        found += decoder.decode(view[start : start + LATIN_PIECE]).encode("latin1")
    decoder.decode(b"", final=True)
    return bytes(found)


def dtype(arguments: tuple[Any, ...], reading: Reading) -> Dtype | Inert:
    """`numpy.dtype(code, align, copy)`; anything but a number is inert."""
    code = arguments[0] if arguments else None
    return Dtype(code) if isinstance(code, str) and code in CODES else Inert("numpy dtype")


def build_dtype(target: Dtype, state: Any) -> None:
    """The state (version, byte order, ...) of a type."""
    if target.built or not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
        raise Malformed("the state of a NumPy type is not (version, byte order, ...)")
    target.order, target.built = state[1], True


def _values(raw: Any, kind: Dtype, count: int) -> Any:
    """So many numbers (count) out of exactly as many bytes as they need."""
    import numpy as np

    size, width = memoryview(octets(raw)).nbytes, int(kind.code[1:])
    if size != count * width:
        raise Malformed(f"{count:,} numbers of {width} bytes are announced, {size:,} bytes are there")
    if kind.code == "b1":
        return np.frombuffer(raw, "u1", count) != 0
    if count == 0:
        return np.empty(0, kind.code)
    return np.frombuffer(raw, kind.code if kind.order == "|" else kind.order + kind.code, count)


def scalar(arguments: tuple[Any, ...], reading: Reading) -> Any:
    """`numpy.core.multiarray.scalar(type, bytes)` as a plain Python number."""
    if len(arguments) != 2:
        raise Malformed("a NumPy scalar needs a type and bytes")
    kind, raw = arguments
    return _values(raw, kind, 1)[0].item() if isinstance(kind, Dtype) else Inert("numpy scalar")


def reconstruct(arguments: tuple[Any, ...], reading: Reading) -> Array | Inert:
    """`numpy.core.multiarray._reconstruct(ndarray, (0,), b"b")`: an array that BUILD will fill."""
    kind = arguments[0] if arguments else None
    known = isinstance(kind, Global) and (kind.module, kind.name) == ("numpy", "ndarray")
    return Array() if known else Inert("numpy _reconstruct")


def build_array(target: Array, state: Any) -> None:
    """The state (version, shape, type, column-major, bytes) of an array."""
    if target.built or not isinstance(state, tuple) or len(state) != 5 or not whole(state[0]):
        raise Malformed("the state of a NumPy array is not (version, shape, type, order, bytes)")
    _, shape, kind, columns, raw = state
    target.built = True
    target.values = _shaped(raw, kind, shape, bool(columns))


def from_buffer(arguments: tuple[Any, ...], reading: Reading) -> Array:
    """`numpy.core.numeric._frombuffer(bytes, type, shape, order)`: how protocol 5 writes arrays."""
    if len(arguments) != 4 or arguments[3] not in ("C", "F"):
        raise Malformed("an array needs bytes, a type, a shape and the order C or F")
    raw, kind, shape, order = arguments
    return Array(_shaped(raw, kind, shape, order == "F"), built=True)


def _shaped(raw: Any, kind: Any, shape: Any, columns: bool) -> Any:
    """The array of this shape, or None when its type is not a number."""
    if not isinstance(kind, Dtype):
        return None
    if not isinstance(shape, tuple):
        raise Malformed(f"an array has the shape {brief(shape)}")
    count = elements(shape, "an array")
    return _values(raw, kind, count).reshape(shape, order="F" if columns else "C")
