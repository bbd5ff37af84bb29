"""Modules of the StyleGAN-XL generator: class-conditional mapping, Fourier-feature input, alias-free layers.

Karras et al., "Alias-Free Generative Adversarial Networks" (2021); Sauer et al., "StyleGAN-XL: Scaling
StyleGAN to Large Diverse Datasets" (2022). Parameters and buffers have the official names; equalized gains
are folded into the parameters, so that every fully connected layer is an `nn.Linear`. Shapes: b pictures,
c channels (i in, o out), h w, n ws (one for the input and each layer), d of w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from generators.errors import UserError
from generators.networks.low_pass import design_low_pass
from generators.networks.xl_schedule import InputSpec, LayerSpec
from generators.ops import bias_act, filtered_lrelu

EMBEDDING = (1000, 320)  # classes of ImageNet, features of the classifier they were embedded by


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """x (b c) divided by the root of its mean square over c."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def moving_average(old: Tensor, new: Tensor, beta: float) -> Tensor:
    """beta * old + (1 - beta) * new."""
    return new.lerp(old, beta)


def normalize_weight_and_style(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (o i k k) of unit mean square per output channel, styles (b i) of unit mean square in all.

    Demodulation cancels both, up to its epsilon; in half precision they keep the products in range.
    """
    return (
        weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt(),
        styles * styles.square().mean().rsqrt(),
    )


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """1 / L2 norm of the modulated weights (b o): StyleGAN2 paper, equation 3."""
    return (styles.square() @ weight.square().sum(dim=(2, 3)).t() + 1e-8).rsqrt()


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    demodulate: bool = True,
    padding: int | Sequence[int] = 0,
    input_gain: Tensor | None = None,
    fused: bool = False,
) -> Tensor:
    """Convolve x (b i h w) with weights (o i k k) scaled per picture by styles (b i).

    Args:
        demodulate: scale the outputs to unit variance, which input_gain is spared.
        padding: (y, x) or both.
        input_gain: of the activations, (), (i) or (b i).
        fused: one kernel per picture in a grouped convolution; otherwise, equal up to rounding, shared
            weights between scaled activations.
    """
    b, i = styles.shape
    if demodulate:
        weight, styles = normalize_weight_and_style(weight, styles)
    outer = demodulation(weight, styles) if demodulate else None
    inner = styles if input_gain is None else styles * input_gain.expand(b, i)
    pad = padding if isinstance(padding, int) else tuple(padding)
    if not fused:
        x = functional.conv2d(x * inner.to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=pad)
        return x if outer is None else x * outer.to(x.dtype)[:, :, None, None]
    kernels = weight[None] * inner[:, None, :, None, None]
    kernels = kernels if outer is None else kernels * outer[:, :, None, None, None]
    x = functional.conv2d(
        x.reshape(1, b * i, *x.shape[2:]), kernels.flatten(0, 1).to(x.dtype), padding=pad, groups=b
    )
    return x.reshape(b, -1, *x.shape[2:])


def input_transform(motion: Tensor, user: Tensor) -> Tensor:
    """Rotation and translation (b 3 3) of the Fourier features by learned motion (b 4), then the user's.

    Args:
        motion: cosine, sine, x, y, all divided by the norm of the first two.
        user: (3 3), the inverse of the transform the picture is to show.
    """
    motion = motion / motion[:, :2].norm(dim=1, keepdim=True)
    cosine, sine, x, y = motion.unbind(dim=1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rotation = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], dim=1)
    translation = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], dim=1)
    return rotation.unflatten(1, (3, 3)) @ translation.unflatten(1, (3, 3)) @ user


def fourier_features(transform: Tensor, freqs: Tensor, phases: Tensor, spec: InputSpec) -> Tensor:
    """Waves (b h w c) of frequencies (c 2) and phases (c) under a transform (b 3 3) of the plane.

    Waves leave the spectrum linearly between the bandwidth and the Nyquist frequency.
    """
    phases = phases + (freqs @ transform[:, :2, 2:]).squeeze(2)
    freqs = freqs @ transform[:, :2, :2]
    nyquist = spec.sampling_rate / 2
    excess = (freqs.norm(dim=2) - spec.bandwidth) / (nyquist - spec.bandwidth)
    (width, height), rate = spec.size, spec.sampling_rate
    extent = torch.tensor([[0.5 * width / rate, 0, 0], [0, 0.5 * height / rate, 0]]).to(freqs)
    grid = functional.affine_grid(extent[None], [1, 1, height, width], align_corners=False)
    waves = grid @ freqs.transpose(1, 2)[:, None] + phases[:, None, None]
    return (waves * (2 * math.pi)).sin() * (1 - excess).clamp(0, 1)[:, None, None]


class EqualizedLinear(nn.Linear):
    """A linear layer as any other, which knows the gain upstream applies to its stored weights.

    Args:
        gain: of weight and bias, beside 1 / sqrt(inputs) of the weight alone.
        lr_multiplier: further gain of both, which initialization makes up for.
        std, bias: of the initial weights before their gain 1 / sqrt(inputs), value(s) of the initial bias.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        gain: float = 1.0,
        lr_multiplier: float = 1.0,
        std: float = 1.0,
        bias: float | Sequence[float] = 0.0,
    ) -> None:
        self.weight_gain = gain * lr_multiplier / math.sqrt(inputs)
        self.bias_gain = gain * lr_multiplier
        self.initial = (std * gain / math.sqrt(inputs), gain, bias)
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        std, gain, bias = self.initial
        with torch.no_grad():
            self.weight.normal_(0, std)
            self.bias.copy_(torch.as_tensor(bias, dtype=self.bias.dtype).to(self.bias.device) * gain)

    def gains(self) -> dict[str, float]:
        """Equalized gain by parameter."""
        return {"weight": self.weight_gain, "bias": self.bias_gain}


