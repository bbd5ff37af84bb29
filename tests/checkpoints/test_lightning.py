"""Checkpoints of torch.save in both containers: the same tensors back, poison named, damage refused."""

import functools
import io
import itertools
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.checkpoints import read_lightning
from generators.checkpoints.lightning import lightning_state
from generators.checkpoints.poison import check_name
from generators.checkpoints.records import Global, Malformed
from generators.errors import UserError
from tests.checkpoints.attacks import TARGETS
from tests.checkpoints.emulate import Call, Name, StorageId, pickled, raw_bytes
from tests.checkpoints.emulate_lightning import (
    CONTAINERS,
    PLACES,
    exploits,
    foreign_settings,
    harmless,
    poison,
    rezipped,
    saved,
    write_checkpoint,
)
from tests.checkpoints.harness import conduct_of
from tests.checkpoints.test_readers import same_bits

STATE = {
    "encoder.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "encoder.half": torch.arange(5.0).half(),
    "encoder.brain": torch.arange(5.0).bfloat16(),
    "mask": torch.tensor([[True, False], [False, True]]),
    "steps": torch.tensor(7),
    "bytes": torch.arange(6, dtype=torch.uint8).reshape(2, 3),
    "empty": torch.zeros(0, 3),
}
BOTH = pytest.mark.parametrize("container", CONTAINERS)


def own(name: str) -> bool:
    return "loss." not in name


def read(content: bytes) -> dict[str, Tensor]:
    return lightning_state(memoryview(content), own)


# Sound files.


@BOTH
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_checkpoint_gives_back_every_tensor(container: str, protocol: int, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "last.ckpt", STATE, container, protocol=protocol)
    assert same_bits(read_lightning(tmp_path / "last.ckpt", own), STATE)
    everything = read_lightning(tmp_path / "last.ckpt")
    assert everything["loss.discriminator.main.0.weight"].unique().tolist() == [9.0]


