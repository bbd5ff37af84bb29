"""`bias_act`, `upfirdn2d` and `filtered_lrelu`: check the arguments, choose the implementation, run it.

`impl="auto"` takes the compiled kernel of the tensor's device, and says so once where it has to take the
reference instead; "ref", "cpu" and "cuda" take just that one or raise. Meta tensors and `torch.compile` work.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from generators.errors import UserError, unknown
from generators.ops import primitives, reference
from generators.ops.primitives import OPS
from generators.ops.reference import ACTIVATIONS, four, pair

IMPLEMENTATIONS = ("auto", "ref", "cpu", "cuda")
_default = ["auto"]  # the implementation that "auto" stands for, innermost last
_broken: dict[str, str] = {}  # device -> why its kernels cannot be had; warned of once
_ran: set[str] = set()


def implementation() -> str:
    """What ran in this process: "cpu", "cuda", "ref", several joined by "+", or "none"."""
    return "+".join(sorted(_ran)) or "none"


@contextmanager
def set_default(impl: str) -> Iterator[None]:
    """What `impl="auto"` means inside the block."""
    if impl not in IMPLEMENTATIONS:
        raise unknown("implementation", impl, IMPLEMENTATIONS)
    _default.append(impl)
    try:
        yield
    finally:
        _default.pop()


def choose(impl: str, device: str) -> str:
    """The implementation for a tensor on `device`: "ref" or "kernel".

    Raises:
        UserError: if there is none of this name, it is of another device, or an explicit one cannot be built.
    """
    impl = _default[-1] if impl == "auto" else impl
    if impl not in IMPLEMENTATIONS:
        raise unknown("implementation", impl, IMPLEMENTATIONS)
    if device == "meta" and impl != "ref":
        return "kernel"  # shapes only: nothing is built
    if impl in ("cpu", "cuda"):
        if device != impl:
            todo = "move the tensor, or call with impl='auto'"
            raise UserError(
                f"impl={impl!r}", f"the tensor is on {device!r}", "impl is the tensor's device", todo
            )
        primitives.raw(impl)
    if impl == "ref" or (impl == "auto" and not _available(device)):
        _ran.add("ref")
        return "ref"
    _ran.add(device)
    return "kernel"


# torch.compile calls it while it traces and keeps the answer; torch.compiler.assume_constant_result does just
# this, but importing it takes a second.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _available(device: str) -> bool:
    if device not in ("cpu", "cuda") or device in _broken:
        return False
    try:
        primitives.raw(device)
    except UserError as error:
        _broken[device] = str(error)
        text = f"the slow reference runs instead of the compiled {device} operations:\n{error}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
        return False
    return True


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Add a bias along `dim`, activate, multiply by `gain`, clamp to [-clamp, clamp]; in this order.

    Args:
        x: any shape, floating point.
        b: bias (x.shape[dim]); None for none.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: slope of lrelu below zero, 0.2 if None; the others have none.
        gain: None is sqrt(2) for relu, lrelu and swish, else 1.
        clamp: at least 0; None is off. At exactly +-clamp the gradient passes.
        impl: "auto", "ref", "cpu" or "cuda".

    Raises:
        UserError: for arguments that do not fit, or an implementation that cannot be had.
    """
    if act not in ACTIVATIONS:
        raise unknown("activation", act, ACTIVATIONS)
    _check_clamp("bias_act", clamp)
    b = _bias("bias_act", x, b, dim)
    if choose(impl, x.device.type) == "ref":
        return reference.bias_act(x, b, dim, act, alpha, gain, clamp)
    defaults = ACTIVATIONS[act]
    alpha = defaults.alpha if alpha is None else float(alpha)
    gain = defaults.gain if gain is None else float(gain)
    if act == "linear" and b is None and gain == 1 and clamp is None:
        return x
    number = primitives.ACTIVATION_NAMES.index(act)
    return OPS.bias_act(x, b, dim, number, alpha, gain, -1.0 if clamp is None else float(clamp))


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str = "auto",
) -> Tensor:
    """Insert up - 1 zeros after every sample of x (b c h w), pad, filter, keep every down-th sample.

    Args:
        f: float32 filter (fh fw), or (n) for both axes; None for the 1x1 filter of one.
        up, down: factors, one or (x, y), at least 1.
        padding: of the upsampled picture; one, (x, y) or (x0, x1, y0, y1); negative crops.
        flip_filter: False for convolution, True for correlation.
        gain: factor of the result.
        impl: "auto", "ref", "cpu" or "cuda".

    Raises:
        UserError: for arguments that do not fit (the padded picture must be at least as large as the filter),
            or an implementation that cannot be had.
    """
    up2, down2, pad4 = (
        _factors("upfirdn2d", "up", up),
        _factors("upfirdn2d", "down", down),
        list(four(padding)),
    )
    _check_picture("upfirdn2d", x)
    _check_filter("upfirdn2d", "f", x, f)
    _check_size("upfirdn2d", (x.shape[2], x.shape[3]), up2, pad4, f)
    if choose(impl, x.device.type) == "ref":
        return reference.upfirdn2d(x, f, up, down, padding, flip_filter, gain)
    if f is None and up2 == down2 == [1, 1] and pad4 == [0, 0, 0, 0] and gain == 1:
        return x
    return OPS.upfirdn2d(x, _some(f, x), up2, down2, pad4, flip_filter, float(gain))


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "auto",
) -> Tensor:
    """Add a bias, upsample, leaky ReLU, clamp, downsample (Karras et al. 2021, section 3.2).

    Args:
        x: (b c h w).
        fu, fd: float32 filters of the upsampling and the downsampling, (fh fw) or (n); None for 1x1.
        b: bias (c); None for none.
        up, down: factors, at least 1.
        padding: of the upsampled picture; one, (x, y) or (x0, x1, y0, y1); negative crops.
        gain: above 0, of the leaky ReLU.
        slope: of the leaky ReLU below zero.
        clamp: of what the leaky ReLU gives, at least 0; None is off.
        flip_filter: of both filters; False for convolution, True for correlation.
        impl: "auto", "ref", "cpu" or "cuda".

    Raises:
        UserError: for arguments that do not fit, or an implementation that cannot be had.
    """
    name = "filtered_lrelu"
    (up_x, up_y), down2, pad4 = _factors(name, "up", up), _factors(name, "down", down), list(four(padding))
    _check_lrelu(x, fu, fd, [up_x, up_y], down2, pad4, gain, clamp)
    b = _bias(name, x, b, 1)
    if choose(impl, x.device.type) == "ref":
        return reference.filtered_lrelu(x, fu, fd, b, up_x, down2[0], pad4, gain, slope, clamp, flip_filter)
    limit = -1.0 if clamp is None else float(clamp)
    if fu is None and fd is None and up_x == down2[0] == 1 and pad4 == [0, 0, 0, 0]:
        lrelu = primitives.ACTIVATION_NAMES.index("lrelu")
        return OPS.bias_act(x, b, 1, lrelu, float(slope), float(gain), limit)
    keep = torch.is_grad_enabled() and (x.requires_grad or (b is not None and b.requires_grad))
    settings = (float(gain), float(slope), limit, flip_filter, keep)
    return OPS.filtered_lrelu(x, _some(fu, x), _some(fd, x), b, up_x, down2[0], pad4, *settings)[0]


