"""Both containers of torch.save: the pickle in them, and the tensors it names, found when they are wanted.

Since torch 1.6 a file is a zip archive: NAME/data.pkl, whose persistent ids are ("storage", type, key,
location, count), and the raw data of each storage in NAME/data/<key>. Before, it was a sequence: three
pickles (magic number, version, facts about the machine), the object, whose ids have a sixth element (None,
or a part (key, offset, count) of the storage), the list of keys, and for each key an 8-byte count and the
raw data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .machine import Machine, Names
from .poison import check_name
from .records import COUNT_LIMIT, Global, Malformed, Reading, Storage, brief, whole
from .restricted import CALLS
from .storages import COUNT_WIDTH, DTYPES, MAGIC, VERSION, WIDTHS, check_truth_values
from .zip_archive import Archive

ZIP_START = b"PK\3\4"
PROTO = b"\x80"  # first byte of a sequence; the magic number follows after the protocol, and a frame since 4
SEQUENCE_START = MAGIC.to_bytes(10, "little")
HEADING = 24
TENSOR_CALLS = {
    name: CALLS[name]
    for name in (
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
        ("collections", "OrderedDict"),
    )
}
# The names at the top of a Lightning checkpoint, to say where in a file something stands.
SECTIONS = {
    "callbacks", "epoch", "global_step", "hparams_name", "hyper_parameters", "loops", "lr_schedulers",
    "native_amp_scaling_state", "optimizer_states", "pytorch-lightning_version", "state_dict",
}  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """What torch.save wrote.

    Args:
        top: the object: plain values and records, with `View` in the place of tensors.
        fill: finds the data of a storage, before which a `View` of it cannot become a tensor.
    """

    top: Any
    fill: Callable[[Storage], None]


def is_torch_save(view: memoryview) -> bool:
    """Whether a file starts like one of the two containers."""
    start = bytes(view[:HEADING])
    return start.startswith(ZIP_START) or (start[:1] == PROTO and SEQUENCE_START in start)


def unpickle_saved(view: memoryview, reading: Reading) -> Saved:
    """The object of a file that `is_torch_save`; raises Malformed, also for names only poison needs."""
    return _zipped(view, reading) if bytes(view[:4]) == ZIP_START else _sequence(view, reading)


def _unpickled(
    view: memoryview, storage: Callable[[Any], Any], reading: Reading, where: str
) -> tuple[Any, int]:
    """The object and the offset behind it; errors say in which section of a checkpoint they stand."""
    names = Names(TENSOR_CALLS, {}, only=check_name, persistent=storage)
    machine = Machine(view, names, reading, where)
    try:
        return machine.run()
    except Malformed as error:
        raise Malformed(error.wrong + _section(machine), error.known, error.todo) from None


def _section(machine: Machine) -> str:
    """The last name of a section among the keys of the outermost dict, as far as it has been filled."""
    outermost = [*machine.below, machine.stack][:2]
    keys = [key for level in outermost for key in level if isinstance(key, str) and key in SECTIONS]
    return f" (in its {keys[-1]})" if keys else ""


# Storages.


class Storages:
    """The storages that persistent ids announce, by key: one key is one storage.

    Args:
        length: elements of an id: 5 in an archive, 6 in a sequence.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.by_key: dict[str, Storage] = {}
        self.keys: dict[Storage, str] = {}
        self.views: dict[tuple[str, str], tuple[Storage, int]] = {}  # (key, its own) -> view and offset

    def announced(self, identity: Any) -> Storage | Global:
        """The storage of an id, without its data, or the name of a class; raises Malformed.

        A sequence holds ("module", class, file, source text) in the place of a class of torch.nn.
        """
        if self.length == 6 and isinstance(identity, tuple) and identity[:1] == ("module",):
            return _class(identity)
        known = isinstance(identity, tuple) and len(identity) == self.length and identity[0] == "storage"
        if not known or not _is_storage_type(identity[1]):
            raise Malformed(f"a persistent id is not ('storage', type, key, ...) but {brief(identity)}")
        kind, key, location, count = identity[1:5]
        if not isinstance(key, str) or not isinstance(location, str):
            raise Malformed("the key and the location of a storage are not texts")
        found = self._same(self.by_key.get(key), Storage(DTYPES[kind.name][0], _count(count)), key)
        self.by_key[key], self.keys[found] = found, key
        view = identity[5] if self.length == 6 else None
        return found if view is None else self._view(found, key, view)

    def _same(self, before: Storage | None, now: Storage, key: str) -> Storage:
        if before is not None and (before.dtype, before.count) != (now.dtype, now.count):
            raise Malformed(f"the storage {brief(key)} is announced twice, with other sizes or types")
        return before or now

    def _view(self, root: Storage, key: str, view: Any) -> Storage:
        """A part of a storage, as old files share memory."""
        if not isinstance(view, tuple) or len(view) != 3 or not isinstance(view[0], str):
            raise Malformed(f"a part of a storage is not (key, offset, count) but {brief(view)}")
        own, offset, count = view[0], _count(view[1]), _count(view[2])
        if offset + count > root.count:
            raise Malformed(f"a part of the storage {brief(key)} lies outside of it")
        before, at = self.views.get((key, own), (None, offset))
        found = self._same(before, Storage(root.dtype, count), own)
        if at != offset:
            raise Malformed(f"the part {brief(own)} of a storage is announced twice, at other places")
        self.views[key, own] = found, offset
        return found


