"""The compiled primitives behind the three operations, as `torch.library` operators with derivatives.

Both extension modules (`build.load_cpu()`, `build.load_cuda()`) export the six raw functions below, without
autograd. The CUDA ones take one more integer at the end, `stream`
(`torch.cuda.current_stream(x.device).cuda_stream`). Tensors are contiguous and on one device, filters
float32, padding may be negative (crops), outputs are new and contiguous with the type of the first argument.
`taps` below is the size of a filter along the axis at hand; a 1-D filter serves both axes.

    upfirdn2d(x, f, upx, upy, downx, downy, padx0, padx1, pady0, pady1, flip, gain) -> y
        x (b c h w); f (n), separable, or (fh fw); flip False is convolution, True correlation.
        The filter is f * gain^(f.ndim / 2), rounded to float32.
        Per axis: out = ceil((n * up + p0 + p1 - taps + 1) / down).
        Correlation form, per axis: y[o] = sum_k w[k] * xup[o * down + k - p0], w = f if flip else reversed f,
        xup[i * up] = x[i] and zero elsewhere.

    bias_act(x, b, dim, act, alpha, gain, clamp) -> y
        Any rank, b of x.shape[dim] or None; act is the index in ACTIVATION_NAMES (0 linear, 1 relu, 2 lrelu,
        3 tanh, 4 sigmoid, 5 elu, 6 selu, 7 softplus, 8 swish); clamp < 0 is off.
        u = x + b; v = gain * act(u); y = min(max(v, -clamp), clamp), NaN passes through.
    bias_act_grad(dy, x, b, dim, act, alpha, gain, clamp) -> dx
        dy * gain * act'(u) * [-clamp <= v <= clamp]; relu'(0) = 0, lrelu'(0) = alpha, elu'(0), selu'(0) from
        the negative branch.
    bias_act_grad2(dz, dy, x, b, dim, act, alpha, gain, clamp) -> dx2
        dz * dy * gain * act''(u) * [-clamp <= v <= clamp], only asked for act >= 3;
        elu''(0) = selu''(0) = 0.

    filtered_lrelu(x, fu, fd, b, up, down, padx0, padx1, pady0, pady1, gain, slope, clamp, flip, write_mask)
            -> (y, mask)
        m = upfirdn2d(x + b, fu, up, padding, gain=up^2) (mid_h mid_w), v = gain * lrelu(m, slope), clamped,
        y = upfirdn2d(v, fd, down, padding 0). up and down are one integer each, b (c) or None.
        mask: uint8 (b c mid_h 2 mask_bytes(mid_w, up, down)), or (b c 0 2 ...) without write_mask. Opaque,
        only the same module reads it: plane 0 holds a bit per sample "not m > 0", plane 1 a bit "v outside
        +-clamp". A kernel may arrange the bits of a row as it likes; ceil(mid_w / 8) bytes always fit.
    filtered_mask(z, mask, fa, fb, up, down, pa_x0, pa_x1, pa_y0, pa_y1, pb_x0, pb_x1, pb_y0, pb_y1,
                  gain_a, gain_b, flip, gain, slope) -> out
        m = upfirdn2d(z, fa, up, padding pa, gain=gain_a) has the size (mid_h mid_w) of the mask;
        v = m * gain * (slope where bit 0) * (0 where bit 1);
        out = upfirdn2d(v, fb, down, padding pb, gain=gain_b).
        It is the derivative of filtered_lrelu, and its own transpose with other arguments.

The CPU module takes float32 and float64; float16 and bfloat16 are computed in float32 and rounded once at the
end. Its sources are written for -O3 -march=native (without -ffast-math): a build cache must be keyed by the
flags and the processor.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "intrinsic_bench"
ACTIVATION_NAMES = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
CURVED = 3  # activations from this index on have a second derivative

SCHEMAS = {
    "upfirdn2d": "(Tensor x, Tensor f, int[] up, int[] down, int[] padding, bool flip, float gain) -> Tensor",
    "bias_act": "(Tensor x, Tensor? b, int dim, int act, float alpha, float gain, float clamp) -> Tensor",
    "bias_act_grad": "(Tensor dy, Tensor x, Tensor? b, int dim, int act, float alpha, float gain,"
    " float clamp) -> Tensor",
    "bias_act_grad2": "(Tensor dz, Tensor dy, Tensor x, Tensor? b, int dim, int act, float alpha, float gain,"
    " float clamp) -> Tensor",
    "filtered_lrelu": "(Tensor x, Tensor fu, Tensor fd, Tensor? b, int up, int down, int[] padding,"
    " float gain, float slope, float clamp, bool flip, bool write_mask) -> (Tensor, Tensor)",
    "filtered_mask": "(Tensor z, Tensor mask, Tensor fa, Tensor fb, int up, int down, int[] pa, int[] pb,"
    " float gain_a, float gain_b, bool flip, float gain, float slope) -> Tensor",
}

Output = tuple[int, int]


def taps(f: Tensor) -> tuple[int, int]:
    """Taps along y and x; a 1-D filter serves both axes."""
    return int(f.shape[0]), int(f.shape[-1])


def resampled(size: int, up: int, down: int, p0: int, p1: int, taps: int) -> int:
    """Samples along one axis after `upfirdn2d`."""
    return (size * up + p0 + p1 - taps + down) // down


def transposed(size: int, out: int, up: int, down: int, p0: int, p1: int, taps: int) -> Output:
    """Padding of the transposed operation (up and down change places), from `out` samples back to `size`."""
    return taps - p0 - 1, size * up - out * down + p0 - up + 1


def mask_bytes(mid_w: int, up: int, down: int) -> int:
    """Bytes of one row of one plane of the mask of `filtered_lrelu`."""
    phases = math.lcm(up, down)
    per_phase = (mid_w + phases - 1) // phases
    return phases * 2 * ((per_phase + 15) // 16)


def raw(device: str) -> ModuleType:
    from generators.ops import build

    return build.load_cuda() if device == "cuda" else build.load_cpu()


def _call(name: str, x: Tensor, *arguments: Any) -> Any:
    """The raw function of the extension for the device of `x`."""
    flat: list[Any] = [x.contiguous()]
    for argument in arguments:
        if isinstance(argument, Tensor):
            flat.append(argument.contiguous())
        elif isinstance(argument, list | tuple):
            flat.extend(argument)
        else:
            flat.append(argument)
    if x.device.type != "cuda":
        return getattr(raw("cpu"), name)(*flat)
    with torch.cuda.device(x.device):
        return getattr(raw("cuda"), name)(*flat, torch.cuda.current_stream(x.device).cuda_stream)


def _upfirdn2d(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], *rest: Any
) -> Tensor:
    return _call("upfirdn2d", x, f, up, down, padding, *rest)


def _upfirdn2d_fake(
    x: Tensor, f: Tensor, up: list[int], down: list[int], padding: list[int], flip: bool, gain: float
) -> Tensor:
    fh, fw = taps(f)
    h = resampled(x.shape[2], up[1], down[1], padding[2], padding[3], fh)
    w = resampled(x.shape[3], up[0], down[0], padding[0], padding[1], fw)
    return x.new_empty((x.shape[0], x.shape[1], h, w))


def _upfirdn2d_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, ctx.up, ctx.down, ctx.padding, ctx.flip, ctx.gain = inputs
    ctx.size, ctx.out = x.shape, output.shape
    ctx.save_for_backward(f)


def _upfirdn2d_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (f,) = ctx.saved_tensors
    fh, fw = taps(f)
    (upx, upy), (downx, downy), (x0, _, y0, _) = ctx.up, ctx.down, ctx.padding
    px = transposed(ctx.size[3], ctx.out[3], upx, downx, x0, 0, fw)
    py = transposed(ctx.size[2], ctx.out[2], upy, downy, y0, 0, fh)
    dx = OPS.upfirdn2d(dy, f, ctx.down, ctx.up, [*px, *py], not ctx.flip, ctx.gain)
    return dx, None, None, None, None, None, None


def _bias_act(*arguments: Any) -> Tensor:
    return _call("bias_act", *arguments)


def _like_first(first: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(first, memory_format=torch.contiguous_format)


def _bias_gradient(b: Tensor | None, dx: Tensor | None, dim: int) -> Tensor | None:
    if b is None or dx is None:
        return None
    others = [i for i in range(dx.ndim) if i != dim % dx.ndim]
    return (dx.sum(others) if others else dx).to(b.dtype)  # a sum over no axes is a sum over all


def _bias_act_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, b, *ctx.rest = inputs
    ctx.save_for_backward(x, b)


def _bias_act_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, b = ctx.saved_tensors
    dx = OPS.bias_act_grad(dy, x, b, *ctx.rest) if any(ctx.needs_input_grad[:2]) else None
    db = _bias_gradient(b, dx, ctx.rest[0]) if ctx.needs_input_grad[1] else None
    return dx, db, None, None, None, None, None


def _bias_act_grad(*arguments: Any) -> Tensor:
    return _call("bias_act_grad", *arguments)


def _bias_act_grad_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, x, b, *ctx.rest = inputs
    ctx.save_for_backward(dy, x, b)


def _bias_act_grad_backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    dy, x, b = ctx.saved_tensors
    ddy = OPS.bias_act_grad(dz, x, b, *ctx.rest) if ctx.needs_input_grad[0] else None
    curved = ctx.rest[1] >= CURVED and any(ctx.needs_input_grad[1:3])
    dx = OPS.bias_act_grad2(dz, dy, x, b, *ctx.rest) if curved else None
    db = _bias_gradient(b, dx, ctx.rest[0]) if ctx.needs_input_grad[2] else None
    return ddy, dx, db, None, None, None, None, None


def _bias_act_grad2(*arguments: Any) -> Tensor:
    return _call("bias_act_grad2", *arguments)


def _no_third(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
    from generators.errors import UserError

    raise UserError(
        "a third derivative of bias_act", "the kernels know two", "", "call bias_act with impl='ref' for more"
    )


def _nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Nothing to keep: the backward raises."""
    ctx.rest = ()