def _some(f: Tensor | None, x: Tensor) -> Tensor:
    return torch.ones(1, 1, device=x.device) if f is None else f


def _factors(name: str, which: str, value: int | Sequence[int]) -> list[int]:
    factors = list(pair(value))
    if min(factors) < 1:
        raise UserError(f"{name}({which}={value})", "a factor is a whole number from 1 on")
    return factors


def _check_clamp(name: str, clamp: float | None) -> None:
    if clamp is not None and not clamp >= 0:
        raise UserError(f"{name}(clamp={clamp})", "a limit is not negative", "", "clamp=None is off")


def _check_picture(name: str, x: Tensor) -> None:
    if x.ndim != 4 or not x.is_floating_point():
        raise UserError(
            f"{name} of {tuple(x.shape)} {x.dtype}", "it takes pictures (b c h w) of floating point"
        )


def _check_filter(name: str, which: str, x: Tensor, f: Tensor | None) -> None:
    if f is None:
        return
    asked = f"{name}({which}={tuple(f.shape)} {f.dtype} on {f.device.type})"
    if f.dtype != torch.float32 or f.ndim not in (1, 2) or f.numel() == 0:
        todo = "setup_filter makes one"
        raise UserError(asked, "a filter is float32 with one or two axes and at least one tap", "", todo)
    if f.device != x.device:
        raise UserError(asked, f"the picture is on {x.device}", "", "move one of them")
    if f.requires_grad:
        raise UserError(asked, "filters are constants and have no gradient", "", "detach it")


def _check_size(name: str, size: tuple[int, int], up: list[int], pad: list[int], f: Tensor | None) -> None:
    """The padded picture (h w) must hold the filter once."""
    fh, fw = (1, 1) if f is None else primitives.taps(f)
    h, w = size[0] * up[1] + pad[2] + pad[3], size[1] * up[0] + pad[0] + pad[1]
    if h < fh or w < fw:
        raise UserError(
            f"{name} with a filter of {fh} x {fw} taps",
            f"the picture of {size[0]} x {size[1]}, upsampled and padded to {h} x {w}, is smaller",
            f"up (x, y) {up}, padding (x0, x1, y0, y1) {pad}",
            "pad more",
        )


def _check_lrelu(
    x: Tensor,
    fu: Tensor | None,
    fd: Tensor | None,
    up: list[int],
    down: list[int],
    pad: list[int],
    gain: float,
    clamp: float | None,
) -> None:
    name = "filtered_lrelu"
    _check_picture(name, x)
    _check_filter(name, "fu", x, fu)
    _check_filter(name, "fd", x, fd)
    _check_clamp(name, clamp)
    if up[0] != up[1] or down[0] != down[1]:
        raise UserError(f"{name}(up={up}, down={down})", "it takes one factor for both axes")
    if not gain > 0:
        raise UserError(f"{name}(gain={gain})", "a gain is above zero")
    _check_size(name, (x.shape[2], x.shape[3]), up, pad, fu)
    fh, fw = (1, 1) if fu is None else primitives.taps(fu)
    middle = (x.shape[2] * up[1] + pad[2] + pad[3] - fh + 1, x.shape[3] * up[0] + pad[0] + pad[1] - fw + 1)
    _check_size(name, middle, [1, 1], [0, 0, 0, 0], fd)


def _bias(name: str, x: Tensor, b: Tensor | None, dim: int) -> Tensor | None:
    """The bias in the type of `x`."""
    if b is None:
        return None
    if not -x.ndim <= dim < x.ndim or b.ndim != 1 or b.shape[0] != x.shape[dim]:
        asked = f"{name} of {tuple(x.shape)} with a bias of {tuple(b.shape)} along axis {dim}"
        raise UserError(asked, "a bias has one axis, as long as that axis of the picture")
    return b.to(x.dtype)
