"""Who is at work in a store, who was when he died, and what he left behind; nothing is ever written.

A claim names the process that gave a cell out, a sign of life (progress/HASH.json) the one that computes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from generators.errors import UserError
from generators.plain import parse_json

from .claims import Claim, alive, machine, pid_here
from .files import writer_of
from .store import ATTEMPTS, FOLDERS, Store

ALIVE, DEAD, UNKNOWN = "alive", "dead", "unknown"
SILENCE = 60.0  # seconds without a sign of life after which one is missed
DAY = 86400.0
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


@dataclass(frozen=True)
class Work:
    """A cell that somebody has claimed, or was at when he died.

    Attributes:
        hash, model, intrinsic, method, seed: of the cell; "" and None if nobody says.
        host, pid: of the process that computes it, else of the one that claimed it.
        owner: ALIVE, DEAD, or UNKNOWN (of another machine's processes nothing is known).
        share: done of the cell, 0 to 1, None if nobody says; phase: what it is at.
        running: seconds since it began, silent: since the last sign of life, still: since it last came on;
            None if nobody says.
    """

    hash: str
    model: str
    intrinsic: str
    method: str
    seed: int | None
    host: str
    pid: int
    owner: str
    share: float | None
    phase: str
    running: float | None
    silent: float | None
    still: float | None

    @property
    def working(self) -> bool:
        """Whether it counts as being worked at: alive, or elsewhere with a recent sign of life."""
        recent = self.silent is not None and self.silent <= SILENCE
        return self.owner == ALIVE or (self.owner == UNKNOWN and recent)


@dataclass(frozen=True)
class Leftover:
    """What a writer left behind: a path below the store, and whether its writer is dead or unknown."""

    path: str
    owner: str
    days: float


# Reading a folder that others write.


def closed(path: Path, error: OSError) -> UserError:
    """The error for what may not be read."""
    known = "nothing was changed"
    return UserError(
        f"read {path}", f"{os.strerror(error.errno or 0)}", known, "ask its owner to let you read"
    )


def listed(folder: Path, suffix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Names and facts of a folder's files, none if there is no folder; hidden ones are left out."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(suffix) and not entry.name.startswith("."):
                    try:
                        yield entry.name, entry.stat()
                    except FileNotFoundError:
                        continue  # gone since it was listed
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise closed(folder, error) from error


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in a folder, nothing if there is none, or it is not a folder."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError as error:
        raise closed(folder, error) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object of a file; None if the file is gone, cannot be read or holds none."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


# Who is at work.


def works_of(
    folder: Path, planned: Mapping[str, Mapping[str, Any]], recorded: Iterable[str], now: float
) -> tuple[Work, ...]:
    """Every cell of a store that somebody has claimed or gave a sign of life of, by its names."""
    store, claims = Store(folder), {}
    for name, stat in listed(folder / "claims", ".json"):
        try:
            claims[name.removesuffix(".json")] = (store.owner(folder / "claims" / name), stat.st_mtime)
        except (UserError, OSError):  # torn, or another's: that there is one is all that is known
            claims[name.removesuffix(".json")] = (Claim(0, "", "", ""), stat.st_mtime)
    signs = {name.removesuffix(".json"): read_json(folder / "progress" / name)
             for name, _ in listed(folder / "progress", ".json")}  # fmt: skip
    done, works = set(recorded), []
    for name in sorted(claims.keys() | signs.keys()):
        claim, taken = claims.get(name, (None, now))
        if claim is None and signs.get(name) is None:
            continue  # given back meanwhile
        work = _work(name, claim, taken, signs.get(name), planned.get(name, {}), now)
        if work.owner != DEAD or claim is not None or name not in done:
            works.append(work)  # else the cell was ended, and its sign is left over
    return tuple(sorted(works, key=lambda w: (not w.working, w.model, w.intrinsic, w.method, w.seed or 0)))


def _work(
    name: str,
    claim: Claim | None,
    taken: float,
    sign: Mapping[str, Any] | None,
    cell: Mapping[str, Any],
    now: float,
) -> Work:
    """What is known of one cell; a sign that a dead worker left does not speak against a living claim."""
    living = claim is not None and claim.here and not claim.dead
    if sign and living and _owner_of_sign(sign) == DEAD:
        sign = None
    began = _seconds(sign.get("since")) if sign else (_seconds(claim.since) if claim else None)
    heard = _seconds(sign.get("at")) if sign else (began if began is not None else taken)
    silent = None if living and not sign else _since(heard, now)
    facts = {key: (sign or {}).get(key, cell.get(key, "")) for key in ("model", "intrinsic", "method")}
    seed = (sign or {}).get("seed", cell.get("seed"))
    share = (sign or {}).get("share")
    return Work(
        name,
        **{key: str(value) for key, value in facts.items()},
        seed=seed if isinstance(seed, int) else None,
        host=str(sign.get("host", "")) if sign else (claim.host if claim else ""),
        pid=_whole(sign.get("pid")) if sign else (claim.pid if claim else 0),
        owner=ALIVE if living else _owner(claim, sign, silent),
        share=float(min(1.0, max(0.0, share))) if isinstance(share, int | float) else None,
        phase=str((sign or {}).get("phase", "")),
        running=_since(began, now),
        silent=silent,
        still=_since(_seconds(sign.get("moved")), now) if sign else None,
    )


def _owner(claim: Claim | None, sign: Mapping[str, Any] | None, silent: float | None) -> str:
    """Whether whoever has a cell is alive, where no living process of this machine claims it.

    A sign names no start of its process, and pids are given out again: where the claim's owner is dead a
    process of that pid counts only as long as it is heard of.
    """
    dead = claim is not None and claim.dead
    if sign is None:
        return DEAD if dead else UNKNOWN
    said = _owner_of_sign(sign)
    quiet = silent is None or silent > SILENCE
    return DEAD if said == ALIVE and dead and quiet else said


def _owner_of_sign(sign: Mapping[str, Any]) -> str:
    if sign.get("host") != machine():
        return UNKNOWN
    return process(_whole(sign.get("pid")))


def process(pid: int) -> str:
    """ALIVE or DEAD: a process of this machine, as far as its pid tells."""
    return ALIVE if pid > 0 and alive(pid) else DEAD


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0


def _seconds(stamp: Any) -> float | None:
    """Seconds of the epoch of a UTC time in ISO 8601; None if it is none."""
    try:
        return datetime.fromisoformat(str(stamp)).timestamp()
    except ValueError:
        return None


def _since(moment: float | None, now: float) -> float | None:
    """Seconds since a moment, never negative: a clock may have been set back."""
    return None if moment is None else max(0.0, now - moment)


# What was left behind.


def leftovers(folder: Path, working: set[str], now: float) -> tuple[Leftover, ...]:
    """Temporary files and attempts whose writer is dead, or is another machine's and has been quiet a day."""
    found = [*_temporaries(folder, now), *_attempts(folder, working, now)]
    return tuple(left for left in found if left.owner == DEAD or (left.owner == UNKNOWN and left.days >= 1))


def _temporaries(folder: Path, now: float) -> Iterator[Leftover]:
    for name in (".", *FOLDERS):
        for entry in entries(folder / name):
            if _TEMPORARY.fullmatch(entry.name):
                yield from _leftover(entry, folder, _owner_of_file(writer_of(entry.name)), now)


def _attempts(folder: Path, working: set[str], now: float) -> Iterator[Leftover]:
    """Folders HASH.HOST.PID; a host's name may have dots."""
    for entry in entries(folder / ATTEMPTS):
        name, _, writer = entry.name.partition(".")
        owner = _owner_of_file(writer)
        if name not in working or owner == DEAD:
            yield from _leftover(entry, folder, owner, now)


def _owner_of_file(writer: str) -> str:
    """Of HOST.PID, as names of files have it."""
    pid = pid_here(writer)
    return UNKNOWN if pid is None else process(pid)


def _leftover(entry: os.DirEntry[str], folder: Path, owner: str, now: float) -> Iterator[Leftover]:
    """What was left, if it is still there."""
    try:
        written = entry.stat().st_mtime
    except FileNotFoundError:
        return
    yield Leftover(os.path.relpath(entry.path, folder), owner, max(0.0, now - written) / DAY)
