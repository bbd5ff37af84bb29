"""Inception v3 in the variant FID is measured with, and what reads its state dict.

Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, in the shape of
the graph of 2015-12-05 that Heusel et al. (NIPS 2017) took: averages in the blocks leave the padding out,
the last block pools by maximum, 1,008 classes, pictures at 299 pixels by TensorFlow 1's bilinear resize,
(x - 128) / 128. Names of parameters are those under which the weights are published for PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from generators.errors import UserError

SIDE = 299
FEATURES = 2048
EPS = 1e-3  # of batch normalization
CLASSIFIER = {"fc.weight", "fc.bias"}  # in the published file, not needed for features


class Conv(NamedTuple):
    """A convolution of a path: its output channels, kernel (height, width) and stride."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


Step = Conv | tuple[Conv, Conv]  # a pair splits: both see what came before, and are joined
Steps = tuple[Step, ...]


def _side_by_side(step: Step) -> tuple[Conv, ...]:
    return (step,) if isinstance(step, Conv) else step


class Plan(NamedTuple):
    """A mixed block: parallel paths, then one through a pool ("mean", "max", or "reduce" of stride 2)."""

    name: str
    paths: tuple[Steps, ...]
    pool: str
    pool_width: int = 0


def _column(name: str, width: int, long: int = 7) -> Conv:
    return Conv(name, width, (long, 1))


def _row(name: str, width: int, long: int = 7) -> Conv:
    return Conv(name, width, (1, long))


def _five_and_three(name: str, pool_width: int) -> Plan:
    """Figure 5 of the paper, with one path of 5 x 5 left."""
    five = (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5)))
    twice = tuple(
        Conv(f"branch3x3dbl_{i}", w, k) for i, w, k in ((1, 64, (1, 1)), (2, 96, (3, 3)), (3, 96, (3, 3)))
    )
    return Plan(name, ((Conv("branch1x1", 64),), five, twice), "mean", pool_width)


def _sevens(name: str, width: int) -> Plan:
    """Figure 6 of the paper with n = 7."""
    once = (Conv("branch7x7_1", width), _row("branch7x7_2", width), _column("branch7x7_3", 192))
    twice = (
        Conv("branch7x7dbl_1", width),
        _column("branch7x7dbl_2", width),
        _row("branch7x7dbl_3", width),
        _column("branch7x7dbl_4", width),
        _row("branch7x7dbl_5", 192),
    )
    return Plan(name, ((Conv("branch1x1", 192),), once, twice), "mean", 192)


def _expanded(name: str, pool: str) -> Plan:
    """Figure 7 of the paper."""
    once: Steps = (Conv("branch3x3_1", 384), (_row("branch3x3_2a", 384, 3), _column("branch3x3_2b", 384, 3)))
    twice: Steps = (
        Conv("branch3x3dbl_1", 448),
        Conv("branch3x3dbl_2", 384, (3, 3)),
        (_row("branch3x3dbl_3a", 384, 3), _column("branch3x3dbl_3b", 384, 3)),
    )
    return Plan(name, ((Conv("branch1x1", 320),), once, twice), pool, 192)


_TWICE_REDUCED = (
    Conv("branch3x3dbl_1", 64),
    Conv("branch3x3dbl_2", 96, (3, 3)),
    Conv("branch3x3dbl_3", 96, (3, 3), 2),
)
_SEVEN_REDUCED = (
    Conv("branch7x7x3_1", 192),
    _row("branch7x7x3_2", 192),
    _column("branch7x7x3_3", 192),
    Conv("branch7x7x3_4", 192, (3, 3), 2),
)
_THREE_REDUCED = (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2))
STEM = (  # table 1 of the paper; a maximum over 3 x 3 with stride 2 follows the third and the fifth
    (Conv("Conv2d_1a_3x3", 32, (3, 3), 2), 0),
    (Conv("Conv2d_2a_3x3", 32, (3, 3)), 0),
    (Conv("Conv2d_2b_3x3", 64, (3, 3)), 1),
    (Conv("Conv2d_3b_1x1", 80), 0),
    (Conv("Conv2d_4a_3x3", 192, (3, 3)), 0),
)
POOLED = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")
BLOCKS = (
    _five_and_three("Mixed_5b", 32),
    _five_and_three("Mixed_5c", 64),
    _five_and_three("Mixed_5d", 64),
    Plan("Mixed_6a", ((Conv("branch3x3", 384, (3, 3), 2),), _TWICE_REDUCED), "reduce"),
    _sevens("Mixed_6b", 128),
    _sevens("Mixed_6c", 160),
    _sevens("Mixed_6d", 160),
    _sevens("Mixed_6e", 192),
    Plan("Mixed_7a", (_THREE_REDUCED, _SEVEN_REDUCED), "reduce"),
    _expanded("Mixed_7b", "mean"),
    _expanded("Mixed_7c", "max"),
)


