"""What a network file holds once it is read: names and tensors, and the facts beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .records import Array, Malformed, Reading, brief

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

DEPTH_LIMIT = 16  # how deep plain values may nest in an attribute
LIST_LIMIT = 4096  # elements of an array that is an attribute
VALUE_COST = 128


@dataclass(frozen=True)
class ModuleFacts:
    """What a file says of one module beside its tensors.

    Args:
        class_name: "SynthesisLayer" and the like.
        attributes: its plain attributes; arrays and tuples are lists, numbers are Python's. What is
            not plain is left out.
    """

    class_name: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkFile:
    """One network of a file, as read: nothing has been built from it.

    Args:
        layout: "nvidia", "tensorflow", "lightning" or "safetensors".
        class_name: "Generator", "SuperresGenerator" or another of the file's own names.
        init_kwargs: keyword arguments of the network's constructor, plain values.
        state: parameters and persistent buffers on the CPU, by official PyTorch name. Tensors may share
            memory where the file says so; together they are never larger than the file.
        modules: facts of every module by dotted name, "" for the network itself; only NVIDIA's pickles and
            the safetensors made of them have any.
        init_args: positional arguments of the constructor, which official files do not use.
    """

    layout: str
    class_name: str
    init_kwargs: dict[str, Any]
    state: dict[str, Tensor]
    modules: dict[str, ModuleFacts] = field(default_factory=dict)
    init_args: list[Any] = field(default_factory=list)


class NotPlain(Exception):
    """A value that is not made of None, booleans, numbers, texts, lists and dicts."""


def plain(value: Any, reading: Reading, depth: int = 0) -> Any:
    """A copy of plain values made of plain values; raises NotPlain for anything else.

    Values may share parts in a file, so that a copy is larger than what is copied: every copied value
    is paid for.
    """
    reading.step(VALUE_COST)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth >= DEPTH_LIMIT:
        raise NotPlain(f"values nested more than {DEPTH_LIMIT} deep")
    if isinstance(value, Array) and value.values is not None and value.values.size <= LIST_LIMIT:
        reading.spend(VALUE_COST * value.values.size)
        return value.values.tolist()
    if isinstance(value, list | tuple):
        return [plain(each, reading, depth + 1) for each in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: plain(each, reading, depth + 1) for name, each in value.items()}
    raise NotPlain(brief(value))


def plain_part(values: Mapping[Any, Any], reading: Reading) -> dict[str, Any]:
    """Those values with a public name that are plain."""
    found = {}
    for name, value in values.items():
        if isinstance(name, str) and not name.startswith("_"):
            try:
                found[name] = plain(value, reading)
            except NotPlain:
                continue
    return found


def arguments(values: Any, what: str, reading: Reading) -> Any:
    """Arguments of a constructor, all of them plain; raises Malformed naming the first that is not."""
    try:
        return plain(values, reading)
    except NotPlain as error:
        raise Malformed(f"the {what} hold {error}, which is not a plain value") from None


def whole_state(state: dict[str, Tensor], reading: Reading) -> dict[str, Tensor]:
    """The state, unless its tensors share so much that copies of them would be larger than the file."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > reading.size:
        raise Malformed(f"its tensors take {size:,} bytes, the file has {reading.size:,}")
    return state
