"""Writers of network files from their documented structure, with none of the upstream code.

Streams are written by Python's own pickler; names of foreign classes and functions are written as names
(`Name`) and calls of them as opcodes (`Call`), so nothing foreign needs to exist. `write_nvidia` and
`write_tensorflow` write the whole files.
"""

import io
import pickle
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

BUFFERS = re.compile(
    r"(.*\.)?(resample_filter|noise_const|w_avg|transform|freqs|phases|magnitude_ema|up_filter|down_filter)"
)
HOOKS = (
    "_backward_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)
STORAGES = {
    torch.float32: "FloatStorage",
    torch.float64: "DoubleStorage",
    torch.float16: "HalfStorage",
    torch.int64: "LongStorage",
    torch.uint8: "ByteStorage",
    torch.bool: "BoolStorage",
}


@dataclass(eq=False)
class Name:
    """A class or function by name, which need not exist."""

    module: str
    name: str


@dataclass(eq=False)
class Call:
    """An object as pickles describe it: a function or class, its arguments, its state and its items."""

    function: Any
    arguments: tuple[Any, ...] = ()
    opcode: bytes = pickle.REDUCE
    state: Any = None
    items: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class StorageId:
    """What a storage stream holds in place of a storage."""

    identity: tuple[Any, ...]


class Writer(pickle._Pickler):  # type: ignore[misc]  # the pickler in Python, which can be told new types
    """Python's pickler with `Name`, `Call`, tensors and NumPy values written by hand."""

    def __init__(self, file: io.BytesIO, protocol: int, style: "Style") -> None:
        super().__init__(file, protocol)
        self.style = style

    def persistent_id(self, value: Any) -> Any:
        return value.identity if isinstance(value, StorageId) else None

    def save_name(self, value: Name) -> None:
        if self.proto >= 4:
            self.save(value.module)
            self.save(value.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    def save_call(self, value: Call) -> None:
        self.save(value.function)
        self.save(value.arguments)
        self.write(value.opcode)
        self.memoize(value)
        if value.items:
            self._batch_setitems(value.items.items())
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)

    def save_tensor(self, value: Tensor) -> None:
        self.save(self.style.tensor(value))

    def save_number(self, value: Any) -> None:
        self.save(self.style.scalar(value))

    def save_array(self, value: Any) -> None:
        self.save(self.style.array(value))

    dispatch = {  # noqa: RUF012
        **pickle._Pickler.dispatch,  # type: ignore[attr-defined]
        Name: save_name,
        Call: save_call,
        Tensor: save_tensor,
        torch.nn.Parameter: save_tensor,
        np.float64: save_number,
        np.float32: save_number,
        np.bool_: save_number,
        np.ndarray: save_array,
    }


def pickled(value: Any, protocol: int, style: "Style | None" = None) -> bytes:
    """The pickle of a value made of plain values, tensors, NumPy values, names and calls."""
    file = io.BytesIO()
    Writer(file, protocol, style or Style()).dump(value)
    return file.getvalue()


@dataclass
class Style:
    """How names and storages are written: which NumPy, dill or pickle, and which device the file names.

    One style writes one file: names and functions are the same object throughout, as in a real program.
    """

    core: str = "numpy.core"
    dill: bool = False
    cuda: bool = False
    names: dict[tuple[str, str], Any] = field(default_factory=dict)

    def name(self, module: str, name: str) -> Any:
        return self.names.setdefault((module, name), Name(module, name))

    def c_function(self, name: str) -> Any:
        """NumPy's C functions, which dill looks up as attributes of an imported module."""
        if not self.dill:
            return self.name(f"{self.core}.multiarray", name)
        module = Call(self.name("dill._dill", "_import_module"), (f"{self.core}._multiarray_umath",))
        found = Call(self.name("dill._dill", "_get_attr"), (module, name))
        return self.names.setdefault(("attribute", name), found)

    def dtype(self, dtype: np.dtype[Any]) -> Call:
        order = "|" if dtype.itemsize == 1 else "<"
        state = (3, order, None, None, None, -1, -1, 0)
        found = Call(self.name("numpy", "dtype"), (dtype.str[1:], False, True), state=state)
        return self.names.setdefault(("dtype", dtype.str), found)

    def scalar(self, value: np.generic) -> Call:
        return Call(self.c_function("scalar"), (self.dtype(value.dtype), value.tobytes()))

    def array(self, value: np.ndarray) -> Call:
        columns = value.flags.f_contiguous and not value.flags.c_contiguous
        raw = value.tobytes("F" if columns else "C")
        state = (1, value.shape, self.dtype(value.dtype), columns, raw)
        arguments = (self.name("numpy", "ndarray"), (0,), b"b")
        return Call(self.c_function("_reconstruct"), arguments, state=state)

    def tensor(self, value: Tensor) -> Call:
        location = "cuda:0" if self.cuda else "cpu"
        flat = value.detach().contiguous()
        storage = Call(self.name("torch.storage", "_load_from_bytes"), (storage_stream(flat, location),))
        view = (storage, 0, tuple(flat.shape), flat.stride(), False, self.empty_ordered_dict())
        built = Call(self.name("torch._utils", "_rebuild_tensor_v2"), view)
        if not isinstance(value, torch.nn.Parameter):
            return built
        return Call(
            self.name("torch._utils", "_rebuild_parameter"), (built, False, self.empty_ordered_dict())
        )

    def empty_ordered_dict(self) -> Call:
        return Call(self.name("collections", "OrderedDict"))

    def ordered_dict(self, items: Mapping[str, Any]) -> Call:
        return Call(self.name("collections", "OrderedDict"), items=items)

    def easy_dict(self, items: Mapping[str, Any]) -> Call:
        return Call(self.name("dnnlib.util", "EasyDict"), opcode=pickle.NEWOBJ, items=items)

    def set(self, members: Iterable[str], protocol: int) -> Any:
        if not self.dill or protocol >= 4:
            return set(members)
        return Call(Call(self.name("dill._dill", "_load_type"), ("set",)), (list(members),))


def raw_bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def storage_stream(tensor: Tensor, location: str = "cpu", key: str = "94021") -> bytes:
    """One storage as legacy torch.save writes it: five pickles, the count, the raw data."""
    kind = Name("torch", STORAGES[tensor.dtype])
    identity = StorageId(("storage", kind, key, location, tensor.numel(), None))
    facts = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    parts = [0x1950A86A20F9469CFC6C, 1001, facts, identity, [key]]
    return (
        b"".join(pickled(part, 2) for part in parts) + struct.pack("<q", tensor.numel()) + raw_bytes(tensor)
    )


# NVIDIA's persistence.


def poisonous(marker: Path) -> str:
    """A source text that writes a file when somebody executes it, long enough to be stored as a view."""
    write = f"__import__('pathlib').Path({str(marker)!r}).write_text('executed')"
    return f"{write}\nraise SystemExit('executed')\n" + "# filler\n" * 9000


@dataclass
class Nvidia:
    """How one file is written; see `write_nvidia`."""

    style: Style
    protocol: int
    source: str
    ordered: bool
    attributes: Mapping[str, Mapping[str, Any]]
    embedding: bool

    def persistent(self, class_name: str, state: Mapping[str, Any]) -> Call:
        facts = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": class_name,
            "state": dict(state),
        }
        return Call(self.style.name("torch_utils.persistence", "_reconstruct_persistent_obj"), (facts,))

    def module_state(self, tensors: Mapping[str, Tensor], children: Mapping[str, Any]) -> dict[str, Any]:
        """The __dict__ of a module, with a buffer that is not persistent."""
        wrap = self.style.ordered_dict if self.ordered else dict
        named = {n: torch.nn.Parameter(t, False) for n, t in tensors.items() if not BUFFERS.fullmatch(n)}
        buffers = {n: t for n, t in tensors.items() if BUFFERS.fullmatch(n)}
        passing = {"scratch": torch.zeros(3)} if children else {}
        return {
            "training": False,
            "_parameters": wrap({**named, "nothing": None} if named else {}),
            "_buffers": wrap(buffers | passing),
            "_non_persistent_buffers_set": self.style.set(passing, self.protocol),
            **{hook: self.style.empty_ordered_dict() for hook in HOOKS},
            "_modules": wrap(dict(children)),
        }

    def module(
        self, name: str, class_name: str, state: Mapping[str, Tensor], extra: Mapping[str, Any]
    ) -> Call:
        """The module of this name with everything below it."""
        own = {n: t for n, t in state.items() if "." not in n}
        below: dict[str, dict[str, Tensor]] = {}
        for path, tensor in state.items():
            if "." in path:
                first, _, rest = path.partition(".")
                below.setdefault(first, {})[rest] = tensor
        children = {n: self.module(f"{name}.{n}".strip("."), "", t, {}) for n, t in below.items()}
        members = self.module_state(own, children) | dict(self.attributes.get(name, {})) | dict(extra)
        kind = class_name or _class_of(name)
        if self.embedding and name.endswith("mapping.embed"):
            embedding = self.style.name("torch.nn.modules.sparse", "Embedding")
            return Call(embedding, opcode=pickle.NEWOBJ, state=members)
        return self.persistent(kind, members)


