"""Legacy TensorFlow StyleGAN2 pickles, turned into the names and layouts of the PyTorch networks.

Such a file is a tuple (G, D, Gs) of `dnnlib.tflib.network.Network` objects: static_kwargs, components
(mapping, synthesis) and variables, a list of (name, array). Only shapes and names are believed; the
source text beside them is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .network_file import NetworkFile, arguments, whole_state
from .records import Array, Inert, Malformed, Reading, brief

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

NETWORKS = ("G", "D", "G_ema")  # the order in the file; the third is the moving average
COMPONENTS = {
    "mapping": "mapping",
    "G_mapping": "mapping",
    "synthesis": "synthesis",
    "G_synthesis": "synthesis",
}
KNOWN = "the StyleGAN2 networks of the 2019 paper and of StyleGAN2-ADA can be read, not StyleGAN1 or others"
TODO = "name a StyleGAN2 config-f or StyleGAN2-ADA pickle"

# Arguments that only matter in training or to TensorFlow, and arguments we can only read at one value.
IGNORED = {
    "func_name", "dtype", "randomize_noise", "fused_modconv", "structure", "is_training", "is_validation",
    "truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "dlatent_avg_beta",
    "style_mixing_prob", "return_dlatents", "latent_size", "label_size", "dlatent_size", "resolution",
    "num_channels", "mapping_layers", "mapping_fmaps", "label_fmaps", "dlatent_broadcast",
    "force_clean_graph", "is_template_graph", "mapping_func", "synthesis_func", "input_dtype", "force_fp32",
}  # fmt: skip
FIXED = {"normalize_latents": True, "mapping_nonlinearity": "lrelu", "nonlinearity": "lrelu",
         "fmap_decay": 1.0, "fmap_min": 1, "use_pixel_norm": False, "use_instance_norm": False}  # fmt: skip
USED = {
    "fmap_base": 16384, "fmap_max": 512, "architecture": "skip", "mapping_lrmul": 0.01,
    "resample_kernel": [1, 3, 3, 1], "use_noise": True, "conv_clamp": None, "num_fp16_res": 0,
}  # fmt: skip


def network(top: list[Any] | tuple[Any, ...], which: str, reading: Reading) -> NetworkFile:
    """The network "G_ema" or "G" of the tuple (G, D, Gs); raises Malformed naming what does not fit."""
    if len(top) != len(NETWORKS) or not all(_is_network(each) for each in top):
        held = ", ".join(brief(each) for each in top[:5])
        raise Malformed(f"the pickle holds {len(top)} values ({held}), not the three networks (G, D, Gs)")
    if which not in ("G", "G_ema"):
        raise Malformed(f"{which} cannot be read from a TensorFlow pickle", "it has G and G_ema")
    state = top[NETWORKS.index(which)].state
    variables = dict(_variables(state, "", reading, 0))
    options = _options(arguments(state.get("static_kwargs"), "static_kwargs", reading))
    return _Conversion(variables, options, reading).network()


def _is_network(value: Any) -> bool:
    return isinstance(value, Inert) and value.name.endswith(" Network") and isinstance(value.state, dict)


def _variables(state: dict[Any, Any], prefix: str, reading: Reading, depth: int) -> Iterator[tuple[str, Any]]:
    """(name, array) of a network and its components, with the component's name in front."""
    listed, components = state.get("variables"), state.get("components", {})
    if not isinstance(listed, list) or not isinstance(components, dict) or depth > len(COMPONENTS):
        raise Malformed("a network has no list of variables, or no dict of components")
    for item in listed:
        reading.step(1024)
        if not isinstance(item, list | tuple) or len(item) != 2 or not isinstance(item[0], str):
            raise Malformed("a variable is not (name, array)")
        yield prefix + item[0], _numbers(prefix + item[0], item[1])
    for name, component in components.items():
        if name not in COMPONENTS or not _is_network(component):
            raise Malformed(f"the component {brief(name)} is unknown", KNOWN, TODO)
        yield from _variables(component.state, f"{prefix}{COMPONENTS[name]}/", reading, depth + 1)


def _numbers(name: str, value: Any) -> np.ndarray:
    """An array; what has no axes was written as a scalar, by sessions of TensorFlow."""
    import numpy as np

    if isinstance(value, float) and abs(value) < np.finfo(np.float32).max:
        return np.array(value, np.float32)
    if not isinstance(value, Array) or value.values is None:
        raise Malformed(f"the variable {brief(name)} is {brief(value)}")
    return value.values


