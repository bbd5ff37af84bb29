"""`doctor`: on machines without this or that it says what is wrong, why, and how to mend it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.cli import main
from generators.ops import build, causes, diagnose, lock, toolchain
from generators.ops.diagnose import FAILED, OK, SKIPPED, WARNING

Doctor = Callable[..., Result]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Doctor:
    """Runs it in this process, as if nothing had been loaded, where there are no results."""
    (tmp_path / "nowhere").mkdir()
    monkeypatch.chdir(tmp_path / "nowhere")
    monkeypatch.setattr(build, "_loaded", {})
    for name in ("CXX", "CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX", "TORCH_CUDA_ARCH_LIST", "NVCC_CCBIN"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(main, ["doctor", *arguments])


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> build.Extension:
    """Operations that compile in a moment, in a cache of their own; nothing to compare."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "module.cpp").write_text(
        "#include <Python.h>\n"
        'static struct PyModuleDef tiny = {PyModuleDef_HEAD_INIT, "tiny", 0, -1, 0, 0, 0, 0, 0};\n'
        "PyMODINIT_FUNC PyInit_tiny(void) { return PyModule_Create(&tiny); }\n"
    )
    extension = build.Extension("tiny", "tiny operations", tmp_path / "tiny")
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "CPU", extension)
    monkeypatch.setattr(diagnose, "comparisons", lambda device: iter(()))
    return extension


def lines(result: Result, what: str) -> str:
    """The lines about one thing, with its cause and cure."""
    found: list[str] = []
    for line in result.output.splitlines():
        if line.startswith("  ") and found:
            found.append(line.strip())
        elif found:
            break
        elif line[9:].startswith(f"{what}: "):
            found.append(line)
    assert found, result.output
    return "\n".join(found)


@pytest.mark.slow
@pytest.mark.skipif(toolchain.cxx() is None, reason="no C++ compiler")
def test_without_nvcc_all_else_works(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "nvcc_places", lambda: ["/nowhere/nvcc"])
    monkeypatch.setattr(toolchain, "device_archs", list)
    monkeypatch.setattr(diagnose, "runtime_only", lambda: None)
    result = doctor()
    assert result.exit_code == 0, result.output
    assert lines(result, "nvcc").startswith("skipped  nvcc: not found; only a machine with an NVIDIA GPU")
    assert "skipped" in lines(result, "cuda build")
    for operation in ("bias_act", "upfirdn2d", "filtered_lrelu"):
        found = lines(result, f"{operation} on cpu")
        assert found.startswith("ok ") and all(
            f"{order} " in found for order in ("values", "second gradients")
        )


def test_a_gpu_without_nvcc(doctor: Doctor, tiny: build.Extension, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "nvcc_places", lambda: ["/nowhere/nvcc"])
    monkeypatch.setattr(toolchain, "device_archs", lambda: ["9.0"])
    result = doctor()
    assert result.exit_code == 1
    found = lines(result, "nvcc")
    assert found.startswith("failed") and causes.NO_NVCC.cause in found and causes.NO_NVCC.cure in found
    assert lines(result, "cuda build").startswith("failed")


def test_a_conda_runtime_without_the_compiler(
    doctor: Doctor, tiny: build.Extension, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conda" / "lib").mkdir(parents=True)
    (tmp_path / "conda" / "lib" / "libcudart.so.12").write_text("")
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "conda"))
    monkeypatch.setattr(toolchain, "nvcc_places", lambda: ["/nowhere/nvcc"])
    monkeypatch.setattr(toolchain, "device_archs", list)
    found = lines(doctor(), "nvcc")
    assert found.startswith("warning") and "the conda environment has the runtime libcudart.so.12" in found
    assert "runtime only" in found and "cuda-nvcc" in found


