"""What it costs to check a cache entry when it is read: none, CRC-32 (ours), SHA-256, BLAKE2b, side by side.

`python -m benchmarks.speed.checksum --out results/speed/checksum.txt` writes one entry of so many megabytes,
reads it again and again with each check in turn, from the system's page cache, and prints processor
milliseconds per megabyte: median, least and greatest of the rounds.
"""

from __future__ import annotations

import hashlib
import mmap
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import click
import torch
from safetensors import safe_open

from benchmarks import cache

from .meters import in_turns, spread

CHECKS: dict[str, Callable[[mmap.mmap], object]] = {
    "CRC-32": zlib.crc32,
    "SHA-256": lambda data: hashlib.sha256(data).digest(),
    "BLAKE2b": lambda data: hashlib.blake2b(data).digest(),
}


def read(path: Path) -> None:
    """Every tensor of an entry, each number touched once."""
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            file.get_tensor(name).sum()


def mapped(path: Path, check: Callable[[mmap.mmap], object]) -> None:
    """A check of a file's bytes where they lie, without a copy."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check(data)


def ways(path: Path) -> dict[str, Callable[[], object]]:
    """What is timed, by its name in the table."""
    found: dict[str, Callable[[], object]] = {"reading alone": lambda: read(path)}
    found["the entry's check, as the cache does it"] = lambda: cache._check(path)
    return found | {f"{name} of the bytes": lambda c=check: mapped(path, c) for name, check in CHECKS.items()}


@click.command()
@click.option("--megabytes", default=64, show_default=True, help="Of the entry.")
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1))
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there, too.")
def main(megabytes: int, rounds: int, out: Path | None) -> None:
    """Print what each check costs."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        there, key = cache.Cache(Path(folder)), {"kind": "speed"}
        there.get(
            key, lambda: {"noise": torch.rand(megabytes << 18, generator=torch.Generator().manual_seed(0))}
        )
        path = there.path(key)
        assert path is not None, "a cache with a folder has a file for every key"
        timed = in_turns(ways(path), rounds)
    lines = [
        f"processor ms per MB, median (least-most) of {rounds} rounds, an entry of {megabytes} MB, one thread"
    ]
    for name, found in timed.items():
        each = [1000 * seconds / megabytes for seconds in found.seconds]
        lines.append(f"{name:40} {1000 * found.median / megabytes:6.3f} ({spread(each, '.3f')})")
    text = "\n".join(lines) + "\n"
    click.echo(text, nl=False)
    if out is not None:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
