"""DINOv2 with a linear head to pixels: the paper's model that was never trained to make pictures.

One adapter for the published models and for the zoo's: both are ordinary transformers folders. It has
no decoder of images, so one new linear layer turns the last patch tokens into pixels and is trained
together with every adapter (Du et al. 2023, section 4.1; counted apart from it).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import hub
from .base import GeneratorSpec, PixelSpace, Sample
from .errors import UserError
from .hub import find_folder, hash_files, reading, whole_folder
from .plain import parse_json

if TYPE_CHECKING:
    from torch import Tensor

    from .networks.dinov2 import PixelTransformer

HEAD_SEED = 61  # of the new head, the same in every model
RANDOM_SEED = 60  # of the weights the zoo's training starts from, and of dinov2.rooms64-random
REGISTERS = 4  # tokens without a patch in the models of Darcet et al.
ZOO = Path(__file__).parent / "zoo" / "weights" / "dinov2.rooms64"
FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json")
NEEDED = ("config.json", "model.safetensors")  # in the folder of an embedded model
# What the published models' preprocessor takes from a picture in [0, 1], and divides it by.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # the zoo's: a picture in [-1, 1] stays as it is

# Names of attention layers in transformers before 5.x, and since.
_NAMES = {
    "q": r"(attention\.query|q_proj)",
    "k": r"(attention\.key|k_proj)",
    "v": r"(attention\.value|v_proj)",
    "o": r"(output\.dense|o_proj)",
}
LORA_TARGETS = (
    "attention.q_proj",
    "attention.k_proj",
    "attention.v_proj",
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
)


def _layers(letters: str, blocks: str = r"\d+") -> str:
    """Regular expression for some of a block's attention layers, in some of the blocks."""
    return rf".*\.layer\.({blocks})\.attention\.({'|'.join(_NAMES[x] for x in letters)})"


