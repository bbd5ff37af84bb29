"""What the compiled operations need, looked at piece by piece: what is there, what is wrong, why, what to do.

Each function looks at one thing, says one sentence, and builds nothing; `kernels` compiles and compares.
"""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from generators.finding import FAILED as FAILED
from generators.finding import OK as OK
from generators.finding import SKIPPED as SKIPPED
from generators.finding import WARNING as WARNING
from generators.finding import Finding as Finding
from generators.ops import build, causes, lock, toolchain
from generators.ops.causes import Cause

OLDEST_GCC, OLDEST_CLANG = 9, 9  # C++17 as torch's headers use it
DRIVER = Path("/proc/driver/nvidia/version")  # where the kernel module says its version
SPACE = 500 * 2**20  # bytes that a build takes for a moment, generously


def _found(mark: str, what: str, text: str, why: Cause) -> Finding:
    return Finding(mark, what, text, why.cause, why.cure)


def headers() -> Finding:
    """Python.h, which extensions include."""
    folder = sysconfig.get_path("include")
    if (Path(folder) / "Python.h").is_file():
        return Finding(OK, "python headers", folder)
    return _found(FAILED, "python headers", f"there is no Python.h in {folder}", causes.PYTHON_HEADERS)


def torch() -> Finding:
    """torch, and what it was built for."""
    import torch

    cuda = torch.version.cuda
    return Finding(
        OK, "torch", f"{torch.__version__}, built for {f'CUDA {cuda}' if cuda else 'the CPU only'}"
    )


def compiler() -> Finding:
    """The C++ compiler."""
    found = toolchain.cxx()
    if found is None:
        named = os.environ.get("CXX")
        text = f"CXX={named} does not run" if named else "none of c++, g++, clang++ runs"
        return _found(FAILED, "C++ compiler", text, causes.NO_COMPILER)
    oldest = OLDEST_GCC if found.is_gcc else OLDEST_CLANG
    if found.version and found.version[0] < oldest and (found.is_gcc or "clang" in found.text):
        return _found(WARNING, "C++ compiler", f"{found} is older than {oldest}", causes.STANDARD)
    return Finding(OK, "C++ compiler", str(found))


def ninja() -> Finding:
    """ninja."""
    found = toolchain.ninja()
    if found is None:
        return _found(FAILED, "ninja", "neither in this Python environment nor on PATH", causes.NINJA)
    return Finding(OK, "ninja", str(found))


def nvcc() -> Finding:
    """CUDA's compiler, which is needed where there is a GPU."""
    found, devices = toolchain.nvcc(), toolchain.device_archs()
    if found is not None:
        return Finding(OK, "nvcc", f"{'.'.join(map(str, found.version))} ({found.command[0]})")
    half = runtime_only()
    text = f"not found, but {half}" if half else "not found"
    if devices or half:
        return _found(FAILED if devices else WARNING, "nvcc", text, causes.NO_NVCC)
    return Finding(SKIPPED, "nvcc", "not found; only a machine with an NVIDIA GPU needs it")


