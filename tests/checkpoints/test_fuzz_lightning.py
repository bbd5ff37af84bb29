"""Damaged checkpoints in both containers: an error or bytes of the file, and nothing else happens.

An archive is damaged twice over: as it is, where checksums see most of it, and inside its pickle with
the archive made sound again around it.
"""

import functools
import random
import zipfile
from io import BytesIO

import pytest
import torch
from torch import Tensor

from generators.checkpoints.lightning import lightning_state
from generators.checkpoints.records import Malformed
from tests.checkpoints import mutations
from tests.checkpoints.attacks import attacks, opcode_floods
from tests.checkpoints.emulate_lightning import CONTAINERS, foreign_settings, rezipped, saved
from tests.checkpoints.harness import conduct_of

CASES = 800  # in each of the parts
CONTENT = {
    "epoch": 3,
    "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
    "state_dict": {
        "weight": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
        "bias": torch.arange(4, dtype=torch.float16) + 1,
        "mask": torch.tensor([True, False, True]),
        "loss.weight": torch.ones(2),
    },
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """A small sound checkpoint in each container, with settings that are objects."""
    with foreign_settings() as foreign:
        content = CONTENT | {"hyper_parameters": foreign}
        found = {container: saved(content, container) for container in CONTAINERS}
    for each in found.values():
        assert isinstance(read(each), dict)
    return found


def read(content: bytes, traced: bool = False) -> dict[str, Tensor] | Malformed:
    """Read as a user does; what happens meanwhile is checked, and what comes back."""
    task = functools.partial(lightning_state, memoryview(content), lambda name: "loss" not in name)
    conduct, result = conduct_of(task, Malformed, traced)
    conduct.check(len(content))
    if isinstance(result, Malformed):
        assert result.wrong and len(result.wrong) < 2000
        return result
    assert isinstance(result, dict)
    for tensor in result.values():
        assert bytes(tensor.untyped_storage().tolist()) in content
    return result


def refused(results: list[dict[str, Tensor] | Malformed]) -> float:
    return sum(isinstance(result, Malformed) for result in results) / len(results)


@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_files(container: str, files: dict[str, bytes]) -> None:
    chance = random.Random(5000)
    results = [read(mutations.damaged([files[container]], chance)[1]) for _ in range(CASES)]
    assert 0.3 < refused(results) < 1  # damage is mostly seen, and some of it is harmless


def test_damaged_pickles_in_sound_archives(files: dict[str, bytes]) -> None:
    chance, content = random.Random(6000), files["zip"]
    with zipfile.ZipFile(BytesIO(content)) as archive:
        pickle = archive.read("archive/data.pkl")
    changed = [mutations.damaged([pickle], chance)[1] for _ in range(CASES)]
    results = [read(rezipped(content, {"archive/data.pkl": each})) for each in changed]
    assert 0.3 < refused(results) < 1


def test_no_damage_changes_a_number_of_an_archive(files: dict[str, bytes]) -> None:
    """A flipped bit anywhere in a file whose checksums are read: refused, or nothing is different."""
    chance, content = random.Random(7000), files["zip"]
    expected = read(content)
    assert isinstance(expected, dict)
    for _ in range(CASES // 2):
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        found = read(bytes(changed))
        if isinstance(found, dict):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_attacks_on_pickles_are_errors(files: dict[str, bytes]) -> None:
    """Every attack on the other readers, as the pickle of an archive; a network in it is no state dict."""
    for name, attack in attacks("true"):
        content = rezipped(files["zip"], {"archive/data.pkl": attack})
        assert isinstance(read(content), Malformed), name


@pytest.mark.parametrize("name", [name for name, _ in opcode_floods(0)][::4])
def test_a_flood_stays_in_bounds(name: str, files: dict[str, bytes]) -> None:
    flood = dict(opcode_floods(1 << 18))[name]
    content = rezipped(files["zip"], {"archive/data.pkl": flood})
    assert isinstance(read(content, traced=True), Malformed)


def test_a_flood_of_entries_stays_in_bounds(files: dict[str, bytes]) -> None:
    content = rezipped(files["zip"], {f"archive/more/{i}": b"" for i in range(20_000)})
    assert isinstance(read(content, traced=True), Malformed | dict)
