"""Compile the operations on first use, with ninja, into a cache: `load_cpu()` and `load_cuda()`.

The name of a compiled extension is a hash of everything that decides it: sources, flags, torch, Python,
compilers, processor, GPU architectures. One process compiles while the others wait and say for whom; what is
half built has no final name; what has one is checked before it is loaded.

Sources are every .cpp and .cu file of the folder; they bind through pybind11 under TORCH_EXTENSION_NAME.
Those that include <ATen/core/Tensor.h> and <torch/csrc/utils/pybind.h> compile in a sixth of the time of
those that include <torch/extension.h>. The .cu files know nothing of torch, so that any torch will do.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import sysconfig
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from generators.errors import UserError
from generators.ops import causes, toolchain
from generators.ops.causes import Cause, find_cause, first_error
from generators.ops.lock import LockTimeout, held

VARIABLE = "INTRINSIC_BENCH_CACHE"
HERE = Path(__file__).parent
SUFFIXES = {".cpp", ".h", ".cu", ".cuh"}
# Value-safe: no exception flags and no errno, but sums are made in the order that is written.
CXX_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden")
OPENMP = () if sys.platform == "darwin" else ("-fopenmp",)
NVCC_FLAGS = ("-std=c++17", "-O3", "-Xcompiler", "-fPIC")


class BuildError(UserError):
    """The compiled operations cannot be had: the compiler's first error, its cause and the cure.

    Attributes:
        output: everything that was said.
        cause: the row of `causes.CAUSES` that explains it, or None.
    """

    def __init__(
        self, what: str, wrong: str, output: str = "", cause: Cause | None = None, known: str = ""
    ) -> None:
        self.output = output
        self.cause = cause or find_cause(output or wrong)
        because = f"cause: {self.cause.cause}" if self.cause else ""
        todo = self.cause.cure if self.cause else "intrinsic-bench doctor looks at everything that is needed"
        super().__init__(f"the {what}", wrong, "\n       ".join(p for p in (because, known) if p), todo)


@dataclass(frozen=True)
class Extension:
    """A folder of sources that becomes one Python module."""

    name: str
    what: str  # as in "compiling WHAT"
    folder: Path
    cuda: bool = False

    def files(self) -> list[Path]:
        """Sources and headers, in the order of their names."""
        return sorted(path for path in self.folder.iterdir() if path.suffix in SUFFIXES)

    def sources(self) -> list[Path]:
        """What is compiled."""
        return [path for path in self.files() if path.suffix in (".cpp", ".cu")]


CPU = Extension("intrinsic_bench_ops_cpu", "cpu operations", HERE / "cpu")
CUDA = Extension("intrinsic_bench_ops_cuda", "cuda operations", HERE / "cuda", cuda=True)

_loaded: dict[str, ModuleType | BuildError] = {}
_loading = threading.Lock()


def load_cpu() -> ModuleType:
    """The kernels for CPU, compiled if they have not been yet.

    Raises:
        BuildError: if that is impossible; in this process it is not tried again.
    """
    return _once(CPU)


def load_cuda() -> ModuleType:
    """The kernels for CUDA, compiled if they have not been yet; see `load_cpu`."""
    return _once(CUDA)


def _once(extension: Extension) -> ModuleType:
    with _loading:
        if extension.name not in _loaded:
            try:
                _loaded[extension.name] = load(extension)
            except BuildError as error:
                _loaded[extension.name] = error
        found = _loaded[extension.name]
    if isinstance(found, BuildError):
        raise found
    return found


def cache_folder() -> Path:
    """Where compiled operations are kept: below INTRINSIC_BENCH_CACHE, or a folder of the user's."""
    given = os.environ.get(VARIABLE)
    return (Path(given).absolute() if given else Path.home() / ".cache" / "intrinsic-bench") / "ops"


def say(sentence: str) -> None:
    """To the user, about something that takes time."""
    print(f"ops: {sentence}", file=sys.stderr, flush=True)