def _options(given: Any) -> dict[str, Any]:
    """The arguments that shape the network, with their defaults filled in."""
    if not isinstance(given, dict):
        raise Malformed(f"static_kwargs is {brief(given)}")
    for name, value in given.items():
        if name in FIXED and value != FIXED[name]:
            raise Malformed(f"{name} is {brief(value)}, only {FIXED[name]!r} can be read", KNOWN, TODO)
        if name not in IGNORED | set(FIXED) | set(USED):
            raise Malformed(f"the argument {brief(name)} is unknown", KNOWN, TODO)
    options = USED | {name: value for name, value in given.items() if name in USED}
    for name in ("fmap_base", "fmap_max", "mapping_lrmul", "num_fp16_res", "conv_clamp"):
        number = isinstance(options[name], int | float) and not isinstance(options[name], bool)
        if not number and not (name == "conv_clamp" and options[name] is None):
            raise Malformed(f"{name} is {brief(options[name])}, not a number")
    return options


# One function per change of layout, and the names each of them applies to.


def _same(value: np.ndarray) -> np.ndarray:
    return value


def _transposed(value: np.ndarray) -> np.ndarray:
    """A dense layer: [in, out] -> [out, in]."""
    return value.T


def _kernel(value: np.ndarray) -> np.ndarray:
    """A convolution: [kh, kw, in, out] -> [out, in, kh, kw]."""
    return value.transpose(3, 2, 0, 1)


def _flipped(value: np.ndarray) -> np.ndarray:
    """An upsampling convolution, which the two frameworks write in opposite directions."""
    return value[::-1, ::-1].transpose(3, 2, 0, 1)


def _plus_one(value: np.ndarray) -> np.ndarray:
    """The bias of a style, stored without the 1 it starts from."""
    return value + value.dtype.type(1)


def _without(axes: int, value: np.ndarray) -> np.ndarray:
    if value.shape[:axes] != (1,) * axes:
        raise Malformed(f"a variable of the shape {brief(value.shape)} should start with {axes} x 1")
    return value.reshape(value.shape[axes:])


def _first(value: np.ndarray) -> np.ndarray:
    """A constant with a batch axis: [1, c, h, w] -> [c, h, w]."""
    return _without(1, value)


def _plane(value: np.ndarray) -> np.ndarray:
    """A noise map: [1, 1, h, w] -> [h, w]."""
    return _without(2, value)


Change = Callable[["np.ndarray"], "np.ndarray"]
LAYERS = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb", "Skip": "skip"}
PARTS: dict[str, tuple[str, int, Change]] = {  # in a synthesis layer: PyTorch name, dimensions, change
    "weight": ("weight", 4, _kernel),
    "bias": ("bias", 1, _same),
    "mod_weight": ("affine.weight", 2, _transposed),
    "mod_bias": ("affine.bias", 1, _plus_one),
    "noise_strength": ("noise_strength", 0, _same),
}
DENSE: dict[str, tuple[str, int, Change]] = {"weight": ("weight", 2, _transposed), "bias": ("bias", 1, _same)}
LAYER_NAME = re.compile(r"synthesis/(\d{1,5})x(\d{1,5})/(Conv|Conv0_up|Conv1|ToRGB|Skip)/(\w+)")
NOISE_NAME = re.compile(r"synthesis/noise(\d{1,2})")
DENSE_NAME = re.compile(r"mapping/(?:Dense(\d{1,2})|LabelEmbed)/(\w+)")
NOT_NEEDED = re.compile(r"(synthesis/|mapping/)?lod")


def _target(name: str) -> tuple[str, int, Change] | None:
    """PyTorch name, dimensions and change of one variable, or None when it is none of StyleGAN2's."""
    if name == "dlatent_avg":
        return "mapping.w_avg", 1, _same
    if name == "synthesis/4x4/Const/const":
        return "synthesis.b4.const", 4, _first
    if found := NOISE_NAME.fullmatch(name):
        return f"{_noise_layer(int(found[1]))}.noise_const", 4, _plane
    if (found := DENSE_NAME.fullmatch(name)) and found[2] in DENSE:
        part, dimensions, change = DENSE[found[2]]
        return f"mapping.{'embed' if found[1] is None else f'fc{int(found[1])}'}.{part}", dimensions, change
    if (found := LAYER_NAME.fullmatch(name)) and found[1] == found[2] and found[4] in PARTS:
        part, dimensions, change = PARTS[found[4]]
        change = _flipped if (found[3], found[4]) == ("Conv0_up", "weight") else change
        return f"synthesis.b{found[1]}.{LAYERS[found[3]]}.{part}", dimensions, change
    return None


def _noise_layer(index: int) -> str:
    """The layer of noise map 0, 1, 2, ...: b4.conv1, b8.conv0, b8.conv1, b16.conv0, ..."""
    return f"synthesis.b{4 << (index + 1) // 2}.conv{1 - index % 2}"


