"""DPT-hybrid once more, from its papers, with the names its authors' checkpoints have; no transformers.

Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021; the ResNet v2 of Kolesnikov et al.,
"Big Transfer", 2020, with weight standardization (Qiao et al. 2019); the transformer of Dosovitskiy et
al., 2021. What the tests compare the predictor with: an error in the map of names cannot be in both.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of a network; the defaults are those of Omnidata's."""

    size: int = 384
    stem: int = 64
    widths: tuple[int, ...] = (256, 512, 1024)
    depths: tuple[int, ...] = (3, 4, 9)
    groups: int = 32
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    taps: tuple[int, int] = (8, 11)
    neck: tuple[int, ...] = (256, 512, 768, 768)
    fusion: int = 256
    channels: int = 3
    classes: int = 1000


SMALL = Shape(64, 8, (32, 64, 128), (2, 1, 2), 4, 16, 3, 2, (1, 2), (32, 64, 24, 20), 12, 3, 10)


def config(shape: Shape) -> dict[str, Any]:
    """What transformers is told about the same network."""
    from benchmarks.predictors.omnidata import CONFIG

    grid = shape.size // 16
    backbone = dict(CONFIG["backbone_config"]) | {
        "depths": list(shape.depths),
        "embedding_size": shape.stem,
        "hidden_sizes": [*shape.widths, 2 * shape.widths[-1]],
        "num_groups": shape.groups,
    }
    return dict(CONFIG) | {
        "image_size": shape.size,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.hidden,
        "backbone_featmap_shape": [1, shape.widths[-1], grid, grid],
        "backbone_out_indices": [0, 0, *shape.taps],
        "neck_hidden_sizes": list(shape.neck),
        "fusion_hidden_size": shape.fusion,
        "backbone_config": backbone,
    }


def same_padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around, so that the output has ceil(size / stride) pixels; the odd one is at the end."""
    pads: list[int] = []
    for n in (x.shape[3], x.shape[2]):
        total = max((math.ceil(n / stride) - 1) * stride + kernel - n, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads)


class StandardConv(nn.Conv2d):
    """Convolution by a kernel of mean 0 and variance 1 per output channel, padding "same"."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        variance = self.weight.var((1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) / (variance + 1e-8).sqrt()
        padded = same_padded(x, self.kernel_size[0], self.stride[0])
        return functional.conv2d(padded, weight, stride=self.stride)


def standard(a: int, b: int, kernel: int = 1, stride: int = 1) -> StandardConv:
    return StandardConv(a, b, kernel, stride, bias=False)