def _filtered_lrelu(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    y, mask = _call("filtered_lrelu", x, *arguments)
    return y, mask


def _filtered_lrelu_fake(
    x: Tensor,
    fu: Tensor,
    fd: Tensor,
    b: Tensor | None,
    up: int,
    down: int,
    padding: list[int],
    gain: float,
    slope: float,
    clamp: float,
    flip: bool,
    write_mask: bool,
) -> tuple[Tensor, Tensor]:
    x0, x1, y0, y1 = padding
    mid_h = resampled(x.shape[2], up, 1, y0, y1, taps(fu)[0])
    mid_w = resampled(x.shape[3], up, 1, x0, x1, taps(fu)[1])
    h, w = (resampled(n, 1, down, 0, 0, t) for n, t in zip((mid_h, mid_w), taps(fd), strict=True))
    n, c = x.shape[:2]
    mask = x.new_empty((n, c, mid_h if write_mask else 0, 2, mask_bytes(mid_w, up, down)), dtype=torch.uint8)
    return x.new_empty((n, c, h, w)), mask


def _filtered_lrelu_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, fu, fd, b, ctx.up, ctx.down, padding, ctx.gain, ctx.slope, _, ctx.flip, ctx.wrote = inputs
    y, mask = output
    ctx.mark_non_differentiable(mask)
    ctx.save_for_backward(mask, fu, fd)
    (fuh, fuw), (fdh, fdw), (x0, x1, y0, y1) = taps(fu), taps(fd), padding
    mid_h = resampled(x.shape[2], ctx.up, 1, y0, y1, fuh)
    mid_w = resampled(x.shape[3], ctx.up, 1, x0, x1, fuw)
    ctx.pa = [
        *transposed(mid_w, y.shape[3], 1, ctx.down, 0, 0, fdw),
        *transposed(mid_h, y.shape[2], 1, ctx.down, 0, 0, fdh),
    ]
    ctx.pb = [
        *transposed(x.shape[3], mid_w, ctx.up, 1, x0, x1, fuw),
        *transposed(x.shape[2], mid_h, ctx.up, 1, y0, y1, fuh),
    ]
    ctx.bias_type = None if b is None else b.dtype


def _filtered_lrelu_backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Any, ...]:
    mask, fu, fd = ctx.saved_tensors
    if not ctx.wrote:
        raise RuntimeError("filtered_lrelu ran without write_mask and cannot be differentiated")
    dx = OPS.filtered_mask(
        dy,
        mask,
        fd,
        fu,
        ctx.down,
        ctx.up,
        ctx.pa,
        ctx.pb,
        1.0,
        float(ctx.up**2),
        not ctx.flip,
        ctx.gain,
        ctx.slope,
    )
    db = dx.sum((0, 2, 3)).to(ctx.bias_type) if ctx.needs_input_grad[3] else None
    return dx, None, None, db, *[None] * 8


