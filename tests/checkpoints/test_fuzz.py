"""At least 10,000 corrupted or malicious pickles: an error or the right tensors, and nothing else happens.

Nothing else: no audit event of execution, import or opening; no hang; no more memory than four times the
file and a constant. The harness itself is shown to catch readers that do those things.
"""

import importlib
import itertools
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.checkpoints import NetworkFile, read_network, read_pickle
from generators.checkpoints.machine import Machine
from generators.checkpoints.records import Reading
from generators.checkpoints.restricted import NAMES
from generators.errors import UserError
from tests.checkpoints import mutations
from tests.checkpoints.attacks import attacks, by_line, network, opcode_floods, parameter, text
from tests.checkpoints.emulate import raw_bytes, storage_stream, variable, write_nvidia
from tests.checkpoints.harness import CONSTANT, PER_BYTE, Conduct, conduct_of

CASES = 1000  # in each of the parts
DAMAGED, STREAMS, CALLED, IN_DATA = range(7), range(2), range(2), 200
MB = 1 << 20
GREEDIEST = ("lists", "sets", "memo", "wide-texts")  # of the floods, by the memory they take
RIGHT_WITH = {"doubled-attribute", "wide-attribute"}  # attacks on what is left out: tensors are right


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small sound files; reading them also imports whatever reading needs."""
    found = mutations.small_files(tmp_path_factory.mktemp("small"))
    for content in found.values():
        assert read_pickle(content).state
    return found


def read(content: bytes, traced: bool = False) -> NetworkFile | UserError:
    """Read as a user does; what happens meanwhile is checked."""
    conduct, result = conduct_of(lambda: read_pickle(content), UserError, traced)
    conduct.check(len(content))
    if isinstance(result, UserError):
        assert result.wrong and len(str(result)) < 2000
    else:
        assert_stands_in_file(result, content)
    return result


def assert_stands_in_file(found: NetworkFile, content: bytes) -> None:
    """Every tensor that is returned is made of bytes that stand together in the file."""
    for name, tensor in found.state.items():
        if found.layout == "nvidia":
            assert stands_in(content, bytes(tensor.untyped_storage().tolist()))
        elif name.endswith("weight"):  # what is left as it was but for the order of its axes
            written = variable(name, tensor)
            assert written is not None
            assert any(stands_in(content, written[1].tobytes(order)) for order in ("C", "F"))


def stands_in(content: bytes, raw: bytes) -> bool:
    """Whether bytes are in a file, as they are or as protocol 2 writes them: as a text."""
    return raw in content or raw.decode("latin1").encode() in content


def test_there_are_ten_thousand_cases() -> None:
    cases = CASES * (len(DAMAGED) + len(STREAMS) + len(CALLED)) + IN_DATA + len(attacks(""))
    assert cases >= 10_000


@pytest.mark.parametrize("part", DAMAGED)
def test_damaged_files(part: int, files: dict[str, bytes]) -> None:
    chance, contents = random.Random(1000 + part), list(files.values())
    results = [read(mutations.damaged(contents, chance)[1]) for _ in range(CASES)]
    refused = sum(isinstance(result, UserError) for result in results)
    assert 0.3 * CASES < refused < CASES  # damage is mostly seen, and some of it is harmless


@pytest.mark.parametrize("part", STREAMS)
def test_random_opcodes(part: int, files: dict[str, bytes]) -> None:
    chance = random.Random(2000 + part)
    assert all(isinstance(read(mutations.random_opcodes(chance)), UserError) for _ in range(CASES))


@pytest.mark.parametrize("part", CALLED)
def test_random_calls(part: int, files: dict[str, bytes]) -> None:
    chance = random.Random(3000 + part)
    assert all(isinstance(read(mutations.random_call(chance)), UserError) for _ in range(CASES))


def test_damage_in_the_data_changes_just_that_number(files: dict[str, bytes]) -> None:
    chance, content = random.Random(4000), files["nvidia-4"]
    expected = {name: mutations.tiny_state()[name] for name in mutations.NVIDIA_STATE}
    for _ in range(IN_DATA):
        name = chance.choice(list(expected))
        raw = raw_bytes(expected[name])
        changed = bytearray(raw)
        changed[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        found = read(content.replace(raw, bytes(changed)))
        assert isinstance(found, NetworkFile)
        right = {n: raw_bytes(t) for n, t in expected.items()} | {name: bytes(changed)}
        assert {n: raw_bytes(t) for n, t in found.state.items()} == right


def test_every_attack_is_an_error(files: dict[str, bytes], tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for name, content in attacks(f"touch {marker}"):
        result = read(content)
        assert isinstance(result, UserError) or name in RIGHT_WITH, name
    assert not marker.exists()


def test_every_attack_is_an_error_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "attack.pkl"
    for name, content in attacks("true")[::10]:
        path.write_bytes(content)
        if name not in RIGHT_WITH:
            with pytest.raises(UserError):
                read_network(path)


# Memory.


@pytest.mark.parametrize("name", [name for name, _ in opcode_floods(0)])
def test_a_flood_stays_in_bounds(name: str, files: dict[str, bytes]) -> None:
    assert isinstance(read(dict(opcode_floods(MB // 2))[name], traced=True), UserError)


def large(path: Path, **options: Any) -> int:
    """A sound file of several megabytes, mostly one tensor; its size."""
    state = {"mapping.w_avg": torch.zeros(4), "synthesis.big": torch.arange(2 * MB, dtype=torch.float32)}
    write_nvidia(path, "Generator", {}, state, **options)
    return path.stat().st_size


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_large_file_stays_in_bounds(protocol: int, files: dict[str, bytes], tmp_path: Path) -> None:
    size = large(tmp_path / "large.pkl", protocol=protocol)
    assert size > 16 * MB
    result: list[NetworkFile] = []
    conduct, _ = conduct_of(
        lambda: result.append(read_network(tmp_path / "large.pkl")), UserError, traced=True
    )
    assert conduct.peak <= 2 * size
    assert result[0].state["synthesis.big"][-1] == 2 * MB - 1


def test_the_process_does_not_grow(tmp_path: Path) -> None:
    """The same as the operating system sees it, with the floods and bombs in one process."""
    size = large(tmp_path / "large.pkl")
    floods = dict(opcode_floods(size // 4))
    for name in GREEDIEST:
        (tmp_path / f"{name}.flood").write_bytes(floods[name])
    code = """if True:
        import pathlib, resource, sys, torch
        from generators.checkpoints import read_network
        from generators.errors import UserError
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        folder, grown = pathlib.Path(sys.argv[1]), peak()
        for path in sorted(folder.glob("*.flood")):
            try:
                read_network(path)
            except UserError:
                print("refused")
        read_network(folder / "large.pkl")
        print(peak() - grown)
    """
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    *refused, grown = run.stdout.split()
    assert len(refused) == len(GREEDIEST)
    assert int(grown) <= PER_BYTE * size + CONSTANT


# Views against plain arithmetic.

SMALL = st.integers(-1, 6)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 30), SMALL, st.lists(st.tuples(SMALL, SMALL), max_size=4))
def test_a_view_is_right_or_refused(count: int, offset: int, axes: list[tuple[int, int]]) -> None:
    size, stride = tuple(n for n, _ in axes), tuple(n for _, n in axes)
    content = parameter(storage_stream(torch.arange(float(count))), offset, size, stride)
    sound = min((offset, *size, *stride)) >= 0 and offset <= count
    steps = [[i * step for i in range(n)] for n, step in zip(size, stride, strict=True)]
    places = [offset + sum(combination) for combination in itertools.product(*steps)]
    inside = sound and len(places) <= count and max(places, default=-1) < count
    try:
        found = read_pickle(content).state["weight"]
    except UserError:
        assert not inside
    else:
        assert inside
        assert found.shape == size
        assert found.flatten().tolist() == places


# The harness can fail.


class Trusting(Machine):
    """A reader that does what a pickle says."""

    def call(self, function: Any, arguments: Any) -> Any:
        return getattr(importlib.import_module(function.module), function.name)(*arguments)


def test_a_trusting_reader_is_caught(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    content = network(by_line("os", "system") + text(f"touch {marker}") + b"\x85R")
    trusting = Trusting(memoryview(content), NAMES, Reading(len(content)))
    conduct, _ = conduct_of(trusting.run, UserError)
    assert marker.exists()
    assert any(event.startswith("os.system") for event in conduct.events)
    with pytest.raises(AssertionError):
        conduct.check(len(content))


def test_an_import_is_caught() -> None:
    sys.modules.pop("tabnanny", None)
    content = network(by_line("tabnanny", "errprint") + b")R")
    trusting = Trusting(memoryview(content), NAMES, Reading(len(content)))
    conduct, _ = conduct_of(trusting.run, SystemExit)
    assert any("tabnanny" in event for event in conduct.events)


def test_a_greedy_and_a_slow_reader_are_caught() -> None:
    conduct, _ = conduct_of(lambda: bytearray(CONSTANT + 5000), UserError, traced=True)
    with pytest.raises(AssertionError):
        conduct.check(1000)
    with pytest.raises(AssertionError):
        Conduct(seconds=60.0).check(1000)


def test_a_wrong_tensor_is_caught(files: dict[str, bytes]) -> None:
    found = read_pickle(files["nvidia-4"])
    wrong = NetworkFile("nvidia", "Generator", {}, {"a": found.state["mapping.w_avg"] + 2})
    with pytest.raises(AssertionError):
        assert_stands_in_file(wrong, files["nvidia-4"])
