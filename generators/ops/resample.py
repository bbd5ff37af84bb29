"""Padding conventions of the StyleGAN generators around `upfirdn2d`, and convolutions that also resample."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from generators.errors import UserError
from generators.ops.dispatch import upfirdn2d
from generators.ops.primitives import taps
from generators.ops.reference import four, pair

Padding = tuple[int, int, int, int]


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str = "auto",
) -> Tensor:
    """Filter x (b c h w) and keep its size; `padding` comes on top. The rest is as in `upfirdn2d`."""
    fh, fw = _taps(f)
    pad = _add(padding, (fw // 2, (fw - 1) // 2, fh // 2, (fh - 1) // 2))
    return upfirdn2d(x, f, padding=pad, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str = "auto",
) -> Tensor:
    """Enlarge x (b c h w) by `up`, keeping its brightness; `padding` comes on top, in output pixels."""
    upx, upy = pair(up)
    pad = _add(padding, _for_up(f, upx, upy))
    return upfirdn2d(x, f, up, padding=pad, flip_filter=flip_filter, gain=gain * upx * upy, impl=impl)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1.0,
    impl: str = "auto",
) -> Tensor:
    """Shrink x (b c h w) by `down`; `padding` comes on top, in input pixels."""
    pad = _add(padding, _for_down(f, *pair(down)))
    return upfirdn2d(x, f, down=down, padding=pad, flip_filter=flip_filter, gain=gain, impl=impl)


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
    impl: str = "auto",
) -> Tensor:
    """Upsample x (b c h w) by `f`, convolve with w, downsample by `f`, in the cheapest order.

    Filters and convolutions without a bias commute, so a 1x1 convolution runs where the picture is smallest,
    a convolution before downsampling runs with a stride, and one after upsampling as its transpose.

    Args:
        w: (out in/groups kh kw), cast to the type of `x`.
        f: float32 filter; None for 1x1. With both up and down it is applied twice.
        padding: of the upsampled picture, before the convolution.
        flip_weight: True for correlation, as `torch.conv2d`; False for convolution.
        flip_filter: as in `upfirdn2d`.

    Raises:
        UserError: if shapes do not fit.
    """
    _check_weight(x, w, groups)
    w = w.to(x.dtype)
    pad = four(padding)
    pad = _add(pad, _for_up(f, up, up)) if up > 1 else pad
    pad = _add(pad, _for_down(f, down, down)) if down > 1 else pad
    if up > 1:
        return _up(x, w, f, up, down, pad, groups, flip_weight, flip_filter, impl)
    w = w if flip_weight else w.flip([2, 3])
    if down > 1 and w.shape[2:] == (1, 1):
        x = upfirdn2d(x, f, down=down, padding=pad, flip_filter=flip_filter, impl=impl)
        return functional.conv2d(x, w, groups=groups)
    if down > 1:
        x = upfirdn2d(x, f, padding=pad, flip_filter=flip_filter, impl=impl)
        return functional.conv2d(x, w, stride=down, groups=groups)
    if pad[0] == pad[1] >= 0 and pad[2] == pad[3] >= 0:
        return functional.conv2d(x, w, padding=(pad[2], pad[0]), groups=groups)
    return functional.conv2d(functional.pad(x, pad), w, groups=groups)


def _up(
    x: Tensor,
    w: Tensor,
    f: Tensor | None,
    up: int,
    down: int,
    pad: Padding,
    groups: int,
    flip_weight: bool,
    flip_filter: bool,
    impl: str,
) -> Tensor:
    out, channels, kh, kw = w.shape
    if kh == kw == 1 and down == 1:
        x = functional.conv2d(x, w, groups=groups)
        return upfirdn2d(x, f, up, padding=pad, gain=up**2, flip_filter=flip_filter, impl=impl)
    w = w.flip([2, 3]) if flip_weight else w
    w = w.reshape(groups, out // groups, channels, kh, kw).transpose(1, 2)
    x = functional.conv_transpose2d(
        x, w.reshape(groups * channels, out // groups, kh, kw), stride=up, groups=groups
    )
    # The transpose starts kh - 1 rows early, and ends with the last sample, not up - 1 zeros after it.
    pad = _add(pad, (1 - kw, up - kw, 1 - kh, up - kh))
    x = upfirdn2d(x, f, padding=pad, gain=up**2, flip_filter=flip_filter, impl=impl)
    return upfirdn2d(x, f, down=down, flip_filter=flip_filter, impl=impl) if down > 1 else x


def _taps(f: Tensor | None) -> tuple[int, int]:
    return (1, 1) if f is None else taps(f)


def _add(padding: int | Sequence[int], more: Padding) -> Padding:
    x0, x1, y0, y1 = (a + b for a, b in zip(four(padding), more, strict=True))
    return x0, x1, y0, y1


def _for_up(f: Tensor | None, upx: int, upy: int) -> Padding:
    """Padding that keeps samples where they are, and the size `up` times the size."""
    fh, fw = _taps(f)
    return (fw + upx - 1) // 2, (fw - upx) // 2, (fh + upy - 1) // 2, (fh - upy) // 2


def _for_down(f: Tensor | None, downx: int, downy: int) -> Padding:
    fh, fw = _taps(f)
    return (fw - downx + 1) // 2, (fw - downx) // 2, (fh - downy + 1) // 2, (fh - downy) // 2


def _check_weight(x: Tensor, w: Tensor, groups: int) -> None:
    if x.ndim != 4 or w.ndim != 4 or w.shape[1] * groups != x.shape[1] or w.shape[0] % groups:
        raise UserError(
            f"conv2d_resample of {tuple(x.shape)} with weights {tuple(w.shape)} in {groups} group(s)",
            "pictures are (b, c, h, w), weights (out, c / groups, kh, kw), and out is a multiple of groups",
        )
