"""Whether this machine is fit for a run: versions, extras, limits, what stands in the way of an import.

Each look is a function that yields findings and imports no torch; none of them computes, fetches or writes.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from generators.finding import FAILED, OK, SKIPPED, WARNING, Finding

from .plan import COSTS

PACKAGE = "intrinsic-bench"
# What can be installed beside the package, and what for.
EXTRAS: Mapping[str, str] = {
    "ray": "runs over several machines (--engine ray)",
    "tensorboard": "losses in TensorBoard (--track tensorboard)",
    "wandb": "losses in Weights & Biases (--track wandb)",
    "OpenEXR": "maps of your own in OpenEXR",
}
FILES = 1024  # open files a run may need: workers, their connections, logs and shards of data
SHARED = 256 * 2**20  # bytes of shared memory below which a cluster's object store is moved to a disk
WORKER = max(cost.memory for cost in COSTS.values()) * 2**20  # bytes of a worker on embedded models
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_UNLIMITED = 2**60  # the first cgroups write a huge number where there is no limit
_IMPORTED = ("torch", "numpy", "scipy", "pandas", "diffusers", "transformers", "peft", "accelerate", "click",
             "rich", "safetensors", "huggingface_hub", "seaborn", "PIL", "yaml", "ray")  # fmt: skip

Versions = Callable[[str], str | None]


def version(name: str) -> str | None:
    """Installed version of a distribution, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements() -> list[str] | None:
    """What the package says it needs, extras with their markers; None if it is not installed."""
    try:
        return metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None


# Versions.


def versions(needed: Sequence[str] | None, found: Versions = version) -> Iterator[Finding]:
    """Every package against the bounds that the package's own metadata names.

    Args:
        needed: as `requirements` gives them.
        found: installed version of a distribution.
    """
    from packaging.requirements import Requirement

    if needed is None:
        text = f"{PACKAGE} is not installed: {Path(__file__).parents[1]} is imported as it lies there"
        why = "without its metadata nobody knows the versions it needs, and plugins are not found"
        yield Finding(WARNING, "versions", text, why, "pip install --editable . (or make setup)")
        return
    asked = [each for each in map(Requirement, needed) if each.marker is None or each.marker.evaluate()]
    wrong = 0
    for each in asked:
        there = found(each.name)
        if there is None or not each.specifier.contains(there, prereleases=True):
            wrong += 1
            text = "is not installed" if there is None else f"is {there}; {each.specifier} is needed"
            why = f"{PACKAGE} uses what only these versions have"
            cure = f"pip install '{each.name}{each.specifier}'"
            yield Finding(FAILED, f"version of {each.name}", text, why, cure)
    if not wrong:
        named = ("torch", "diffusers", "transformers", "peft")
        listed = ", ".join(f"{name} {there}" for name in named if (there := found(name)) is not None)
        own = f"{PACKAGE} {found(PACKAGE) or '?'}"
        yield Finding(OK, "versions", f"{own}, {listed}; all {len(asked)} packages are new enough")


def python_version(
    asked: str | None = None, there: tuple[int, ...] = sys.version_info[:3]
) -> Iterator[Finding]:
    """The interpreter against the bound of the package's metadata (`asked`; None: the metadata's own)."""
    from packaging.specifiers import SpecifierSet

    text = ".".join(map(str, there))
    if asked is None:
        asked = metadata.metadata(PACKAGE)["Requires-Python"] if requirements() is not None else ""
    if asked and not SpecifierSet(asked).contains(text):
        cure = "make an environment with a newer one: make clean setup PYTHON=python3.12"
        yield Finding(FAILED, "python", f"{text}; {asked} is needed", "the language has grown", cure)
    else:
        yield Finding(OK, "python", f"{text} in {sys.prefix}")


def extras(needed: Sequence[str] | None, found: Versions = version) -> Iterator[Finding]:
    """What can be installed beside the package: there, too old, or absent, which is no fault."""
    from packaging.requirements import Requirement

    bounds = {each.name.lower(): each for each in map(Requirement, needed or ()) if each.marker is not None}
    for name, purpose in EXTRAS.items():
        there, bound = found(name), bounds.get(name.lower())
        asked = f"{name}{bound.specifier}" if bound else name
        if there is None:
            text, cure = f"is not installed: {purpose}", f"pip install '{asked}' if you want it"
            yield Finding(SKIPPED, name, text, cure=cure)
        elif bound is not None and not bound.specifier.contains(there, prereleases=True):
            why = f"{purpose}: this version is not known to work"
            yield Finding(
                WARNING, name, f"is {there}; {bound.specifier} is needed", why, f"pip install '{asked}'"
            )
        else:
            yield Finding(OK, name, f"{there}: {purpose}")


# What stands in the way of an import.


def shadowing(paths: Sequence[str] | None = None) -> Iterator[Finding]:
    """Files that are imported instead of Python's own modules or of packages, and a second copy of this one.

    Args:
        paths: where imports are looked for, in order; None for this process's.
    """
    paths = sys.path if paths is None else paths
    found = list(_shadows(paths))
    for path, name in found:
        why = f"whoever imports {name} gets this file, here and in every worker"
        yield Finding(
            WARNING, "imports", f"{path} stands before {name}", why, "rename it, or mend PYTHONPATH"
        )
    root, copies = Path(__file__).resolve().parents[1], _copies(paths)
    others = {name: place for name, place in copies.items() if place != root}
    for name, place in others.items():
        why = f"two copies are mixed: workers would run {name} of one and the rest of the other"
        yield Finding(FAILED, "imports", f"{name} is imported from {place}, not from {root}", why,
                      "take one of them off PYTHONPATH, or uninstall it")  # fmt: skip
    if not found and not others:
        yield Finding(OK, "imports", f"nothing stands before Python's own modules; this package is {root}")