class _Conversion:
    """Tensors by PyTorch name, and the arguments their shapes imply."""

    def __init__(self, variables: dict[str, Any], options: dict[str, Any], reading: Reading) -> None:
        self.options, self.reading = options, reading
        self.state: dict[str, Tensor] = {}
        self.sources: dict[str, str] = {}  # PyTorch name -> TensorFlow name
        for name, value in variables.items():
            if not NOT_NEEDED.fullmatch(name):
                self._take(name, value)

    def _take(self, name: str, value: np.ndarray) -> None:
        import numpy as np
        import torch

        target = _target(name)
        if target is None:
            raise Malformed(f"the variable {brief(name)} is none of StyleGAN2's", KNOWN, TODO)
        own, dimensions, change = target
        if value.ndim != dimensions or value.dtype != np.float32 or value.size == 0:
            found = f"{value.dtype.name} {brief(value.shape)}"
            raise Malformed(f"the variable {brief(name)} is {found}, not float32 in {dimensions} dimensions")
        if own in self.state:
            raise Malformed(f"the variables {brief(self.sources[own])} and {brief(name)} are the same")
        self.sources[own] = name
        self.state[own] = torch.from_numpy(np.array(change(value), dtype=np.float32, order="C"))

    def network(self) -> NetworkFile:
        whole_state(self.state, self.reading)
        resolution = self._resolution()
        if not self.options["use_noise"]:  # the maps are there, and nothing reads them
            self.state = {n: t for n, t in self.state.items() if not n.endswith("noise_const")}
        self._add_filters(resolution)
        kwargs = self._arguments(resolution)
        self._check_shapes(kwargs)
        return NetworkFile("tensorflow", "Generator", kwargs, self.state)

    def _resolution(self) -> int:
        resolution = max(
            (int(n.split(".")[1][1:]) for n in self.state if n.startswith("synthesis.b")), default=0
        )
        if not 4 <= resolution <= 1 << 14 or resolution & (resolution - 1):
            raise Malformed(
                f"the largest block is {resolution}x{resolution}, not a power of two", KNOWN, TODO
            )
        return resolution

    def _add_filters(self, resolution: int) -> None:
        """The resampling filters, which are arguments there and buffers here: outer product over its sum."""
        import torch

        kernel = self.options["resample_kernel"]
        if not isinstance(kernel, list) or not 1 <= len(kernel) <= 16:
            raise Malformed(f"resample_kernel is {brief(kernel)}, not a list of numbers", KNOWN, TODO)
        if not all(isinstance(tap, int | float) and abs(tap) <= 1e6 for tap in kernel) or not sum(kernel):
            raise Malformed("resample_kernel is not a list of numbers with a sum", KNOWN, TODO)
        taps = torch.tensor(kernel, dtype=torch.float32)
        filter_ = torch.outer(taps, taps)
        for name in _filter_names(resolution, self.options["architecture"]):
            self.state[name] = filter_ / filter_.sum()

    def _size(self, name: str, axis: int) -> int:
        if name not in self.state:
            raise Malformed(f"it has no variable for {name}", KNOWN, TODO)
        return self.state[name].shape[axis]

    def _arguments(self, resolution: int) -> dict[str, Any]:
        conditional = "mapping.embed.weight" in self.state
        layers = len({n.split(".")[1] for n in self.state if n.startswith("mapping.fc")})
        embedded = self._size("mapping.embed.weight", 0) if conditional else 0
        return {
            "z_dim": self._size("mapping.fc0.weight", 1) - embedded,
            "c_dim": self._size("mapping.embed.weight", 1) if conditional else 0,
            "w_dim": self._size("mapping.w_avg", 0),
            "img_resolution": resolution,
            "img_channels": self._size(f"synthesis.b{resolution}.torgb.weight", 0),
            "mapping_kwargs": self._mapping_arguments(layers, embedded),
            "synthesis_kwargs": self._synthesis_arguments(),
        }

    def _mapping_arguments(self, layers: int, embedded: int) -> dict[str, Any]:
        width, hidden = self._size("mapping.w_avg", 0), self._size("mapping.fc0.weight", 0)
        found: dict[str, Any] = {"num_layers": layers}
        if embedded not in (0, width):
            found["embed_features"] = embedded
        if layers > 1 and hidden != width:
            found["layer_features"] = hidden
        if self.options["mapping_lrmul"] != USED["mapping_lrmul"]:
            found["lr_multiplier"] = self.options["mapping_lrmul"]
        return found

    def _synthesis_arguments(self) -> dict[str, Any]:
        """channel_base is twice fmap_base: one counts from 1x1, the other from 2x2."""
        base, most = self.options["fmap_base"] * 2, self.options["fmap_max"]
        if not 1 <= base <= 1 << 30 or not 1 <= most <= 1 << 20:
            raise Malformed("fmap_base or fmap_max is out of range", KNOWN, TODO)
        found: dict[str, Any] = {"channel_base": int(base), "channel_max": int(most)}
        renamed = {"resample_kernel": "resample_filter"}
        for name in ("architecture", "resample_kernel", "use_noise", "conv_clamp", "num_fp16_res"):
            if self.options[name] != USED[name]:
                found[renamed.get(name, name)] = self.options[name]
        return found

    def _check_shapes(self, kwargs: dict[str, Any]) -> None:
        """The tensors are exactly those of the network the arguments describe."""
        expected = expected_shapes(kwargs)
        for name, tensor in self.state.items():
            source = brief(self.sources.get(name, name))
            if name not in expected:
                raise Malformed(
                    f"the variable {source} has no place in the network of its arguments", KNOWN, TODO
                )
            if tuple(tensor.shape) != expected[name]:
                sizes = f"{brief(tuple(tensor.shape))}, not {brief(expected[name])}"
                raise Malformed(f"the variable {source} gives {name} the shape {sizes}", KNOWN, TODO)
        for name in expected:
            if name not in self.state:
                raise Malformed(f"it has no variable for {name}", KNOWN, TODO)