def _class_of(name: str) -> str:
    last = name.rpartition(".")[2]
    kinds = {
        r"synthesis": "SynthesisNetwork",
        r"mapping": "MappingNetwork",
        r"b\d+": "SynthesisBlock",
        r"conv\d|L\d.*": "SynthesisLayer",
        r"torgb": "ToRGBLayer",
        r"skip": "Conv2dLayer",
        r"input": "SynthesisInput",
    }
    return next(
        (kind for pattern, kind in kinds.items() if re.fullmatch(pattern, last)), "FullyConnectedLayer"
    )


def write_nvidia(
    path: Path,
    class_name: str,
    init_kwargs: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    attributes_by_module: Mapping[str, Mapping[str, Any]] | None = None,
    protocol: int = 4,
    dill: bool = False,
    cuda: bool = False,
    poison: str = "raise SystemExit('module_src was executed')",
    ordered: bool = False,
    core: str = "numpy.core",
) -> None:
    """Write a network pickle as StyleGAN2-ADA (or with dill=True, as StyleGAN-XL) lays it out.

    Args:
        path: the file.
        class_name: "Generator" or "SuperresGenerator".
        init_kwargs: what the constructor was given.
        state: official names -> tensors of G_ema. The training snapshot G gets other values.
        attributes_by_module: plain or NumPy attributes by dotted module name.
        protocol: pickle protocol, 2 to 5.
        dill: key order and names as dill writes them, with objects of importless classes in D.
        cuda: tag storages with cuda:0.
        poison: the source text stored beside each class.
        ordered: OrderedDict instead of dict inside modules, as older torch writes them.
        core: "numpy.core" or "numpy._core".
    """
    style = Style(core, dill, cuda)
    # StyleGAN-XL embeds classes by a plain torch Embedding, StyleGAN2 by a layer of its own with a bias.
    embedding = "mapping.embed.weight" in state and "mapping.embed.bias" not in state
    layout = Nvidia(style, protocol, poison, ordered, attributes_by_module or {}, embedding)
    extra = {"_init_args": (), "_init_kwargs": style.easy_dict(init_kwargs)}
    average = layout.module("", class_name, state, extra)
    snapshot = layout.module("", class_name, {name: t + 1 for name, t in state.items()}, extra)
    networks = {
        "G": snapshot,
        "D": discriminator(layout),
        "G_ema": average,
        "augment_pipe": augmentation(layout),
    }
    settings = {"training_set_kwargs": style.easy_dict({"class_name": "training.dataset.ImageFolderDataset"})}
    progress = {"progress": {"cur_nimg": torch.tensor([1]), "best_fid": np.float64(2.5)}}
    top = {**networks, **settings, **progress} if dill else {**settings, **networks}
    Path(path).write_bytes(pickled(top, protocol, style))


