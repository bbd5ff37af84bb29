"""The generator of StyleGAN2-ADA (Karras et al. 2020, "Analyzing and Improving ..." and "Limited Data").

Parameters carry the official names; equalized learning-rate gains are folded into them, so every affine
layer is a plain nn.Linear. `generators.networks.stylegan2` brings official weights in and out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from generators.ops import bias_act, conv2d_resample, setup_filter, upsample2d

from .stylegan2_init import redraw

ARCHITECTURES = ("skip", "resnet", "orig")
NOISE_MODES = ("const", "none", "random")


def normalize_2nd_moment(x: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x / sqrt(mean(x^2)) along `dim`."""
    return x * (x.square().mean(dim, keepdim=True) + eps).rsqrt()


def dense(x: Tensor, layer: nn.Linear, activation: str = "linear") -> Tensor:
    """A fully connected layer (b c) and its activation with the activation's own gain."""
    return bias_act(functional.linear(x, layer.weight), layer.bias, act=activation)


def half_precision_scaling(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and styles scaled so that products fit float16; demodulation undoes both."""
    largest = weight.abs().amax((1, 2, 3), keepdim=True)
    weight = weight / (math.sqrt(weight[0].numel()) * largest)
    return weight, styles / styles.abs().amax(1, keepdim=True)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    fused: bool = False,
) -> Tensor:
    """Convolve x (b i h w) with weight (o i k k), scaled per picture by styles (b i).

    Section 2.2 of "Analyzing and Improving": modulation, then demodulation to unit variance, then
    noise. `fused` scales the weights and convolves in groups; otherwise the activations are scaled
    and the weights shared. Both are equal up to rounding.
    """
    b, (o, i, kh, kw) = len(x), weight.shape
    if x.dtype == torch.float16 and demodulate:
        weight, styles = half_precision_scaling(weight, styles)
    options: dict[str, Any] = {"f": resample_filter, "up": up, "down": down, "padding": padding}
    options["flip_weight"] = flip_weight
    if fused:
        w = weight[None] * styles[:, None, :, None, None]
        if demodulate:
            w = w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = conv2d_resample(
            x.reshape(1, b * i, *x.shape[2:]), w.reshape(b * o, i, kh, kw).to(x.dtype), groups=b, **options
        )
        x = x.reshape(b, o, *x.shape[2:])
    else:
        x = conv2d_resample(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), **options)
        if demodulate:
            # sum over (i, k, k) of (weight * style)^2, without forming the weight of each picture
            energy = styles.square() @ weight.square().sum((2, 3)).T
            x = x * (energy + 1e-8).rsqrt().to(x.dtype)[:, :, None, None]
    return x if noise is None else x + noise.to(x.dtype)


class MappingNetwork(nn.Module):
    """z (b z_dim), label c (b c_dim) to ws (b num_ws w_dim)."""

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        num_layers: int = 8,
        embed_features: int | None = None,
        layer_features: int | None = None,
        activation: str = "lrelu",
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.activation = num_layers, activation
        self.lr_multiplier, self.w_avg_beta = lr_multiplier, w_avg_beta
        embedded = (embed_features or w_dim) if c_dim else 0
        widths = [z_dim + embedded, *[layer_features or w_dim] * (num_layers - 1), w_dim]
        if c_dim:
            self.embed = nn.Linear(c_dim, embedded)
        for index in range(num_layers):
            setattr(self, f"fc{index}", nn.Linear(widths[index], widths[index + 1]))
        if w_avg_beta is not None:  # without it there is no center to truncate to
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def gains(self) -> dict[str, float]:
        """Equalized gain of every parameter."""
        found: dict[str, float] = {}
        for name, layer in self.named_children():
            assert isinstance(layer, nn.Linear)
            multiplier = 1.0 if name == "embed" else self.lr_multiplier
            found[f"{name}.weight"] = multiplier / math.sqrt(layer.in_features)
            found[f"{name}.bias"] = multiplier
        return found

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_w_avg: bool = False,
    ) -> Tensor:
        x = normalize_2nd_moment(z.float())
        if self.c_dim:
            if c is None or c.shape[1] != self.c_dim:
                raise ValueError(
                    f"this network needs labels (b {self.c_dim}), not {c if c is None else c.shape}"
                )
            x = torch.cat([x, normalize_2nd_moment(dense(c.float(), self.embed))], 1)
        for index in range(self.num_layers):
            x = dense(x, getattr(self, f"fc{index}"), self.activation)
        if update_w_avg and self.w_avg_beta is not None:
            self.w_avg.copy_(x.detach().mean(0).lerp(self.w_avg, self.w_avg_beta))
        ws = x[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return ws
        if self.w_avg_beta is None:
            raise ValueError("this network keeps no average of w, so there is nothing to truncate to")
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([self.w_avg.lerp(ws[:, :cutoff], truncation_psi), ws[:, cutoff:]], 1)


class SynthesisLayer(nn.Module):
    """Modulated 3 x 3 convolution, noise, bias, leaky ReLU."""

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        resolution: int,
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = "lrelu",
        resample_filter: list[int] | None = None,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.up, self.use_noise = resolution, up, use_noise
        self.activation, self.conv_clamp, self.kernel_size = activation, conv_clamp, kernel_size
        self.affine = nn.Linear(w_dim, inputs)
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("resample_filter", setup_filter(resample_filter or [1, 3, 3, 1]))
        if use_noise:
            self.register_buffer("noise_const", torch.zeros(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.fused = False

    def gains(self) -> dict[str, float]:
        """Equalized gain of every parameter; demodulation cancels the one of the convolution."""
        return {"affine.weight": 1 / math.sqrt(self.affine.in_features)}

    def _noise(self, x: Tensor, mode: str, generator: torch.Generator | None) -> Tensor | None:
        if not self.use_noise or mode == "none":
            return None
        if mode == "const":
            return self.noise_const * self.noise_strength
        shape = (len(x), 1, self.resolution, self.resolution)
        device = generator.device if generator else x.device
        return torch.randn(shape, generator=generator, device=device).to(x.device) * self.noise_strength

    def forward(
        self,
        x: Tensor,
        w: Tensor,
        noise_mode: str = "const",
        gain: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            self._noise(x, noise_mode, generator),
            up=self.up,
            padding=self.kernel_size // 2,
            resample_filter=self.resample_filter,
            flip_weight=self.up == 1,
            fused=self.fused,
        )
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        full = gain * (math.sqrt(2) if self.activation in ("relu", "lrelu", "swish") else 1.0)
        return bias_act(x, self.bias.to(x.dtype), act=self.activation, gain=full, clamp=clamp)


class ToRGBLayer(nn.Module):
    """Modulated 1 x 1 convolution to a picture, without demodulation."""

    def __init__(
        self, inputs: int, outputs: int, w_dim: int, kernel_size: int = 1, conv_clamp: float | None = None
    ) -> None:
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = nn.Linear(w_dim, inputs)
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.fused = False

    def gains(self) -> dict[str, float]:
        """Equalized gain of every parameter; the one of the convolution is that of its styles."""
        style = 1 / math.sqrt(self.weight[0].numel())
        return {"affine.weight": style / math.sqrt(self.affine.in_features), "affine.bias": style}

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = modulated_conv2d(
            x,
            self.weight,
            self.affine(w),
            padding=self.weight.shape[-1] // 2,
            demodulate=False,
            fused=self.fused,
        )
        return bias_act(x, self.bias.to(x.dtype), clamp=self.conv_clamp)


class SkipLayer(nn.Module):
    """1 x 1 convolution of the residual architecture, upsampling by two."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, up: int, resample_filter: list[int]) -> None:
        super().__init__()
        self.up = up
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, 1, 1))
        self.register_buffer("resample_filter", setup_filter(resample_filter))

    def gains(self) -> dict[str, float]:
        """Equalized gain of every parameter."""
        return {"weight": 1 / math.sqrt(self.weight.shape[1])}

    def forward(self, x: Tensor, gain: float) -> Tensor:
        x = conv2d_resample(
            x, self.weight.to(x.dtype), f=self.resample_filter, up=self.up, flip_weight=self.up == 1
        )
        return x * gain


