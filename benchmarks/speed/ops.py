"""The compiled operations against the plain PyTorch reference at the shapes of real layers, in one run.

`python -m benchmarks.speed.ops` takes a few minutes on a CPU: one thread, the implementations take turns, the
best of the rounds counts. The CPU clock is that of the thread, so what else runs on the machine matters less.
On a GPU it times the CUDA kernels against the reference there, and, if STYLEGAN_CHECKOUT names a checkout of
an upstream repository, that one's plugins in a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from generators import ops
from generators.networks.low_pass import design_low_pass

CHECKOUT = "STYLEGAN_CHECKOUT"
Times = tuple[float, float]  # milliseconds: forward, forward and backward


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


def clock(device: str) -> float:
    """Seconds: of this thread on a CPU, of the wall once a GPU is done."""
    if device == "cpu":
        return time.thread_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def time_once(case: Case, function: Callable[..., Tensor], device: str) -> Times:
    """Milliseconds of one forward without, and one forward and backward with gradients."""
    x, more = case.inputs(device)
    start = clock(device)
    with torch.no_grad():
        function(x, **more)
    middle = clock(device)
    function(x, **more).sum().backward()
    return (middle - start) * 1e3, (clock(device) - middle) * 1e3


def best_of(
    case: Case, functions: Mapping[str, Callable[..., Tensor]], device: str, rounds: int
) -> dict[str, Times]:
    """The best of `rounds` for every implementation; they take turns. A first round warms up."""
    best = dict.fromkeys(functions, (float("inf"), float("inf")))
    for i in range(rounds + 1):
        for name, function in functions.items():
            forward, both = time_once(case, function, device)
            if i:
                best[name] = (min(best[name][0], forward), min(best[name][1], both))
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
    return [{name: (times[0], times[1]) for name, times in row.items()} for row in rows], ""


def table(title: str, found: list[dict[str, Times]]) -> Table:
    """One line per case: milliseconds, and how many times faster than the reference."""
    names = list(dict.fromkeys(name for times in found for name in times))
    made = Table(title=title)
    for column in ("operation", "case", "shape"):
        made.add_column(column, no_wrap=True)
    for part in ("forward", "forward and backward"):
        for name in names:
            made.add_column(f"{part} {name} [ms]", justify="right")
            if name != "ref":
                made.add_column(f"ref / {name}", justify="right")
    for case, times in zip(CASES, found, strict=True):
        cells = [case.operation, case.name, "x".join(map(str, case.shape))]
        for order in (0, 1):
            for name in names:
                known = name in times
                cells.append(f"{times[name][order]:.2f}" if known else "-")
                if name != "ref":
                    cells.append(f"{times['ref'][order] / times[name][order]:.1f}" if known else "-")
        made.add_row(*cells)
    return made


def processor() -> str:
    """What the machine calls its processor."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    widest = "AVX-512" if any("avx512f" in line for line in lines) else "no AVX-512"
    return f"{names[0] if names else 'unknown processor'}, {widest}"


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Turns each implementation takes.")
@click.option("--upstream", type=click.Path(path_type=Path), hidden=True)
def main(rounds: int, upstream: Path | None) -> None:
    """Time every operation, forward and backward, against the reference."""
    torch.set_num_threads(1)
    if upstream is not None:
        print(json.dumps(measure_upstream(upstream, rounds)))
        return
    console = Console(width=160)
    about = f"{processor()}, one thread, torch {torch.__version__}, float32, best of {rounds}"
    console.print(table(about, measure("cpu", rounds)))
    if torch.cuda.is_available():
        found = measure("cuda", rounds)
        rows, reason = ask_upstream(rounds)
        found = [a | b for a, b in zip(found, rows, strict=True)] if rows else found
        console.print(table(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, float32", found))
        console.print(reason, highlight=False)


if __name__ == "__main__":
    main()