def discriminator(layout: Nvidia) -> Call:
    """A network that must be passed by; in StyleGAN-XL's place it is made of classes nobody has."""
    style = layout.style
    members = layout.module_state({"weight": torch.ones(2, 2)}, {}) | {"gain": np.float64(0.5)}
    if not style.dill:
        return layout.persistent("Discriminator", members)
    inner = Call(style.name("timm.models.layers", "StdConv2d"), opcode=pickle.NEWOBJ, state=members)
    function = Call(style.name("dill._dill", "_import_module"), ("torch.nn.functional",))
    squash = Call(style.name("dill._dill", "_get_attr"), (function, "relu"))
    body = layout.module_state({}, {"conv": inner}) | {"act": squash, "size": np.array([4, 4])}
    return Call(
        style.name("pg_modules.discriminator", "ProjectedDiscriminator"), opcode=pickle.NEWOBJ, state=body
    )


def augmentation(layout: Nvidia) -> Any:
    pipe = Nvidia(layout.style, layout.protocol, layout.source + "#2", False, {}, False)
    return pipe.persistent("AugmentPipe", pipe.module_state({"p": torch.zeros([])}, {}))


# TensorFlow's networks.


def variable(name: str, tensor: Tensor) -> tuple[str, np.ndarray] | None:
    """The TensorFlow variable of a PyTorch tensor: its component's name in front; None for filters."""
    value = tensor.detach().numpy().astype(np.float32)
    if name.endswith("resample_filter"):
        return None
    if name == "mapping.w_avg":
        return "dlatent_avg", value
    if found := re.fullmatch(r"mapping\.(?:fc(\d+)|embed)\.(weight|bias)", name):
        layer = "LabelEmbed" if found[1] is None else f"Dense{found[1]}"
        return f"mapping/{layer}/{found[2]}", value.T
    if found := re.fullmatch(r"synthesis\.b4\.const", name):
        return "synthesis/4x4/Const/const", value[None]
    found = re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb|skip)\.(.+)", name)
    if found is None:
        raise ValueError(f"{name} has no place in a TensorFlow pickle")
    return _layer_variable(int(found[1]), found[2], found[3], value)


