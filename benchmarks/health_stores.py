"""Whether what lies on the disk is sound: stores, the cache, room, and the clock files are dated by."""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from generators.checkpoints.download import weights_folder
from generators.checkpoints.transfer import CACHE_VARIABLE
from generators.errors import UserError
from generators.finding import FAILED, OK, SKIPPED, WARNING, Finding
from generators.plain import parse_json

from .at_work import DAY, DEAD, leftovers
from .claims import LEASE, Claim, is_gone
from .files import FORGOTTEN, writer_of
from .health import gigabytes
from .plan import RESULTS, duration
from .state import SLACK
from .store import FOLDERS, Store, corrupt

SCARCE = 2**30  # bytes of free space below which a run is likely to fill the disk
NONE = 2**20  # bytes that are as good as none
NAMED = 5  # files of one kind that are named one by one
PATIENCE = 4.0  # seconds for reading records whole, of all stores together, and for the cache


def cache_folder() -> Path:
    """Where everything that can be computed or fetched again lies, as benchmarks.cache has it."""
    return weights_folder().parent


# Room, and the clock.


def disks(places: Mapping[Path, str]) -> Iterator[Finding]:
    """Free space, and free names, of the disks that some folders are on.

    Args:
        places: folder to the variable or option that names another one.
    """
    for place, other in places.items():
        there = existing(place)
        try:
            free, names = shutil.disk_usage(there).free, os.statvfs(there)
        except OSError as error:
            yield Finding(
                FAILED, "disk", f"{place}: {error.strerror}", "the disk does not answer", "mount it"
            )
            continue
        yield room(place, other, free, names.f_favail if names.f_files else None)


def room(place: Path, other: str, free: int, names: int | None) -> Finding:
    """What free bytes, and free names (inodes, None where there is no such limit), mean for a folder."""
    what, text = "disk", f"{gigabytes(free)} free for {place}"
    cure = f"free some, or use another disk: {other}"
    if names == 0:
        why = "every inode is used: there are too many small files"
        return Finding(FAILED, what, f"no file can be made for {place}", why, cure)
    if free < NONE:
        return Finding(FAILED, what, f"no space left for {place}", "nothing can be written there", cure)
    if free < SCARCE:
        why = "a run with trained adapters and features of pictures takes gigabytes"
        return Finding(WARNING, what, text, why, cure)
    return Finding(OK, what, text)


def existing(path: Path) -> Path:
    """The nearest folder on the way to a path that is there."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def clocks(places: Iterable[Path]) -> Iterator[Finding]:
    """Whether a file made now is dated now; a file server may have a clock of its own."""
    for place in places:
        there = existing(place)
        try:
            with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor-") as file:
                yield same_time(place, os.fstat(file.fileno()).st_mtime, time.time())
        except OSError as error:
            yield Finding(SKIPPED, "clock", f"no file can be made for {place} ({error.strerror})")


def same_time(place: Path, dated: float, now: float) -> Finding:
    """What the date of a file made now means."""
    if abs(dated - now) <= SLACK:
        return Finding(OK, "clock", f"files for {place} are dated rightly")
    off = f"{duration(abs(dated - now))} {'after' if dated > now else 'before'} now"
    text = f"a file made now for {place} is dated {off}"
    why = "the file server's clock and this machine's differ: ages in `status` are wrong by as much"
    return Finding(WARNING, "clock", text, why, "set both clocks (chronyc tracking, timedatectl)")


# The cache.


def cache(folder: Path, patience: float = PATIENCE) -> Iterator[Finding]:
    """Size of the cache and of each folder in it, entries that are broken, and what killed writers left.

    Args:
        patience: seconds for looking at it: a large one on a slow disk is looked at in part, which is said.
    """
    if not folder.exists():
        yield Finding(OK, "cache files", f"{folder} is not there yet: the first run makes it")
        return
    if not may(folder, os.W_OK | os.X_OK):
        yield Finding(FAILED, "cache files", f"{folder} cannot be written", "it belongs to somebody else",
                      f"set {CACHE_VARIABLE} to a folder you may write")  # fmt: skip
        return
    sizes: Counter[str] = Counter()
    count = unread = 0
    broken: list[str] = []
    stale: list[Path] = []
    end = time.monotonic() + patience
    for path, stat in files(folder):
        sizes[path.relative_to(folder).parts[0]] += stat.st_size
        count += 1
        if path.name.endswith(".tmp") and forgotten(path, stat.st_mtime):
            stale.append(path)
        elif path.suffix == ".safetensors" and not path.name.startswith("."):
            if time.monotonic() > end:
                unread += 1
            elif wrong := damage(path):
                broken.append(f"{path}: {wrong}")
    yield from _cache_findings(folder, broken, stale)
    part = f", {unread} of them not looked at for lack of time" if unread else ""
    head = f"{folder}: {count} files, {gigabytes(sizes.total())}{part}"
    yield Finding(OK, "cache files", "\n".join([head, *_by_folder(sizes)]))


def _by_folder(sizes: Counter[str]) -> Iterator[str]:
    """Bytes of each folder of the cache, the largest first, and which of them may be deleted."""
    for name, size in sizes.most_common():
        yield f"  {gigabytes(size):>8}  {name}"
    if sizes:
        yield "each may be deleted when no run is at work: weights and data have to be fetched again,"
        yield "stores, copies of those at a URL, are by themselves, and all else is computed again"


def _cache_findings(folder: Path, broken: Sequence[str], stale: Sequence[Path]) -> Iterator[Finding]:
    if broken:
        why = "a write was cut off, or the disk is failing"
        cure = "nothing to do: such an entry is reported and computed again; if it recurs, check the disk"
        yield Finding(WARNING, "cache files", some("broken entries", broken), why, cure)
    if stale:
        cure = "rm " + " ".join(str(path) for path in stale[:NAMED]) + (" ..." if len(stale) > NAMED else "")
        text = some("temporary files of the dead", [str(path.relative_to(folder)) for path in stale])
        yield Finding(WARNING, "cache files", text, "whoever wrote them was killed", cure)


def files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below a folder that is still there when it is looked at."""
    for top, _, names in os.walk(folder):
        for name in names:
            path = Path(top, name)
            try:
                yield path, path.stat()
            except OSError:
                continue  # gone, or a link to nothing


