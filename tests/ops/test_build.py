"""Compiling on first use: keys, locks, failures, several processes; with sources that compile in a moment."""

import os
import stat
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from generators.ops import build, causes, toolchain
from generators.ops.build import BuildError, Extension
from tests.ops.test_lock import gone, write_lock

ROOT = Path(__file__).parents[2]
MODULE = """
#include <Python.h>
#include "answer.h"
#define JOIN(a, b) a##b
#define INIT(name) JOIN(PyInit_, name)
#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, TEXT(TORCH_EXTENSION_NAME), 0, -1};
PyMODINIT_FUNC INIT(TORCH_EXTENSION_NAME)(void) {
    PyObject* module = PyModule_Create(&definition);
    PyModule_AddIntConstant(module, "answer", ANSWER);
    return module;
}
"""
NVCC = """
case "$*" in
  *--version*) echo "Cuda compilation tools, release 12.4, V12.4.99" ;;
  *--list-gpu-arch*) printf 'compute_80\\ncompute_90\\ncompute_100\\n' ;;
esac
"""

needs_compiler = pytest.mark.skipif(toolchain.cxx() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("CXX", "CXXFLAGS", "CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tiny(tmp_path: Path) -> Extension:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "module.cpp").write_text(MODULE)
    (folder / "answer.h").write_text("#define ANSWER 42\n")
    return Extension("intrinsic_bench_tiny", "tiny operations", folder)


def script(path: Path, body: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(body)}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def cached(extension: Extension) -> Path:
    return build.cache_folder() / build.recipe(extension).key()


# Building and loading


@needs_compiler
def test_built_once_and_kept(tiny: Extension, capfd: pytest.CaptureFixture[str]) -> None:
    assert build.load(tiny).answer == 42
    assert capfd.readouterr().err.count("compiling the tiny operations") == 1
    assert build.load(tiny).answer == 42
    assert capfd.readouterr().err == ""
    assert [p.name for p in build.cache_folder().iterdir() if p.name.startswith(".")] == []


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "text", "no sum"])
def test_a_torn_library_is_built_again(
    tiny: Extension, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    build.load(tiny)
    folder = cached(tiny)
    library, noted = folder / f"{tiny.name}.so", folder / "sha256"
    if damage == "no sum":
        noted.unlink()
    else:
        torn = library.read_bytes()[:3000] if damage == "cut" else b"not a library"
        library.unlink()  # a file of its own: this process has the other one loaded
        library.write_bytes(torn)
    capfd.readouterr()
    assert build.load(tiny).answer == 42
    said = capfd.readouterr().err
    assert "torn; it is built again" in said and said.count("compiling") == 1


@needs_compiler
def test_a_library_that_does_not_load_is_built_again_once(
    tiny: Extension, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    build.load(tiny)
    loads: list[Path] = []

    def refuse(name: str, folder: Path) -> None:
        loads.append(folder)
        raise ImportError("x.so: undefined symbol: _ZN3c106detail")

    monkeypatch.setattr(build, "_import", refuse)
    with pytest.raises(BuildError, match="undefined symbol") as caught:
        build.load(tiny)
    assert len(loads) == 2 and capfd.readouterr().err.count("it is built again") == 1
    assert caught.value.cause is causes.STALE_CACHE


@needs_compiler
def test_the_compilers_own_first_error_is_shown(tiny: Extension) -> None:
    (tiny.folder / "module.cpp").write_text(
        "int f() {\n    return nothing_here;\n}\nint g() { return more; }\n"
    )
    with pytest.raises(BuildError) as caught:
        build.load(tiny)
    error = caught.value
    assert "module.cpp:2" in error.wrong and "nothing_here" in error.wrong and "more" not in error.wrong
    assert "command:" in error.known and "module.cpp" in error.known and "-isystem" not in error.known
    log = Path(error.known.split("log:")[1].strip())
    assert "nothing_here" in log.read_text() and "more" in log.read_text()
    assert not cached(tiny).exists() and not list(build.cache_folder().glob(".*"))


def test_a_compiler_that_breaks(tiny: Extension, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = script(
        tmp_path / "bin" / "broken++",
        """
        case "$*" in *--version*) echo "broken++ 1.2.3"; exit 0 ;; *-dM*) exit 0 ;; esac
        echo "In file included from a.h:1:" >&2
        echo "b.h:7:3: error: 'if constexpr' only available with '-std=c++17'" >&2
        exit 1
        """,
    )
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(BuildError, match="if constexpr") as caught:
        build.load(tiny)
    assert caught.value.cause is causes.STANDARD and "older language standard" in str(caught.value)


def test_no_compiler(tiny: Extension, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(BuildError, match=r"no C\+\+ compiler runs") as caught:
        build.load(tiny)
    assert "CXX" in caught.value.todo
    monkeypatch.setenv("CXX", "missing++")
    with pytest.raises(BuildError, match=r"CXX=missing\+\+ does not run"):
        build.load(tiny)


@needs_compiler
def test_no_ninja(tiny: Extension, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "ninja", lambda: None)
    with pytest.raises(BuildError, match="ninja is neither") as caught:
        build.load(tiny)
    assert caught.value.todo == "pip install ninja"


def test_ninja_of_the_package_is_found_without_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = toolchain.ninja()
    assert found is not None and found.is_file()


def test_no_nvcc(tiny: Extension, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "nvcc_places", lambda: ["/nowhere/nvcc"])
    with pytest.raises(BuildError, match="no nvcc runs") as caught:
        build.load(Extension(tiny.name, "cuda operations", tiny.folder, cuda=True))
    assert "runtime only" in str(caught.value) and "CUDA_HOME" in caught.value.todo


@needs_compiler
def test_a_cache_that_cannot_be_used(
    tiny: Extension, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="the cache cannot be used"):
        build.load(tiny)


def test_a_failure_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Extension] = []

    def fail(extension: Extension) -> None:
        tries.append(extension)
        raise BuildError(extension.what, "broken")

    monkeypatch.setattr(build, "_loaded", {})
    monkeypatch.setattr(build, "load", fail)
    for _ in range(3):
        with pytest.raises(BuildError, match="broken"):
            build.load_cpu()
    assert tries == [build.CPU]


# The key


@needs_compiler
def test_the_key_holds_everything(tiny: Extension, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [build.recipe(tiny).key()]
    assert build.recipe(tiny).key() == keys[0]

    def changed(what: str) -> None:
        key = build.recipe(tiny).key()
        assert key not in keys, what
        keys.append(key)

    (tiny.folder / "module.cpp").write_text(MODULE + "\n// changed")
    changed("a source")
    (tiny.folder / "answer.h").write_text("#define ANSWER 43\n")
    changed("a header")
    (tiny.folder / "more.cpp").write_text("")
    changed("another source")
    monkeypatch.setenv("CXXFLAGS", "-g")
    changed("flags")
    monkeypatch.setattr(toolchain, "native", lambda cxx: (("-march=native",), "another processor"))
    changed("the processor")
    monkeypatch.setattr(torch, "__version__", "99.0")
    changed("torch")
    monkeypatch.setattr(torch, "compiled_with_cxx11_abi", lambda: "another")
    changed("the ABI")
    monkeypatch.setattr(torch.version, "cuda", "99.0")
    changed("the CUDA of torch")
    python = sysconfig.get_config_var
    monkeypatch.setattr(sysconfig, "get_config_var", lambda n: "cpython-399" if n == "SOABI" else python(n))
    changed("python")
    for version in ("1.0.0", "2.0.0"):
        fake = script(tmp_path / "bin" / "c++", f"echo 'g++ (Free Software Foundation) {version}'")
        monkeypatch.setenv("CXX", str(fake))
        changed(f"compiler {version}")


def fake_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str = NVCC) -> None:
    script(tmp_path / "bin" / "nvcc", body)
    monkeypatch.setattr(toolchain, "nvcc_places", lambda: [str(tmp_path / "bin" / "nvcc")])


@needs_compiler
def test_the_key_holds_nvcc_and_the_architectures(
    tiny: Extension, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvcc(tmp_path, monkeypatch)
    extension = Extension(tiny.name, "cuda operations", tiny.folder, cuda=True)
    keys = {build.recipe(extension).key()}
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    keys.add(build.recipe(extension).key())
    fake_nvcc(tmp_path, monkeypatch, NVCC.replace("12.4", "12.8"))
    keys.add(build.recipe(extension).key())
    assert len(keys) == 3


def test_the_architectures_asked_for_are_compiled(
    tiny: Extension, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvcc(tmp_path, monkeypatch)
    monkeypatch.setattr(toolchain, "cxx", lambda: toolchain.Compiler(("c++",), "c++ 1.0"))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6 9.0a;Hopper+PTX")
    made = build.recipe(Extension(tiny.name, "cuda operations", tiny.folder, cuda=True))
    assert made.archs == ("8.6", "9.0a", "9.0+PTX")
    flags = [flag for flag in made.nvcc_flags if "gencode" in flag]
    assert flags == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    assert "-gencode=arch=compute_86,code=sm_86" in build.ninja_file(made)
    assert "-allow-unsupported-compiler" not in " ".join(made.nvcc_flags)


@pytest.mark.parametrize(
    ("known", "devices", "expected"),
    [
        (["8.0", "9.0", "10.0"], ["9.0"], ["9.0"]),
        (["8.0", "9.0", "10.0"], ["8.0", "9.0"], ["8.0", "9.0"]),
        (["8.0", "9.0"], ["12.0"], ["9.0+PTX"]),  # a newer device than the toolkit
        (["8.0", "9.0"], [], ["8.0", "9.0+PTX"]),  # no device: the usual ones that nvcc knows
        (
            ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.1"],
            [],
            ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0+PTX"],
        ),
    ],
)
def test_architectures_without_a_list(known: list[str], devices: list[str], expected: list[str]) -> None:
    assert toolchain.archs(known, devices) == expected


def test_versions_are_read() -> None:
    gcc = toolchain.Compiler(
        ("g++",), "g++ (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright Free Software Foundation"
    )
    clang = toolchain.Compiler(("clang++",), "Ubuntu clang version 14.0.0-1ubuntu1.1\nTarget: x86_64")
    nvcc = toolchain.Compiler(("nvcc",), "nvcc: NVIDIA (R)\nCuda compilation tools, release 13.0, V13.0.88\n")
    assert (gcc.version, clang.version, nvcc.version) == ((12, 2, 0), (14, 0, 0), (13, 0))
    assert gcc.is_gcc and not clang.is_gcc
    assert [toolchain.newest_gcc(v) for v in ((11, 8), (12, 2), (12, 9), (13, 0), (99, 0))] == [
        11,
        12,
        14,
        15,
        None,
    ]


# Several processes


@needs_compiler
def test_an_interrupted_build_is_taken_over(tiny: Extension, capfd: pytest.CaptureFixture[str]) -> None:
    folder = cached(tiny)
    write_lock(Path(f"{folder}.lock"), gone(), "whenever")
    for half in (f".{folder.name}.7.0a1b2c3d", ".another-0123.7.0a1b2c3d"):
        (folder.parent / half).mkdir()
        (folder.parent / half / "module.cpp.o").write_text("")
    assert build.load(tiny).answer == 42
    assert "taken over" in capfd.readouterr().err
    assert [path.name for path in folder.parent.glob(".*")] == [".another-0123.7.0a1b2c3d"]


@needs_compiler
def test_two_processes_build_once(tiny: Extension, tmp_path: Path) -> None:
    code = f"""
        from pathlib import Path
        from generators.ops import build
        folder = Path({str(tiny.folder)!r})
        print(build.load(build.Extension({tiny.name!r}, "tiny operations", folder)).answer)
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start: Callable[[], subprocess.Popen[str]] = lambda: subprocess.Popen(  # noqa: E731
        run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    answers = [process.communicate(timeout=300) for process in (start(), start())]
    assert [out for out, _ in answers] == ["42\n", "42\n"]
    assert sum(error.count("compiling the tiny operations") for _, error in answers) == 1


def test_both_modules_have_sources() -> None:
    assert {path.suffix for path in build.CUDA.sources()} == {".cpp", ".cu"}
    assert {path.suffix for path in build.CPU.sources()} == {".cpp"}