# What decides a build.


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is built."""

    extension: Extension
    cxx: toolchain.Compiler
    nvcc: toolchain.Compiler | None
    cxx_flags: tuple[str, ...]
    nvcc_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]  # versions of what is compiled against
    archs: tuple[str, ...] = ()

    def key(self) -> str:
        """Name of the folder of what is built."""
        parts: list[Any] = [self.extension.name, self.cxx_flags, self.nvcc_flags, self.link_flags, self.facts]
        parts += [[c.command, c.text] for c in (self.cxx, self.nvcc) if c]
        parts += [[path.name, path.read_text(encoding="utf-8")] for path in self.extension.files()]
        return f"{self.extension.name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]}"


def recipe(extension: Extension) -> Recipe:
    """How an extension is built here and now.

    Raises:
        BuildError: if a tool that it takes is missing.
    """
    cxx, nvcc = _tools(extension)
    native, processor = toolchain.native(cxx)
    cxx_flags, link_flags = _cxx_flags(extension.name, native), _link_flags(nvcc is not None)
    facts = (*_versions(), ("processor", processor))
    if nvcc is None:
        return Recipe(extension, cxx, nvcc, cxx_flags, (), link_flags, facts)
    host = _host_compiler(cxx)
    archs = tuple(toolchain.archs(toolchain.nvcc_archs(nvcc), toolchain.device_archs()))
    nvcc_flags = (*NVCC_FLAGS, *host, *toolchain.arch_flags(archs))
    return Recipe(extension, cxx, nvcc, cxx_flags, nvcc_flags, (*host, *link_flags), facts, archs)


def _tools(extension: Extension) -> tuple[toolchain.Compiler, toolchain.Compiler | None]:
    """The C++ compiler, and nvcc for an extension that takes it."""
    what, cxx, nvcc = extension.what, toolchain.cxx(), toolchain.nvcc() if extension.cuda else None
    if sys.platform == "win32":
        raise BuildError(what, "nothing is compiled on Windows; the reference runs there (or use WSL)")
    if not extension.folder.is_dir() or not extension.sources():
        raise BuildError(what, f"there are no sources in {extension.folder}: the installation is damaged")
    if cxx is None:
        raise BuildError(what, _missing_compiler(), cause=causes.NO_COMPILER)
    if extension.cuda and nvcc is None:
        places = ", ".join(toolchain.nvcc_places())
        raise BuildError(what, f"no nvcc runs; looked for: {places}", cause=causes.NO_NVCC)
    return cxx, nvcc


def _missing_compiler() -> str:
    named = os.environ.get("CXX")
    return f"CXX={named} does not run" if named else "no C++ compiler runs (c++, g++, clang++) on PATH"


def _host_compiler(cxx: toolchain.Compiler) -> tuple[str, ...]:
    """nvcc's own choice stands, unless the user named a C++ compiler."""
    named = os.environ.get("CXX") and not os.environ.get("NVCC_CCBIN") and len(cxx.command) == 1
    return ("-ccbin", cxx.command[0]) if named else ()


def _cxx_flags(name: str, native: tuple[str, ...]) -> tuple[str, ...]:
    from torch.utils.cpp_extension import include_paths

    places = [*include_paths("cpu"), sysconfig.get_path("include")]
    includes = [word for place in places for word in ("-isystem", place)]
    named = f"-DTORCH_EXTENSION_NAME={name}"
    return (*CXX_FLAGS, *native, *OPENMP, named, *includes, *shlex.split(os.environ.get("CXXFLAGS", "")))