class SynthesisBlock(nn.Module):
    """The layers of one resolution."""

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        is_last: bool,
        architecture: str = "skip",
        resample_filter: list[int] | None = None,
        conv_clamp: float | None = None,
        use_fp16: bool = False,
        fp16_channels_last: bool = False,
        **layer: Any,
    ) -> None:
        super().__init__()
        taps = resample_filter or [1, 3, 3, 1]
        self.architecture, self.use_fp16, self.resolution = architecture, use_fp16, resolution
        self.channels_last = fp16_channels_last
        self.register_buffer("resample_filter", setup_filter(taps))
        common = {"conv_clamp": conv_clamp, "resample_filter": taps, **layer}
        self.is_first = inputs == 0
        if self.is_first:
            self.const = nn.Parameter(torch.zeros(outputs, resolution, resolution))
        else:
            self.conv0 = SynthesisLayer(inputs, outputs, w_dim, resolution, up=2, **common)
        self.conv1 = SynthesisLayer(outputs, outputs, w_dim, resolution, **common)
        self.has_torgb = is_last or architecture == "skip"
        if self.has_torgb:
            self.torgb = ToRGBLayer(outputs, img_channels, w_dim, conv_clamp=conv_clamp)
        self.has_skip = not self.is_first and architecture == "resnet"
        if self.has_skip:
            self.skip = SkipLayer(inputs, outputs, 2, taps)
        self.num_conv, self.num_torgb = 1 if self.is_first else 2, int(self.has_torgb)

    def gains(self) -> dict[str, float]:
        """Equalized gain of every parameter that has one."""
        return _child_gains(self)

    def forward(
        self,
        x: Tensor | None,
        img: Tensor | None,
        ws: Tensor,
        dtype: torch.dtype = torch.float32,
        noise_mode: str = "const",
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Activations (b c h/2 w/2), picture (b 3 h/2 w/2), ws (b num_conv+num_torgb w_dim) to this size."""
        rest: dict[str, Any] = {"noise_mode": noise_mode, "generator": generator}
        w = iter(ws.unbind(1))
        x = self.const.expand(len(ws), -1, -1, -1).to(dtype) if x is None else x.to(dtype)
        if self.channels_last and dtype != torch.float32:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.is_first:
            x = self.conv1(x, next(w), **rest)
        elif self.has_skip:
            y = self.skip(x, math.sqrt(0.5))
            x = self.conv1(self.conv0(x, next(w), **rest), next(w), gain=math.sqrt(0.5), **rest)
            x = y + x
        else:
            x = self.conv1(self.conv0(x, next(w), **rest), next(w), **rest)
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.has_torgb:
            rgb = self.torgb(x, next(w)).float()
            img = rgb if img is None else img + rgb
        return x, img


class SynthesisNetwork(nn.Module):
    """ws (b num_ws w_dim) to pictures (b img_channels h w), about [-1, 1]."""

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_fp16_res: int = 0,
        architecture: str = "skip",
        **block: Any,
    ) -> None:
        super().__init__()
        levels = int(math.log2(img_resolution))
        if img_resolution < 4 or 2**levels != img_resolution:
            raise ValueError(f"img_resolution is {img_resolution}; it must be a power of two, 4 or more")
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture is {architecture!r}; there are {', '.join(ARCHITECTURES)}")
        self.w_dim, self.img_resolution, self.img_channels = w_dim, img_resolution, img_channels
        self.block_resolutions = [2**i for i in range(2, levels + 1)]
        fp16_from = max(2 ** (levels + 1 - num_fp16_res), 8)
        inputs, self.num_ws = 0, 0
        for resolution in self.block_resolutions:
            outputs = min(channel_base // resolution, channel_max)
            made = SynthesisBlock(
                inputs,
                outputs,
                w_dim,
                resolution,
                img_channels,
                resolution == img_resolution,
                architecture,
                use_fp16=resolution >= fp16_from,
                **block,
            )
            self.num_ws += made.num_conv
            inputs = outputs
            setattr(self, f"b{resolution}", made)
        self.num_ws += made.num_torgb

    def blocks(self) -> list[SynthesisBlock]:
        """The blocks from the smallest resolution to the largest."""
        return [getattr(self, f"b{resolution}") for resolution in self.block_resolutions]

    def gains(self) -> dict[str, float]:
        """Equalized gain of every parameter that has one."""
        return _child_gains(self)

    def reinitialize(self) -> None:
        """Fresh weights for all of it, from torch's own stream of random numbers."""
        redraw(self, self.gains())

    def activations(
        self,
        ws: Tensor,
        noise_mode: str = "const",
        force_fp32: bool = True,
        dtype: torch.dtype = torch.float16,
        generator: torch.Generator | None = None,
    ) -> list[tuple[Tensor, Tensor | None]]:
        """(x, picture) after each block.

        Args:
            noise_mode: "const" (the stored noise), "none", or "random" (drawn from `generator`).
            force_fp32: float32 throughout; otherwise blocks that were trained in half precision
                run in `dtype`, torch.float16 or torch.bfloat16.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode is {noise_mode!r}; there are {', '.join(NOISE_MODES)}")
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws is {tuple(ws.shape)}; this network takes (b {self.num_ws} {self.w_dim})")
        found, index = [], 0
        x, img = None, None
        for block in self.blocks():
            part = ws[:, index : index + block.num_conv + block.num_torgb].float()
            kind = dtype if block.use_fp16 and not force_fp32 else torch.float32
            x, img = block(x, img, part, kind, noise_mode, generator)
            found.append((x, img))
            index += block.num_conv  # toRGB shares its w with the next block's first convolution
        return found

    def forward(self, ws: Tensor, **options: Any) -> Tensor:
        """Pictures; see `activations` for the options."""
        img = self.activations(ws, **options)[-1][1]
        assert img is not None
        return img


class Generator(nn.Module):
    """z (b z_dim) to pictures (b img_channels h w)."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] | None = None,
        synthesis_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim = z_dim, c_dim, w_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def gains(self) -> dict[str, float]:
        """Equalized gain of every parameter that has one, by name; the others have gain 1."""
        return _child_gains(self)

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        **synthesis: Any,
    ) -> Tensor:
        """Pictures; see `SynthesisNetwork.activations` for the other options."""
        return self.synthesis(self.mapping(z, c, truncation_psi, truncation_cutoff), **synthesis)


def _child_gains(module: nn.Module) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, child in module.named_children():
        equalized = getattr(child, "gains", None)
        own: dict[str, float] = equalized() if callable(equalized) else {}
        found |= {f"{name}.{key}": gain for key, gain in own.items()}
    return found
