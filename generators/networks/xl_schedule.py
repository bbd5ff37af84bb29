"""Which layers a StyleGAN-XL generator has: sizes, rates, cutoffs, filters. Numbers only, no tensors.

Karras et al., "Alias-Free Generative Adversarial Networks" (2021), section 3.2 and appendix C, for the stem;
Sauer et al., "StyleGAN-XL: Scaling StyleGAN to Large Diverse Datasets" (2022), section 3.2, for the
super-resolution stages. Frequencies and rates are in cycles and samples per picture width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy

from generators.errors import UserError


@dataclass(frozen=True)
class InputSpec:
    """The Fourier-feature input."""

    channels: int
    size: tuple[int, int]  # (w, h), margins included
    sampling_rate: float
    bandwidth: float  # highest frequency drawn at initialization


@dataclass(frozen=True)
class LayerSpec:
    """Every quantity that decides one synthesis layer."""

    name: str
    is_torgb: bool
    is_critically_sampled: bool
    use_fp16: bool  # whether reduced precision is meant for this layer at all
    in_channels: int
    out_channels: int
    in_size: tuple[int, int]  # (w, h), margins included
    out_size: tuple[int, int]
    in_sampling_rate: int
    out_sampling_rate: int
    tmp_sampling_rate: int  # at which the leaky ReLU is applied
    in_cutoff: float
    out_cutoff: float
    in_half_width: float  # of the transition band
    out_half_width: float
    conv_kernel: int
    conv_clamp: float | None
    filter_size: int  # taps per unit of the up or down factor
    lrelu_upsampling: int
    use_radial_filters: bool
    magnitude_ema_beta: float
    up_factor: int
    down_factor: int
    up_taps: int
    down_taps: int
    down_radial: bool
    padding: tuple[int, int, int, int]  # x0, x1, y0, y1 of the upsampled picture; negative crops
    # Where the stopband starts: a next stage continues from it. None if the layer was read from a file.
    stopband: float | None = field(default=None, compare=False)

    @property
    def up_filter_shape(self) -> tuple[int, ...] | None:
        """Shape of the upsampling filter, None where there is none."""
        return (self.up_taps,) if self.up_taps > 1 else None

    @property
    def down_filter_shape(self) -> tuple[int, ...] | None:
        """Shape of the downsampling filter, None where there is none."""
        return (self.down_taps,) * (2 if self.down_radial else 1) if self.down_taps > 1 else None


# Options of a schedule that every layer is given as they are.
PASSED_ON = ("conv_clamp", "filter_size", "lrelu_upsampling", "use_radial_filters", "magnitude_ema_beta")
# What a super-resolution stage takes over from the stem; the rest has its default.
CONTINUED = (
    "img_channels",
    "conv_kernel",
    "use_radial_filters",
    "channel_base",
    "channel_max",
    "num_critical",
    "last_stopband_rel",
    "margin_size",
    "num_fp16_res",
)


@dataclass(frozen=True)
class Schedule:
    """What the layers of a stem are derived from; names and defaults are the official ones."""

    img_resolution: int
    img_channels: int = 3
    conv_kernel: int = 3  # of all layers but the last, which is 1x1
    use_radial_filters: bool = False
    channel_base: int = 32768
    channel_max: int = 512
    num_layers: int = 14  # without toRGB
    num_critical: int = 2  # critically sampled layers at the end, without toRGB
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3  # relative to the last cutoff
    margin_size: int = 10  # pixels beyond each border
    num_fp16_res: int = 4
    filter_size: int = 6
    lrelu_upsampling: int = 2
    conv_clamp: float | None = 256
    magnitude_ema_beta: float = 0.999

    def __post_init__(self) -> None:
        check_kernel(self.conv_kernel)
        if self.num_layers <= self.num_critical:
            raise UserError(
                f"a stage of {self.num_layers} layers",
                f"{self.num_critical} of its layers are critically sampled: none is left before them",
                f"{self.num_critical + 1} or more layers",
                "raise num_layers (stem) or head_layers (super-resolution)",
            )


def check_kernel(conv_kernel: Any) -> None:
    """Raise UserError unless `conv_kernel` is a positive whole number."""
    if isinstance(conv_kernel, bool) or not isinstance(conv_kernel, int) or conv_kernel < 1:
        raise UserError(
            f"StyleGAN-XL layers with conv_kernel {conv_kernel!r}",
            "the size of a kernel is a positive whole number",
            "1 (configuration r, with radial filters) or 3 (configuration t)",
            "name conv_kernel and use_radial_filters; they have no default upstream",
        )


@dataclass(frozen=True)
class Bands:
    """Per-layer frequencies, rates, sizes and channels of one stage, toRGB included."""

    cutoffs: numpy.ndarray
    stopbands: numpy.ndarray
    rates: numpy.ndarray
    channels: numpy.ndarray
    sizes: numpy.ndarray


def bands(
    schedule: Schedule,
    resolution: int,
    layers: int,
    first_cutoff: float,
    first_stopband: float,
    first_rate: int | None = None,
) -> Bands:
    """Geometric progression from the first to the last band, and all that follows from it (equation 4).

    Args:
        resolution: at the end of the stage.
        layers: of the stage, without toRGB.
        first_rate: overrides the first layer's sampling rate, where a stage continues another.
    """
    exponents = numpy.minimum(numpy.arange(layers + 1) / (layers - schedule.num_critical), 1)
    last_cutoff = resolution / 2
    cutoffs = first_cutoff * (last_cutoff / first_cutoff) ** exponents
    last_stopband = last_cutoff * schedule.last_stopband_rel
    stopbands = first_stopband * (last_stopband / first_stopband) ** exponents
    rates = numpy.exp2(numpy.ceil(numpy.log2(numpy.minimum(stopbands * 2, resolution))))
    rates[0] = rates[0] if first_rate is None else first_rate
    channels = numpy.rint(numpy.minimum(schedule.channel_base / 2 / cutoffs, schedule.channel_max))
    channels[-1] = schedule.img_channels
    sizes = rates + 2 * schedule.margin_size
    sizes[-2:] = resolution
    return Bands(cutoffs, stopbands, rates, channels, sizes)


def axis_padding(spec: LayerSpec, axis: int) -> tuple[int, int]:
    """Padding before and after that makes one axis come out at the wanted size, with the center in place."""
    total = (spec.out_size[axis] - 1) * spec.down_factor + 1
    total -= (spec.in_size[axis] + spec.conv_kernel - 1) * spec.up_factor
    total += spec.up_taps + spec.down_taps - 2
    low = (total + spec.up_factor) // 2
    return low, total - low


def taps(factor: int, filter_size: int, is_torgb: bool) -> int:
    """Length of a resampling filter; 1 where nothing is resampled."""
    return filter_size * factor if factor > 1 and not is_torgb else 1


def layer_spec(schedule: Schedule, stage: Bands, resolution: int, index: int, first_index: int) -> LayerSpec:
    """The layer `index` of a stage; the first one reads what it writes."""
    layers, before = len(stage.rates) - 1, max(index - 1, 0)
    is_torgb, critical = index == layers, index >= layers - schedule.num_critical
    half_widths = numpy.maximum(stage.stopbands, stage.rates / 2) - stage.cutoffs
    spec = LayerSpec(
        name=f"L{first_index + index}_{stage.sizes[index]:.0f}_{stage.channels[index]:.0f}",
        is_torgb=is_torgb,
        is_critically_sampled=critical,
        use_fp16=bool(stage.rates[index] * 2**schedule.num_fp16_res > resolution),
        in_channels=round(stage.channels[before]),
        out_channels=round(stage.channels[index]),
        in_size=pair(stage.sizes[before]),
        out_size=pair(stage.sizes[index]),
        **_resampling(schedule, stage.rates[before], stage.rates[index], is_torgb),
        in_cutoff=float(stage.cutoffs[before]),
        out_cutoff=float(stage.cutoffs[index]),
        in_half_width=float(half_widths[before]),
        out_half_width=float(half_widths[index]),
        conv_kernel=1 if is_torgb else schedule.conv_kernel,
        **{name: getattr(schedule, name) for name in PASSED_ON},
        down_radial=schedule.use_radial_filters and not critical,
        padding=(0, 0, 0, 0),
        stopband=float(stage.stopbands[index]),
    )
    return replace(spec, padding=(*axis_padding(spec, 0), *axis_padding(spec, 1)))


def _resampling(schedule: Schedule, in_rate: float, out_rate: float, is_torgb: bool) -> dict[str, Any]:
    """Rates, factors and filter lengths between them and the rate of the leaky ReLU."""
    tmp_rate = max(in_rate, out_rate) * (1 if is_torgb else schedule.lrelu_upsampling)
    up, down = round(tmp_rate / in_rate), round(tmp_rate / out_rate)
    return {
        "in_sampling_rate": round(in_rate),
        "out_sampling_rate": round(out_rate),
        "tmp_sampling_rate": round(tmp_rate),
        "up_factor": up,
        "down_factor": down,
        "up_taps": taps(up, schedule.filter_size, is_torgb),
        "down_taps": taps(down, schedule.filter_size, is_torgb),
    }


def layer_specs(schedule: Schedule) -> list[LayerSpec]:
    """The layers of a stem, toRGB last."""
    resolution = schedule.img_resolution
    stage = bands(schedule, resolution, schedule.num_layers, schedule.first_cutoff, schedule.first_stopband)
    return [layer_spec(schedule, stage, resolution, i, 0) for i in range(schedule.num_layers + 1)]


def input_spec(schedule: Schedule) -> InputSpec:
    """The input of a stem: what its first layer reads."""
    first = layer_specs(schedule)[0]
    return InputSpec(first.in_channels, first.in_size, float(first.in_sampling_rate), schedule.first_cutoff)


def add_superresolution(
    specs: Sequence[LayerSpec],
    schedule: Schedule,
    img_resolution: int,
    head_layers: int,
    conv_kernel: int | None = None,
    use_radial_filters: bool | None = None,
) -> list[LayerSpec]:
    """The layers after one more stage: the critically sampled ones dropped, head_layers + 1 appended.

    Args:
        specs: of the network so far, stem or chain, as derived here.
        schedule: of the stem; channels, margins and critical layers continue with its values, filter size,
            leaky ReLU upsampling, clamp and moving average with their defaults.
        img_resolution: after the stage.
        head_layers: new layers without toRGB.
        conv_kernel, use_radial_filters: of the new layers; None for the stem's. The released models have
            1x1 radial stems under 3x3 separable heads.

    Raises:
        UserError: if the layers were read from a file (which does not say where the stopband starts), or the
            stage has no more layers than critically sampled ones.
    """
    kept = [spec for spec in specs if not spec.is_critically_sampled]
    last, new = kept[-1], {"conv_kernel": conv_kernel, "use_radial_filters": use_radial_filters}
    if last.stopband is None:
        raise UserError(
            f"a super-resolution stage on top of layer {last.name}",
            "this layer was read from a file, which does not say where its stopband starts",
            todo="derive the stem from its constructor arguments (layer_specs)",
        )
    options = {name: getattr(schedule, name) for name in CONTINUED}
    options |= {name: value for name, value in new.items() if value is not None}
    head = Schedule(img_resolution=img_resolution, num_layers=head_layers, **options)
    first = (last.out_cutoff, last.stopband, last.out_sampling_rate)
    stage = bands(head, img_resolution, head_layers, *first)
    # The number of the removed first critical layer is never used again: names skip it.
    first_index = len(kept) + 1
    return kept + [layer_spec(head, stage, img_resolution, i, first_index) for i in range(head_layers + 1)]


def specs_from_modules(
    layer_names: Sequence[str], layers: Mapping[str, Mapping[str, Any]]
) -> list[LayerSpec]:
    """The layers of a pickled network, from the plain attributes of its modules.

    Args:
        layer_names: in order, as the synthesis network lists them.
        layers: attributes by layer name; numbers may be numpy's. What files may lack follows from the rest:
            `tmp_sampling_rate`, `filter_size`, `lrelu_upsampling`, `use_radial_filters` (as `down_radial`),
            and `down_radial` from `down_filter_shape`, the shape of the stored filter.

    Raises:
        UserError: naming the first layer or attribute that is missing.
    """
    for name in layer_names:
        if name not in layers:
            raise UserError(f"layer {name!r}", "the file lists it and does not hold it", ", ".join(layers))
    return [_from_attributes(name, layers[name]) for name in layer_names]


def _from_attributes(name: str, attributes: Mapping[str, Any]) -> LayerSpec:
    values = {**_implied(attributes), **attributes}
    for key in READ:
        if key not in values:
            listed = ", ".join(sorted(map(str, attributes)))
            raise UserError(f"layer {name!r}", f"the file does not say its {key}", listed)
    spec = LayerSpec(name=name, **{key: read(values[key]) for key, read in READ.items()})
    check_kernel(spec.conv_kernel)
    return spec


def _implied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that follow from others."""
    up = int(attributes.get("up_factor", 1))
    rates = [int(attributes.get(f"{end}_sampling_rate", 1)) for end in ("in", "out")]
    radial = len(attributes.get("down_filter_shape") or ()) == 2
    return {
        "tmp_sampling_rate": rates[0] * up,
        "filter_size": int(attributes.get("up_taps", 6)) // up if up > 1 else 6,
        "lrelu_upsampling": 2 if attributes.get("is_torgb") else rates[0] * up // max(rates),
        "down_radial": radial,
        "use_radial_filters": attributes.get("down_radial", radial),
    }


