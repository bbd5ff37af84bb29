"""Tensors as pickles name them: views of storages, each a legacy torch.save stream of its own.

The stream: five pickles of protocol 2 (magic number, version 1001, facts about the machine, the
storage as a persistent id, the list of its key), an 8-byte element count, and the raw data.
"""

from __future__ import annotations

from typing import Any

from .machine import Machine, Names
from .records import (
    COUNT_LIMIT,
    MIB,
    Global,
    Malformed,
    Reading,
    Storage,
    View,
    brief,
    elements,
    octets,
    whole,
)

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
COUNT_WIDTH = 8  # bytes of the element count before the data
DTYPES = {  # torch dtype and bytes of an element, by the class the storage is tagged with
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
}
WIDTHS = dict(DTYPES.values())


def _is_storage_type(name: Global) -> bool:
    return name.module == "torch" and name.name in DTYPES


def _announced(identity: Any) -> tuple[str, Storage]:
    """The key and the empty storage of the id ("storage", type, key, location, count, None).

    The location ("cuda:0") is where the data was, not where it goes.
    """
    known = isinstance(identity, tuple) and len(identity) == 6 and identity[0] == "storage"
    if not known or not isinstance(identity[1], Global) or identity[5] is not None:
        raise Malformed("a storage is not ('storage', type, key, location, count, None)")
    _, kind, name, location, count, _ = identity
    if not isinstance(name, str) or not isinstance(location, str):
        raise Malformed("the key and the location of a storage are not texts")
    if not whole(count) or not 0 <= count <= COUNT_LIMIT:
        raise Malformed(f"a storage has {brief(count)} elements")
    return name, Storage(DTYPES[kind.name][0], count)


NAMES = Names(calls={}, builds={}, only=_is_storage_type, persistent=_announced)


def load_from_bytes(arguments: tuple[Any, ...], reading: Reading) -> Storage:
    """`torch.storage._load_from_bytes(bytes)`; the same bytes give the same storage."""
    if len(arguments) != 1:
        raise Malformed("a storage needs its bytes and nothing else")
    raw = octets(arguments[0])
    if id(raw) not in reading.storages:
        reading.storages[id(raw)] = raw, _storage(memoryview(raw), reading)
    return reading.storages[id(raw)][1]


def _storage(view: memoryview, reading: Reading) -> Storage:
    values, at = [], 0
    for _ in range(5):
        value, used = Machine(view[at:], NAMES, reading, f" after byte {at:,} of a storage").run()
        values.append(value)
        at += used
    magic, version, machine, announced, keys = values
    if magic != MAGIC or version != VERSION:
        raise Malformed("a storage does not start with the numbers of torch.save")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Malformed("a storage was written on a machine that is not little-endian")
    if not isinstance(announced, tuple) or type(keys) is not list or keys != [announced[0]]:
        raise Malformed("a storage stream does not hold exactly the storage it announces")
    return _filled(announced[1], view[at:])


def _filled(storage: Storage, view: memoryview) -> Storage:
    """The storage with its data, which must be all that is left."""
    count = int.from_bytes(view[:COUNT_WIDTH], "little")
    size = storage.count * WIDTHS[storage.dtype]
    if count != storage.count or len(view) != COUNT_WIDTH + size:
        announced = f"{storage.count:,} elements are announced, then {count:,}"
        raise Malformed(f"a storage has the wrong size: {announced}, and {len(view):,} bytes follow")
    storage.raw = view[COUNT_WIDTH:]
    if storage.dtype == "bool":
        check_truth_values(storage.raw)
    return storage


def check_truth_values(raw: memoryview) -> None:
    """Other bytes than 0 and 1 in a bool tensor are undefined behavior in torch."""
    for start in range(0, len(raw), MIB):
        if bytes(raw[start : start + MIB]).translate(None, b"\0\1"):
            raise Malformed("a storage of true and false holds other values")


def rebuild_tensor(arguments: tuple[Any, ...], reading: Reading) -> View:
    """`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`.

    Raises:
        Malformed: when an element lies outside the storage, or the view has more elements than it.
    """
    if len(arguments) not in (6, 7) or not isinstance(arguments[0], Storage):
        raise Malformed("a tensor is not (storage, offset, size, stride, requires_grad, hooks)")
    storage, offset, size, stride = arguments[:4]
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise Malformed(f"a tensor has the size {brief(size)} and the stride {brief(stride)}")
    count = elements(size, "a tensor")
    if not all(whole(n) and 0 <= n <= COUNT_LIMIT for n in (offset, *stride)):
        raise Malformed(f"a tensor has the offset {brief(offset)} and the stride {brief(stride)}")
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset
    if end > storage.count or count > storage.count:
        looks = f"size {brief(size)}, stride {brief(stride)}, offset {offset:,}"
        raise Malformed(f"a tensor ({looks}) does not fit its storage of {storage.count:,} elements")
    return View(storage, offset, size, stride)


def rebuild_parameter(arguments: tuple[Any, ...], reading: Reading) -> View:
    """`torch._utils._rebuild_parameter(tensor, requires_grad, hooks)`: the tensor."""
    if len(arguments) != 3 or not isinstance(arguments[0], View):
        raise Malformed("a parameter is not (tensor, requires_grad, hooks)")
    return arguments[0]