def forgotten(path: Path, written: float) -> bool:
    """Whether nobody is writing a temporary file any more: its process is gone, or a week has passed."""
    of_entry = path.name.partition(".safetensors.")[2].rpartition("-")[0]  # without the thread
    return is_gone(writer_of(path.name) or of_entry) or time.time() - written > FORGOTTEN


def damage(path: Path) -> str:
    """What is wrong with the frame of a safetensors file; "" if its tensors end where the file does.

    Contents are not looked at: the checksum of a file is compared whenever it is used.
    """
    try:
        with path.open("rb") as file:
            size, start = os.fstat(file.fileno()).st_size, file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if 8 + length > size:
                return "it is empty" if not size else "it is cut off"
            header = parse_json(file.read(length))
        ends = [int(facts["data_offsets"][1]) for name, facts in header.items() if name != "__metadata__"]
    except FileNotFoundError:
        return ""  # swept meanwhile
    except OSError as error:
        return error.strerror or str(error)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
        return "its header is damaged"
    return "" if 8 + length + max(ends, default=0) == size else "it is cut off, or longer than it says"


# Stores.


def places(store: Path | None) -> list[Path]:
    """The store that is named, or all below results/."""
    return [store] if store is not None else sorted(path.parent for path in RESULTS.glob("*/suite.json"))


def far_store(url: str) -> Iterator[Finding]:
    """A store at a URL: whether it can be read and written, and all there is to say about its copy here."""
    from .remote import RemoteStore

    try:
        store = RemoteStore(url)
        store.pull("records", "progress", "claims")
        if store.suite() is None and not store.place.list("records"):
            yield Finding(
                FAILED, f"store {url}", "nothing is there", "", f"intrinsic-bench run SUITE --store {url}"
            )
            return
        trial = f"claims/.doctor-{secrets.token_hex(4)}"
        store.place.put(trial, b"may this be written?")
        store.place.delete(trial)
    except UserError as error:
        yield Finding(FAILED, f"store {url}", f"{error.asked}: {error.wrong}", error.known, error.todo)
        return
    yield from one_store(store.folder, name=url)


def stores(found: Sequence[Path], patience: float | None = PATIENCE) -> Iterator[Finding]:
    """Every store: rights, claims, records, leftovers.

    Args:
        patience: seconds for reading records whole, all stores together; None for as long as it takes.
    """
    if not found:
        yield Finding(SKIPPED, "stores", f"there is none below {RESULTS.absolute()}")
    end = None if patience is None else time.monotonic() + patience
    for folder in found:
        yield from one_store(folder, end)


def one_store(folder: Path, end: float | None = None, name: str = "") -> Iterator[Finding]:
    """All there is to say about one store.

    Args:
        end: when to stop reading records (monotonic).
        name: URL of the store that the folder is the copy of.
    """
    what = f"store {name or folder}"
    if not folder.is_dir():
        yield Finding(FAILED, what, "there is no such folder", "", "intrinsic-bench run SUITE makes one")
        return
    try:
        wrong = [*rights(what, folder), *_suite(what, folder), *claims(what, folder), *_left(what, folder)]
        whole, unread, broken = records(folder, end)
    except UserError as error:
        yield Finding(FAILED, what, f"{error.asked}: {error.wrong}", error.known, error.todo)
        return
    if broken:
        cure = "look at each, then move it away or delete it, and its cell is computed again:\nrm "
        files = [f"{name}/records/{path.name}" if name else str(path) for path in list(broken)[:NAMED]]
        cure += " ".join(files) + (" ..." if len(broken) > NAMED else "")
        texts = [f"{path}: {why}" for path, why in broken.items()]
        why = "it was edited, cut off by a failing disk, or copied in part; a run refuses to begin with it"
        wrong.append(Finding(FAILED, what, some("corrupt records", texts), why, cure))
    yield from wrong
    if not wrong:
        part = (
            f", {unread} more not read for lack of time: doctor --store {folder} reads all" if unread else ""
        )
        yield Finding(OK, what, f"{whole} records are whole{part}; nothing was left behind")


