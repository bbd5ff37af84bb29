"""The parent of the process that reads: it gives out cases, and knows which one a dead process was at."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds one case may take before its process is ended, on a machine that is busy


@dataclass
class Found:
    """What came of some cases of one format.

    Attributes:
        values, refused: how many were read, and how many refused in the right way.
        wrong: (case number, what it was, what went wrong).
    """

    values: int = 0
    refused: int = 0
    wrong: list[tuple[int, str, str]] = field(default_factory=list)


class Gone(Exception):
    """The process ended while it read a case."""

    def __init__(self, case: int, how: str) -> None:
        super().__init__(case, how)
        self.case, self.how = case, how


class Hunter:
    """Starts the process that reads, and starts it again whenever it dies.

    Args:
        folder: it works below.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.rest = folder, b""
        self.process: subprocess.Popen[bytes] | None = None

    def _begin(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
            with (self.folder / "stderr.txt").open("w") as said:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "tests.fuzz.worker", str(self.folder)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, bufsize=0, cwd=ROOT,
                    env=os.environ | one | {"PYTHONPATH": str(ROOT)},
                )  # fmt: skip
            self._line(self.process, -1)
        return self.process

    def _line(self, process: subprocess.Popen[bytes], at: int) -> dict[str, Any]:
        """The next line; raises Gone if there is none."""
        assert process.stdout is not None
        while b"\n" not in self.rest:
            if not select.select([process.stdout], [], [], PATIENCE)[0]:
                process.kill()
                self._ended(process)
                raise Gone(at, f"it took more than {PATIENCE:g} seconds")
            some = os.read(process.stdout.fileno(), 1 << 16)
            if not some:
                status = self._ended(process)
                last = (self.folder / "stderr.txt").read_text(errors="replace")[-1500:]
                raise Gone(at, f"the process ended with {status}:\n{last}")
            self.rest += some
        text, _, self.rest = self.rest.partition(b"\n")
        found: dict[str, Any] = json.loads(text)
        return found

    def _ended(self, process: subprocess.Popen[bytes]) -> int:
        """Its exit status; one that has closed its output and does not end is killed."""
        self.process, self.rest = None, b""
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            return process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def hunt(self, name: str, seed: int, first: int, count: int) -> Found:
        """So many cases of a format from one on."""
        found, stop = Found(), first + count
        while first < stop:
            at = first - 1  # none yet
            process = self._begin()
            assert process.stdin is not None
            asked = {"name": name, "seed": seed, "first": first, "count": stop - first}
            process.stdin.write((json.dumps(asked) + "\n").encode())
            try:
                while "values" not in (line := self._line(process, at)):
                    at = line.get("at", at)
                    if "case" in line:
                        found.wrong.append((line["case"], line["what"], line["said"]))
            except Gone as gone:
                if gone.case < first:
                    raise  # before any case: the harness, or a sound file that is refused
                found.wrong.append((gone.case, "", gone.how))
                first = gone.case + 1
                continue
            found.values += line["values"]
            found.refused += line["refused"]
            break
        return found

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self._ended(self.process)


@contextmanager
def hunting(folder: Path) -> Iterator[Hunter]:
    """A hunter for a while."""
    folder.mkdir(parents=True, exist_ok=True)
    hunter = Hunter(folder)
    try:
        yield hunter
    finally:
        hunter.close()


def reproduce(name: str, seed: int, case: int) -> str:
    """The command that reads one case again."""
    return f"python -m tests.fuzz.long --format {name} --seed {seed} --case {case}"
