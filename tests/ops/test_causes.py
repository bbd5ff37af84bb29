"""What compilers, loaders and drivers say: the first error of a log, its cause and its cure."""

import pytest

from generators.ops import causes

SAID = {
    causes.NINJA: "RuntimeError: Ninja is required to load C++ extensions",
    causes.GNU_VERSION: "host_config.h:143:2: error: #error -- unsupported GNU version! later than 12",
    causes.STANDARD: "Reduce.cuh:300:17: error: 'if constexpr' is a C++17 extension [-Werror]",
    causes.ARCH: "nvcc fatal   : Unsupported gpu architecture 'compute_86'",
    causes.DRIVER: "CUDA driver version is insufficient for CUDA runtime version",
    causes.PYTHON_HEADERS: "a.cpp:1:10: fatal error: Python.h: No such file or directory",
    causes.OPENMP: "/usr/bin/ld: cannot find -lomp: No such file or directory",
    causes.GRADFIX: "No such operator aten::cudnn_convolution_backward_weight",
    causes.PICKLE: "ModuleNotFoundError: No module named 'torch_utils'",
    causes.MEMORY: "c++: fatal error: Killed signal terminated program cc1plus",
    causes.SPACE: "fatal error: error writing to /tmp/x.s: No space left on device",
    causes.NO_NVCC: "OSError: CUDA_HOME environment variable is not set. Please set it",
    causes.NO_COMPILER: "/bin/sh: 1: g++: not found",
    causes.STALE_CACHE: "ImportError: upfirdn2d_plugin.so: undefined symbol: _ZN3c104cuda9SetDeviceEi",
    causes.FALLBACK: "Failed to build CUDA kernels. Falling back to slow reference implementation.",
    causes.HANG: 'Setting up PyTorch plugin "bias_act_plugin"...',
    causes.WRITABLE: "mkdir: cannot create directory: Permission denied",
    causes.HIDDEN: "subprocess.CalledProcessError: Command '['ninja', '-v']' returned non-zero exit status 1",
}


@pytest.mark.parametrize("cause", causes.CAUSES, ids=lambda cause: cause.symptom[:20])
def test_every_cause_is_found(cause: causes.Cause) -> None:
    assert causes.find_cause(SAID[cause]) is cause
    assert cause.cause and cause.cure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CUDA error: no kernel image is available for execution on the device", causes.ARCH),
        ("ModuleNotFoundError: No module named 'upfirdn2d_plugin'", causes.NINJA),
        ("ModuleNotFoundError: No module named 'timm'", causes.PICKLE),
        ("ImportError: bias_act_plugin.so: cannot open shared object file: No such file", causes.STALE_CACHE),
    ],
)
def test_other_words_for_a_cause(text: str, expected: causes.Cause) -> None:
    assert causes.find_cause(text) is expected


def test_nothing_is_made_up() -> None:
    assert causes.find_cause("a.cpp:1:1: error: expected unqualified-id") is None


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            "[1/2] c++ -Werror: -c a.cpp -o a.o\nFAILED: [code=1] a.o \nc++ -c a.cpp -o a.o\n"
            "In file included from a.cpp:1:\n"
            "a.h:3:5: error: no\n    3 | x\n      | ^\na.h:9:1: error: later\n",
            "a.h:3:5: error: no\n    3 | x\n      | ^",
        ),
        (
            "FAILED: k.o\nnvcc -c k.cu -o k.o\nnvcc fatal   : Unsupported gpu architecture 'compute_37'\n",
            None,
        ),
        ('k.cu(12): error: identifier "x" is undefined\n      x = 1;\n      ^\n\n1 error detected in', None),
        (
            "FAILED: m.so\n/usr/bin/ld: a.o: undefined reference to `f()'\ncollect2: error: ld returned 1",
            None,
        ),
    ],
)
def test_the_first_error_of_a_log(output: str, expected: str | None) -> None:
    found = causes.first_error(output)
    assert found == expected if expected else found.startswith(("nvcc fatal", "k.cu(12)", "/usr/bin/ld: a.o"))


def test_a_log_without_a_mark_gives_its_end() -> None:
    assert causes.first_error("one\ntwo\nthree\nfour\n") == "two\nthree\nfour"
