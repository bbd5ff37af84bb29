"""Every file the project reads, damaged: it is read, or refused by its name, and nothing else happens.

A process of its own reads, with an address space that may grow by 1 GB, and is heard: programs, sockets,
pickles, files written outside its folder. Cases come from a seed; `python -m tests.fuzz.long` asks more.
"""

from __future__ import annotations

import ast
import builtins
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.cell import unsealed
from benchmarks.store import Store
from generators.errors import UserError
from tests.fuzz import bombs, formats_files, formats_store, hunt, long, watch
from tests.fuzz.format import Format
from tests.fuzz.formats_store import one_record
from tests.fuzz.hunt import Gone, Hunter, hunting, reproduce

SEED = 1
FORMATS = {each.name: each for each in [*formats_store.formats(), *formats_files.formats()]}
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hunter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hunter]:
    with hunting(tmp_path_factory.mktemp("fuzz")) as found:
        yield found


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_refused(name: str, hunter: Hunter) -> None:
    asked = FORMATS[name]
    found = hunter.hunt(name, SEED, 0, len(asked.fixed) + asked.cases // 2)
    told = [f"{what}: {said}\n  {reproduce(name, SEED, case)}" for case, what, said in found.wrong[:5]]
    assert not told, "\n".join([f"{len(found.wrong)} of {name} went wrong", *told])
    assert found.values, "nothing was read: the cases are only refused"
    assert found.refused or not asked.errors, "nothing was refused"


def test_a_record_with_a_flipped_bit_is_refused_and_named(tmp_path: Path) -> None:
    """At every byte: a digit of a number would be another number."""
    record = one_record()
    store = Store(tmp_path)
    store.prepare()
    store.write(record)
    whole = store.path(record.cell).read_bytes()
    for place in range(len(whole) - 1):
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        store.path(record.cell).write_bytes(flipped)
        with pytest.raises(UserError, match=record.cell.hash):
            store.read(record.cell)
    store.path(record.cell).write_text(unsealed(whole.decode()))  # as earlier versions wrote it
    assert store.read(record.cell) == record


def test_a_record_cut_at_every_byte_is_refused_and_named(tmp_path: Path) -> None:
    record = one_record()
    store = Store(tmp_path)
    store.prepare()
    store.write(record)
    whole = store.path(record.cell).read_bytes()
    for end in range(len(whole) - 1):  # the last is a line feed
        store.path(record.cell).write_bytes(whole[:end])
        with pytest.raises(UserError) as caught:
            store.read(record.cell)
        assert str(store.path(record.cell)) in str(caught.value)
    store.path(record.cell).write_bytes(whole[:-1])
    assert store.read(record.cell) == record


def test_every_reader_of_the_packages_is_known() -> None:
    """A module that begins to read files is noted here, once it is fuzzed or needs no fuzzing."""
    reads = {"np.load", "Image.open", "safe_open", "load_file", "tomllib.loads", "tomllib.load", "json.load"}
    reads |= {
        "json.loads",
        "parse_json",
        "parse_toml",
        "read_npy",
        "read_npz",
        "decoding",
        "csv.reader",
        "csv.DictReader",
    }
    found = set()
    for layer in ("benchmarks", "generators", "probes"):
        for path in (ROOT / layer).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if any(ast.unparse(n.func) in reads for n in ast.walk(tree) if isinstance(n, ast.Call)):
                found.add(path.relative_to(ROOT).as_posix())
    known = set((Path(__file__).parent / "readers.txt").read_text(encoding="utf-8").split("\n"))
    known = {line.partition(":")[0] for line in known if line and not line.startswith("#")}
    assert found - known == set(), "fuzz them in tests/fuzz, and say so in tests/fuzz/readers.txt"


# The harness can fail.


def seen(read: object, folder: Path, errors: tuple[type[Exception], ...] = (UserError,)) -> tuple[str, str]:
    """What a watching process says of a reader, in a process of its own that is forked off."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:  # the audit hook stays for the life of a process: it is not this one's
        try:
            watch.listen()
            ended = watch.watched(read, (str(folder),), errors, ("name",))  # type: ignore[arg-type]
            os.write(send, "\n".join(ended).encode()[:4000])
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as file:
        ended, _, said = file.read().decode().partition("\n")
    os.waitpid(child, 0)
    return ended, said


def refuse(text: str) -> None:
    raise UserError("a file", text)


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda: {}["a"], "KeyError"),
        # More than ALLOWED and all that the process has, which may be free in its heap.
        (lambda: bytes(watch.ALLOWED + watch.space()), "MemoryError"),
        (lambda: refuse("it is bad"), "names none"),
        (lambda: refuse("name " + "x" * 5000), "characters"),
        (lambda: subprocess.run(["true"], check=False), "subprocess.Popen"),
        (lambda: vars(os)["system"]("true"), "os.system"),
        (lambda: vars(builtins)["exec"]("a = 1"), "exec"),
        (lambda: Path("/tmp/outside-of-the-folder").write_bytes(b""), "writes"),
        (lambda: os.rename("/tmp/outside-a", "/tmp/outside-b"), "FileNotFoundError"),
    ],
)
def test_a_bad_reader_is_seen(read: object, says: str, tmp_path: Path) -> None:
    ended, said = seen(read, tmp_path)
    assert ended == "wrong" and says in said


def test_a_good_reader_is_not_reported(tmp_path: Path) -> None:
    assert seen(lambda: (tmp_path / "inside").write_bytes(b""), tmp_path)[0] == "value"
    assert seen(lambda: refuse("it has no name"), tmp_path)[0] == "refused"


def test_a_process_that_dies_is_known_with_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that kills its process at one case: it is told, and the cases after it are read."""
    code = """if True:
        import os, signal, sys
        from tests.fuzz import worker
        from tests.fuzz.format import Format
        def read(path):
            if path.read_bytes() == b"abc":
                os.kill(os.getpid(), signal.SIGSEGV)
        worker.every_format = lambda: {"bad": Format("bad", "binary", "a", lambda: [b"abcd"], read)}
        worker.main()
    """
    real = subprocess.Popen

    def start(command: list[str], **more: object) -> object:
        return real([command[0], "-c", code, command[-1]], **more)  # type: ignore[call-overload]

    monkeypatch.setattr(hunt.subprocess, "Popen", start)
    with hunting(tmp_path / "hunt") as hunter:
        found = hunter.hunt("bad", 0, 0, 8)  # cut at 0, 1, 2 and 3, empty, a pickle, ...
    assert [case for case, _, _ in found.wrong] == [3]
    assert str(-signal.SIGSEGV) in found.wrong[0][2]


def test_a_worker_that_cannot_begin_is_an_error(tmp_path: Path) -> None:
    with hunting(tmp_path / "hunt") as hunter, pytest.raises(Gone):
        hunter.hunt("no such format", 0, 0, 5)


def test_cases_are_the_same_for_a_seed() -> None:
    for name in ("record", "picture-own", "npz-maps"):
        asked: Format = FORMATS[name]
        first = [asked.case(3, len(asked.fixed) + number) for number in range(20)]
        assert first == [asked.case(3, len(asked.fixed) + number) for number in range(20)]
        assert first != [asked.case(4, len(asked.fixed) + number) for number in range(20)]


def test_the_bombs_are_bombs(tmp_path: Path) -> None:
    """What the readers are kept from: numpy believes a header, Pillow starts Ghostscript."""
    sound = formats_files.npy((6, 8))[0]
    (tmp_path / "a.npy").write_bytes(bombs.npy_with(sound, shape="(300000000000,)"))
    with pytest.raises(MemoryError):
        np.load(tmp_path / "a.npy", allow_pickle=False)
    script = dict(bombs.picture_bombs(formats_files.pictures()[0]))["PostScript"]
    (tmp_path / "a.png").write_bytes(script)
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.format == "EPS"


def test_the_long_hunt_says_how_to_reproduce(tmp_path: Path) -> None:
    run = CliRunner().invoke(long.main, ["--format", "claim", "--case", "0", "--out", str(tmp_path)])
    assert run.exit_code == 0 and "refused" in run.output, run.output
    assert (tmp_path / "claim-0-0").read_bytes() == b""