class Downsample(nn.Module):
    def __init__(self, a: int, b: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv, self.norm = standard(a, b, 1, stride), nn.GroupNorm(groups, b)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out


class Bottleneck(nn.Module):
    def __init__(self, a: int, b: int, stride: int, groups: int, first: bool) -> None:
        super().__init__()
        middle = b // 4
        self.downsample = Downsample(a, b, stride, groups) if first else None
        self.conv1, self.norm1 = standard(a, middle), nn.GroupNorm(groups, middle)
        self.conv2, self.norm2 = standard(middle, middle, 3, stride), nn.GroupNorm(groups, middle)
        self.conv3, self.norm3 = standard(middle, b), nn.GroupNorm(groups, b)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        h = self.norm1(self.conv1(x)).relu()
        h = self.norm2(self.conv2(h)).relu()
        return (self.norm3(self.conv3(h)) + shortcut).relu()


class Stage(nn.Module):
    def __init__(self, a: int, b: int, depth: int, stride: int, groups: int) -> None:
        super().__init__()
        first = Bottleneck(a, b, stride, groups, True)
        self.blocks = nn.Sequential(first, *(Bottleneck(b, b, 1, groups, False) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out


class Residual(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv, self.stem.norm = standard(3, s.stem, 7, 2), nn.GroupNorm(s.groups, s.stem)
        widths = (s.stem, *s.widths)
        self.stages = nn.ModuleList(
            Stage(widths[i], widths[i + 1], s.depths[i], 1 if i == 0 else 2, s.groups) for i in range(3)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.stem.norm(self.stem.conv(x)).relu()
        h = functional.max_pool2d(same_padded(h, 3, 2), 3, 2)
        found = []
        for stage in self.stages:
            h = stage(h)
            found.append(h)
        return found


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / math.sqrt(c // self.heads)).softmax(-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp.fc2(functional.gelu(self.mlp.fc1(self.norm2(x))))
        return out


class Transformer(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, s.hidden))
        self.pos_embed = nn.Parameter(torch.zeros(1, (s.size // 16) ** 2 + 1, s.hidden))
        self.patch_embed = nn.Module()
        self.patch_embed.backbone = Residual(s)
        self.patch_embed.proj = nn.Conv2d(s.widths[-1], s.hidden, 1)
        self.blocks = nn.ModuleList(Block(s.hidden, s.heads) for _ in range(s.layers))
        self.norm = nn.LayerNorm(s.hidden, eps=1e-6)
        self.head = nn.Linear(s.hidden, s.classes)
        self.taps = s.taps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        first, second, last = self.patch_embed.backbone(x)
        tokens = self.patch_embed.proj(last).flatten(2).transpose(1, 2)
        h = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        found = []
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i in self.taps:
                found.append(h)
        return first, second, found


class Project(nn.Module):
    """The readout token beside every other one, projected (DPT, equation 6)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        readout = tokens[:, :1].expand(-1, tokens.shape[1] - 1, -1)
        out: Tensor = self.project(torch.cat([tokens[:, 1:], readout], -1))
        return out


class Unit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(self.conv1(x.relu()).relu())
        return out


class Fusion(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.resConfUnit1, self.resConfUnit2 = Unit(width), Unit(width)
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if other is not None:
            x = x + self.resConfUnit1(other)
        x = self.resConfUnit2(x)
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        out: Tensor = self.out_conv(x)
        return out


class Reference(nn.Module):
    """Pictures (b 3 size size) to (b channels size size), as the original network gives them."""

    def __init__(self, s: Shape = SMALL) -> None:
        super().__init__()
        self.shape = s
        self.pretrained, self.scratch = nn.Module(), nn.Module()
        self.pretrained.model = Transformer(s)
        third = [Project(s.hidden), nn.Identity(), nn.Identity(), nn.Conv2d(s.hidden, s.neck[2], 1)]
        fourth = [Project(s.hidden), nn.Identity(), nn.Identity(), nn.Conv2d(s.hidden, s.neck[3], 1)]
        self.pretrained.act_postprocess3 = nn.Sequential(*third)
        self.pretrained.act_postprocess4 = nn.Sequential(
            *fourth, nn.Conv2d(s.neck[3], s.neck[3], 3, stride=2, padding=1)
        )
        for i, width in enumerate(s.neck):
            conv = nn.Conv2d(width, s.fusion, 3, padding=1, bias=False)
            setattr(self.scratch, f"layer{i + 1}_rn", conv)
            setattr(self.scratch, f"refinenet{i + 1}", Fusion(s.fusion))
        self.scratch.output_conv = nn.Sequential(
            nn.Conv2d(s.fusion, s.fusion // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(s.fusion // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, s.channels, 1),
            nn.ReLU(),
        )

    def _deep(self, post: nn.Sequential, tokens: Tensor) -> Tensor:
        side = self.shape.size // 16
        h = post[0](tokens).transpose(1, 2).unflatten(2, (side, side))
        for layer in post[3:]:
            h = layer(h)
        out: Tensor = h
        return out

    def forward(self, x: Tensor) -> Tensor:
        first, second, (third, fourth) = self.pretrained.model(x)
        s, p = self.scratch, self.pretrained
        deep = self._deep(p.act_postprocess3, third), self._deep(p.act_postprocess4, fourth)
        h = s.refinenet4(s.layer4_rn(deep[1]))
        h = s.refinenet3(h, s.layer3_rn(deep[0]))
        h = s.refinenet2(h, s.layer2_rn(second))
        h = s.refinenet1(h, s.layer1_rn(first))
        out: Tensor = s.output_conv(h)
        return out


def reference(shape: Shape = SMALL, seed: int = 5) -> Reference:
    """A network with drawn weights, none of them 0 or 1, so that an exchange of two would be seen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Reference(shape)
        for parameter in network.parameters():
            if parameter.ndim < 2 or parameter.ndim == 3:
                nn.init.normal_(parameter, 0.3, 0.2)
    return network.eval().requires_grad_(False)


@dataclass
class Checkpoint:
    """What Lightning saves around the state dict: optimizer states, and classes of the trainer."""

    state: "OrderedDict[str, Tensor]"
    extra: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        from tests.checkpoints.emulate_lightning import foreign_class

        first = next(iter(self.state.values()))
        moments = {"step": 9, "exp_avg": torch.zeros_like(first), "exp_avg_sq": torch.ones_like(first)}
        with foreign_class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") as callback:
            content = {
                "epoch": 7,
                "global_step": 1234,
                "pytorch-lightning_version": "1.1.7",
                "callbacks": {callback: {"best_model_path": "last.ckpt"}},
                "optimizer_states": [{"state": {0: moments}, "param_groups": [{"lr": 1e-5, "params": [0]}]}],
                "lr_schedulers": [],
                "state_dict": self.state,
                **self.extra,
            }
            torch.save(content, path)
        return path


def checkpoint(network: Reference) -> Checkpoint:
    """The checkpoint of a network, its names below `model.`."""
    return Checkpoint(OrderedDict((f"model.{k}", v.clone()) for k, v in network.state_dict().items()))