def _filtered_mask(z: Tensor, *arguments: Any) -> Tensor:
    return _call("filtered_mask", z, *arguments)


def _filtered_mask_fake(
    z: Tensor,
    mask: Tensor,
    fa: Tensor,
    fb: Tensor,
    up: int,
    down: int,
    pa: list[int],
    pb: list[int],
    *rest: Any,
) -> Tensor:
    sizes = []
    for axis, side in ((0, 2), (1, 0)):
        mid = resampled(z.shape[2 + axis], up, 1, pa[side], pa[side + 1], taps(fa)[axis])
        sizes.append(resampled(mid, 1, down, pb[side], pb[side + 1], taps(fb)[axis]))
    return z.new_empty((z.shape[0], z.shape[1], *sizes))


def _filtered_mask_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    z, mask, fa, fb, ctx.up, ctx.down, ctx.pa, ctx.pb, *ctx.rest = inputs
    ctx.size, ctx.out = z.shape, output.shape
    ctx.save_for_backward(mask, fa, fb)


def _filtered_mask_backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    """The transpose: filters, factors and gains change places, the mask stays."""
    mask, fa, fb = ctx.saved_tensors
    gain_a, gain_b, flip, gain, slope = ctx.rest
    pa: list[int] = []
    pb: list[int] = []
    for axis, side in ((1, 0), (0, 2)):
        ta, tb, (a0, a1), b0 = taps(fa)[axis], taps(fb)[axis], ctx.pa[side : side + 2], ctx.pb[side]
        mid = resampled(ctx.size[2 + axis], ctx.up, 1, a0, a1, ta)
        pa += transposed(mid, ctx.out[2 + axis], 1, ctx.down, b0, 0, tb)
        pb += transposed(ctx.size[2 + axis], mid, ctx.up, 1, a0, a1, ta)
    dz = OPS.filtered_mask(
        dout, mask, fb, fa, ctx.down, ctx.up, pa, pb, gain_b, gain_a, not flip, gain, slope
    )
    return dz, *[None] * 12


