"""The first stage of taming VQGAN (Esser et al. 2021): encoder, codebook, decoder.

Parameter names and constructor arguments are those of the published checkpoints and their configs.
Pictures are (b 3 h w) in [-1, 1]; codes are whole numbers (b h/f w/f).

Why not diffusers' VQModel, which computes the same (a test converts the weights and compares): its
attention projects by Linear layers named to_q, to_k, to_v and to_out.0, where the checkpoints, and LoRA as
the paper counts it, have 1x1 convolutions q, k, v and proj_out; every other name differs too, so that
checkpoints and adapters would need a converter there and back; and it chooses attention by block type,
not by resolution, with one such type for all of a level's blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

GROUPS = 32  # of every group norm of the published models, so their channel counts are multiples of it


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _activated(norm: nn.Module, x: Tensor) -> Tensor:
    return functional.silu(norm(x))


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, 1x1 where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(in_channels, groups), _norm(out_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        same = in_channels == out_channels
        self.nin_shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(_activated(self.norm1, x))
        h = self.conv2(self.dropout(_activated(self.norm2, h)))
        found: Tensor = h + self.nin_shortcut(x)
        return found


class AttnBlock(nn.Module):
    """Single-head self-attention over all places, its projections 1x1 convolutions."""

    def __init__(self, channels: int, groups: int = GROUPS) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q, self.k = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.v, self.proj_out = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        q, k, v = (part(normal).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        h = functional.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Half the resolution: strided convolution after a zero column and row at the right and the bottom."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2) if with_conv else None

    def forward(self, x: Tensor) -> Tensor:
        return (
            functional.avg_pool2d(x, 2) if self.conv is None else self.conv(functional.pad(x, (0, 1, 0, 1)))
        )


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbor, then a convolution."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if with_conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0))
        return found


class _Level(nn.Module):
    """The blocks of one resolution, each followed by attention where the resolution has it.

    `downsample` of the encoder and `upsample` of the decoder lead to the next level.
    """

    def __init__(self, channels: Sequence[int], attention: bool, dropout: float, groups: int) -> None:
        super().__init__()
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None
        self.block = nn.ModuleList(ResnetBlock(i, o, dropout, groups) for i, o in pairwise(channels))
        self.attn = nn.ModuleList(AttnBlock(c, groups) for c in channels[1:] if attention)

    def activations(self, x: Tensor) -> Iterator[Tensor]:
        """After each block and its attention."""
        for i, block in enumerate(self.block):
            x = self.attn[i](block(x)) if len(self.attn) else block(x)
            yield x


class _Middle(nn.Module):
    def __init__(self, channels: int, dropout: float, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, dropout, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, dropout, groups)

    def activations(self, x: Tensor) -> Iterator[Tensor]:
        """After each block, the second behind the attention."""
        x = self.block_1(x)
        yield x
        yield self.block_2(self.attn_1(x))

    def forward(self, x: Tensor) -> Tensor:
        *_, found = self.activations(x)
        return found


# What a ddconfig may say; give_pre_end, a decoder without its last convolution, is only allowed as False.
# norm_groups is ours: taming always has 32, which at 32 channels would take away a picture's mean color.
SHAPE_NAMES = {
    *("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resolution", "z_channels", "in_channels"),
    *("out_ch", "double_z", "dropout", "resamp_with_conv", "give_pre_end", "norm_groups"),
}


class _Shape:
    """What encoder and decoder derive from a config: widths and attention by level."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        unknown = sorted(set(config) - SHAPE_NAMES) + ["give_pre_end"] * bool(config.get("give_pre_end"))
        if unknown:
            raise ValueError(f"ddconfig has {', '.join(unknown)}, which this network does not know")
        self.widths = [config["ch"] * m for m in config.get("ch_mult", (1, 2, 4, 8))]
        sides = [config["resolution"] // 2**i for i in range(len(self.widths))]
        self.attention = [side in config["attn_resolutions"] for side in sides]
        self.blocks: int = config["num_res_blocks"]
        self.dropout: float = config.get("dropout", 0.0)
        self.groups: int = config.get("norm_groups", GROUPS)
        self.with_conv: bool = config.get("resamp_with_conv", True)
        self.z_channels: int = config["z_channels"]


class Encoder(nn.Module):
    """Pictures to (b z h/f w/f), twice as many channels where the config says double_z."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        shape = _Shape(config)
        self.conv_in = nn.Conv2d(config["in_channels"], config["ch"], 3, padding=1)
        self.down = nn.ModuleList()
        before = config["ch"]
        for i, width in enumerate(shape.widths):
            widths = [before, *[width] * shape.blocks]
            level = _Level(widths, shape.attention[i], shape.dropout, shape.groups)
            if i < len(shape.widths) - 1:
                level.downsample = Downsample(width, shape.with_conv)
            self.down.append(level)
            before = width
        self.mid = _Middle(before, shape.dropout, shape.groups)
        self.norm_out = _norm(before, shape.groups)
        doubled = 2 if config.get("double_z", True) else 1
        self.conv_out = nn.Conv2d(before, doubled * shape.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        level: Any
        for level in self.down:
            *_, x = level.activations(x)
            x = x if level.downsample is None else level.downsample(x)
        found: Tensor = self.conv_out(_activated(self.norm_out, self.mid(x)))
        return found


class Decoder(nn.Module):
    """(b z h/f w/f) to pictures, about [-1, 1]; `up.0` is the full resolution and runs last."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        shape = _Shape(config)
        before = shape.widths[-1]
        self.conv_in = nn.Conv2d(shape.z_channels, before, 3, padding=1)
        self.mid = _Middle(before, shape.dropout, shape.groups)
        levels: list[nn.Module] = []
        for i, width in reversed(list(enumerate(shape.widths))):
            widths = [before, *[width] * (shape.blocks + 1)]
            level = _Level(widths, shape.attention[i], shape.dropout, shape.groups)
            if i:
                level.upsample = Upsample(width, shape.with_conv)
            levels.insert(0, level)
            before = width
        self.up = nn.ModuleList(levels)
        self.norm_out = _norm(before, shape.groups)
        self.conv_out = nn.Conv2d(before, config["out_ch"], 3, padding=1)

    def activations(self, z: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and (b c h w) of every block's output, with its attention, in the order in which they run."""
        for i, x in enumerate(self.mid.activations(self.conv_in(z)), 1):
            yield f"mid.block_{i}", x
        for place in reversed(range(len(self.up))):
            level: Any = self.up[place]
            for i, found in enumerate(level.activations(x)):
                x = found
                yield f"up.{place}.block.{i}", x
            x = x if level.upsample is None else level.upsample(x)

    def forward(self, z: Tensor) -> Tensor:
        for _, last in self.activations(z):
            x = last
        found: Tensor = self.conv_out(_activated(self.norm_out, x))
        return found


class Quantized(NamedTuple):
    """The nearest codes of a latent.

    Attributes:
        z: (b e h w) their vectors; gradients pass straight to the latent.
        loss: [] of codebook and commitment.
        indices: (b h w).
    """

    z: Tensor
    loss: Tensor
    indices: Tensor


class VectorQuantizer(nn.Module):
    """The codebook (van den Oord et al. 2017)."""

    def __init__(self, n_embed: int, embed_dim: int, beta: float = 0.25) -> None:
        super().__init__()
        self.beta = beta
        self.embedding = nn.Embedding(n_embed, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / n_embed, 1.0 / n_embed)

    def indices(self, z: Tensor) -> Tensor:
        """The code (b h w) nearest to each vector of z (b e h w), the first of equally near ones."""
        flat, codes = z.movedim(1, -1).reshape(-1, z.shape[1]), self.embedding.weight
        distance = flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.T
        return distance.argmin(1).view(len(z), *z.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        """The vectors (b e h w) of codes (b h w)."""
        found: Tensor = self.embedding(indices)
        return found.movedim(-1, 1)

    def forward(self, z: Tensor) -> Quantized:
        indices = self.indices(z)
        vectors = self.lookup(indices)
        # The published models were trained with beta on the codebook's term instead of the commitment's.
        loss = (vectors.detach() - z).square().mean() + self.beta * (vectors - z.detach()).square().mean()
        return Quantized(z + (vectors - z).detach(), loss, indices)


class GumbelQuantizer(nn.Module):
    """The codebook of a GumbelVQ (DALL-E's way) as it works in evaluation: the likeliest code, no noise."""

    def __init__(self, z_channels: int, n_embed: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(z_channels, n_embed, 1)
        self.embed = nn.Embedding(n_embed, embed_dim)

    def indices(self, z: Tensor) -> Tensor:
        """The code (b h w) with the greatest logit at each place of z (b z h w)."""
        logits: Tensor = self.proj(z)
        return logits.argmax(1)

    def lookup(self, indices: Tensor) -> Tensor:
        """The vectors (b e h w) of codes (b h w)."""
        found: Tensor = self.embed(indices)
        return found.movedim(-1, 1)


class VQModel(nn.Module):
    """Encoder, codebook and decoder.

    Args:
        ddconfig: of encoder and decoder: ch, ch_mult, num_res_blocks, attn_resolutions, resolution,
            z_channels, in_channels, out_ch, double_z, dropout.
        n_embed: codes in the codebook.
        embed_dim: length of a code's vector.
        gumbel: whether codes are chosen by logits (GumbelVQ) and not by nearness; not for training.
    """

    quantize: VectorQuantizer | GumbelQuantizer

    def __init__(
        self, ddconfig: Mapping[str, Any], n_embed: int, embed_dim: int, gumbel: bool = False
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(ddconfig), Decoder(ddconfig)
        if gumbel:
            self.quantize = GumbelQuantizer(ddconfig["z_channels"], n_embed, embed_dim)
        else:
            self.quantize = VectorQuantizer(n_embed, embed_dim)
        doubled = 2 if ddconfig.get("double_z", True) else 1
        self.quant_conv = nn.Conv2d(doubled * ddconfig["z_channels"], embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, ddconfig["z_channels"], 1)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (b e h/f w/f) of pictures, before the codebook."""
        found: Tensor = self.quant_conv(self.encoder(x))
        return found

    def codes(self, x: Tensor) -> Tensor:
        """Codes (b h/f w/f) of pictures."""
        return self.quantize.indices(self.encode(x))

    def decode(self, z: Tensor) -> Tensor:
        """Pictures of code vectors (b e h/f w/f)."""
        found: Tensor = self.decoder(self.post_quant_conv(z))
        return found

    def decode_codes(self, indices: Tensor) -> Tensor:
        """Pictures of codes (b h/f w/f)."""
        return self.decode(self.quantize.lookup(indices))

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        """Reconstructions of pictures, and what the codebook made of them."""
        found: Quantized = self.quantize(self.encode(x))
        return self.decode(found.z), found


class CodeDecoder(nn.Module):
    """What makes pictures of code vectors: all that may be adapted of a VQGAN."""

    def __init__(self, whole: VQModel) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = whole.post_quant_conv, whole.decoder

    def forward(self, quantized: Tensor) -> Tensor:
        """Pictures, about [-1, 1], of code vectors (b e h/f w/f)."""
        found: Tensor = self.decoder(self.post_quant_conv(quantized))
        return found

    def activations(self, quantized: Tensor) -> dict[str, Tensor]:
        """(b c h w) after each block of the decoder."""
        return dict(self.decoder.activations(self.post_quant_conv(quantized)))
