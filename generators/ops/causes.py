"""What compilers, loaders and drivers say when the operations cannot be had, why, and what to do about it."""

from __future__ import annotations

import re
from typing import NamedTuple


class Cause(NamedTuple):
    """One failure users meet: how to know it, where it comes from, how to mend it; a sentence each."""

    symptom: str  # regular expression on the output
    cause: str
    cure: str


NINJA = Cause(
    r"Ninja is required|No module named '(ninja|upfirdn2d_plugin|bias_act_plugin|filtered_lrelu_plugin)'"
    r"|ninja: (command )?not found",
    "ninja, which runs the compilers, is not installed in this Python environment",
    "pip install ninja",
)
NO_COMPILER = Cause(
    r"no C\+\+ compiler|(g\+\+|c\+\+|clang\+\+): (command )?not found|fatal error: cannot execute.*cc1plus",
    "there is no C++ compiler on this machine's PATH",
    "install one (apt install g++, dnf install gcc-c++, conda install cxx-compiler), or name one in CXX",
)
NO_NVCC = Cause(
    r"no nvcc|nvcc: (command )?not found|CUDA_HOME environment variable is not set"
    r"|cuda_runtime\.h: No such file|cannot find -lcudart",
    "CUDA's compiler is not installed: conda's cudatoolkit and pip's nvidia-* are the runtime only",
    "install the toolkit (conda install -c nvidia cuda-nvcc cuda-cudart-dev, or NVIDIA's installer),"
    " and let CUDA_HOME name its folder",
)
GNU_VERSION = Cause(
    r"unsupported GNU version|unsupported clang version|#error -- unsupported",
    "nvcc refuses this C++ compiler, which is newer (or older) than the ones it knows",
    "install an older g++ and name it: CXX=g++-12 or NVCC_CCBIN=g++-12; or install a newer CUDA toolkit",
)
ARCH = Cause(
    r"[Uu]nsupported gpu architecture|no kernel image is available|Unknown CUDA arch"
    r"|not compatible with the current PyTorch installation",
    "the code was compiled for other GPU architectures than the device has,"
    " or the CUDA toolkit does not know the architecture",
    "unset TORCH_CUDA_ARCH_LIST, or give it the device's own compute capability (as in 9.0);"
    " for a newer GPU than the toolkit, add +PTX or install a newer toolkit",
)
STALE_CACHE = Cause(
    r"undefined symbol|file too short|invalid ELF header|cannot open shared object file"
    r"|GLIBCXX_\S+' not found|symbol not found in flat namespace|DLL load failed",
    "the compiled file is torn, or was built by another torch, Python, CUDA or C++ library than those in use",
    "delete the named folder of the cache (it is built again), and run in one environment only",
)
STANDARD = Cause(
    r"'if constexpr'|-W?c\+\+17-extensions|C\+\+(17|20)( or later)? (compatible compiler )?is required"
    r"|unrecognized (command[- ]line )?option .*-std=|Value 'c\+\+\d+' is not defined for option 'std'"
    r"|requires C\+\+(17|20)|is_same_v.* is not a member",
    "the compiler is too old, or a flag sets an older language standard than C++17",
    "use g++ 9 or newer (CXX=...) and remove -std=... from CXXFLAGS, CFLAGS and NVCC_APPEND_FLAGS",
)
PYTHON_HEADERS = Cause(
    r"Python\.h: No such file|'Python\.h' file not found",
    "the headers of this Python are not installed",
    "apt install python3-dev (dnf install python3-devel), or use a Python of conda, pyenv or uv",
)
OPENMP = Cause(
    r"omp\.h: No such file|'omp\.h' file not found|cannot find -l(gomp|omp|iomp5)\b"
    r"|unsupported option '-fopenmp'",
    "the compiler has no OpenMP library",
    "install it (apt install libomp-dev for clang) or use g++: CXX=g++",
)
MEMORY = Cause(
    r"Killed signal terminated program|signal 9|out of memory allocating|cannot allocate memory",
    "the machine had too little memory to compile",
    "MAX_JOBS=1 compiles one file at a time",
)
SPACE = Cause(
    r"No space left on device|Disk quota exceeded",
    "the disk of the cache folder is full",
    "free some space, or let INTRINSIC_BENCH_CACHE name a folder elsewhere",
)
WRITABLE = Cause(
    r"Permission denied|Read-only file system",
    "the cache folder cannot be written",
    "let INTRINSIC_BENCH_CACHE name a folder that can",
)
DRIVER = Cause(
    r"CUDA driver version is insufficient|forward compatibility was attempted"
    r"|provided PTX was compiled with an unsupported toolchain",
    "the NVIDIA driver is older than the CUDA toolkit that compiled the code",
    "update the driver, or compile with a toolkit no newer than nvidia-smi's CUDA version (CUDA_HOME=...)",
)
HANG = Cause(
    r"Setting up PyTorch plugin",
    "a stale lock of an interrupted build, or another process that is building, is waited for without a word",
    "that is another program's build: delete its lock file below the folder torch_extensions;"
    " ours notices dead owners and names live ones",
)
GRADFIX = Cause(
    r"cudnn_convolution_(transpose_)?backward_weight|conv2d_gradfix|grid_sample_gradfix"
    r"|grid_sampler_2d_backward",
    "an older program replaces torch's autograd functions of convolution or grid sampling, which changed",
    "remove the replacement: torch's own convolutions have second derivatives; nothing here replaces them",
)
PICKLE = Cause(
    r"No module named '?(torch_utils|dnnlib|timm|pg_modules|legacy)|torch_utils[./]persistence"
    r"|persistence\._reconstruct",
    "the checkpoint is a pickle with Python code in it, which asks for the modules of its authors",
    "read it with this package, which takes the tensors and runs nothing; neither module is needed",
)
FALLBACK = Cause(
    r"[Ff]alling back to slow reference implementation",
    "the compiled operations could not be built, so a slow path runs in silence",
    "intrinsic-bench doctor shows the compiler's first error; here impl='cpu' or 'cuda' raises it,"
    " and every record names what ran",
)
HIDDEN = Cause(
    r"returned non-zero exit status|Error building extension",
    "the compiler failed, and this line hides what it said",
    "look for the first line with 'error' above it, in the log of the build",
)