def _shadows(paths: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Files in folders that come before Python's own, named like a module of it or a package we import."""
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    for entry in paths:
        folder = Path(entry or ".").resolve()
        if folder == standard:
            return
        if "site-packages" in folder.parts or not folder.is_dir():
            continue
        for child in sorted(folder.iterdir()):
            name = child.name.removesuffix(".py")
            module = (name != child.name and child.is_file()) or (child / "__init__.py").is_file()
            if module and (name in sys.stdlib_module_names or name in _IMPORTED):
                yield child, name


def _copies(paths: Sequence[str]) -> dict[str, Path]:
    """Where on some paths each of our packages is found first, if on any."""
    found: dict[str, Path] = {}
    for entry in paths:
        for name in ("benchmarks", "probes", "generators"):
            if name not in found and (Path(entry or ".") / name / "__init__.py").is_file():
                found[name] = Path(entry or ".").resolve()
    return found


# Limits.


def open_files() -> Iterator[Finding]:
    """How many files a process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        yield Finding(SKIPPED, "open files", "this system has no such limit to ask")
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield enough_files(soft, hard)


def enough_files(soft: int, hard: int) -> Finding:
    """What a limit of open files means; -1 stands for none."""
    if soft == -1 or soft >= FILES:
        return Finding(OK, "open files", "no limit" if soft == -1 else f"{soft} for each process")
    why = "every worker needs some; beyond the limit cells fail with 'Too many open files'"
    more = f" (the hard limit is {hard}: ask an administrator)" if -1 < hard < FILES else ""
    cure = f"ulimit -n {FILES}{more}"
    return Finding(WARNING, "open files", f"{soft} for each process, {FILES} may be needed", why, cure)


def shared_memory(folder: Path = Path("/dev/shm")) -> Iterator[Finding]:
    """Shared memory, which Ray and torch's data loaders use."""
    try:
        total = shutil.disk_usage(folder).total
    except OSError:
        yield Finding(SKIPPED, "shared memory", f"there is no {folder}")
        return
    text = f"{folder} has {gigabytes(total)}"
    if total >= SHARED:
        yield Finding(OK, "shared memory", text)
        return
    why = "containers get 64 MB unless told otherwise; Ray then keeps its objects on a disk, slowly"
    cure = "start the container with --shm-size=2g (runs of this machine alone do without)"
    yield Finding(WARNING, "shared memory", text, why, cure)


def memory() -> Iterator[Finding]:
    """Memory, of the machine and of the container, against what workers need."""
    free = available()
    if free is None:
        yield Finding(SKIPPED, "memory", "this system does not tell how much is available")
        return
    limit = cgroup_limit()
    yield enough_memory(free, limit, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def enough_memory(free: int, limit: tuple[int, int] | None, processors: int) -> Finding:
    """What is left for workers.

    Args:
        free: bytes available on the machine.
        limit: bytes a container may have, and has; None if it is not limited.
        processors: this process may use.
    """
    left = free if limit is None else min(free, max(0, limit[0] - limit[1]))
    boundary = "" if limit is None else f", limited to {gigabytes(limit[0])} by the container"
    workers = left // WORKER
    text = (f"{gigabytes(free)} available{boundary}: room for {workers} workers of {gigabytes(WORKER)} each "
            f"(embedded models), {processors} processors")  # fmt: skip
    if workers >= min(2, processors):
        return Finding(OK, "memory", text)
    why = "a worker that gets no memory is killed by the system, and its cell fails"
    cure = "end other programs, raise the limit, or run with --workers 1; `plan SUITE` says what it needs"
    return Finding(WARNING if workers else FAILED, "memory", text, why, cure)


def available(table: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that can be had without swapping; None where the system does not tell."""
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def cgroup_limit(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> tuple[int, int] | None:
    """Bytes the control group of this process may have, and has: of its tightest one; None without a limit.

    Args:
        root: where control groups are mounted.
        own: what names this process's (proc(5), cgroups(7)).
    """
    found = [limit for folder, files in _cgroups(root, own) if (limit := _limit(folder, files)) is not None]
    return min(found, key=lambda limit: limit[0] - limit[1], default=None)


def _cgroups(root: Path, own: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """The groups a process is in, innermost first, each with its files of limit and use: of both versions."""
    new, old = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        base, files = (root / "memory", old) if kinds else (root, new)
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):
            yield base / group, files


def _limit(folder: Path, files: tuple[str, str]) -> tuple[int, int] | None:
    """Limit and use of a group without what is kept of files, which the system takes back before it kills."""
    try:
        most, used = ((folder / name).read_text(encoding="utf-8").strip() for name in files)
    except OSError:
        return None
    if not (most.isdigit() and used.isdigit()) or int(most) >= _UNLIMITED:
        return None
    return int(most), max(0, int(used) - _of_files(folder))


def _of_files(folder: Path) -> int:
    """Bytes of files that a group keeps in memory and has not used lately; of all groups in it."""
    try:
        told = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
        return int(told.get("total_inactive_file", told.get("inactive_file", "0")))
    except (OSError, ValueError):
        return 0


def gigabytes(size: float) -> str:
    """Bytes as a person reads them, in powers of two as `free` and `df -h` say them."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 else f"{size / 2**20:.0f} MB"


def machine() -> Iterable[Callable[[], Iterator[Finding]]]:
    """Every look at the machine."""
    needed = requirements()
    return (python_version, lambda: versions(needed), lambda: extras(needed), shadowing, open_files,
            shared_memory, memory)  # fmt: skip