def runtime_only() -> str | None:
    """A CUDA runtime that came without the compiler, named; None if there is none."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return f"CUDA_HOME={home} has no bin/nvcc"
    conda = os.environ.get("CONDA_PREFIX")
    inside = sorted(Path(conda).glob("lib/libcudart.so*")) if conda else []
    if inside:
        return f"the conda environment has the runtime {inside[0].name}"
    pip = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/**/libcudart.so*"))
    return f"pip installed the runtime {pip[0].name}" if pip else None


def nvcc_and_torch() -> Finding:
    """Whether nvcc is of the CUDA that torch was built with."""
    import torch

    what, found, built = "nvcc and torch", toolchain.nvcc(), torch.version.cuda
    if found is None or built is None:
        missing = "no nvcc" if found is None else "this torch is for the CPU only"
        return Finding(SKIPPED, what, missing)
    version = ".".join(map(str, found.version))
    if str(found.version[0]) == built.split(".")[0]:
        return Finding(OK, what, f"CUDA {version} and {built}")
    return Finding(
        WARNING, what, f"nvcc is of CUDA {version}, torch of {built}",
        "code of another CUDA than torch's may ask for another driver",
        f"install the toolkit {built}, or a torch built for CUDA {found.version[0]}",
    )  # fmt: skip


def host_compiler() -> toolchain.Compiler | None:
    """The C++ compiler that nvcc will call."""
    named = os.environ.get("NVCC_CCBIN") or os.environ.get("CXX")
    return toolchain.compiler(named or "g++")


def nvcc_and_compiler() -> Finding:
    """Whether nvcc takes the C++ compiler it will call."""
    what, found, host = "nvcc and C++ compiler", toolchain.nvcc(), host_compiler()
    if found is None or host is None:
        return Finding(SKIPPED, what, "no nvcc" if found is None else "no C++ compiler for nvcc to call")
    newest = toolchain.newest_gcc(found.version)
    if not host.is_gcc or newest is None or not host.version:
        return Finding(SKIPPED, what, f"nothing is known of nvcc {found.version} with {host}")
    cuda = ".".join(map(str, found.version))
    if host.version[0] > newest:
        text = f"CUDA {cuda} takes g++ up to {newest}; nvcc would call {host}"
        return _found(WARNING, what, text, causes.GNU_VERSION)
    return Finding(OK, what, f"CUDA {cuda} takes g++ up to {newest}")


def gpu() -> Finding:
    """The visible GPUs, and whether the code would be compiled for them."""
    devices = toolchain.device_archs()
    if not devices:
        return Finding(SKIPPED, "GPU", "none is visible to torch; everything runs on the CPU")
    return architectures(devices, toolchain.asked_archs(), _known_archs())


def _known_archs() -> list[str]:
    found = toolchain.nvcc()
    return toolchain.nvcc_archs(found) if found else []


def architectures(devices: list[str], asked: list[str], known: list[str]) -> Finding:
    """Whether what is compiled (TORCH_CUDA_ARCH_LIST, what nvcc knows) runs on the devices."""
    text = f"compute capability {', '.join(devices)}"
    for device in devices:
        if asked and not any(runs_on(arch, device) for arch in asked):
            missing = f"{text}; TORCH_CUDA_ARCH_LIST={';'.join(asked)} has nothing for {device}"
            return _found(FAILED, "GPU", missing, causes.ARCH)
        if known and toolchain.capability(device) < toolchain.capability(known[0]):
            old = f"{text}; nvcc knows {known[0]} to {known[-1]}: {device} is too old for it"
            return Finding(FAILED, "GPU", old, causes.ARCH.cause, "install an older CUDA toolkit")
        if known and device not in known:
            newer = f"{text}; nvcc knows {known[0]} to {known[-1]}: {device} gets PTX of an older one"
            return _found(WARNING, "GPU", newer, causes.ARCH)
    return Finding(OK, "GPU", text)


def runs_on(arch: str, device: str) -> bool:
    """Whether code for `arch` runs on a device: of the same major version and no newer, or by PTX."""
    compiled, own = toolchain.capability(arch), toolchain.capability(device)
    return compiled <= own and (arch.endswith("+PTX") or compiled[0] == own[0])


def driver() -> str | None:
    """Version of the NVIDIA driver of this machine's kernel, "" if it says none; None without a driver."""
    try:
        text = DRIVER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", text)
    return found[0] if found else ""


def driver_and_torch() -> Finding:
    """Whether torch can use the driver that is there."""
    import torch

    what, version, built = "driver and torch", driver(), torch.version.cuda
    if version is None:
        return Finding(SKIPPED, what, "no NVIDIA driver is on this machine")
    named = f"NVIDIA driver {version}".strip()
    if built is None:
        why = "there is a driver, and perhaps a GPU, but this build of torch cannot use them"
        text = f"{named}, but torch {torch.__version__} is for the CPU only"
        return Finding(WARNING, what, text, why, "install a CUDA build of torch to run with --device cuda")
    said = _unusable(torch)
    if said is None:
        return Finding(OK, what, f"{named} with CUDA {built}")
    return Finding(
        WARNING, what, f"{named}, torch for CUDA {built} can use no device{said and ': ' + said}",
        "the driver is too old for this CUDA, or no GPU is handed to this machine or container",
        "nvidia-smi says which CUDA the driver takes: update it, install a torch for that CUDA, or start the "
        "container with its GPUs",
    )  # fmt: skip