def _class(identity: tuple[Any, ...]) -> Global:
    if len(identity) != 4 or not isinstance(identity[1], Global):
        raise Malformed("a class of torch.nn is not ('module', class, file, source)")
    return identity[1]


def _is_storage_type(name: Any) -> bool:
    return isinstance(name, Global) and name.module == "torch" and name.name in DTYPES


def _count(value: Any) -> int:
    if not whole(value) or not 0 <= value <= COUNT_LIMIT:
        raise Malformed(f"a storage has {brief(value)} elements")
    return int(value)


def _check_size(key: str, storage: Storage, size: int) -> None:
    if storage.count * WIDTHS[storage.dtype] != size:
        announced = f"{storage.count:,} elements of {storage.dtype} are announced, {size:,} bytes are there"
        raise Malformed(f"the storage {brief(key)} has the wrong size: {announced}")


def _check_values(storage: Storage) -> None:
    if storage.dtype == "bool":
        check_truth_values(storage.raw)


# The archive.


def _zipped(view: memoryview, reading: Reading) -> Saved:
    archive, storages = Archive(view, reading), Storages(5)
    name = _folder(archive)
    if f"{name}/byteorder" in archive.entries and archive.content(f"{name}/byteorder") != b"little":
        raise Malformed("it was written on a machine that is not little-endian")
    pickle = archive.content(f"{name}/data.pkl")
    top, end = _unpickled(pickle, storages.announced, reading, f" of {name[:60]}/data.pkl")
    if end != len(pickle):
        raise Malformed(f"{len(pickle) - end:,} bytes follow the end of the pickle")
    for key, storage in storages.by_key.items():
        entry = archive.entries.get(f"{name}/data/{key}")
        if entry is None:
            raise Malformed(f"the storage {brief(key)} is not in the archive")
        _check_size(key, storage, entry.size)

    def fill(storage: Storage) -> None:
        if storage.raw is None:
            storage.raw = archive.content(f"{name}/data/{storages.keys[storage]}")
            _check_values(storage)

    return Saved(top, fill)


def _folder(archive: Archive) -> str:
    """NAME, the folder all entries of torch.save are in."""
    pickles = [name for name in archive.entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Malformed(
            f"a zip archive with {len(pickles)} pickles NAME/data.pkl, where torch.save writes one"
        )
    folder = pickles[0].partition("/")[0]
    if f"{folder}/constants.pkl" in archive.entries:
        raise Malformed("it is a program (TorchScript), not a checkpoint")
    return folder


# The sequence.


def _sequence(view: memoryview, reading: Reading) -> Saved:
    at = _past_heading(view, reading)
    storages = Storages(6)
    top, used = _unpickled(view[at:], storages.announced, reading, f" after byte {at:,}")
    at += used
    keys, used = Machine(view[at:], PLAIN, reading, f" after byte {at:,}").run()
    at += used
    named = type(keys) is list and all(isinstance(key, str) for key in keys)
    if not named or len(keys) != len(storages.by_key) or set(keys) != storages.by_key.keys():
        raise Malformed("the list of storages does not hold exactly those that are announced")
    for key in keys:
        at = _place(key, storages.by_key[key], view, at)
    if at != len(view):
        raise Malformed(f"{len(view) - at:,} bytes follow the last storage at byte {at:,}")
    for (key, _), (part, offset) in storages.views.items():
        root, width = storages.by_key[key], WIDTHS[part.dtype]
        part.raw = root.raw[offset * width : (offset + part.count) * width]
    return Saved(top, _check_values)


def _nothing(name: Global) -> bool:
    return False


PLAIN = Names(calls={}, builds={}, only=_nothing)


def _past_heading(view: memoryview, reading: Reading) -> int:
    """The offset behind the three pickles in front of the object."""
    values, at = [], 0
    for _ in range(3):
        value, used = Machine(view[at:], PLAIN, reading, f" after byte {at:,}").run()
        values.append(value)
        at += used
    if values[:2] != [MAGIC, VERSION]:
        raise Malformed("it does not start with the numbers of torch.save")
    if not isinstance(values[2], dict) or values[2].get("little_endian") is not True:
        raise Malformed("it was written on a machine that is not little-endian")
    return at


def _place(key: str, storage: Storage, view: memoryview, at: int) -> int:
    """Give a storage its bytes, which nobody looks at yet; the offset behind them."""
    count = int.from_bytes(view[at : at + COUNT_WIDTH], "little")
    start = at + COUNT_WIDTH
    end = start + storage.count * WIDTHS[storage.dtype]
    if count != storage.count or end > len(view):
        announced = f"{storage.count:,} elements are announced, then {count:,}"
        left = max(len(view) - start, 0)
        raise Malformed(f"the storage {brief(key)} has the wrong size: {announced}; {left:,} bytes are left")
    storage.raw = view[start:end]
    return end
