"""The CUDA kernels' own sources, run on the CPU by a header that plays the device, against the reference."""

import math
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from generators.ops import build, reference, setup_filter
from generators.ops.primitives import CURVED

EMULATION = Path(__file__).parent / "emulation" / "cuda_on_cpu.h"
STREAM = 0
RUNS = {"forwards": {}, "backwards": {"EMULATED_ORDER": "reverse"}, "no room": {"EMULATED_SHARED": "64"}}
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(build.toolchain.cxx() is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The CUDA module, its .cu files compiled as C++."""
    folder = tmp_path_factory.mktemp("emulated")
    for source in build.CUDA.files():
        name = f"{source.name}.cpp" if source.suffix == ".cu" else source.name
        shutil.copy(source, folder / name)
    shutil.copy(EMULATION, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXXFLAGS", "-DCUDA_ON_CPU -O1")
        return build.load(build.Extension("intrinsic_bench_ops_emulated", "emulated", folder))


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Threads in both orders, and the composition of kernels that runs where a tile does not fit."""
    for name, value in RUNS[request.param].items():
        monkeypatch.setenv(name, value)
    yield request.param


def close(found: Tensor, expected: Tensor, rounding: float | None = None) -> None:
    assert found.shape == expected.shape
    expected = expected.detach()
    tolerance = (rounding or ROUNDING[found.dtype]) * max(1.0, float(expected.abs().max()))
    assert float((found.double() - expected.double()).abs().max()) <= tolerance


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def taps(*shape: int) -> Tensor:
    return noise(*shape, seed=7) / math.sqrt(math.prod(shape))


# upfirdn2d

UPFIRDN = [  # filter, up, down, padding (x0 x1 y0 y1)
    ((4, 4), (2, 2), (1, 1), (2, 1, 2, 1)),
    ((4, 4), (1, 1), (2, 2), (1, 1, 1, 1)),
    ((12,), (2, 2), (1, 1), (6, 5, 6, 5)),
    ((12,), (1, 1), (2, 2), (5, 5, 5, 5)),
    ((24,), (4, 4), (1, 1), (13, 10, 13, 10)),
    ((24,), (1, 1), (4, 4), (10, 10, 10, 10)),
    ((5,), (1, 1), (1, 1), (2, 2, 2, 2)),
    ((3, 5), (3, 2), (2, 3), (4, -1, 0, 3)),
    ((7,), (5, 3), (2, 4), (-2, 9, 5, -1)),
    ((1,), (3, 3), (1, 1), (0, 0, 0, 0)),
    ((2, 2), (1, 1), (1, 1), (-3, -2, -1, -4)),
]


@pytest.mark.parametrize("case", UPFIRDN, ids=str)
@pytest.mark.parametrize("flip", [False, True])
def test_upfirdn2d(emulated: ModuleType, run: str, case: Any, flip: bool) -> None:
    shape, up, down, padding = case
    x, f = noise(2, 3, 19, 41), taps(*shape)
    found = emulated.upfirdn2d(x, f, *up, *down, *padding, flip, 1.7, STREAM)
    close(found, reference.upfirdn2d(x, f, up, down, padding, flip, 1.7))


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", [(4, 4), (12,)])
def test_upfirdn2d_types(emulated: ModuleType, run: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, f = noise(1, 2, 9, 9, dtype=dtype), taps(*shape)
    found = emulated.upfirdn2d(x, f, 2, 2, 1, 1, 6, 5, 6, 5, False, 4.0, STREAM)
    assert found.dtype == dtype
    close(found, reference.upfirdn2d(x.double(), f, 2, 1, (6, 5, 6, 5), False, 4.0))


def test_upfirdn2d_of_many_tiles(emulated: ModuleType) -> None:
    x, f = noise(1, 2, 70, 101), taps(6)
    found = emulated.upfirdn2d(x, f, 2, 2, 1, 1, 3, 2, 3, 2, False, 4.0, STREAM)
    close(found, reference.upfirdn2d(x, f, 2, 1, (3, 2, 3, 2), False, 4.0))


# bias_act


@pytest.mark.parametrize("act", reference.ACTIVATIONS)
@pytest.mark.parametrize("clamp", [None, 0.6])
def test_bias_act_and_its_derivatives(emulated: ModuleType, act: str, clamp: float | None) -> None:
    x = (
        torch.cat([noise(1500), torch.tensor([0.0, 30.0, -30.0, 19.9, 20.1, 1e-3])])
        .double()
        .reshape(2, 3, -1)
    )
    b, dy, dz = noise(3, seed=1).double(), noise(*x.shape, seed=2).double(), noise(*x.shape, seed=3).double()
    x.requires_grad_(), dy.requires_grad_()
    y = reference.bias_act(x, b, act=act, gain=1.3, clamp=clamp)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    index = list(reference.ACTIVATIONS).index(act)
    rest = (1, index, reference.ACTIVATIONS[act].alpha, 1.3, -1.0 if clamp is None else clamp, STREAM)
    values = x.detach(), b
    close(emulated.bias_act(*values, *rest), y)
    close(emulated.bias_act_grad(dy.detach(), *values, *rest), dx)
    if dx.requires_grad and index >= 3:
        (dx2,) = torch.autograd.grad(dx, x, dz)
        close(emulated.bias_act_grad2(dz, dy.detach(), *values, *rest), dx2)


@pytest.mark.parametrize("act", list(reference.ACTIVATIONS)[CURVED:])
def test_second_derivatives_at_zero(emulated: ModuleType, act: str) -> None:
    """Those of elu and selu are 0 there, from either side of it."""
    x = torch.tensor([0.0, -0.0, 1e-4, -1e-4], dtype=torch.float64, requires_grad=True)
    dy, dz = (noise(*x.shape, seed=seed).double() for seed in (2, 3))
    (dx,) = torch.autograd.grad(
        reference.bias_act(x, act=act, gain=1.3), x, dy.requires_grad_(), create_graph=True
    )
    (dx2,) = torch.autograd.grad(dx, x, dz)
    rest = (None, 0, list(reference.ACTIVATIONS).index(act), 0.0, 1.3, -1.0, STREAM)
    close(emulated.bias_act_grad(dy.detach(), x.detach(), *rest), dx)
    found = emulated.bias_act_grad2(dz, dy.detach(), x.detach(), *rest)
    close(found, dx2)
    assert found[:2].eq(0).all() or act not in ("elu", "selu")
    unknown = torch.full_like(dz, math.nan)
    assert emulated.bias_act_grad2(dz, dy.detach(), unknown, *rest).isnan().all()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_bias_act_types_and_axes(emulated: ModuleType, dtype: torch.dtype, dim: int) -> None:
    x = noise(3, 5, 7, dtype=dtype)
    b = noise(x.shape[dim], seed=1, dtype=dtype)
    found = emulated.bias_act(x, b, dim, 2, 0.2, math.sqrt(2), -1.0, STREAM)
    close(found, reference.bias_act(x.double(), b.double(), dim, "lrelu"))


def test_not_a_number_stays(emulated: ModuleType) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf])
    for index, act in enumerate(reference.ACTIVATIONS):
        found = emulated.bias_act(x, None, 0, index, 0.2, 1.0, 1.0, STREAM)
        expected = reference.bias_act(x, act=act, alpha=0.2, gain=1.0, clamp=1.0)
        torch.testing.assert_close(found, expected, equal_nan=True)


