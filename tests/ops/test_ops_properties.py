"""The compiled kernels against the reference on any shape and option, and what surrounds them: derivatives,
types, layouts, torch.compile, meta tensors, choice of the implementation, errors."""

import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from generators import ops
from generators.errors import UserError
from generators.ops import build, dispatch, primitives
from generators.ops.reference import ACTIVATIONS

QUICK = settings(max_examples=30, deadline=None, derandomize=True)
FILTERS = ("none", "one", "outer", "line", "plane", "mirrored")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def taps(kind: str, size: int, seed: int = 1) -> Tensor | None:
    """None, 1x1, an outer product, a separable filter, any plane, one symmetric in its rows."""
    line, plane = noise(size, seed=seed).float(), noise(size, size + 1, seed=seed).float()
    made = {
        "none": None,
        "one": line[:1, None],
        "outer": line.outer(line.flip(0)),
        "line": line,
        "plane": plane,
    }
    return plane + plane.flip(0) if kind == "mirrored" else made[kind]


def close(found: Tensor, expected: Tensor, tolerance: float = 2e-6) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = max(1e-6, expected.double().abs().max().item()) if expected.numel() else 1.0
    difference = (found.double() - expected.double()).abs().max().item() if expected.numel() else 0.0
    assert difference <= tolerance * scale, f"{difference:.3g} of {scale:.3g}"