class SynthesisInput(nn.Module):
    """Fourier features under a transform learned from w, mixed by a matrix: (b d) -> (b c h w)."""

    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, w_dim: int, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        channels = spec.channels
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.affine = EqualizedLinear(w_dim, 4, std=0, bias=(1, 0, 0, 0))
        self.register_buffer("transform", torch.eye(3))  # the user's, inverse
        self.register_buffer("freqs", torch.empty(channels, 2))
        self.register_buffer("phases", torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mixing weights of unit variance, frequencies uniform in the disc of the bandwidth."""
        with torch.no_grad():
            self.weight.normal_(0, 1 / math.sqrt(self.spec.channels))
            self.phases.uniform_(-0.5, 0.5)
            radius = self.spec.bandwidth * torch.rand_like(self.phases).sqrt()
            angle = 2 * math.pi * torch.rand_like(self.phases)
            self.freqs.copy_(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1))

    def gains(self) -> dict[str, float]:
        """Equalized gain by parameter."""
        return {"weight": 1 / math.sqrt(self.spec.channels)}

    def forward(self, w: Tensor) -> Tensor:
        transform = input_transform(self.affine(w), self.transform)
        waves = fourier_features(transform, self.freqs, self.phases, self.spec)
        return (waves @ self.weight.t()).permute(0, 3, 1, 2)


class SynthesisLayer(nn.Module):
    """Modulated convolution, then a leaky ReLU at a higher rate: (b i h w), (b d) -> (b o h w)."""

    up_filter: Tensor | None
    down_filter: Tensor | None
    magnitude_ema: Tensor

    def __init__(self, w_dim: int, spec: LayerSpec) -> None:
        super().__init__()
        self.spec = spec
        # On one CPU thread 1x1 layers run 1.3 to 2.3 times as fast fused, 3x3 ones the same, and the kernels
        # of each picture then take nine times the memory.
        self.fused = spec.conv_kernel == 1
        inputs, kernel = spec.in_channels, spec.conv_kernel
        gain = 1 / math.sqrt(inputs * kernel**2) if spec.is_torgb else 1.0
        self.affine = EqualizedLinear(w_dim, inputs, gain=gain, bias=1)
        self.weight = nn.Parameter(torch.empty(spec.out_channels, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(spec.out_channels))
        self.register_buffer("magnitude_ema", torch.empty([]))
        rate, device = spec.tmp_sampling_rate, self.weight.device
        up = design_low_pass(spec.up_taps, spec.in_cutoff, spec.in_half_width * 2, rate)
        down = design_low_pass(
            spec.down_taps, spec.out_cutoff, spec.out_half_width * 2, rate, spec.down_radial
        )
        self.register_buffer("up_filter", None if up is None else up.to(device))
        self.register_buffer("down_filter", None if down is None else down.to(device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.weight.normal_()
            self.bias.zero_()
            self.magnitude_ema.fill_(1)

    def gains(self) -> dict[str, float]:
        """Equalized gain by parameter."""
        return {}

    def forward(
        self, x: Tensor, w: Tensor, update_emas: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        """dtype: to compute in, None for the weights' own; update_emas: before the average is used."""
        spec, dtype = self.spec, dtype or self.weight.dtype
        if update_emas:
            power = x.detach().to(self.magnitude_ema.dtype).square().mean()
            self.magnitude_ema.copy_(moving_average(self.magnitude_ema, power, spec.magnitude_ema_beta))
        x = modulated_conv2d(
            x.to(dtype),
            self.weight,
            self.affine(w),
            demodulate=not spec.is_torgb,
            padding=spec.conv_kernel - 1,
            input_gain=self.magnitude_ema.rsqrt(),
            fused=self.fused,
        )
        return filtered_lrelu(
            x,
            fu=self.up_filter,
            fd=self.down_filter,
            b=self.bias.to(dtype),
            up=spec.up_factor,
            down=spec.down_factor,
            padding=list(spec.padding),
            gain=1.0 if spec.is_torgb else math.sqrt(2),
            slope=1.0 if spec.is_torgb else 0.2,
            clamp=spec.conv_clamp,
        )


class SynthesisNetwork(nn.Module):
    """Input and layers from explicit specifications: ws (b n d) -> pictures (b 3 h w), about [-1, 1]."""

    def __init__(
        self, w_dim: int, input_spec: InputSpec, layer_specs: Sequence[LayerSpec], output_scale: float = 0.25
    ) -> None:
        super().__init__()
        _check_chain(input_spec, layer_specs)
        self.w_dim, self.output_scale = w_dim, output_scale
        self.specs = tuple(layer_specs)
        self.num_ws = len(layer_specs) + 1
        self.input = SynthesisInput(w_dim, input_spec)
        self.layer_names = [spec.name for spec in layer_specs]
        for spec in layer_specs:
            self.add_module(spec.name, SynthesisLayer(w_dim, spec))

    def layers(self) -> list[SynthesisLayer]:
        """The layers in order, toRGB last."""
        return [self.get_submodule(name) for name in self.layer_names]  # type: ignore[misc]

    def set_transform(self, matrix: Tensor) -> None:
        """Show all pictures under this transform's inverse (3 3), coordinates in picture widths."""
        self.input.transform.copy_(matrix)

    def block_features(
        self,
        ws: Tensor,
        update_emas: bool = False,
        force_fp32: bool = True,
        dtype: torch.dtype = torch.float16,
    ) -> dict[str, Tensor]:
        """Activations (b c h w) after the input and each layer by name; the last before output_scale."""
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"ws are (b {self.num_ws} {self.w_dim}), not {tuple(ws.shape)}")
        first, *rest = ws.to(self.input.weight.dtype).unbind(dim=1)
        features = {"input": self.input(first)}
        x = features["input"]
        for layer, w in zip(self.layers(), rest, strict=True):
            reduced = layer.spec.use_fp16 and not force_fp32
            x = layer(x, w, update_emas, dtype if reduced else None)
            features[layer.spec.name] = x
        return features

    def forward(
        self,
        ws: Tensor,
        update_emas: bool = False,
        force_fp32: bool = True,
        dtype: torch.dtype = torch.float16,
    ) -> Tensor:
        """Pictures of ws.

        Args:
            update_emas: update each layer's activation power before it is used.
            force_fp32: compute in float32, as upstream does on a CPU.
            dtype: of the layers meant for reduced precision, unless force_fp32.
        """
        features = self.block_features(ws, update_emas, force_fp32, dtype)
        return features[self.layer_names[-1]].to(ws.dtype) * self.output_scale