def test_without_a_compiler(
    doctor: Doctor, tiny: build.Extension, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    result = doctor()
    assert result.exit_code == 1
    for what in ("C++ compiler", "cpu build"):
        found = lines(result, what)
        assert found.startswith("failed") and "apt install g++" in found and "no C++ compiler" in found


def test_without_ninja(doctor: Doctor, tiny: build.Extension, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "ninja", lambda: None)
    result = doctor()
    assert result.exit_code == 1 and "cure:  pip install ninja" in lines(result, "ninja")


def lock_of(extension: build.Extension, pid: int, start: str) -> Path:
    path = build.cache_folder() / f"{build.recipe(extension).key()}.lock"
    path.parent.mkdir(parents=True)
    owner = {"host": lock.machine(), "pid": pid, "start": start, "since": 0.0}
    path.write_text(json.dumps(owner))
    return path


@pytest.mark.skipif(toolchain.cxx() is None, reason="no C++ compiler")
def test_with_a_stale_lock(doctor: Doctor, tiny: build.Extension) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = lock_of(tiny, ended.pid, "whenever")
    result = doctor()
    assert result.exit_code == 0, result.output
    found = lines(result, "lock")
    assert (
        found.startswith("warning") and f"{path} belongs to process {ended.pid}" in found and "gone" in found
    )
    assert "cure:  nothing to do: the next build takes it over by itself" in found
    assert "taken over" in result.output and lines(result, "cpu build").startswith("ok")
    assert not path.exists()


def test_with_a_live_lock(tiny: build.Extension) -> None:
    with subprocess.Popen(["sleep", "60"]) as owner:
        lock_of(tiny, owner.pid, lock.process_start(owner.pid) or "")
        (found,) = diagnose.locks()
        owner.terminate()
    assert found.mark == WARNING and f"process {owner.pid} on this machine is compiling" in found.text
    assert f"end process {owner.pid}" in found.cure


def test_the_first_error_of_a_build(doctor: Doctor, tiny: build.Extension) -> None:
    if toolchain.cxx() is None:
        pytest.skip("no C++ compiler")
    (tiny.folder / "module.cpp").write_text("int f() { return nothing_here; }\n")
    result = doctor()
    found = lines(result, "cpu build")
    assert result.exit_code == 1 and "nothing_here" in found and "log:" in found and "cause:" in found


def test_a_kernel_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from generators.ops import compare

    monkeypatch.setattr(compare, "errors", lambda device: iter([("bias_act", [1e-7, 0.5, 1e-7])]))
    (found,) = diagnose.comparisons("cpu")
    assert found.mark == FAILED and "gradients 5.0e-01" in found.text and "impl='ref'" in found.cure


@pytest.mark.parametrize(
    ("devices", "asked", "known", "mark", "says"),
    [
        (["9.0"], [], ["8.0", "9.0"], OK, "9.0"),
        (["9.0"], ["8.6"], ["8.0", "9.0"], FAILED, "TORCH_CUDA_ARCH_LIST=8.6 has nothing for 9.0"),
        (["9.0"], ["8.6+PTX"], ["8.0", "9.0"], OK, "9.0"),
        (["8.6"], ["8.0"], ["8.0", "8.6"], OK, "8.6"),
        (["8.0"], ["8.6"], ["8.0", "8.6"], FAILED, "nothing for 8.0"),
        (["12.0"], [], ["8.0", "9.0"], WARNING, "12.0 gets PTX"),
        (["6.1"], [], ["7.5", "9.0"], FAILED, "6.1 is too old"),
    ],
)
def test_architectures(devices: list[str], asked: list[str], known: list[str], mark: str, says: str) -> None:
    found = diagnose.architectures(devices, asked, known)
    assert found.mark == mark and says in found.text and (mark == OK or (found.cause and found.cure))


def test_an_architecture_that_nvcc_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "_known_archs", lambda: ["7.5", "9.0"])
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5;9.0a;12.0+PTX")
    found = diagnose.asked_architectures()
    assert found.mark == FAILED and "does not know 12.0+PTX, only 7.5 to 9.0" in found.text


@pytest.mark.parametrize(("gcc", "mark"), [("12.2.0", OK), ("15.1.0", WARNING)])
def test_nvcc_and_gcc(monkeypatch: pytest.MonkeyPatch, gcc: str, mark: str) -> None:
    host = toolchain.Compiler(("g++",), f"g++ (GCC) {gcc}\nCopyright Free Software Foundation")
    monkeypatch.setattr(toolchain, "nvcc", lambda: toolchain.Compiler(("nvcc",), "release 12.4, V12.4"))
    monkeypatch.setattr(diagnose, "host_compiler", lambda: host)
    found = diagnose.nvcc_and_compiler()
    assert found.mark == mark and "CUDA 12.4 takes g++ up to 13" in found.text
    assert mark == OK or "NVCC_CCBIN" in found.cure


@pytest.mark.parametrize(("built", "mark"), [("12.6", OK), ("13.0", WARNING), (None, SKIPPED)])
def test_nvcc_and_torch(monkeypatch: pytest.MonkeyPatch, built: str | None, mark: str) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(toolchain, "nvcc", lambda: toolchain.Compiler(("nvcc",), "release 12.4, V12.4"))
    assert diagnose.nvcc_and_torch().mark == mark


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "file"))
    found = diagnose.cache()
    assert found.mark == FAILED and "INTRINSIC_BENCH_CACHE" in found.cure


def test_missing_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose.sysconfig, "get_path", lambda name: str(tmp_path))
    found = diagnose.headers()
    assert found.mark == FAILED and "python3-dev" in found.cure


def test_a_log_is_explained(doctor: Doctor, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "Setting up PyTorch plugin...\na.h:143:2: error: #error -- unsupported GNU version!\nmore: error: x\n"
    )
    result = doctor("--explain", str(log))
    assert result.exit_code == 1
    assert "a.h:143:2: error: #error -- unsupported GNU version!" in result.output
    assert causes.GNU_VERSION.cause in result.output and causes.GNU_VERSION.cure in result.output