# filtered_lrelu

FILTERED = [  # filters, up, down, padding
    ((12,), (12,), 2, 2, (9, 8, 9, 8)),
    ((24,), (12,), 4, 2, (20, 13, 17, 22)),
    ((12,), (12, 12), 2, 2, (9, 8, 9, 8)),
    ((12,), (24, 24), 2, 4, (17, 20, 17, 20)),
    ((1,), (1,), 1, 1, (0, 0, 0, 0)),
    ((5, 3), (7,), 3, 1, (4, 6, 5, 5)),
    ((6,), (4, 5), 1, 3, (-1, 7, 8, -2)),
]


def filtered(emulated: ModuleType, x: Tensor, b: Tensor, case: Any, clamp: float, flip: bool) -> Any:
    shape_u, shape_d, up, down, padding = case
    fu, fd = taps(*shape_u), taps(*shape_d)
    rest = (up, down, *padding, math.sqrt(2), 0.2, clamp, flip, True, STREAM)
    return fu, fd, *emulated.filtered_lrelu(x, fu, fd, b, *rest)


def expected_of(x: Tensor, b: Tensor, fu: Tensor, fd: Tensor, case: Any, clamp: float, flip: bool) -> Tensor:
    up, down, padding = case[2:]
    limit = None if clamp < 0 else clamp
    return reference.filtered_lrelu(x, fu, fd, b, up, down, padding, clamp=limit, flip_filter=flip)


@pytest.mark.parametrize("case", FILTERED, ids=str)
@pytest.mark.parametrize(("clamp", "flip"), [(-1.0, False), (0.5, True)])
def test_filtered_lrelu(emulated: ModuleType, run: str, case: Any, clamp: float, flip: bool) -> None:
    x, b = noise(2, 3, 21, 37), noise(3, seed=1)
    fu, fd, y, _ = filtered(emulated, x, b, case, clamp, flip)
    close(y, expected_of(x, b, fu, fd, case, clamp, flip))