@BOTH
def test_shared_and_transposed_tensors_and_parameters(container: str, tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {"a": base, "again": base, "turned": base.T, "part": base[1:, ::2]}
    state["parameter"] = torch.nn.Parameter(base[0])
    write_checkpoint(tmp_path / "c", state, container)
    found = read_lightning(tmp_path / "c", own)
    assert same_bits(found, {name: tensor.detach() for name, tensor in state.items()})
    assert found["turned"].data_ptr() == found["a"].data_ptr()


@BOTH
def test_settings_of_trainers_stay_inert(container: str, tmp_path: Path) -> None:
    with foreign_settings() as foreign:
        extra = {"hyper_parameters": harmless() | foreign}
        write_checkpoint(tmp_path / "c", STATE, container, lambda content: content.update(extra))
    conduct, found = conduct_of(lambda: read((tmp_path / "c").read_bytes()), UserError)
    assert same_bits(found, STATE)
    assert [event for event in conduct.events if not event.startswith("open")] == []


def test_parts_of_storages_as_old_files_have_them() -> None:
    """torch wrote views (key, offset, count) before version 0.4; today it never does."""
    root = ("storage", Name("torch", "FloatStorage"), "8", "cuda:0", 6)
    found = read(sequence({"a": (*root, ("9", 2, 3)), "b": (*root, None)}, torch.arange(6.0)))
    assert found["a"].tolist() == [2.0, 3.0, 4.0]
    with pytest.raises(Malformed, match="lies outside"):
        read(sequence({"a": (*root, ("9", 4, 3))}, torch.arange(6.0)))
    with pytest.raises(Malformed, match="at other places"):
        read(sequence({"a": (*root, ("9", 2, 3)), "b": (*root, ("9", 1, 3))}, torch.arange(6.0)))


def sequence(identities: dict[str, tuple[Any, ...]], values: Tensor) -> bytes:
    """A file whose tensors of three elements look at one storage."""

    def tensor(identity: tuple[Any, ...]) -> Call:
        view = (StorageId(identity), 0, (3,), (1,), False, {})
        return Call(Name("torch._utils", "_rebuild_tensor_v2"), view)

    state = {name: tensor(identity) for name, identity in identities.items()}
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [0x1950A86A20F9469CFC6C, 1001, facts, {"state_dict": state}, ["8"]]
    count = struct.pack("<q", values.numel())
    return b"".join(pickled(part, 2) for part in parts) + count + raw_bytes(values)


def test_checksums_may_be_left_out(tmp_path: Path) -> None:
    from torch.serialization import get_crc32_options, set_crc32_options

    before = get_crc32_options()
    set_crc32_options(False)
    try:
        write_checkpoint(tmp_path / "c", STATE)
    finally:
        set_crc32_options(before)
    assert same_bits(read_lightning(tmp_path / "c", own), STATE)


@BOTH
def test_what_is_not_wanted_costs_no_memory(container: str, tmp_path: Path) -> None:
    size = 64 << 20
    big = torch.zeros(size // 4)

    def enlarge(content: dict[str, Any]) -> None:
        content["optimizer_states"][0]["state"][1] = {"exp_avg": big}
        content["state_dict"]["loss.big"] = big + 1

    write_checkpoint(tmp_path / "c", STATE, container, enlarge)
    assert (tmp_path / "c").stat().st_size > 2 * size
    found: list[dict[str, Tensor]] = []
    conduct, _ = conduct_of(lambda: found.append(read_lightning(tmp_path / "c", own)), UserError, traced=True)
    assert same_bits(found[0], STATE)
    assert conduct.peak < 4 << 20


def test_an_archive_of_more_than_four_gigabytes(tmp_path: Path) -> None:
    """64-bit offsets, in a file with a hole between the pickle and the data."""
    path = tmp_path / "large.ckpt"
    with zipfile.ZipFile(io.BytesIO(saved({"state_dict": STATE}))) as before:
        entries = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), entries.pop("archive/data.pkl"))
        archive.start_dir = 5 << 30  # type: ignore[attr-defined]  # where the next entry goes
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    assert path.stat().st_blocks * 512 < 1 << 30  # a hole takes no room
    assert same_bits(read_lightning(path), STATE)


# Poison.


@BOTH
@pytest.mark.parametrize("place", PLACES)
def test_poison_is_named_wherever_it_is(place: str, container: str, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    name, exploit = next(iter(exploits(marker).items()))
    write_checkpoint(tmp_path / "c", STATE, container, lambda content: poison(content, place, exploit))
    with pytest.raises(UserError, match=f"names {name}, which no checkpoint needs; nothing of it was run"):
        read_lightning(tmp_path / "c", own)
    assert not marker.exists()
    exploit.run()
    assert marker.exists()


def test_every_exploit_is_named_and_does_nothing(tmp_path: Path) -> None:
    for name in exploits(tmp_path / "executed"):
        marker = tmp_path / name.replace(" ", "-")
        exploit = exploits(marker)[name]
        for container, protocol in itertools.product(CONTAINERS, (2, 4)):
            content = saved({"state_dict": STATE, "callbacks": {"c": exploit}}, container, protocol)
            conduct, error = conduct_of(functools.partial(read, content), Malformed)
            conduct.check(len(content))
            assert isinstance(error, Malformed)
            assert f"names {name}," in error.wrong
            assert "(in its callbacks)" in error.wrong
        assert not marker.exists()
        exploit.run()
        assert marker.exists(), f"{name} is no exploit"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(target for target in TARGETS if target[0] != "torch._utils"),
        ("nt", "system"),
        ("__builtin__", "eval"),
        ("collections", "namedtuple"),
        ("collections", "_sys.modules"),
        ("pathlib", "os.system"),
        ("torch", "os.system"),
        ("torch", "hub.download_url_to_file"),
        ("torch.serialization", "os"),
        ("torch.jit.unsupported_tensor_ops", "execWrapper"),
        ("torch.nn", "Module.__init__.__globals__"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy.f2py", "compile"),
        ("pandas", "read_pickle"),
        ("main", "instantiate_from_config"),
        ("some_package.module", "_os.system"),
        ("joblib", "Memory"),
        ("distutils.spawn", "spawn"),
        ("commands", "getoutput"),
    ],
)
def test_a_name_no_checkpoint_needs(module: str, name: str) -> None:
    for protocol in (2, 4):
        poisoned = {"state_dict": {}, "x": Call(Name(module, name), ("true",))}
        content = rezipped(saved({"state_dict": {}}), {"archive/data.pkl": pickled(poisoned, protocol)})
        with pytest.raises(Malformed, match=r"which no checkpoint needs; nothing of it was run") as caught:
            read(content)
        assert name in caught.value.wrong


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        ("lightning.pytorch.callbacks.early_stopping", "EarlyStopping"),
        ("main", "ImageLogger"),
        ("__main__", "SetupCallback"),
        ("my_project.callbacks", "Outer.Inner"),
        ("omegaconf.listconfig", "ListConfig"),
        ("torch.optim.lr_scheduler", "LambdaLR"),
        ("torch.nn.modules.linear", "Linear"),
        ("torch._utils", "_rebuild_parameter_with_state"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("__builtin__", "set"),
        ("pathlib._local", "PosixPath"),
        ("torch", "float32"),
    ],
)
def test_a_name_checkpoints_have(module: str, name: str) -> None:
    assert check_name(Global("builtins" if module == "__builtin__" else module, name))