class Normalized(nn.Module):
    """Convolution without bias, batch normalization, ReLU."""

    def __init__(self, inputs: int, conv: Conv, padding: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, conv.width, conv.kernel, conv.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(conv.width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Parallel paths and a pool, side by side in the channels."""

    def __init__(self, inputs: int, plan: Plan) -> None:
        super().__init__()
        self.plan, self.width = plan, 0
        for path in plan.paths:
            width = inputs
            for step in path:
                for conv in _side_by_side(step):
                    self._add(width, conv)
                width = sum(conv.width for conv in _side_by_side(step))
            self.width += width
        if plan.pool_width:
            self._add(inputs, Conv("branch_pool", plan.pool_width))
        self.width += plan.pool_width or inputs

    def _add(self, inputs: int, conv: Conv) -> None:
        same = (conv.kernel[0] // 2, conv.kernel[1] // 2) if conv.stride == 1 else (0, 0)
        self.add_module(conv.name, Normalized(inputs, conv, same))

    def _pool(self, x: Tensor) -> Tensor:
        if self.plan.pool == "reduce":
            return functional.max_pool2d(x, 3, 2)
        if self.plan.pool == "max":
            pooled = functional.max_pool2d(x, 3, 1, 1)
        else:
            pooled = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        found: Tensor = self.get_submodule("branch_pool")(pooled)
        return found

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for path in self.plan.paths:
            h = x
            for step in path:
                h = torch.cat([self.get_submodule(conv.name)(h) for conv in _side_by_side(step)], 1)
            found.append(h)
        return torch.cat([*found, self._pool(x)], 1)


def _corners(inputs: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of SIDE places along an axis the two pixels beside it and the weight of the second."""
    place = torch.arange(SIDE, dtype=torch.float64, device=device) * (inputs / SIDE)
    first = place.floor().long().clamp(max=inputs - 1)
    return first, (first + 1).clamp(max=inputs - 1), (place - first).float()


def resize_as_tensorflow1(x: Tensor) -> Tensor:
    """Pictures (b c h w) at SIDE pixels: bilinear, pixel i looks at i * h / SIDE, no antialiasing.

    TensorFlow 1's resize_bilinear with align_corners=False: pixel centers are not half a pixel in.
    """
    top, bottom, down = _corners(x.shape[2], x.device)
    left, right, across = _corners(x.shape[3], x.device)
    rows = torch.lerp(x[:, :, top], x[:, :, bottom], down[:, None])
    return torch.lerp(rows[:, :, :, left], rows[:, :, :, right], across)


class Inception(nn.Module):
    """Pictures (b 3 h w) on 0..255, uint8 or float, to features (b 2048)."""

    def __init__(self) -> None:
        super().__init__()
        width = 3
        for conv, padding in STEM:
            self.add_module(conv.name, Normalized(width, conv, (padding, padding)))
            width = conv.width
        for plan in BLOCKS:
            block = Mixed(width, plan)
            self.add_module(plan.name, block)
            width = block.width

    def forward(self, pictures: Tensor) -> Tensor:
        x = (resize_as_tensorflow1(pictures.float()) - 128) / 128
        for conv, _ in STEM:
            x = self.get_submodule(conv.name)(x)
            if conv.name in POOLED:
                x = functional.max_pool2d(x, 3, 2)
        for plan in BLOCKS:
            x = self.get_submodule(plan.name)(x)
        return x.mean((2, 3))


def _refused(path: Path, wrong: str) -> UserError:
    return UserError(
        f"Inception's weights {path}",
        wrong,
        "expected: a state dict named as torch-fidelity's weights-inception-2015-12-05-6726825d.pth",
        "fetch it again: intrinsic-bench fetch inception.torch-fidelity",
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote; nothing in it is run. Raises UserError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no common class for what a broken file, or one with code, raises
        raise _refused(path, f"it cannot be read: {str(error)[:200]}") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _refused(path, "it is no mapping of names to tensors")
    return dict(state)


def load_inception(path: Path) -> Inception:
    """The network with the weights of a file, frozen; raises UserError unless it has exactly its tensors."""
    with torch.device("meta"):
        network = Inception()
    state = {k: v for k, v in read_state(path).items() if k not in CLASSIFIER}
    counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    state |= {name: torch.zeros((), dtype=torch.long) for name in counters}  # only training counts
    for name, value in state.items():
        if not value.isfinite().all():
            raise _refused(path, f"the tensor {name!r} holds NaN or infinity")
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise _refused(path, str(error)[:300]) from error
    return network.float().eval().requires_grad_(False)