def _target_sets(blocks: int) -> dict[str, str]:
    last = "|".join(str(i) for i in range(blocks // 2, blocks))
    return {
        "all": _layers("qkv"),
        "qv": _layers("qv"),
        "qkvo": _layers("qkvo"),
        "upper": _layers("qkv", last),
    }


# Facts of the configurations: the zoo's, and the published ones', for counting without weights.
ROOMS: dict[str, Any] = {
    "hidden_size": 144,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "mlp_ratio": 4,
    "image_size": 64,
    "patch_size": 8,
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
    "use_swiglu_ffn": False,
}
# Facts that a folder must agree with, or it holds another model.
SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")


def _config(width: int, blocks: int, heads: int, gated: bool = False) -> dict[str, Any]:
    shape = {"hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": heads}
    return shape | {"mlp_ratio": 4, "image_size": 518, "patch_size": 14, "use_swiglu_ffn": gated}


SIZES = {
    "small": _config(384, 12, 6),
    "base": _config(768, 12, 12),
    "large": _config(1024, 24, 16),
    "giant": _config(1536, 40, 24, gated=True),
}


def _spec(tag: str, config: dict[str, Any], options: dict[str, Any], **fields: Any) -> GeneratorSpec:
    return GeneratorSpec(
        name=f"dinov2.{tag}",
        family="DINOv2",
        takes="images",
        space="pixels",
        licence="Apache-2.0",
        lora_targets=LORA_TARGETS,
        target_sets=_target_sets(config["num_hidden_layers"]),
        head="head",
        draws=False,
        options={"config": config, "registers": 0} | options,
        **fields,
    )


def _published(size: str, registers: int = 0) -> GeneratorSpec:
    darcet = "Darcet et al., Vision Transformers Need Registers, 2023"
    oquab = "Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, 2023"
    return _spec(
        f"{size}-registers" if registers else size,
        SIZES[size],
        {"registers": registers, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        title=f"DINOv2 {size}{', registers' if registers else ''}",
        resolution=512,
        domain="web",
        source=f"facebook/dinov2-{'with-registers-' if registers else ''}{size}",
        citation=darcet if registers else oquab,
    )


def _zoo(tag: str, trained: float, share: str, control: str = "", **options: Any) -> GeneratorSpec:
    return _spec(
        f"rooms64-{tag}",
        ROOMS,
        {"mean": HALF, "std": HALF} | options,
        title=f"DINOv2 {f'{control} ' if control else ''}rooms, {share}",
        resolution=64,
        domain="rooms",
        source=str(ZOO / tag),
        citation="this package, generators/zoo",
        trained=trained,
        control=control,
        embedded=True,
    )


SPECS = [
    _zoo("random", 0.0, "random init", random_seed=RANDOM_SEED),
    _zoo("s1", 4 / 45, "9 %"),
    _zoo("s2", 2 / 3, "67 %"),
    _zoo("s3", 5 / 6, "83 %"),
    _zoo("s4", 1.0, "100 %"),
    _zoo("scrambled", 4 / 45, "9 %", control="scrambled"),
    *(_published(size) for size in SIZES),
    *(_published(size, REGISTERS) for size in SIZES),
]


# What a model is loaded from.


def _protocol(spec: GeneratorSpec) -> dict[str, Any]:
    """What the code of a picture depends on."""
    options = spec.options
    return {"mean": options["mean"], "std": options["std"], "patch": options["config"]["patch_size"]}


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def identity(spec: GeneratorSpec) -> str:
    """Hash of the weights' files (or of configuration and seed, or the hub's commit), protocol and head."""
    seed, end = spec.options.get("random_seed"), f"-{_digest(_protocol(spec))}-head{HEAD_SEED}"
    if seed is not None:
        return f"{_digest(spec.options['config'])}-seed{seed}{end}"
    folder = whole_folder(spec, NEEDED)
    if folder is None:
        return f"{hub.address(spec)}{end}"
    return hash_files(sorted(p for pattern in FILES for p in folder.glob(pattern))) + end


def frozen_identity(spec: GeneratorSpec) -> str:
    """Hash of what makes codes: normalization and patch. Targets are the maps themselves."""
    return f"pixels-{_digest(_protocol(spec))}"


def on_machine(spec: GeneratorSpec) -> bool:
    """Whether the weights are here: the package's, the user's own, or in the hub's cache."""
    if spec.embedded:
        return spec.options.get("random_seed") is not None or hub.on_machine(spec, NEEDED)
    return hub.on_machine(spec, ["model.safetensors"])


def hub_folder(spec: GeneratorSpec) -> Path:
    """The model's folder, fetched from the hub where it is not on this machine; raises UserError."""
    found = find_folder(spec, FILES, "transformers")
    return whole_folder(spec, NEEDED) or found


def _classes(registers: int) -> tuple[Any, Any]:
    """Model and configuration."""
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    plain, more = (Dinov2Model, Dinov2Config), (Dinov2WithRegistersModel, Dinov2WithRegistersConfig)
    return more if registers else plain


def make_config(spec: GeneratorSpec) -> Any:
    """The configuration a spec states."""
    registers = spec.options["registers"]
    more = {"num_register_tokens": registers} if registers else {}
    return _classes(registers)[1](**spec.options["config"], **more)


def random_backbone(spec: GeneratorSpec, seed: int) -> Any:
    """The backbone a spec states, with fresh weights; the same seed gives the same weights."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _classes(spec.options["registers"])[0](make_config(spec))


def _stated(spec: GeneratorSpec) -> dict[str, Any]:
    """What the folder of a spec's model says of itself."""
    registers = spec.options["registers"]
    kind = {"model_type": "dinov2_with_registers" if registers else "dinov2"}
    more = {"num_register_tokens": registers} if registers else {}
    return kind | {key: spec.options["config"][key] for key in SHAPE} | more


def _check_config(spec: GeneratorSpec, folder: Path) -> None:
    """Raise UserError if a folder holds another model than the spec's."""
    said, stated = parse_json((folder / "config.json").read_text(encoding="utf-8")), _stated(spec)
    wrong = {k: said.get(k) for k in stated if said.get(k) != stated[k]}
    if wrong:
        raise UserError(
            f"model {spec.name!r}",
            "its folder holds another model: " + ", ".join(f"{k} is {v!r}" for k, v in wrong.items()),
            f"folder {folder}; expected " + ", ".join(f"{k} = {stated[k]!r}" for k in wrong),
            "give each model a folder of its own name",
        )


def _check_names(spec: GeneratorSpec, folder: Path, info: Mapping[str, Any]) -> None:
    """Raise UserError unless a file holds exactly the model's tensors: transformers makes up missing ones."""
    kinds = {"missing_keys": "lacks", "unexpected_keys": "holds unknown", "mismatched_keys": "has misshapen"}
    for kind, verb in kinds.items():
        names = sorted(str(name) for name in info.get(kind, ()))
        if names:
            raise UserError(
                f"model {spec.name!r}",
                f"its file {verb} {len(names)} tensors, first {names[0]!r}",
                f"folder {folder}",
                "fetch the folder again: it must be a bare Dinov2 model's",
            )


def _load_backbone(spec: GeneratorSpec) -> Any:
    """The backbone from its folder; names of old and new releases of transformers are both read."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # ours would be torn apart by it
    folder = hub_folder(spec)
    with reading(spec, folder, "config.json and model.safetensors"):
        _check_config(spec, folder)
        backbone, info = _classes(spec.options["registers"])[0].from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        _check_names(spec, folder, info)
        for name, value in backbone.named_parameters():
            if not value.isfinite().all():
                raise ValueError(f"the tensor {name!r} holds NaN or infinity")
    return backbone.float()


def load(spec: GeneratorSpec, device: str = "cpu") -> Dinov2:
    """A DINOv2 with its head, in float32, frozen; raises UserError if its files are missing or broken."""
    from .networks.dinov2 import PixelTransformer

    seed = spec.options.get("random_seed")
    backbone = _load_backbone(spec) if seed is None else random_backbone(spec, seed)
    return Dinov2(spec, PixelTransformer(backbone, HEAD_SEED), device)


def count(spec: GeneratorSpec, rank: int = 8) -> dict[str, int]:
    """Parameters of the backbone, of LoRA on q, k and v, and of the head; no weights are needed."""
    import torch

    with torch.device("meta"):
        backbone = _classes(spec.options["registers"])[0](make_config(spec))
    width, patch = spec.options["config"]["hidden_size"], spec.options["config"]["patch_size"]
    linear = [m for n, m in backbone.named_modules() if n.endswith(spec.lora_targets)]
    return {
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "lora_parameters": sum(rank * (m.in_features + m.out_features) for m in linear),
        "head_parameters": (width + 1) * 3 * patch**2,
    }


def _existing_targets(spec: GeneratorSpec, network: PixelTransformer) -> tuple[str, ...]:
    """Those of the targets' names, old or new, that this release of transformers gives its modules."""
    names = [name for name, _ in network.named_modules()]
    return tuple(t for t in spec.lora_targets if any(name.endswith(f".{t}") for name in names))


class Dinov2(PixelSpace):
    """DINOv2 with a linear head to pixels; see generators.base.Generator.

    The code of a picture is the picture: normalized, and enlarged to the next multiple of the patch.
    """

    def __init__(self, spec: GeneratorSpec, network: PixelTransformer, device: str) -> None:
        from dataclasses import replace

        import torch

        self.spec = replace(spec, lora_targets=_existing_targets(spec, network))
        self.network, self.device = network.to(device).eval().requires_grad_(False), device
        mean, std = (torch.tensor(spec.options[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
        self.mean, self.std = mean.to(device), std.to(device)

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """Code of pictures (b 3 h w) in [-1, 1].

        "pixels" (b 3 H W): normalized, bilinearly enlarged to multiples of the patch; "size" (b 2): h and w,
        the size `forward` gives its maps.
        """
        import torch

        from .networks.dinov2 import resize

        h, w, patch = images.shape[2], images.shape[3], self.network.patch
        pixels = resize(images.to(self.device), (-(-h // patch) * patch, -(-w // patch) * patch))
        pixels = ((pixels + 1) / 2 - self.mean) / self.std
        return {"pixels": pixels, "size": torch.tensor([[h, w]] * len(images), device=self.device)}

    def forward(self, code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
        """Pictures (b 3 h w) of the embedded pictures' size; the intrinsic changes nothing."""
        h, w = code["size"][0].tolist()
        found: Tensor = self.network(code["pixels"].to(self.device), (h, w))
        return found

    def features(self, code: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Patch tokens as maps (b hidden H/p W/p): after every block, and after the final layer norm."""
        return self.network.activations(code["pixels"].to(self.device))

    def sample(self, seeds: Sequence[int], captions: Sequence[str] | None = None) -> Sample:
        """It draws nothing: raises UserError."""
        raise UserError(
            f"pictures drawn by {self.spec.name}",
            "it was trained to see pictures, not to make them",
            "it takes pictures",
            "ask it about a data set of pictures, as in data = 'rooms'",
        )