def _filter_names(resolution: int, architecture: str) -> Iterator[str]:
    for size in _sizes(resolution):
        layers = ("conv1",) if size == 4 else ("conv0", "conv1")
        yield f"synthesis.b{size}.resample_filter"
        yield from (f"synthesis.b{size}.{layer}.resample_filter" for layer in layers)
        if architecture == "resnet" and size > 4:
            yield f"synthesis.b{size}.skip.resample_filter"


def _sizes(resolution: int) -> list[int]:
    return [4 << i for i in range(resolution.bit_length() - 2)]


def expected_shapes(kwargs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a StyleGAN2 state by name, for arguments as `_arguments` gives them."""
    synthesis, resolution = kwargs["synthesis_kwargs"], kwargs["img_resolution"]
    architecture, w_dim = synthesis.get("architecture", "skip"), kwargs["w_dim"]
    if architecture not in ("skip", "resnet", "orig"):
        raise Malformed(f"the architecture is {brief(architecture)}, not skip, resnet or orig", KNOWN, TODO)
    taps = len(synthesis.get("resample_filter", USED["resample_kernel"]))
    shapes = {name: (taps, taps) for name in _filter_names(resolution, architecture)}
    found: dict[str, tuple[int, ...]] = {**shapes, **_mapping_shapes(kwargs)}
    before = 0
    for size in _sizes(resolution):
        width = max(1, min(synthesis["channel_base"] // size, synthesis["channel_max"]))
        block = f"synthesis.b{size}"
        noise = size if synthesis.get("use_noise", True) else 0
        if size == 4:
            found[f"{block}.const"] = (width, 4, 4)
        else:
            found |= _layer_shapes(f"{block}.conv0", width, before, 3, w_dim, noise)
        found |= _layer_shapes(f"{block}.conv1", width, width, 3, w_dim, noise)
        if architecture == "skip" or size == resolution:
            found |= _layer_shapes(f"{block}.torgb", kwargs["img_channels"], width, 1, w_dim, 0)
        if architecture == "resnet" and size > 4:
            found[f"{block}.skip.weight"] = (width, before, 1, 1)
        before = width
    return found


def _layer_shapes(
    name: str, channels: int, inputs: int, kernel: int, w_dim: int, noise: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of one modulated convolution; noise is the size of its map, 0 without."""
    found: dict[str, tuple[int, ...]] = {
        f"{name}.weight": (channels, inputs, kernel, kernel),
        f"{name}.bias": (channels,),
        f"{name}.affine.weight": (inputs, w_dim),
        f"{name}.affine.bias": (inputs,),
    }
    return found | ({f"{name}.noise_strength": (), f"{name}.noise_const": (noise, noise)} if noise else {})


def _mapping_shapes(kwargs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    mapping, w_dim = kwargs["mapping_kwargs"], kwargs["w_dim"]
    embedded = mapping.get("embed_features", w_dim) if kwargs["c_dim"] else 0
    hidden, layers = mapping.get("layer_features", w_dim), mapping["num_layers"]
    widths = [kwargs["z_dim"] + embedded, *[hidden] * (layers - 1), w_dim]
    found: dict[str, tuple[int, ...]] = {"mapping.w_avg": (w_dim,)}
    if kwargs["c_dim"]:
        found |= {"mapping.embed.weight": (embedded, kwargs["c_dim"]), "mapping.embed.bias": (embedded,)}
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        found |= {f"mapping.fc{i}.weight": (outputs, inputs), f"mapping.fc{i}.bias": (outputs,)}
    return found
