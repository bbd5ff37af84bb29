"""The process that reads: it is told a format, a seed and case numbers, and says how each case ended.

A line of JSON in, {"format", "seed", "first", "count"}; out, a line {"at": N} before each case, one
{"case", "what", "ended", "said"} for each that is wrong, and {"values", "refused"} at the end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, TextIO

from tests.fuzz import bombs, watch
from tests.fuzz.format import Format

SMALL = 4096  # bytes of a bomb that is read beforehand, too
WRITES = 2 << 30  # bytes a file may grow to: no bomb fills the disk


def every_format() -> dict[str, Format]:
    """All formats by name."""
    from tests.fuzz import formats_files, formats_store

    return {each.name: each for each in [*formats_store.formats(), *formats_files.formats()]}


class Worker:
    """Reads cases of formats below a folder.

    Args:
        folder: everything is written below it.
        out: gets the lines.
    """

    def __init__(self, folder: Path, out: TextIO) -> None:
        self.folder, self.out = folder, out
        self.formats = every_format()

    def say(self, **message: Any) -> None:
        """One line to the parent."""
        self.out.write(json.dumps(message) + "\n")
        self.out.flush()

    def place(self, asked: Format) -> Path:
        """A fresh folder with what the reader needs beside the file; gives the file's path."""
        shutil.rmtree(self.folder / "at", ignore_errors=True)
        path = self.folder / "at" / asked.file
        path.parent.mkdir(parents=True)
        asked.prepare(self.folder / "at")
        return path

    def warm(self, asked: Format, path: Path) -> None:
        """Read every sound file, unwatched: it must be accepted, and what it imports is imported."""
        for content in asked.sound:
            path.write_bytes(content)
            asked.read(path)
        for what, content in asked.fixed:  # what only some damage makes a reader import, too
            if what.startswith("cut") or len(content) > SMALL:
                continue
            path.write_bytes(content)
            with contextlib.suppress(Exception), watch.limited(watch.ALLOWED):
                asked.read(path)

    def read(self, asked: Format, path: Path, content: bytes) -> tuple[str, str]:
        """How one case ended."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        names = (path.name, str(path), *([asked.named] if asked.named else []))
        ended = watch.watched(lambda: asked.read(path), (str(self.folder),), asked.errors, names)
        left = [p for p in (self.folder / bombs.SENTINEL, Path(bombs.SENTINEL)) if p.exists()]
        return ("wrong", f"it ran what was in the file: {left}") if left else ended

    def run(self, name: str, seed: int, first: int, count: int) -> None:
        """The cases of one format."""
        asked, ends = self.formats[name], {"value": 0, "refused": 0, "wrong": 0}
        path = self.place(asked)
        self.warm(asked, path)
        path = self.place(asked)
        for number in range(first, first + count):
            self.say(at=number)
            what, content = asked.case(seed, number)
            ended, said = self.read(asked, path, content)
            ends[ended] += 1
            if ended == "wrong":
                self.say(case=number, what=what, said=said)
                path = self.place(asked)  # what it may have left behind is not the next one's
        self.say(values=ends["value"], refused=ends["refused"])


def main() -> None:
    """Serve the lines of standard input, below the folder that is named."""
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what readers print is no answer
    os.environ |= {"INTRINSIC_BENCH_CACHE": str(folder / "cache"), "TMPDIR": str(folder)}
    warnings.simplefilter("error")  # as in the tests: a warning is something that was not thought of
    warnings.filterwarnings("ignore", message=".*TypedStorage|.*torch.jit", category=Warning)
    # What Pillow says about a damaged picture it goes on to read is no error.
    warnings.filterwarnings("ignore", module="PIL", category=UserWarning)
    warnings.filterwarnings("ignore", message="Image size", category=Warning)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_FSIZE, (WRITES, WRITES))
    import encodings.cp437  # noqa: F401 (what zipfile reads old names with)

    from PIL import Image

    from generators import specs

    Image.init()
    specs()  # imports every family: a reader may ask for a generator in any case
    watch.listen()
    worker = Worker(folder, out)
    worker.say(ready=True)
    for line in sys.stdin:
        worker.run(**json.loads(line))


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # at once: what readers have left behind may not let the interpreter end
    os._exit(0)