def _link_flags(cuda: bool) -> tuple[str, ...]:
    from torch.utils.cpp_extension import library_paths

    places = [f"-L{place}" for place in library_paths("cpu")]
    libraries = [*places, "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    if sys.platform == "darwin":
        return ("-shared", *libraries, "-undefined", "dynamic_lookup")
    return ("-shared", *libraries, *(() if cuda else OPENMP))


def _versions() -> tuple[tuple[str, str], ...]:
    import torch

    read_by_nvcc = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN")
    facts = {name: os.environ.get(name, "") for name in read_by_nvcc} | {
        "torch": torch.__version__,
        "abi": str(torch.compiled_with_cxx11_abi()),
        "torch's cuda": str(torch.version.cuda),
        "python": str(sysconfig.get_config_var("SOABI")),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    return tuple(facts.items())


# Building.


def ninja_file(made: Recipe) -> str:
    """The build as ninja reads it: every source by its own compiler, then one link."""
    linker = made.nvcc or made.cxx  # nvcc knows where its own libraries are
    lines = [
        "ninja_required_version = 1.3",
        f"cxx = {_quoted(made.cxx.command)}",
        f"cxx_flags = {_quoted(made.cxx_flags)}",
        f"nvcc = {_quoted(made.nvcc.command) if made.nvcc else ''}",
        f"nvcc_flags = {_quoted(made.nvcc_flags)}",
        f"linker = {_quoted(linker.command)}",
        f"link_flags = {_quoted(made.link_flags)}",
        "rule cpp\n  command = $cxx $cxx_flags -c $in -o $out",
        "rule cu\n  command = $nvcc $nvcc_flags -c $in -o $out",
        "rule link\n  command = $linker $in -o $out $link_flags",
    ]
    objects = []
    for source in made.extension.sources():
        objects.append(f"{source.name}.o")
        lines.append(f"build {objects[-1]}: {source.suffix[1:]} {_escaped(str(source.absolute()))}")
    lines.append(f"build {made.extension.name}.so: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


def _quoted(words: tuple[str, ...]) -> str:
    return shlex.join(words).replace("$", "$$")


def _escaped(path: str) -> str:
    return re.sub(r"([$ :])", r"$\1", path)


def load(extension: Extension) -> ModuleType:
    """An extension, from the cache or compiled into it; `load_cpu` and `load_cuda` remember it, too.

    Raises:
        BuildError: with the compiler's first error, the cause where it is known, and the cure.
    """
    made = recipe(extension)
    folder = cache_folder() / made.key()
    built_now = _ensure(made, folder)
    try:
        return _import(extension.name, folder)
    except ImportError as error:
        if built_now:
            raise BuildError(
                extension.what, f"{folder.name}.so cannot be loaded: {error}", str(error)
            ) from error
        say(f"{folder.name} cannot be loaded ({error}); it is built again")
    shutil.rmtree(folder)
    _ensure(made, folder)
    try:
        return _import(extension.name, folder)
    except ImportError as error:
        raise BuildError(extension.what, f"{folder.name} cannot be loaded: {error}", str(error)) from error


def _import(name: str, folder: Path) -> ModuleType:
    import torch  # noqa: F401 (the extension is linked with its libraries, which are found once it is loaded)

    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.so")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder / name}.so is no extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_whole(folder: Path, name: str) -> bool:
    """Whether a folder of the cache holds what was put there; a torn library would kill the process."""
    library, noted = folder / f"{name}.so", folder / "sha256"
    if not library.is_file() or not noted.is_file():
        return False
    return hashlib.sha256(library.read_bytes()).hexdigest() == noted.read_text(encoding="utf-8")


def _ensure(made: Recipe, folder: Path) -> bool:
    """Build unless it is there; True if it was built now."""
    name, what = made.extension.name, made.extension.what
    if is_whole(folder, name):
        return False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held(folder.with_name(f"{folder.name}.lock"), say):
            if is_whole(folder, name):
                return False  # somebody built it while we waited
            if folder.exists():
                say(f"{folder.name} is torn; it is built again")
                shutil.rmtree(folder)
            for left in folder.parent.glob(f".{folder.name}.*"):  # by builds that were killed
                shutil.rmtree(left, ignore_errors=True)
            _build(made, folder)
            return True
    except LockTimeout as error:
        raise BuildError(
            what, str(error), known="if it hangs, end that process: its lock is then taken over"
        ) from error
    except OSError as error:
        raise BuildError(
            what, f"the cache cannot be used: {error}", str(error), known=str(folder.parent)
        ) from error


def _build(made: Recipe, folder: Path) -> None:
    """Compile in a folder of its own, which gets its final name when it is whole."""
    name = made.extension.name
    say(f"compiling the {made.extension.what}, once (into {folder})")
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}")
    scratch.mkdir()
    try:
        (scratch / "build.ninja").write_text(ninja_file(made), encoding="utf-8")
        _run_ninja(made, scratch, folder.with_name(f"{folder.name}.log"))
        digest = hashlib.sha256((scratch / f"{name}.so").read_bytes()).hexdigest()
        (scratch / "sha256").write_text(digest, encoding="utf-8")
        for intermediate in scratch.glob("*.o"):
            intermediate.unlink()
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_ninja(made: Recipe, scratch: Path, log: Path) -> None:
    what, ninja = made.extension.what, toolchain.ninja()
    if ninja is None:
        raise BuildError(what, "ninja is neither in this Python environment nor on PATH", cause=causes.NINJA)
    jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    command = [str(ninja), "-v", "-j", jobs]
    done = subprocess.run(
        command,
        cwd=scratch,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    log.write_text(f"{shlex.join(command)}\n{done.stdout}", encoding="utf-8")
    if done.returncode != 0:
        known = f"command: {failed_command(done.stdout)}\n       log:     {log}"
        raise BuildError(what, first_error(done.stdout), done.stdout, known=known)


def failed_command(output: str) -> str:
    """The command that failed, as ninja prints it below FAILED, without the folders it includes."""
    lines = output.splitlines()
    failed = (lines[i + 1] for i, line in enumerate(lines[:-1]) if line.startswith("FAILED:"))
    return re.sub(r" -isystem \S+", "", next(failed, "ninja"))