# The first that fits is named, so the particular stand before the general.
CAUSES: tuple[Cause, ...] = (
    NINJA,
    GNU_VERSION,
    STANDARD,
    ARCH,
    DRIVER,
    PYTHON_HEADERS,
    OPENMP,
    GRADFIX,
    PICKLE,
    MEMORY,
    SPACE,
    NO_NVCC,
    NO_COMPILER,
    STALE_CACHE,
    FALLBACK,
    HANG,
    WRITABLE,
    HIDDEN,
)


def find_cause(output: str) -> Cause | None:
    """The first known cause of what a compiler, a loader or a driver said."""
    return next((cause for cause in CAUSES if re.search(cause.symptom, output)), None)


_ERROR = re.compile(
    r"\berror\b( [A-Z]*\d+)?\s*:|#error|nvcc fatal|undefined reference|cannot find -l|internal compiler error"
    r"|Killed|No space left|: not found|Permission denied",
    re.IGNORECASE,
)


def first_error(output: str, more: int = 2) -> str:
    """The compiler's own first error with the `more` lines after it; the last lines if none is marked."""
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    said = [line for line in lines if not re.match(r"FAILED:|\[\d+/\d+\]|ninja: ", line)]
    for index, line in enumerate(said):
        if _ERROR.search(line) and not _is_command(line):
            return "\n".join([line, *_context(said[index + 1 : index + 1 + more])])
    return "\n".join(said[-3:])


def _is_command(line: str) -> bool:
    """Whether ninja printed a command line, whose flags may hold any word."""
    return bool(re.search(r" -c \S+ .*-o \S+| -o \S+.* -shared| -shared .*-o \S+", line))


def _context(lines: list[str]) -> list[str]:
    """What belongs to an error: the source line and its mark, up to the next message."""
    kept: list[str] = []
    for line in lines:
        if _ERROR.search(line) or re.search(r": (warning|note):|compilation terminated|^\d+ error", line):
            break
        kept.append(line)
    return kept
