"""What a restricted pickle can hold besides Python's plain values: records that do nothing.

None of these classes runs anything when it is made, copied, compared or let go, and none of them
keeps more than references into the file's own bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy import ndarray
    from torch import Tensor

MIB = 1 << 20
COUNT_LIMIT = 1 << 40  # elements of one array or storage, far beyond any file
DIMENSIONS_LIMIT = 8
FIXED_COST = 16 * MIB  # what a file may cost in memory whatever its size ...
COST_PER_BYTE = 1.5  # ... and for every byte of it, besides the tensors asked for
STEPS_LIMIT = 5_000_000  # opcodes of one file: seconds; a genuine file has some hundred thousand


class Malformed(Exception):
    """What is wrong in a file; the reader adds the path and makes a UserError of it.

    Args:
        wrong: the fact, with the byte offset where there is one.
        known: what exists instead.
        todo: the next step, where it differs from downloading the file again.
    """

    def __init__(self, wrong: str, known: str = "", todo: str = "") -> None:
        self.wrong, self.known, self.todo = wrong, known, todo
        super().__init__(wrong)


class Reading:
    """What reading one file may still cost, and the storages already read from it.

    Args:
        size: bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = int(FIXED_COST + COST_PER_BYTE * size)  # bytes of objects left
        self.steps = STEPS_LIMIT
        self.storages: dict[int, tuple[Any, Storage]] = {}  # by identity of the bytes, which it keeps

    def spend(self, cost: int) -> None:
        """Take bytes of memory from the allowance; raises Malformed when it is used up."""
        self.memory -= cost
        if self.memory < 0:
            raise Malformed(f"it describes more objects than a file of {self.size:,} bytes can need")

    def step(self, cost: int) -> None:
        """One opcode or one visited object; raises Malformed after STEPS_LIMIT of them."""
        self.steps -= 1
        if self.steps < 0:
            raise Malformed(f"it has more than {STEPS_LIMIT:,} opcodes")
        self.spend(cost)


@dataclass(slots=True, eq=False)
class Global:
    """A name in a file, which is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module} {self.name}"


@dataclass(slots=True, eq=False)
class Inert:
    """An object of a class that is not built: its name, and its state if it was given one."""

    name: str
    state: Any = None


@dataclass(slots=True, eq=False)
class Module:
    """The name of a module in a call of dill, which is not imported."""

    name: str


@dataclass(slots=True, eq=False)
class Text:
    """A text too long to be a name, left in the file as UTF-8: a source text, or bytes in disguise."""

    view: memoryview


@dataclass(slots=True, eq=False)
class Opaque:
    """A key of a dict or member of a set that is never hashed by value."""

    value: Any


@dataclass(slots=True, eq=False)
class Persistent:
    """An object of NVIDIA's persistence: class name and state; its source text is not looked at."""

    class_name: str
    state: dict[Any, Any]


@dataclass(slots=True, eq=False)
class Dtype:
    """A numeric NumPy type: its code ("f4") and byte order, which BUILD may set once."""

    code: str
    order: str = "="
    built: bool = False


@dataclass(slots=True, eq=False)
class Array:
    """A NumPy array: values None before its BUILD, and for types that are not numbers."""

    values: ndarray | None = None
    built: bool = False


@dataclass(slots=True, eq=False)
class Storage:
    """The flat values a tensor looks at: torch dtype name, element count, raw little-endian bytes."""

    dtype: str
    count: int
    raw: Any = None  # bytes-like; None until its data has been found
    _values: Tensor | None = field(default=None, repr=False)

    def values(self) -> Tensor:
        """The elements (count), copied once out of the file."""
        import torch

        if self._values is None:
            dtype = getattr(torch, self.dtype)
            copied = bytearray(self.raw)
            self._values = torch.frombuffer(copied, dtype=dtype) if copied else torch.empty(0, dtype=dtype)
        return self._values


@dataclass(slots=True, eq=False)
class View:
    """A tensor: a strided view that has been checked to lie within its storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self) -> Tensor:
        """The tensor, sharing memory with other views of the same storage."""
        return self.storage.values().as_strided(self.size, self.stride, self.offset)


def elements(shape: Iterable[Any], what: str) -> int:
    """How many elements a shape has; raises Malformed unless it is a few sizes of 0 to 2^40 in all."""
    sizes = tuple(shape)
    if len(sizes) > DIMENSIONS_LIMIT or not all(whole(n) and 0 <= n <= COUNT_LIMIT for n in sizes):
        raise Malformed(f"{what} has the shape {brief(sizes)}")
    if math.prod(max(n, 1) for n in sizes) > COUNT_LIMIT:
        raise Malformed(f"{what} has the shape {brief(sizes)}, more than any file holds")
    return math.prod(sizes)


def whole(value: Any) -> bool:
    return type(value) is int


def brief(value: Any) -> str:
    """A value of the file for an error message: never long, whatever it is."""
    if isinstance(value, str):
        return repr(value[:60]) + ("..." if len(value) > 60 else "")
    if isinstance(value, int):
        return str(value) if value.bit_length() < 200 else f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, float):
        return repr(value)
    if isinstance(value, tuple) and len(value) <= 12 and all(isinstance(n, int | None) for n in value):
        return "(" + ", ".join(brief(n) for n in value) + ")"
    if isinstance(value, Global):
        return f"the name {brief(str(value))}"
    if isinstance(value, Inert):
        return f"an object of {brief(value.name)}"
    return f"a {type(value).__name__}"


def octets(value: Any) -> Any:
    """The bytes-like value of a file, or Malformed."""
    if not isinstance(value, bytes | memoryview):
        raise Malformed(f"bytes are expected, not {brief(value)}")
    return value


def key(value: Any) -> Any:
    """A value as a key: itself if its hash is cheap and safe, otherwise wrapped, by identity.

    Tuples may share parts so that hashing takes exponential time, and integers and floats can be
    chosen to collide; texts and bytes cannot (their hash is salted).
    """
    if value is None or isinstance(value, bool | str | bytes):
        return value
    if isinstance(value, int) and abs(value) < 1 << 32:
        return value
    return Opaque(value)
