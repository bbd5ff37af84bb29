"""What the tests of `doctor` ask of it: its findings, and stores to look at."""

from collections.abc import Iterable
from pathlib import Path

from click.testing import CliRunner, Result

from benchmarks.cell import Record
from benchmarks.claims import machine
from benchmarks.cli import main
from benchmarks.store import Store
from generators.finding import OK, SKIPPED, Finding
from tests.runner.fakes import cells

HERE = machine()
SOMEBODY = 65534  # a user who may write nothing: "nobody"


def one(findings: Iterable[Finding], mark: str, says: str) -> Finding:
    """The only finding of a mark, which says something, and why and what to do if something is wrong."""
    listed = list(findings)
    found = [each for each in listed if each.mark == mark]
    assert len(found) == 1 and says in f"{found[0].what}: {found[0].text}", listed
    assert mark in (OK, SKIPPED) or (found[0].cause and found[0].cure)
    return found[0]


def doctor(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


def empty(folder: Path) -> Store:
    store = Store(folder)
    store.prepare()
    store.write_suite("some", "Some", "", cells(3))
    return store


def sound(folder: Path) -> Store:
    """A store of two records of three."""
    made = empty(folder)
    for each in cells(2):
        made.write(Record(each, "done", scores={"rms": 1.0}, per_image={"rms": [1.0]}))
    return made