def _layer_variable(size: int, layer: str, part: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    if part == "noise_const":
        index = 2 * (size.bit_length() - 3) - (layer == "conv0")
        return f"synthesis/noise{index}", value[None, None]
    names = {"conv0": "Conv0_up", "conv1": "Conv1" if size > 4 else "Conv", "torgb": "ToRGB", "skip": "Skip"}
    prefix = f"synthesis/{size}x{size}/{names[layer]}"
    if part == "weight":
        kernel = value.transpose(2, 3, 1, 0)
        return f"{prefix}/weight", kernel[::-1, ::-1] if layer == "conv0" else kernel
    if part == "affine.weight":
        return f"{prefix}/mod_weight", value.T
    if part == "affine.bias":
        return f"{prefix}/mod_bias", value - np.float32(1)
    return f"{prefix}/{part}", value


def static_kwargs(init_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The TensorFlow arguments of a PyTorch network."""
    mapping, synthesis = init_kwargs["mapping_kwargs"], init_kwargs["synthesis_kwargs"]
    renamed = {"resample_filter": "resample_kernel"}
    kept = ("architecture", "conv_clamp", "num_fp16_res", "use_noise", "resample_filter")
    return {
        "num_channels": init_kwargs["img_channels"],
        "resolution": init_kwargs["img_resolution"],
        "label_size": init_kwargs["c_dim"],
        "latent_size": init_kwargs["z_dim"],
        "dlatent_size": init_kwargs["w_dim"],
        "mapping_layers": mapping["num_layers"],
        "mapping_lrmul": mapping.get("lr_multiplier", 0.01),
        "fmap_base": synthesis.get("channel_base", 32768) // 2,
        "fmap_max": synthesis.get("channel_max", 512),
        **{renamed.get(name, name): synthesis[name] for name in kept if name in synthesis},
    }


def tensorflow_network(
    style: Style, name: str, variables: Mapping[str, np.ndarray], kwargs: Mapping[str, Any], poison: str
) -> Call:
    """One `Network` with the variables under its own name and those of its components below it."""
    own = {n: v for n, v in variables.items() if n.partition("/")[0] not in ("mapping", "synthesis")}
    components = {}
    for part in ("synthesis", "mapping"):
        inside = {n.partition("/")[2]: v for n, v in variables.items() if n.startswith(f"{part}/")}
        if inside:
            components[part] = tensorflow_network(style, f"G_{part}", inside, kwargs, poison)
    state = {
        "version": 4,
        "name": name,
        "static_kwargs": dict(kwargs),
        "components": style.easy_dict(components),
        "build_module_src": poison,
        "build_func_name": name,
        # A TensorFlow session hands out scalars, not arrays without axes.
        "variables": [(n, v[()]) for n, v in own.items()],
    }
    function = style.name("dnnlib.tflib.network", "Network")
    return Call(function, opcode=pickle.NEWOBJ, state=state)


def write_tensorflow(
    path: Path,
    init_kwargs: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    protocol: int = 4,
    poison: str = "raise SystemExit('build_module_src was executed')",
    as_list: bool = False,
    extra: Mapping[str, np.ndarray] | None = None,
    core: str = "numpy.core",
) -> None:
    """Write a TensorFlow StyleGAN2 pickle (G, D, Gs) that holds a PyTorch state.

    Args:
        path: the file.
        init_kwargs: arguments of the PyTorch network.
        state: official PyTorch names -> tensors of Gs. The training snapshot G gets other values.
        protocol: pickle protocol, 2 to 5.
        poison: the source text stored beside each network.
        as_list: a list of the three instead of a tuple.
        extra: further variables of Gs, or replacements, by name ("synthesis/lod").
        core: "numpy.core" or "numpy._core".
    """
    style, kwargs = Style(core), static_kwargs(init_kwargs)
    named = [variable(name, tensor) for name, tensor in state.items()]
    variables = dict(each for each in named if each is not None)
    average = variables | {"lod": np.array(0, "f4"), **(extra or {})}
    snapshot = {name: value + np.float32(1) for name, value in variables.items()}
    networks = (
        tensorflow_network(style, "G", snapshot, kwargs, poison),
        tensorflow_network(style, "D", {"4x4/Conv/weight": np.ones((3, 3, 2, 2), "f4")}, {}, poison),
        tensorflow_network(style, "Gs", average, kwargs, poison),
    )
    Path(path).write_bytes(pickled(list(networks) if as_list else networks, protocol, style))