def both_orders(function: Any, inputs: list[Tensor]) -> list[Tensor]:
    """The value, the gradient of sum(sin), and the gradient of the gradient's square."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = function(*inputs)
    first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
    penalty = torch.stack([g.square().sum() for g in first]).sum()
    return [y, *first, *torch.autograd.grad(penalty, inputs)]


def agree(function: Any, inputs: list[Tensor], tolerance: float = 2e-6, impl: str = "cpu") -> None:
    expected = both_orders(lambda *x: function(*x, impl="ref"), inputs)
    found = both_orders(lambda *x: function(*x, impl=impl), inputs)
    for a, b in zip(found, expected, strict=True):
        close(a, b, tolerance)


paddings = st.tuples(*[st.integers(-2, 9)] * 4)


@QUICK
@given(
    size=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(3, 21), st.integers(3, 40)),
    kind=st.sampled_from(FILTERS),
    length=st.integers(1, 12),
    up=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    down=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    padding=paddings,
    flip=st.booleans(),
)
def test_upfirdn2d_any_shape(
    size: Any, kind: str, length: int, up: Any, down: Any, padding: Any, flip: bool
) -> None:
    f = taps(kind, length)
    fh, fw = (1, 1) if f is None else primitives.taps(f)
    h = size[2] * up[1] + padding[2] + padding[3]
    w = size[3] * up[0] + padding[0] + padding[1]
    function = lambda x, impl: ops.upfirdn2d(x, f, up, down, padding, flip, 1.7, impl=impl)  # noqa: E731
    if h < fh or w < fw:
        with pytest.raises(UserError, match="is smaller"):
            function(noise(*size), "cpu")
        return
    agree(function, [noise(*size)])
    close(function(noise(*size).float(), "cpu"), function(noise(*size).float(), "ref"))


@QUICK
@given(
    size=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(6, 17), st.integers(6, 40)),
    kinds=st.tuples(st.sampled_from(FILTERS), st.sampled_from(FILTERS)),
    lengths=st.tuples(st.integers(1, 12), st.integers(1, 6)),
    factors=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(*[st.integers(-1, 9)] * 4),
    clamp=st.sampled_from([None, 0.0, 0.5, 256.0]),
    slope=st.sampled_from([0.0, 0.2, 1.0, -0.5]),
    flip=st.booleans(),
)
def test_filtered_lrelu_any_shape(
    size: Any, kinds: Any, lengths: Any, factors: Any, padding: Any, clamp: Any, slope: float, flip: bool
) -> None:
    fu, fd = (taps(kind, length) for kind, length in zip(kinds, lengths, strict=True))
    x, b = noise(*size), noise(size[1], seed=2)

    def function(x: Tensor, b: Tensor, impl: str) -> Tensor:
        return ops.filtered_lrelu(x, fu, fd, b, *factors, padding, 1.3, slope, clamp, flip, impl=impl)

    try:
        function(x, b, "ref")
    except UserError as error:
        assert "is smaller" in str(error)
        return
    agree(function, [x, b], 1e-5)
    with torch.no_grad():
        close(function(x.float(), b.float(), "cpu"), function(x.float(), b.float(), "ref"), 1e-5)


@QUICK
@given(
    size=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    axis=st.integers(0, 4),
    act=st.sampled_from(sorted(ACTIVATIONS)),
    clamp=st.sampled_from([None, 0.0, 0.7]),
    gain=st.sampled_from([None, 0.5]),
    biased=st.booleans(),
    double=st.booleans(),
)
def test_bias_act_any_shape(
    size: Any, axis: int, act: str, clamp: Any, gain: Any, biased: bool, double: bool
) -> None:
    dim = axis % len(size)
    dtype = torch.float64 if double else torch.float32
    inputs = [noise(*size, dtype=dtype), noise(size[dim], seed=2, dtype=dtype)][: 1 + biased]

    def function(x: Tensor, b: Tensor | None = None, *, impl: str) -> Tensor:
        return ops.bias_act(x, b, dim, act, 0.3, gain, clamp, impl=impl) * x.cos()

    agree(function, inputs, 1e-12 if double else 5e-6)


def test_bias_act_on_long_rows() -> None:
    for act in ACTIVATIONS:
        inputs = [noise(2, 3, 37, 41, dtype=torch.float32), noise(3, seed=1, dtype=torch.float32)]
        agree(lambda x, b, impl, act=act: ops.bias_act(x, b, act=act, impl=impl) * x, inputs, 5e-6)


@pytest.mark.parametrize("kind", FILTERS)
def test_first_and_second_derivatives_are_derivatives(kind: str) -> None:
    f, x, b = taps(kind, 4), noise(1, 2, 5, 6).requires_grad_(), noise(2, seed=3).requires_grad_()
    resample = lambda x: ops.upfirdn2d(x, f, (2, 1), (1, 2), (3, 2, 4, 1), gain=2, impl="cpu")  # noqa: E731
    assert torch.autograd.gradcheck(resample, x)
    assert torch.autograd.gradgradcheck(resample, x)
    bend = lambda x, b: ops.filtered_lrelu(  # noqa: E731
        x, f, f, b, 2, 2, (5, 4, 3, 6), clamp=0.8, impl="cpu"
    )
    assert torch.autograd.gradcheck(bend, (x, b), eps=1e-7, atol=1e-4)
    assert torch.autograd.gradgradcheck(bend, (x, b), eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_derivatives_of_activations(act: str) -> None:
    x, b = noise(2, 3, 4).requires_grad_(), noise(3, seed=3).requires_grad_()
    function = lambda x, b: ops.bias_act(x, b, act=act, clamp=1.5, impl="cpu")  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, b), eps=1e-7, atol=1e-4)
    assert torch.autograd.gradgradcheck(function, (x, b), eps=1e-7, atol=1e-4)


OUTER, LINE = noise(4).float().outer(noise(4, seed=1).float()), noise(6).float()


def calls(
    x: Tensor, b: Tensor, impl: str = "cpu", filters: tuple[Tensor, Tensor] = (OUTER, LINE)
) -> list[Tensor]:
    """Every operation once, with its usual options."""
    f, line = (each.to(x.device) for each in filters)
    return [
        ops.bias_act(x, b, act="lrelu", clamp=2, impl=impl),
        ops.bias_act(x, b, act="swish", impl=impl),
        ops.upsample2d(x, f, impl=impl),
        ops.downsample2d(x, line, padding=1, impl=impl),
        ops.filtered_lrelu(x, line, f, b, 2, 2, 4, clamp=2, impl=impl),
    ]


def layouts(x: Tensor) -> Iterator[Tensor]:
    yield x.to(memory_format=torch.channels_last)
    yield x.transpose(2, 3)
    yield x[:, :, ::2, 1:-1]
    yield x[:0]
    yield x[:1].expand(3, -1, -1, -1)


@pytest.mark.parametrize("device", DEVICES)
def test_layouts(device: str) -> None:
    b = noise(4, seed=2, dtype=torch.float32).to(device)[::2]
    for x in layouts(noise(2, 2, 10, 13, dtype=torch.float32).to(device)):
        for found, expected in zip(calls(x, b, device), calls(x.cpu(), b.cpu(), "ref"), strict=True):
            close(found.cpu(), expected, 2e-6 if device == "cpu" else 2e-5)
            assert found.is_contiguous() or not found.numel()


def test_memory_is_used_again_but_never_shared() -> None:
    x = noise(1, 4, 300, 300, dtype=torch.float32)  # its outputs are large enough to be kept
    first, second = (ops.bias_act(sign * x, act="relu", impl="cpu") for sign in (1, -1))
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    kept, place = first.clone(), second.data_ptr()
    del second
    third = ops.bias_act(2 * x, act="relu", impl="cpu")
    assert third.data_ptr() == place
    assert torch.equal(first, kept)
    assert torch.equal(third, 2 * kept)


def test_two_threads_find_the_same() -> None:
    x, b = noise(2, 8, 40, 50, dtype=torch.float32), noise(8, dtype=torch.float32)
    alone, before = calls(x, b), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for found, expected in zip(calls(x, b), alone, strict=True):
            assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_round_once(dtype: torch.dtype) -> None:
    x, b = noise(2, 3, 9, 11).to(dtype), noise(3, seed=2).to(dtype)
    for found, expected in zip(calls(x, b), calls(x.double(), b.double(), "ref"), strict=True):
        close(found, expected.to(dtype), torch.finfo(dtype).eps)
    x.requires_grad_()
    for y in calls(x, b):
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


def test_nan_stays_where_it_is_and_is_not_lost() -> None:
    x, b = noise(1, 2, 9, 11, dtype=torch.float32), torch.zeros(2)
    x[0, 0, 4, 5] = float("nan")
    for found, expected in zip(calls(x, b), calls(x, b, "ref"), strict=True):
        assert found[0, 0].isnan().any()
        assert not found[0, 1].isnan().any()
        assert torch.equal(found.isnan(), expected.isnan())
    infinite = ops.bias_act(torch.tensor([float("inf"), -float("inf")]), clamp=3.0, impl="cpu")
    assert infinite.tolist() == [3.0, -3.0]


def test_meta_tensors_have_the_shapes_of_real_ones() -> None:
    x, b = noise(2, 3, 9, 11, dtype=torch.float32), noise(3, dtype=torch.float32)
    f = torch.empty(4, 4, device="meta")
    meta = ops.upfirdn2d(x.to("meta"), f, 2, 3, 4)
    assert meta.shape == ops.upfirdn2d(x, taps("outer", 4), 2, 3, 4).shape
    bent = ops.filtered_lrelu(x.to("meta"), f, f, b.to("meta"), 4, 2, 3)
    assert bent.shape == ops.filtered_lrelu(x, taps("outer", 4), taps("outer", 4), b, 4, 2, 3).shape
    assert ops.bias_act(x.to("meta"), b.to("meta")).shape == x.shape


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("device", DEVICES)
def test_compile_without_a_break(device: str) -> None:
    def loss(x: Tensor, b: Tensor) -> Tensor:
        return torch.stack([y.square().mean() for y in calls(x, b, "auto")]).sum()

    x, b = noise(1, 2, 9, 11, dtype=torch.float32).to(device), noise(2, dtype=torch.float32).to(device)
    plain, compiled = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = loss(plain, b)
    found = torch.compile(loss, fullgraph=True, backend="aot_eager")(compiled, b)
    expected.backward()
    found.backward()
    assert plain.grad is not None and compiled.grad is not None
    close(found, expected)
    close(compiled.grad, plain.grad)


@pytest.mark.parametrize("device", DEVICES)
def test_registration(device: str) -> None:
    """torch's own check of schema, shapes, autograd and tracing."""
    library, f = primitives.OPS, noise(4, 3).float().to(device)
    given = noise(1, 2, 6, 7), noise(2), noise(1, 2, 6, 7, seed=4)
    x, b, y = (tensor.to(device).requires_grad_() for tensor in given)
    rest = (1, 8, 0.0, 1.4, 1.0)
    bent = (x, f, f, b, 2, 2, [3, 3, 3, 3], 1.4, 0.2, -1.0, False, True)
    out, mask = library.filtered_lrelu(*bent)
    checks: list[tuple[Any, tuple[Any, ...]]] = [
        (library.upfirdn2d, (x, f, [2, 1], [1, 2], [1, 2, 3, 4], False, 2.0)),
        (library.bias_act, (x, b, *rest)),
        (library.bias_act_grad, (y, x, b, *rest)),
        (library.bias_act_grad2, (y.detach(), y.detach(), x.detach(), b.detach(), *rest)),
        (library.filtered_lrelu, bent),
        (library.filtered_mask, (out.detach(), mask, f, f, 2, 2, [3] * 4, [0] * 4, 1.0, 4.0, True, 1.4, 0.2)),
    ]
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for operator, arguments in checks:
        result = torch.library.opcheck(operator.default, arguments, test_utils=tests)
        assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: ops.bias_act(x, act="lrulu"), "did you mean 'lrelu'"),
        (lambda x: ops.bias_act(x, impl="gpu"), "no implementation of this name"),
        (lambda x: ops.bias_act(x, torch.zeros(5)), "a bias has one axis"),
        (lambda x: ops.bias_act(x, torch.zeros(3), dim=4), "a bias has one axis"),
        (lambda x: ops.bias_act(x, clamp=-1.0), "a limit is not negative"),
        (lambda x: ops.upfirdn2d(x, torch.zeros(4).double()), "a filter is float32"),
        (lambda x: ops.upfirdn2d(x, torch.zeros(4, 1, 1)), "a filter is float32"),
        (lambda x: ops.upfirdn2d(x, torch.zeros(4, requires_grad=True)), "have no gradient"),
        (lambda x: ops.upfirdn2d(x[0], None), "takes pictures"),
        (lambda x: ops.upfirdn2d(x, torch.zeros(40)), "is smaller"),
        (lambda x: ops.upfirdn2d(x, None, up=0), "from 1 on"),
        (lambda x: ops.upfirdn2d(x.int(), None), "takes pictures"),
        (lambda x: ops.filtered_lrelu(x, gain=0), "above zero"),
        (lambda x: ops.filtered_lrelu(x, None, torch.zeros(20)), "is smaller"),
        (lambda x: ops.filtered_lrelu(x, up=(2, 1)), "one factor for both axes"),
        (lambda x: ops.conv2d_resample(x, torch.zeros(4, 2, 3, 3)), "weights"),
        (lambda x: ops.bias_act(x, act="relu", impl="cuda"), "impl='cuda'"),
    ],
)
def test_errors_say_what_is_wrong(call: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        call(noise(2, 3, 8, 9, dtype=torch.float32))


def test_third_derivatives_are_refused() -> None:
    x = noise(5).requires_grad_()
    g = ops.bias_act(x, dim=0, act="swish", impl="cpu").sum()
    for _ in range(2):
        (g,) = torch.autograd.grad(g.sum(), x, create_graph=True)
    with pytest.raises(UserError, match="third derivative"):
        torch.autograd.grad(g.sum(), x)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing can be built."""

    def fail() -> None:
        raise build.BuildError("compiled cpu", "there is no compiler")

    monkeypatch.setattr(build, "load_cpu", fail)
    monkeypatch.setattr(dispatch, "_broken", {})
    monkeypatch.setattr(dispatch, "_ran", set())


@pytest.mark.usefixtures("broken")
def test_auto_falls_back_once_and_says_so() -> None:
    x = noise(1, 2, 8, 8, dtype=torch.float32)
    with pytest.warns(RuntimeWarning, match="slow reference.*\n*.*\n*.*no compiler") as said:
        y = ops.bias_act(x, act="relu")
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(y, ops.bias_act(x, act="relu", impl="ref"))
        ops.upfirdn2d(x, taps("outer", 4), 2, padding=3)
    assert ops.implementation() == "ref"


@pytest.mark.usefixtures("broken")
def test_an_explicit_implementation_does_not_fall_back() -> None:
    with pytest.raises(build.BuildError, match="no compiler"):
        ops.bias_act(noise(3), dim=0, act="relu", impl="cpu")
    assert ops.implementation() == "none"


def test_the_default_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_ran", set())
    x = noise(2, 3)
    with ops.set_default("ref"):
        ops.bias_act(x, act="relu")
    assert ops.implementation() == "ref"
    ops.bias_act(x, act="relu")
    assert ops.implementation() == "cpu+ref"
    with pytest.raises(UserError, match="implementation"), ops.set_default("fast"):
        pytest.fail("an unknown implementation was taken")


def test_importing_builds_nothing() -> None:
    heavy = "{'generators.ops.build', 'torch._dynamo'}"
    code = f"import sys, generators.ops; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]", run.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_cuda_activations(act: str) -> None:
    inputs = [noise(2, 3, 37, 41, dtype=torch.float32).cuda(), noise(3, dtype=torch.float32).cuda()]
    function = lambda x, b, impl: ops.bias_act(x, b, act=act, clamp=1.5, impl=impl) * x  # noqa: E731
    agree(function, inputs, 2e-5, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cuda_half_types(dtype: torch.dtype) -> None:
    x, b = noise(2, 3, 19, 21).to(dtype).cuda(), noise(3, seed=2).to(dtype).cuda()
    expected = calls(x.double().cpu(), b.double().cpu(), "ref")
    for found, exact in zip(calls(x, b, "cuda"), expected, strict=True):
        close(found.cpu(), exact.to(dtype), 2 * torch.finfo(dtype).eps)
    x.requires_grad_()
    for y in calls(x, b, "cuda"):
        assert torch.autograd.grad(y.float().square().sum(), x)[0].isfinite().all()


@pytest.mark.gpu
@pytest.mark.usefixtures("ieee")
@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2), (2, 4), (3, 2)])
def test_cuda_filters(kind: str, up: int, down: int) -> None:
    f = taps(kind, 6)
    f = None if f is None else f.cuda()
    x, b = noise(2, 3, 23, 29, dtype=torch.float32).cuda(), noise(3, seed=2, dtype=torch.float32).cuda()
    resample = lambda x, impl: ops.upfirdn2d(x, f, up, down, (5, 4, -1, 7), impl=impl)  # noqa: E731
    agree(resample, [x], 2e-5, "cuda")
    bend = lambda x, b, impl: ops.filtered_lrelu(x, f, f, b, up, down, 6, clamp=1, impl=impl)  # noqa: E731
    # A sample within rounding of a kink may fall on its other side: the derivatives are compared in double.
    agree(bend, [x.double(), b.double()], 1e-6, "cuda")
    with torch.no_grad():
        close(bend(x, b, "cuda"), bend(x, b, "ref"), 2e-5)


@pytest.mark.gpu
@pytest.mark.usefixtures("ieee")
@pytest.mark.parametrize("kind", ["line", "plane"])
def test_cuda_filters_too_large_for_a_tile(kind: str) -> None:
    """200 x 200 taps and what they meet are more than shared memory holds: other kernels run."""
    short, long = (f.cuda() for f in (taps("line", 6), taps(kind, 200)) if f is not None)
    x, b = noise(1, 2, 20, 25).cuda(), noise(2, seed=2).cuda()
    resample = lambda x, impl: ops.upfirdn2d(x, long, padding=(91, 91, 93, 93), impl=impl)  # noqa: E731
    agree(resample, [x], impl="cuda")
    bend = lambda x, b, impl: ops.filtered_lrelu(  # noqa: E731
        x, short, long, b, 2, 2, (84, 84, 89, 89), clamp=9, impl=impl
    )
    agree(bend, [x, b], impl="cuda")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        low, tolerance = x.to(dtype), max(2e-5, 2 * torch.finfo(dtype).eps)
        close(resample(low, "cuda"), resample(low.double(), "ref").to(dtype), tolerance)


@pytest.mark.gpu
def test_cuda_kernels_run_in_the_current_stream() -> None:
    x, b = noise(2, 2, 9, 11, dtype=torch.float32).cuda(), noise(2, dtype=torch.float32).cuda()
    filters = OUTER.cuda(), LINE.cuda()  # a copy from the CPU amid the calls would wait for the stream

    def results(x: Tensor) -> list[Tensor]:
        found = calls(x.requires_grad_(), b, "cuda", filters)
        return found + [torch.autograd.grad(y.square().sum(), x)[0] for y in found]

    expected, late, stream = results(x.clone()), torch.zeros_like(x), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**9)  # half a second, in which the default stream would find zeros
        late.copy_(x)
        found = results(late)
    assert not stream.query(), "a call waited for the stream: what follows would show nothing"
    stream.synchronize()
    for each, other in zip(found, expected, strict=True):
        close(each, other)
