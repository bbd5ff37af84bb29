"""The restricted unpickler: which names of a network file mean something, and what.

Every other name becomes an inert record. Nothing named in a file is imported or called.
"""

from __future__ import annotations

from typing import Any

from . import arrays, storages
from .machine import STEP_COST, Call, Machine, Names
from .records import Array, Dtype, Global, Inert, Malformed, Module, Persistent, Reading, brief, key

PERSISTENCE_VERSION = 6
DILL = ("dill._dill", "dill.dill")  # the module has moved
NUMPY = ("numpy.core", "numpy._core")  # and this one
C_FUNCTIONS = {  # NumPy's C functions, which dill looks up by attribute
    (f"{core}._multiarray_umath", name): Global("numpy.core.multiarray", name)
    for core in NUMPY
    for name in ("scalar", "_reconstruct")
}


def _persistent(arguments: tuple[Any, ...], reading: Reading) -> Persistent:
    """`_reconstruct_persistent_obj(facts)`: class name and state; the source text stays unread."""
    facts = arguments[0] if len(arguments) == 1 else None
    if not isinstance(facts, dict) or facts.get("type") != "class":
        raise Malformed("a persistent object is not described by a dict of type 'class'")
    if facts.get("version") != PERSISTENCE_VERSION:
        raise Malformed(f"persistence version {brief(facts.get('version'))} is not {PERSISTENCE_VERSION}")
    name, state = facts.get("class_name"), facts.get("state")
    if not isinstance(name, str) or not isinstance(state, dict):
        raise Malformed("a persistent object has no class name, or no state")
    return Persistent(name, state)


def _dict(arguments: tuple[Any, ...], reading: Reading) -> dict[Any, Any]:
    """`OrderedDict()` and `EasyDict()`, empty or from a list of pairs."""
    if not arguments:
        return {}
    pairs = arguments[0]
    if len(arguments) > 1 or not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise Malformed("a dict is not made from a list of pairs")
    reading.spend(2 * STEP_COST * len(pairs))
    return {key(pair[0]): pair[1] for pair in pairs}


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2


def _set(arguments: tuple[Any, ...], reading: Reading) -> set[Any]:
    members = arguments[0] if len(arguments) == 1 else [] if not arguments else None
    if not isinstance(members, list | tuple | set):
        raise Malformed("a set is not made from a list")
    reading.spend(2 * STEP_COST * len(members))
    return {key(member) for member in members}


def _bytes(arguments: tuple[Any, ...], reading: Reading) -> Any:
    """`bytes()` and `bytearray(bytes)`, which older protocols have no opcodes for."""
    if len(arguments) > 1:
        raise Malformed("bytes are made from nothing, or from bytes")
    return arrays.octets(arguments[0]) if arguments else b""


def _import_module(arguments: tuple[Any, ...], reading: Reading) -> Module:
    """dill's way to name a module, which is not imported."""
    if not arguments or not isinstance(arguments[0], str):
        raise Malformed("dill names a module by something that is no text")
    return Module(arguments[0])


def _get_attr(arguments: tuple[Any, ...], reading: Reading) -> Global | Inert:
    """dill's way to name NumPy's C functions; every other attribute is inert."""
    if len(arguments) != 2 or not isinstance(arguments[0], Module) or not isinstance(arguments[1], str):
        return Inert("dill _get_attr")
    module, name = arguments[0].name, arguments[1]
    return C_FUNCTIONS.get((module, name), Inert(f"{module} {name}"))


def _load_type(arguments: tuple[Any, ...], reading: Reading) -> Global | Inert:
    """dill's way to name the type `set`."""
    return Global("builtins", "set") if arguments == ("set",) else Inert("dill _load_type")


CALLS: dict[tuple[str, str], Call] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("torch._utils", "_rebuild_parameter"): storages.rebuild_parameter,
    ("torch._utils", "_rebuild_tensor_v2"): storages.rebuild_tensor,
    ("torch.storage", "_load_from_bytes"): storages.load_from_bytes,
    ("collections", "OrderedDict"): _dict,
    ("dnnlib.util", "EasyDict"): _dict,
    ("builtins", "set"): _set,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytes,
    ("_codecs", "encode"): arrays.encoded,
    ("numpy", "dtype"): arrays.dtype,
    **{(f"{core}.multiarray", "scalar"): arrays.scalar for core in NUMPY},
    **{(f"{core}.multiarray", "_reconstruct"): arrays.reconstruct for core in NUMPY},
    **{(f"{core}.numeric", "_frombuffer"): arrays.from_buffer for core in NUMPY},
    **{(module, "_import_module"): _import_module for module in DILL},
    **{(module, "_get_attr"): _get_attr for module in DILL},
    **{(module, "_load_type"): _load_type for module in DILL},
}


NAMES = Names(CALLS, {Dtype: arrays.build_dtype, Array: arrays.build_array})


def unpickle(view: memoryview, reading: Reading) -> Any:
    """The plain values and records of a pickle that fills the whole view; raises Malformed."""
    value, end = Machine(view, NAMES, reading).run()
    if end != len(view):
        raise Malformed(f"{len(view) - end:,} bytes follow the end of the pickle at byte {end:,}")
    return value
