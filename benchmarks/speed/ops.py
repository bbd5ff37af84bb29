"""The compiled operations against the plain PyTorch reference at the shapes of real layers, in one run.

`python -m benchmarks.speed.ops` takes a few minutes on a CPU: one thread, the implementations take turns, the
best of the rounds counts. The CPU clock is that of the thread, so what else runs on the machine matters less.
On a GPU it times the CUDA kernels against the reference there, and, if STYLEGAN_CHECKOUT names a checkout of
an upstream repository, that one's plugins in a process of their own. The GPU's own time of a call, which may
be less than Python needs to ask for it, stands apart from the host's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.devices import check_device
from generators import ops
from generators.networks.low_pass import design_low_pass

CHECKOUT = "STYLEGAN_CHECKOUT"
PARTS = ("forward", "forward and backward", "host forward", "host forward and backward")
Times = tuple[float, ...]  # milliseconds of the PARTS: on a CPU of the first two, on a GPU of all
DIGITS = {"ms": (1.0, 2), "µs": (1e3, 1)}  # units in a millisecond, and decimals
CALLS, QUEUED = 50, 10  # calls of a turn on a GPU; so many at once, whose kernels its queue (1,024) holds
CYCLES = 3e9  # of a GPU in a second, at most


@dataclass(frozen=True)
class Case:
    """One call: the operation, its input (b c h w) and what else it takes."""

    name: str
    operation: str
    shape: tuple[int, int, int, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    biased: bool = False

    def inputs(self, device: str) -> tuple[Tensor, dict[str, Any]]:
        """x, which wants a gradient, and the other arguments on the device."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.shape, generator=generator).to(device).requires_grad_()
        more = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        if self.biased:
            more["b"] = torch.randn(self.shape[1], generator=generator).to(device).requires_grad_()
        return x, more