# Other files, and damaged ones.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": STATE, "epoch": 1}, "it has no state_dict"),
        ({"state_dict": [1]}, "its state_dict is no dict"),
        (torch.zeros(2), "it holds a View, not a dict"),
        ({"state_dict": {"a": 1.5}}, "'a' in the state_dict is not a tensor but 1.5"),
        ({"state_dict": {"a": OrderedDict(b=torch.zeros(1))}}, "is not a tensor but a dict"),
        ({"state_dict": {1: torch.zeros(1)}}, "1 in the state_dict is not the name of a tensor"),
        ({"state_dict": {"a" * 300: torch.zeros(1)}}, "is not the name of a tensor"),
        ({"state_dict": {"a": torch.zeros(1).expand(1 << 20)}}, "does not fit its storage"),
        ({"state_dict": dict.fromkeys(map(str, range(999)), torch.zeros(4096))}, "its tensors take"),
    ],
)
@BOTH
def test_a_checkpoint_of_something_else_is_refused(content: Any, said: str, container: str) -> None:
    with pytest.raises(Malformed, match=said):
        read(saved(content, container))


def test_a_pipe_a_folder_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("<html>", encoding="utf-8")
    (tmp_path / "empty").touch()
    cases = {
        ".": "a folder",
        "nothing": "No such file",
        "text": "torch.save does not write",
        "empty": "is empty",
    }
    for name, said in cases.items():
        with pytest.raises(UserError, match=said) as caught:
            read_lightning(tmp_path / name)
        assert str(tmp_path / name) in caught.value.asked
        assert caught.value.known and caught.value.todo


SMALL = {"state_dict": {"a": torch.arange(4.0), "b": torch.tensor([True, False])}}
ZIP, SEQUENCE = (saved(SMALL, container) for container in CONTAINERS)
ENTRIES = zipfile.ZipFile(io.BytesIO(ZIP)).namelist()


@pytest.mark.parametrize("content", [ZIP, SEQUENCE], ids=CONTAINERS)
def test_a_file_that_was_cut_is_refused_wherever(content: bytes) -> None:
    assert read(content)["a"].tolist() == [0, 1, 2, 3]
    for length in [*range(0, len(content), 7), len(content) - 1]:
        with pytest.raises(Malformed):
            read(content[:length])
    for more in (b"\0", content):
        with pytest.raises(Malformed):
            read(content + more)