@pytest.mark.parametrize("case", FILTERED, ids=str)
@pytest.mark.parametrize(("clamp", "flip"), [(-1.0, False), (0.5, True)])
def test_the_mask_gives_the_derivative(
    emulated: ModuleType, run: str, case: Any, clamp: float, flip: bool
) -> None:
    from generators.ops.primitives import resampled, transposed

    x, b = noise(1, 2, 21, 37, seed=5).double().requires_grad_(), noise(2, seed=1).double()
    fu, fd, y, mask = filtered(emulated, x.detach(), b, case, clamp, flip)
    dy = noise(*y.shape, seed=2).double()
    (dx,) = torch.autograd.grad(expected_of(x, b, fu, fd, case, clamp, flip), x, dy)
    _, _, up, down, (x0, x1, y0, y1) = case
    pa: list[int] = []
    pb: list[int] = []
    for axis, (p0, p1) in ((3, (x0, x1)), (2, (y0, y1))):
        tu, td = (fu.shape[-1], fd.shape[-1]) if axis == 3 else (fu.shape[0], fd.shape[0])
        middle = resampled(x.shape[axis], up, 1, p0, p1, tu)
        pa += transposed(middle, y.shape[axis], 1, down, 0, 0, td)
        pb += transposed(x.shape[axis], middle, up, 1, p0, p1, tu)
    found = emulated.filtered_mask(
        dy, mask, fd, fu, down, up, *pa, *pb, 1.0, float(up**2), not flip, math.sqrt(2), 0.2, STREAM
    )
    close(found, dx)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_filtered_lrelu_types(emulated: ModuleType, run: str, dtype: torch.dtype) -> None:
    x, b = noise(1, 2, 18, 18, dtype=dtype), noise(2, seed=1, dtype=dtype)
    fu, fd, y, _ = filtered(emulated, x, b, FILTERED[0], 0.9, False)
    assert y.dtype == dtype
    close(y, expected_of(x.double(), b.double(), fu, fd, FILTERED[0], 0.9, False))


def test_the_mask_is_whole_and_the_same_on_both_ways(
    emulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, b = noise(1, 2, 40, 75), noise(2, seed=1)
    for case, clamp in product(FILTERED, (-1.0, 0.5)):
        monkeypatch.delenv("EMULATED_SHARED", raising=False)
        fused = filtered(emulated, x, b, case, clamp, False)[3]
        monkeypatch.setenv("EMULATED_SHARED", "64")
        torch.testing.assert_close(filtered(emulated, x, b, case, clamp, False)[3], fused, rtol=0, atol=0)


# What is refused


def test_what_does_not_fit_is_refused(emulated: ModuleType) -> None:
    x, f = noise(1, 1, 4, 4), setup_filter([1, 3, 3, 1])
    with pytest.raises(RuntimeError, match="fewer than the filter's 4"):
        emulated.upfirdn2d(x, f, 1, 1, 1, 1, -1, 0, 0, 0, False, 1.0, STREAM)
    with pytest.raises(RuntimeError, match="float32"):
        emulated.upfirdn2d(x, f.double(), 1, 1, 1, 1, 0, 0, 0, 0, False, 1.0, STREAM)
    with pytest.raises(RuntimeError, match="contiguous"):
        emulated.upfirdn2d(noise(1, 1, 4, 5).mT, f, 1, 1, 1, 1, 0, 0, 0, 0, False, 1.0, STREAM)
    with pytest.raises(RuntimeError, match="4 values for 3 channels"):
        emulated.bias_act(noise(2, 3, 4), noise(4), 1, 0, 0.0, 1.0, -1.0, STREAM)
    with pytest.raises(RuntimeError, match="not Int"):
        emulated.bias_act(torch.ones(3, dtype=torch.int32), None, 0, 0, 0.0, 1.0, -1.0, STREAM)


def test_nothing_in_nothing_out(emulated: ModuleType) -> None:
    x, f = noise(0, 3, 4, 4), taps(4, 4)
    assert emulated.upfirdn2d(x, f, 2, 2, 1, 1, 2, 1, 2, 1, False, 1.0, STREAM).shape == (0, 3, 8, 8)
    assert emulated.bias_act(x, None, 1, 2, 0.2, 1.0, -1.0, STREAM).shape == x.shape


# As the operations call them


class WithStream:
    """The module as `primitives` calls the one for the CPU, without the last argument."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: getattr(self.module, name)(*arguments, STREAM)


def test_both_orders_of_gradient(emulated: ModuleType, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from generators.ops import compare, primitives

    monkeypatch.setattr(primitives, "raw", lambda device: WithStream(emulated))
    found = dict(compare.errors("cpu"))
    assert set(found) == {"bias_act", "upfirdn2d", "filtered_lrelu"}
    assert all(0 < max(each) < compare.TOLERANCE for each in found.values()), found