def rights(what: str, folder: Path) -> Iterator[Finding]:
    """Whether every folder of a store can be written and read."""
    there = [folder, *(folder / name for name in FOLDERS if (folder / name).exists())]
    closed = [str(path) for path in there if not may(path, os.R_OK | os.W_OK | os.X_OK)]
    if closed:
        why = "they belong to somebody else, or the disk is mounted read-only"
        cure = f"chmod -R u+rwX {folder}, or run into another store: --store DIR"
        yield Finding(WARNING, what, some("folders that cannot be read and written", closed), why, cure)


def may(path: Path, what: int) -> bool:
    """Whether this process has rights (os.R_OK ...) as it would use them."""
    return os.access(path, what, effective_ids=os.access in os.supports_effective_ids)


def _suite(what: str, folder: Path) -> Iterator[Finding]:
    """Whether suite.json is there and whole."""
    try:
        if Store(folder).suite() is None:
            why = "a run writes it before anything else; reports and `status` need it"
            cure = "intrinsic-bench run SUITE writes it again"
            yield Finding(WARNING, what, "it has no suite.json", why, cure)
    except UserError as error:
        yield Finding(FAILED, what, f"suite.json: {error.wrong}", "reports and `status` need it", error.todo)


def claims(what: str, folder: Path) -> Iterator[Finding]:
    """Claims of the dead, of machines that have been silent for a week, and unreadable ones."""
    store, dead, old, torn = Store(folder), [], [], []
    for path in sorted((folder / "claims").glob("*.json")):
        try:
            claim, age = store.owner(path), time.time() - path.stat().st_mtime
        except FileNotFoundError:
            continue  # given back meanwhile
        except UserError:
            torn.append(str(path))
            continue
        if claim is not None and claim.dead:
            dead.append(_claimed(path, claim))
        elif claim is not None and not claim.here and age > FORGOTTEN:
            old.append(_claimed(path, claim))
    if dead:
        cure = "nothing to do: the next run takes them over"
        yield Finding(WARNING, what, some("claims of the dead", dead), "a run was killed", cure)
    if old:
        why = "a run on another machine was killed, or works longer than a week; from here nobody can tell"
        cure = f"nothing to do: the next run takes them over if their owners are silent for {LEASE:.0f} s"
        yield Finding(WARNING, what, some("claims older than a week", old), why, cure)
    if torn:
        why = "a claim appears whole or not at all: something else wrote it; its cell cannot be computed"
        cure = f"if no run is at work: rm {' '.join(torn[:NAMED])}"
        yield Finding(FAILED, what, some("unreadable claims", torn), why, cure)


def _claimed(path: Path, claim: Claim) -> str:
    return f"{path} ({claim})"


def _left(what: str, folder: Path) -> Iterator[Finding]:
    """Temporary files and attempts of writers that are gone."""
    found = leftovers(folder, set(), time.time())
    dead = [left.path for left in found if left.owner == DEAD]
    unknown = [left.path for left in found if left.owner != DEAD and left.days * DAY > FORGOTTEN]
    if dead:
        cure = "nothing to do: the next run takes them away"
        yield Finding(WARNING, what, some("leftovers of the dead", dead), "their writers were killed", cure)
    if unknown:
        why = "another machine wrote them, and has not touched them for a week"
        cure = f"if its run is gone: rm -r {' '.join(str(folder / path) for path in unknown[:NAMED])}"
        yield Finding(WARNING, what, some("leftovers older than a week", unknown), why, cure)


def records(folder: Path, end: float | None) -> tuple[int, int, dict[Path, str]]:
    """How many records are whole, how many were not read in time, and what is wrong with which others."""
    store, broken, whole, unread = Store(folder), {}, 0, 0
    for path in sorted((folder / "records").glob("*.json")):
        if end is not None and time.monotonic() > end:
            unread += 1
            continue
        try:
            whole += store.read(path.stem) is not None
        except UserError as error:
            broken[path] = error.wrong
        except OSError as error:
            broken[path] = corrupt(path, error.strerror or str(error)).wrong
    return whole, unread, broken


def some(what: str, found: Sequence[str]) -> str:
    """How many of something there are, and the first of them, one in a line."""
    more = [f"and {len(found) - NAMED} more"] if len(found) > NAMED else []
    return "\n".join([f"{what}: {len(found)}", *(f"  {each}" for each in found[:NAMED]), *more])