_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
OPS = getattr(torch.ops, NAMESPACE)
_RULES: dict[str, tuple[Any, ...]] = {  # kernel, fake, what to keep, derivative
    "upfirdn2d": (_upfirdn2d, _upfirdn2d_fake, _upfirdn2d_setup, _upfirdn2d_backward),
    "bias_act": (_bias_act, _like_first, _bias_act_setup, _bias_act_backward),
    "bias_act_grad": (_bias_act_grad, _like_first, _bias_act_grad_setup, _bias_act_grad_backward),
    "bias_act_grad2": (_bias_act_grad2, _like_first, _nothing, _no_third),
    "filtered_lrelu": (
        _filtered_lrelu,
        _filtered_lrelu_fake,
        _filtered_lrelu_setup,
        _filtered_lrelu_backward,
    ),
    "filtered_mask": (_filtered_mask, _filtered_mask_fake, _filtered_mask_setup, _filtered_mask_backward),
}


def _register() -> None:
    """Define every primitive with its kernel for both devices, its shape rule and its derivative."""
    for name, (kernel, fake, setup, backward) in _RULES.items():
        _LIBRARY.define(name + SCHEMAS[name], tags=(torch.Tag.pt2_compliant_tag,))
        for device in ("CPU", "CUDA"):
            _LIBRARY.impl(name, kernel, device)
        qualified = f"{NAMESPACE}::{name}"
        torch.library.register_fake(qualified, fake, lib=_LIBRARY)
        torch.library.register_autograd(qualified, backward, setup_context=setup, lib=_LIBRARY)


_register()