def _fir(name: str, channels: int, size: int, taps: list[int], up: int, down: int) -> Case:
    f = ops.setup_filter(taps)
    n = f.shape[-1]
    pad = [(n + up - 1) // 2, (n - up) // 2] if up > 1 else [(n - down + 1) // 2, (n - down) // 2]
    options = {"f": f, "up": up, "down": down, "padding": pad * 2, "gain": float(up**2)}
    return Case(f"{name}, {n} taps", "upfirdn2d", (1, channels, size, size), options)


def _layer(
    name: str, channels: int, size: int, up: int, down: int, radial: bool, pad: tuple[int, int]
) -> Case:
    """A layer of StyleGAN-XL; the numbers a filter holds change nothing, its length and shape do."""
    fu = design_low_pass(6 * up, 4.0, 12.0, 16.0 * up)
    fd = design_low_pass(6 * down, 4.0, 12.0, 16.0 * down, radial)
    options = {"fu": fu, "fd": fd, "up": up, "down": down, "padding": list(pad * 2), "clamp": 256.0}
    kind = "radial" if radial else "separable"
    shape = (1, channels, size, size)
    return Case(f"{name} up {up} down {down} {kind}", "filtered_lrelu", shape, options, biased=True)


SMALL, LONG = [1, 3, 3, 1], [1, 2, 4, 7, 9, 10, 10, 9, 7, 4, 2, 1]
# StyleGAN2 at 256 pixels; StyleGAN-XL as inferred for FFHQ at 256 pixels, wide layers with fewer channels.
CASES = (
    _fir("up 2", 64, 256, SMALL, 2, 1),
    _fir("up 2", 64, 256, LONG, 2, 1),
    _fir("up 2 (SG2 b64)", 512, 32, SMALL, 2, 1),
    _fir("up 2 (SG2 image b256)", 3, 128, SMALL, 2, 1),
    _fir("filter (SG2 conv0 b256)", 64, 259, SMALL, 1, 1),
    _fir("down 2 (SG2 D b256)", 64, 256, SMALL, 1, 2),
    _layer("L0 36", 1024, 36, 2, 2, True, (11, 10)),
    _layer("L0 36, few channels", 64, 36, 2, 2, True, (11, 10)),
    _layer("L4 36-52", 512, 36, 4, 2, True, (-2, -5)),
    _layer("L5 52", 512, 52, 2, 2, True, (11, 10)),
    _layer("L9 52", 512, 54, 2, 2, False, (9, 8)),
    _layer("L10 52-84", 256, 54, 4, 2, False, (-6, -9)),
    _layer("L11 84", 256, 86, 2, 2, False, (9, 8)),
    _layer("L12 84-148", 64, 86, 4, 2, False, (-6, -9)),
    _layer("L13 148", 64, 150, 2, 2, False, (9, 8)),
    _layer("L14 148-276", 16, 150, 4, 2, False, (-6, -9)),
    _layer("L15 276", 16, 278, 2, 2, False, (9, 8)),
    Case("lrelu", "bias_act", (4, 64, 128, 128), {"act": "lrelu", "clamp": 256.0}, biased=True),
    Case("lrelu", "bias_act", (16, 512, 16, 16), {"act": "lrelu"}, biased=True),
    Case("linear", "bias_act", (4, 3, 256, 256), {"clamp": 256.0}, biased=True),
    Case("swish", "bias_act", (4, 64, 128, 128), {"act": "swish"}, biased=True),
)


@contextmanager
def ieee_convolutions() -> Iterator[None]:
    """Convolutions of float32 as on a CPU, where torch's default on a GPU is TF32.

    After the newer of torch's two switches, `cudnn.conv.fp32_precision`, torch raises where it is asked about
    cuDNN as a whole, as `cudnn.flags` and torch.compile do; of the older one torch 2.9 to 2.11 warn.
    """
    before = _allow_tf32(False)
    try:
        yield
    finally:
        _allow_tf32(before)


def _allow_tf32(allowed: bool) -> bool:
    """Switch TF32 of convolutions; what it was before."""
    cudnn = torch.backends.cudnn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        before, cudnn.allow_tf32 = cudnn.allow_tf32, allowed
    return before


def time_on_cpu(case: Case, function: Callable[..., Tensor]) -> Times:
    """Milliseconds of this thread for one forward without, and one forward and backward with gradients."""
    x, more = case.inputs("cpu")
    start = time.thread_time()
    with torch.no_grad():
        function(x, **more)
    middle = time.thread_time()
    function(x, **more).sum().backward()
    return (middle - start) * 1e3, (time.thread_time() - middle) * 1e3


def time_on_gpu(case: Case, function: Callable[..., Tensor]) -> Times:
    """Milliseconds of the same two on the GPU, then on the host; the gradient of the result is dense."""
    x, more = case.inputs("cuda")
    wanted = [x, more["b"]] if case.biased else [x]

    def forward() -> Tensor:
        with torch.no_grad():
            return function(x, **more)

    dy = torch.randn_like(forward(), memory_format=torch.contiguous_format)
    calls = forward, lambda: torch.autograd.grad(function(x, **more), wanted, dy)
    found = [time_calls(call) for call in calls]
    return found[0][0], found[1][0], found[0][1], found[1][1]


def time_calls(call: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of a call on the GPU and on the host.

    Asking may take longer than doing. So that the GPU never waits between two calls, which events around them
    would count, it is kept busy until some are queued. What a call reads may lie in its cache.
    """
    ask(call)  # warms up
    torch.cuda.synchronize()
    host, total = ask(call), 0.0
    for _ in range(CALLS // QUEUED):
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(2 * host * CYCLES))
        start.record()
        ask(call)
        end.record()
        end.synchronize()
        total += start.elapsed_time(end)
    return total / CALLS, host / QUEUED * 1e3


def ask(call: Callable[[], object]) -> float:
    """Seconds in which the host asks for QUEUED calls; it waits for none."""
    start = time.perf_counter()
    for _ in range(QUEUED):
        call()
    return time.perf_counter() - start


def best_of(
    case: Case, functions: Mapping[str, Callable[..., Tensor]], device: str, rounds: int
) -> dict[str, Times]:
    """The best of `rounds` for every implementation; they take turns. A first round warms up."""
    best: dict[str, Times] = {}
    for i in range(rounds + 1):
        for name, function in functions.items():
            times = (time_on_cpu if device == "cpu" else time_on_gpu)(case, function)
            if i:
                best[name] = tuple(map(min, best.get(name, times), times))
    return best


def measure(device: str, rounds: int) -> list[dict[str, Times]]:
    """Times of the reference and the kernels, case by case."""

    def implementation(operation: str, impl: str) -> Callable[..., Tensor]:
        function = getattr(ops, operation)
        return lambda *x, **more: function(*x, **more, impl=impl)

    found = []
    for case in CASES:
        functions = {impl: implementation(case.operation, impl) for impl in ("ref", device)}
        found.append(best_of(case, functions, device, rounds))
    return found


def measure_upstream(checkout: Path, rounds: int) -> list[dict[str, Times]]:
    """Times of the plugins of an upstream checkout; runs in a process of its own.

    StyleGAN2 has no filtered_lrelu: operations the checkout lacks stay empty.
    """
    import importlib
    import importlib.util

    sys.path.insert(0, str(checkout))
    found: list[dict[str, Times]] = []
    for case in CASES:
        name = f"torch_utils.ops.{case.operation}"
        if importlib.util.find_spec(name) is None:
            found.append({})
            continue
        function = getattr(importlib.import_module(name), case.operation)
        found.append(best_of(case, {"upstream": function}, "cuda", rounds))
    return found


def ask_upstream(rounds: int) -> tuple[list[dict[str, Times]], str]:
    """Times by the upstream checkout, or none and the reason."""
    checkout = os.environ.get(CHECKOUT)
    if not checkout:
        return [], f"{CHECKOUT} names no upstream checkout"
    command = [sys.executable, "-m", "benchmarks.speed.ops", "--upstream", checkout, "--rounds", str(rounds)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        last = [line for line in run.stderr.splitlines() if line.strip()][-1:] or [
            f"exit code {run.returncode}"
        ]
        return [], f"the upstream checkout failed: {last[0]}"
    rows = json.loads(run.stdout.splitlines()[-1])
    return [{name: tuple(times) for name, times in row.items()} for row in rows], ""


def table(title: str, found: list[dict[str, Times]], unit: str = "ms") -> Table:
    """One line per case: times, and on the device how many times faster than the reference."""
    names = list(dict.fromkeys(name for times in found for name in times))
    parts = PARTS[: max(len(times) for row in found for times in row.values())]
    per, digits = DIGITS[unit]
    made = Table(title=title)
    for column in ("operation", "case", "shape"):
        made.add_column(column, no_wrap=True)
    for part in parts:
        for name in names:
            made.add_column(f"{part} {name} [{unit}]", justify="right")
            if name != "ref" and part in PARTS[:2]:
                made.add_column(f"ref / {name}", justify="right")
    for case, times in zip(CASES, found, strict=True):
        cells = [case.operation, case.name, "x".join(map(str, case.shape))]
        for order, part in enumerate(parts):
            for name in names:
                known = name in times
                cells.append(f"{times[name][order] * per:.{digits}f}" if known else "-")
                if name != "ref" and part in PARTS[:2]:
                    cells.append(f"{times['ref'][order] / times[name][order]:.1f}" if known else "-")
        made.add_row(*cells)
    return made


def gpu_table(rounds: int) -> tuple[Table, str]:
    """The table of a GPU, and why the upstream's times are not in it."""
    with ieee_convolutions():
        found = measure("cuda", rounds)
    rows, reason = ask_upstream(rounds)
    found = [a | b for a, b in zip(found, rows, strict=True)] if rows else found
    about = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, float32 without TF32, "
    return table(f"{about}a call of {CALLS}, best of {rounds}", found, "µs"), reason


def processor() -> str:
    """What the machine calls its processor."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    widest = "AVX-512" if any("avx512f" in line for line in lines) else "no AVX-512"
    return f"{names[0] if names else 'unknown processor'}, {widest}"


@click.command()
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Turns each implementation takes."
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda", "all"]),
    default="all",
    show_default=True,
    help="all: the CPU, and the GPU where there is one.",
)
@click.option("--upstream", type=click.Path(path_type=Path), hidden=True)
def main(rounds: int, device: str, upstream: Path | None) -> None:
    """Time every operation, forward and backward, against the reference."""
    torch.set_num_threads(1)
    if upstream is not None:
        print(json.dumps(measure_upstream(upstream, rounds)))
        return
    if device == "cuda":
        check_device(device)
    if device != "cuda":
        about = f"{processor()}, one thread, torch {torch.__version__}, float32, best of {rounds}"
        Console(width=160).print(table(about, measure("cpu", rounds)))
    if device != "cpu" and torch.cuda.is_available():
        made, reason = gpu_table(rounds)
        Console(width=250).print(made)
        Console(width=160).print(reason, highlight=False)


if __name__ == "__main__":
    main()