def _check_chain(input_spec: InputSpec, layer_specs: Sequence[LayerSpec]) -> None:
    """Raise UserError unless each layer reads what the one before it writes."""
    before, channels, size = "the input", input_spec.channels, input_spec.size
    for spec in layer_specs:
        if (spec.in_channels, spec.in_size) != (channels, size):
            raise UserError(
                f"layer {spec.name} after {before}",
                f"it reads {spec.in_channels} channels of {spec.in_size}",
                f"{before} writes {channels} of {size}",
                "the layer specifications do not belong to one network",
            )
        before, channels, size = spec.name, spec.out_channels, spec.out_size


class MappingNetwork(nn.Module):
    """z (b z) and class c (b classes, one-hot) to ws (b n d).

    Args:
        embedding: classes and features of the class embedding, which exists even where no class is taken.
    """

    w_avg: Tensor

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int,
        num_layers: int = 2,
        lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
        embedding: tuple[int, int] = EMBEDDING,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.num_layers, self.w_avg_beta = num_layers, w_avg_beta
        self.embed = nn.Embedding(*embedding)
        self.embed_proj = EqualizedLinear(embedding[1], z_dim) if c_dim else None
        widths = [z_dim * 2 if c_dim else z_dim] + [w_dim] * num_layers
        for i in range(num_layers):
            layer = EqualizedLinear(widths[i], widths[i + 1], lr_multiplier=lr_multiplier)
            self.add_module(f"fc{i}", layer)
        self.register_buffer("w_avg", torch.zeros([c_dim, w_dim] if c_dim else [w_dim]))

    def reset_parameters(self) -> None:
        """Forget the centers of truncation; the layers reset themselves."""
        self.w_avg.zero_()

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
    ) -> Tensor:
        """ws, drawn towards the center (of the class, if any) by 1 - truncation_psi.

        Args:
            truncation_cutoff: number of leading ws to draw; None for all.
            update_emas: let these w move the centers first.

        Raises:
            ValueError: if a conditional network is given no classes, or of another number.
        """
        classes = self._classes(c, len(z))
        w = self._w(z.to(self.w_avg.dtype), classes)
        if update_emas:
            self._update_centers(w.detach(), classes)
        ws = w[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi == 1:
            return ws
        centers = (self.w_avg if classes is None else self.w_avg[classes][:, None]).expand_as(ws)
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        drawn = centers.lerp(ws, truncation_psi)
        return torch.cat([drawn[:, :cutoff], ws[:, cutoff:]], dim=1)

    def _classes(self, c: Tensor | None, b: int) -> Tensor | None:
        if not self.c_dim:
            return None
        if c is None or tuple(c.shape) != (b, self.c_dim):
            given = "none" if c is None else tuple(c.shape)
            raise ValueError(f"classes are one-hot, (b c) = ({b} {self.c_dim}); given: {given}")
        return c.argmax(dim=1)

    def _w(self, z: Tensor, classes: Tensor | None) -> Tensor:
        x = normalize_2nd_moment(z)
        if classes is not None and self.embed_proj is not None:
            y = bias_act(self.embed_proj(self.embed(classes)), act="lrelu")
            x = torch.cat([x, normalize_2nd_moment(y)], dim=1)
        for i in range(self.num_layers):
            x = bias_act(self.get_submodule(f"fc{i}")(x), act="lrelu")
        return x

    def _update_centers(self, w: Tensor, classes: Tensor | None) -> None:
        """One step per batch of a common center, one per picture of the class centers."""
        if classes is None:
            self.w_avg.copy_(moving_average(self.w_avg, w.mean(dim=0), self.w_avg_beta))
            return
        for index, one in zip(classes.tolist(), w, strict=True):
            self.w_avg[index] = moving_average(self.w_avg[index], one, self.w_avg_beta)


class Generator(nn.Module):
    """Mapping and synthesis: z (b z), one-hot c (b classes) -> pictures (b 3 h w)."""

    def __init__(self, mapping: MappingNetwork, synthesis: SynthesisNetwork) -> None:
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        update_emas: bool = False,
        **synthesis: Any,
    ) -> Tensor:
        ws = self.mapping(z, c, truncation_psi, truncation_cutoff, update_emas)
        return self.synthesis(ws, update_emas=update_emas, **synthesis)