def compressed() -> bytes:
    """A small archive of large entries."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ENTRIES:
            archive.writestr(name, b"\0" * 1_000_000)
    return file.getvalue()


ARCHIVES = {
    "compressed": (compressed(), "'archive/data.pkl' is compressed"),
    "twice": (rezipped(ZIP, {"archive/data/5": b""}).replace(b"/data/5", b"/data/0"), "is there twice"),
    "no pickle": (rezipped(ZIP, {"archive/data.pkl": None}), "with 0 pickles"),
    "two pickles": (rezipped(ZIP, {"other/data.pkl": b""}), "with 2 pickles"),
    "a program": (rezipped(ZIP, {"archive/constants.pkl": b""}), "TorchScript"),
    "byte order": (rezipped(ZIP, {"archive/byteorder": b"big"}), "not little-endian"),
    "missing data": (rezipped(ZIP, {"archive/data/1": None}), "the storage '1' is not in the archive"),
    "short data": (rezipped(ZIP, {"archive/data/0": b"1234"}), "'0' has the wrong size: 4 elements"),
    "long data": (rezipped(ZIP, {"archive/data/0": b"1" * 17}), "the storage '0' has the wrong size"),
    "truth": (rezipped(ZIP, {"archive/data/1": b"\1\7"}), "the data of 'b': a storage of true and false"),
    "checksum": (ZIP.replace(raw_bytes(torch.arange(4.0)), b"x" * 16), "do not have the checksum"),
    "encrypted": (ZIP.replace(b"PK\1\2\0\0\0\0\x08\x08", b"PK\1\2\0\0\0\0\x09\x08"), "encrypted"),
    "header": (ZIP.replace(b"PK\3\4", b"PK\3\5").replace(b"PK\3\5", b"PK\3\4", 1), "has no header of"),
    "other name": (ZIP.replace(b"archive/data/0", b"archive/data/7", 1), "is not that of the directory"),
    "empty zip": (rezipped(ZIP, dict.fromkeys(ENTRIES)), "torch.save does not write"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_unsound_archive_is_refused(name: str) -> None:
    content, said = ARCHIVES[name]
    conduct, error = conduct_of(lambda: read(content), Malformed, traced=True)
    conduct.check(len(content))
    assert isinstance(error, Malformed)
    assert said in error.wrong


def test_entries_that_share_bytes_are_refused() -> None:
    """A second entry of the directory that points at the data of the first."""
    at = ZIP.index(b"PK\1\2")
    central = ZIP[at : ZIP.index(b"PK\6\6")]
    first = central[: central.index(b"PK\1\2", 4)]
    more = central + first.replace(b"data.pkl", b"data.pk2")
    end = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, more.count(b"PK\1\2"), more.count(b"PK\1\2"), len(more), at, 0
    )
    with pytest.raises(Malformed, match="does not fit between its start and what comes next"):
        read(ZIP[:at] + more + end)


FOUR, TWO = struct.pack("<q", 4), struct.pack("<q", 2)
SEQUENCES = {
    "count": (SEQUENCE.replace(FOUR, struct.pack("<q", 5)), "4 elements are announced, then 5"),
    "negative": (SEQUENCE.replace(FOUR, struct.pack("<q", -4)), "4 elements are announced"),
    "byte order": (SEQUENCE.replace(b"\x88X\x0a", b"\x89X\x0a"), "not little-endian"),
    "truth": (SEQUENCE.replace(TWO + b"\1\0", TWO + b"\1\7"), "true and false"),
    "type": (SEQUENCE.replace(b"FloatStorage", b"SloatStorage"), "a persistent id is not"),
    "version": (SEQUENCE.replace(b"M\xe9\x03.", b"M\xe8\x03.", 1), "the numbers of torch.save"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_an_unsound_sequence_is_refused(name: str) -> None:
    content, said = SEQUENCES[name]
    assert content != SEQUENCE
    with pytest.raises(Malformed, match=said):
        read(content)