def _unusable(torch: Any) -> str | None:
    """What torch says of why it can use no device ("" if nothing); None if it can."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    return " ".join(str(warning.message).split("(Triggered")[0].strip() for warning in said)


def asked_architectures() -> Finding:
    """Whether nvcc knows what TORCH_CUDA_ARCH_LIST asks for."""
    asked, known = toolchain.asked_archs(), _known_archs()
    if not asked or not known:
        text = "is not set" if not asked else f"{';'.join(asked)} (no nvcc)"
        return Finding(SKIPPED, "TORCH_CUDA_ARCH_LIST", text)
    unknown = [arch for arch in asked if not _known(arch, known)]
    if unknown:
        text = f"{';'.join(asked)}: nvcc does not know {', '.join(unknown)}, only {known[0]} to {known[-1]}"
        return _found(FAILED, "TORCH_CUDA_ARCH_LIST", text, causes.ARCH)
    return Finding(OK, "TORCH_CUDA_ARCH_LIST", ";".join(asked))


def _known(arch: str, known: list[str]) -> bool:
    return arch.removesuffix("+PTX").rstrip("af") in known


def cache() -> Finding:
    """The folder of what is compiled: writable, and some room on its disk."""
    folder = build.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return _found(FAILED, "cache", f"{folder}: {error.strerror or error}", causes.WRITABLE)
    if free < SPACE:
        return _found(WARNING, "cache", f"{folder} has {free / 2**20:.0f} MB left", causes.SPACE)
    return Finding(OK, "cache", f"{folder}, {free / 2**30:.0f} GB free")


def locks() -> Iterator[Finding]:
    """Every lock of a build in the cache."""
    found = sorted(build.cache_folder().glob("*.lock"))
    for path in found:
        owner = lock.owner(path)
        if owner is not None and owner.is_dead():
            yield Finding(
                WARNING, "lock", f"{path} belongs to {owner}, which is gone",
                "a build was interrupted",
                "nothing to do: the next build takes it over by itself (deleting the file does no harm)",
            )  # fmt: skip
        elif owner is not None:
            yield Finding(
                WARNING, "lock", f"{path}: {owner} is compiling",
                "another process builds the same operations, and others wait until it is done",
                f"wait for it; if it hangs, end process {owner.pid}, and its lock is taken over",
            )  # fmt: skip
    if not found:
        yield Finding(OK, "lock", "nobody is compiling")


def kernels(device: str) -> Iterator[Finding]:
    """Compile the operations for "cpu" or "cuda", then compare each with its reference."""
    made = built(device)
    yield made
    if made.mark == OK:
        yield from comparisons(device)


def built(device: str) -> Finding:
    """Compile the operations for "cpu" or "cuda"."""
    load = {"cpu": build.load_cpu, "cuda": build.load_cuda}[device]
    try:
        module = load()
    except build.BuildError as error:
        cause = error.cause.cause if error.cause else "none of the known ones"
        return Finding(FAILED, f"{device} build", _sentence(error), cause, error.todo)
    return Finding(OK, f"{device} build", str(Path(str(module.__file__)).parent))


def _sentence(error: build.BuildError) -> str:
    """What is wrong, with where to read on."""
    log = [line.strip() for line in error.known.splitlines() if line.strip().startswith("log:")]
    return "\n".join([error.wrong, *log])


def comparisons(device: str) -> Iterator[Finding]:
    """One finding for each operation: largest errors of the values and of both orders of gradient."""
    from generators.ops.compare import ORDERS, TOLERANCE, errors

    for name, found in errors(device):
        listed = ", ".join(f"{order} {error:.1e}" for order, error in zip(ORDERS, found, strict=True))
        what, text = f"{name} on {device}", f"off the reference by {listed}"
        if max(found) <= TOLERANCE:
            yield Finding(OK, what, text)
            continue
        why = "the kernel computes something else than its reference on this machine"
        cure = "use impl='ref' until it is mended, and report this with the versions above"
        yield Finding(FAILED, what, f"{text}; rounding is at most {TOLERANCE:.0e}", why, cure)


ENVIRONMENT: tuple[Callable[[], Finding], ...] = (
    headers,
    torch,
    compiler,
    ninja,
    nvcc,
    nvcc_and_torch,
    nvcc_and_compiler,
    gpu,
    driver_and_torch,
    asked_architectures,
    cache,
)