def pair(value: Any) -> tuple[int, int]:
    """A number, or (w, h), as (w, h)."""
    width, height = numpy.broadcast_to(numpy.asarray(value), (2,)).tolist()
    return int(width), int(height)


def four(value: Any) -> tuple[int, int, int, int]:
    """Padding (x0, x1, y0, y1) in whole numbers."""
    x0, x1, y0, y1 = (int(side) for side in value)
    return x0, x1, y0, y1


def number_or_none(value: Any) -> float | None:
    """A number as a float, None as it is."""
    return None if value is None else float(value)


# How each attribute of a pickled layer is read.
READ: dict[str, Callable[[Any], Any]] = {
    "is_torgb": bool,
    "is_critically_sampled": bool,
    "use_fp16": bool,
    "use_radial_filters": bool,
    "down_radial": bool,
    **dict.fromkeys(("in_channels", "out_channels", "conv_kernel", "filter_size", "lrelu_upsampling"), int),
    **dict.fromkeys(("in_sampling_rate", "out_sampling_rate", "tmp_sampling_rate"), int),
    **dict.fromkeys(("up_factor", "down_factor", "up_taps", "down_taps"), int),
    **dict.fromkeys(("in_cutoff", "out_cutoff", "in_half_width", "out_half_width"), float),
    "magnitude_ema_beta": float,
    "in_size": pair,
    "out_size": pair,
    "padding": four,
    "conv_clamp": number_or_none,
}
