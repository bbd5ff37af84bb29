"""Which compilers there are, what they are able to do, and whether they fit each other."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0")  # where no GPU says which: Turing to Blackwell
NAMED_ARCHS = {
    "turing": ("7.5",),
    "ampere": ("8.0", "8.6"),
    "ada": ("8.9",),
    "hopper": ("9.0",),
    "blackwell": ("10.0", "12.0"),
    "volta": ("7.0",),
    "pascal": ("6.0", "6.1"),
}
# Newest GCC of each CUDA toolkit: NVIDIA, CUDA Installation Guide for Linux, table "Host Compiler Support".
NEWEST_GCC = {
    (11, 0): 9, (11, 1): 10, (11, 4): 11, (12, 0): 12, (12, 4): 13, (12, 8): 14, (13, 0): 15,
}  # fmt: skip
NEWEST_KNOWN_CUDA = (13, 1)


@dataclass(frozen=True)
class Compiler:
    """A compiler as it is called, with what it says of itself."""

    command: tuple[str, ...]
    text: str  # all of --version

    @property
    def version(self) -> tuple[int, ...]:
        """As in (12, 2, 0); () if it says none."""
        return _version(self.text)

    @property
    def is_gcc(self) -> bool:
        """Whether it is GCC, and not clang or another one."""
        return "Free Software Foundation" in self.text

    def __str__(self) -> str:
        kind = "g++" if self.is_gcc else "clang" if "clang" in self.text else Path(self.command[0]).name
        version = ".".join(map(str, self.version)) or "(of unknown version)"
        return f"{kind} {version} ({shlex.join(self.command)})"


def _version(text: str) -> tuple[int, ...]:
    """The version of what --version prints: nvcc's 'release', else the last number of the first line."""
    release = re.search(r"release (\d+)\.(\d+)", text)
    if release:
        return int(release[1]), int(release[2])
    numbers = re.findall(r"(?<![\w.-])(\d+)\.(\d+)(?:\.(\d+))?", text.partition("\n")[0])
    return tuple(int(part) for part in numbers[-1] if part) if numbers else ()


def _run(command: Sequence[str]) -> str | None:
    """What a command prints; None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def compiler(words: str) -> Compiler | None:
    """A compiler by what one would type; None if it does not run."""
    command = shlex.split(words)
    found = shutil.which(command[0])
    text = _run([found, *command[1:], "--version"]) if found else None
    return None if found is None or text is None else Compiler((found, *command[1:]), text)


def cxx() -> Compiler | None:
    """The C++ compiler: the one that CXX names, else the first of c++, g++, clang++ that runs."""
    named = os.environ.get("CXX")
    if named:
        return compiler(named)
    found = (compiler(name) for name in ("c++", "g++", "clang++"))
    return next((one for one in found if one), None)


def nvcc_places() -> list[str]:
    """Where nvcc is looked for, in this order; the first that exists is it."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [str(Path(home) / "bin" / "nvcc") for home in homes if home]
    conda = os.environ.get("CONDA_PREFIX")
    return [
        *places,
        "nvcc",
        *([str(Path(conda) / "bin" / "nvcc")] if conda else []),
        "/usr/local/cuda/bin/nvcc",
    ]


def nvcc() -> Compiler | None:
    """CUDA's compiler: below CUDA_HOME or CUDA_PATH, on PATH, in conda's environment, in its usual folder."""
    found = (compiler(shlex.quote(place)) for place in nvcc_places())
    return next((one for one in found if one), None)


def ninja() -> Path | None:
    """The ninja of the Python package, also where the environment is not activated; else that of PATH."""
    if importlib.util.find_spec("ninja") is not None:
        import ninja as package

        inside = Path(package.BIN_DIR) / ("ninja.exe" if sys.platform == "win32" else "ninja")
        if inside.exists():
            return inside
    found = shutil.which("ninja")
    return Path(found) if found else None


@functools.cache
def native(cxx: Compiler) -> tuple[tuple[str, ...], str]:
    """Flags for this machine's processor, and a hash of what the compiler makes of them.

    The macros that a compiler predefines name its exact version and every instruction set it will use, so a
    cache on a disk that several machines share never hands one machine the code of another.
    """
    for flags in (("-march=native",), ("-mcpu=native",), ()):
        macros = _run([*cxx.command, *flags, "-dM", "-E", "-x", "c++", os.devnull])
        if macros is not None:
            return flags, hashlib.sha256(macros.encode()).hexdigest()[:16]
    return (), "unknown"


def newest_gcc(cuda: tuple[int, ...]) -> int | None:
    """Newest major version of GCC that a CUDA toolkit takes; None where it is not known."""
    older = [version for version in NEWEST_GCC if version <= cuda[:2]]
    return NEWEST_GCC[max(older)] if older and cuda[:2] <= NEWEST_KNOWN_CUDA else None


def nvcc_archs(nvcc: Compiler) -> list[str]:
    """Compute capabilities that an nvcc compiles for, as in "9.0", oldest first; none if it does not say."""
    listed = re.findall(r"compute_(\d+)(\d)\b", _run([*nvcc.command, "--list-gpu-arch"]) or "")
    return sorted((f"{major}.{minor}" for major, minor in listed), key=capability)


def capability(arch: str) -> tuple[int, int]:
    """As a pair: "9.0a+PTX" is (9, 0)."""
    number = re.match(r"(\d+)\.(\d+)", arch)
    return (int(number[1]), int(number[2])) if number else (0, 0)


def device_archs() -> list[str]:
    """Compute capabilities of the visible CUDA devices, oldest first."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def asked_archs() -> list[str]:
    """What TORCH_CUDA_ARCH_LIST asks for, names spelled out; [] if it says nothing."""
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if asked.strip().lower() in ("", "native", "all"):
        return []
    archs: list[str] = []
    for word in re.split(r"[;,\s]+", asked.strip()):
        name, plus, ptx = word.partition("+")
        spelled = NAMED_ARCHS.get(name.lower(), (name,))
        archs += [*spelled[:-1], spelled[-1] + plus + ptx]
    return archs


def archs(known: Sequence[str], devices: Sequence[str]) -> list[str]:
    """What to compile for: TORCH_CUDA_ARCH_LIST as it is, else the devices', else the usual ones nvcc knows.

    Args:
        known: what nvcc knows, oldest first; a newer device than these gets the newest as PTX, which the
            driver translates when it loads it.
    """
    asked = asked_archs()
    if asked:
        return asked
    if not known:
        return list(devices or DEFAULT_ARCHS[:3])
    if not devices:
        usual = [arch for arch in DEFAULT_ARCHS if arch in known] or list(known[-1:])
        return [*usual[:-1], usual[-1] + "+PTX"]
    chosen = {device if device in known else f"{_below(device, known)}+PTX" for device in devices}
    return sorted(chosen, key=capability)


def _below(device: str, known: Sequence[str]) -> str:
    """The newest architecture that nvcc knows and the device can run; nvcc refuses what it does not know."""
    older = [arch for arch in known if capability(arch) <= capability(device)]
    return older[-1] if older else device


def arch_flags(chosen: Sequence[str]) -> list[str]:
    """nvcc's flags: machine code for each architecture, and PTX where the name ends in +PTX."""
    flags = []
    for arch in chosen:
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags
