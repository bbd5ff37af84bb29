"""VQGAN and its transformer (Esser et al. 2021): taming's checkpoints, and the zoo's own in the same names.

Two ways lead to a code: a picture is encoded, or the transformer draws codes from a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import GeneratorSpec, PixelSpace, Sample
from .errors import UserError
from .sources import SOURCES
from .weights import ZOO, find_weights, weights_file, weights_identity

if TYPE_CHECKING:
    from torch import Tensor

    from .networks.net2net import Net2NetTransformer
    from .networks.vqgan import VQModel

CLASS = "Net2NetTransformer"


def _joint(
    first_stage: Mapping[str, Any], gpt: Mapping[str, Any], condition: Any = "__is_unconditional__"
) -> dict[str, Any]:
    """Both stages as taming's configs say them."""
    return {
        "transformer_config": {"params": dict(gpt)},
        "first_stage_config": {"params": dict(first_stage)},
        "cond_stage_config": condition,
    }


# The zoo's network: a hundred times below the official ones, the same code.
_PICTURES: dict[str, Any] = {"double_z": False, "in_channels": 3, "out_ch": 3, "dropout": 0.0}
_ROOMS_DDCONFIG = _PICTURES | {
    "z_channels": 64,
    "resolution": 64,
    "ch": 32,
    "ch_mult": [1, 1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [16],
    "norm_groups": 8,  # taming's 32 would be one channel each, without a picture's mean color
}
ROOMS = _joint(
    {"ddconfig": _ROOMS_DDCONFIG, "n_embed": 512, "embed_dim": 8},
    {"vocab_size": 512, "block_size": 256, "n_layer": 6, "n_head": 4, "n_embd": 144},
)
RANDOM_SEED = 70  # of the weights training starts from, and of vqgan.rooms64-random
STAGES = {"random": 0.0, "s1": 0.05, "s2": 0.15, "s3": 0.4, "s4": 1.0}

# Shapes of the official networks, for counting without weights; a file brings its own.
_F16 = _PICTURES | {
    "z_channels": 256,
    "resolution": 256,
    "ch": 128,
    "ch_mult": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [16],
}
FACES = {"ddconfig": _F16, "n_embed": 1024, "embed_dim": 256}
IMAGENET16384 = FACES | {"n_embed": 16384}
# Inferred: with it both stages have the 873.9 M parameters of the paper's table 6.
FFHQ256 = _joint(FACES, {"vocab_size": 1024, "block_size": 256, "n_layer": 24, "n_head": 16, "n_embd": 1664})
FACESHQ = _joint(
    FACES,
    {"vocab_size": 1024, "block_size": 512, "n_layer": 24, "n_head": 16, "n_embd": 1024},
    {"target": "taming.modules.misc.coord.CoordStage", "params": {"n_embed": 1024, "down_factor": 16}},
)

ATTENTION = ("q", "k", "v", "proj_out")
TARGET_SETS = {
    "qkv": r"decoder\..*\.(q|k|v)",
    "middle": r"decoder\.mid\.attn_1\.(q|k|v|proj_out)",
    "convolutions": r"decoder\..*\.conv[12]",
}


def _zoo(tag: str, trained: float, control: str = "") -> GeneratorSpec:
    share = f"{trained:.0%}".replace("%", " %") if trained else "random init"
    seed = {"random_seed": RANDOM_SEED} if tag == "random" else {}
    return GeneratorSpec(
        name=f"vqgan.rooms64-{tag}",
        family="VQGAN",
        title=f"VQGAN {f'{control} ' if control else ''}rooms, {share}",
        takes="both",
        space="pixels",
        resolution=64,
        domain="rooms",
        licence="Apache-2.0",
        source=str(ZOO / "vqgan.rooms64"),
        citation="this package, generators/zoo",
        trained=trained,
        control=control,
        lora_targets=ATTENTION,
        target_sets=TARGET_SETS,
        embedded=True,
        options={"stage": tag, "class": CLASS, "config": ROOMS} | seed,
    )


def _published(
    tag: str, class_name: str, config: Mapping[str, Any], top_k: int | None = None, **fields: Any
) -> GeneratorSpec:
    """A published model; `config` counts its parameters without weights, a file brings its own.

    FFHQ's published samples are drawn with k = 250 (taming's README: what sample_fast.py does by default).
    """
    source = SOURCES[f"vqgan.{tag}"]
    draws = class_name == CLASS
    return GeneratorSpec(
        name=f"vqgan.{tag}",
        family="VQGAN",
        takes="both" if draws else "images",
        draws=draws,
        space="pixels",
        resolution=256,
        licence=source.licence,
        source=source.urls[0] if source.urls else None,
        citation="Esser et al. 2021",
        lora_targets=ATTENTION,
        target_sets=TARGET_SETS,
        options={"class": class_name, "config": config, "sha256": source.sha256}
        | ({"top_k": top_k} if top_k else {}),
        **fields,
    )


SPECS = [
    *[_zoo(tag, trained) for tag, trained in STAGES.items()],
    _zoo("scrambled", STAGES["s3"], control="scrambled"),
    _published(
        "ffhq256",
        CLASS,
        FFHQ256,
        top_k=250,
        title="VQGAN FFHQ-256",
        domain="faces",
        fid=(9.6, "torch-fidelity, against train"),
    ),
    _published("faceshq", CLASS, FACESHQ, title="VQGAN FacesHQ", domain="faces"),
    _published(
        "imagenet16384", "VQModel", IMAGENET16384, title="VQGAN ImageNet, 16384 codes", domain="ImageNet"
    ),
]


class VqganGenerator(PixelSpace):
    """A VQGAN; see generators.base.Generator.

    The code of a picture is its vectors of the codebook (b e h/f w/f), before `post_quant_conv`. Only the
    decoder may be adapted. Everything runs in float32.

    Args:
        spec: options `temperature` (1) and `top_k` (all) belong to how the model draws.
        whole: both stages, or the first alone, which cannot draw.
    """

    def __init__(self, spec: GeneratorSpec, whole: Net2NetTransformer | VQModel, device: str) -> None:
        from .networks.net2net import Net2NetTransformer
        from .networks.vqgan import CodeDecoder

        whole = whole.to(device).eval().requires_grad_(False)
        self.spec, self.device = spec, device
        self.both = whole if isinstance(whole, Net2NetTransformer) else None
        self.first_stage: VQModel = self.both.first_stage_model if self.both else whole  # type: ignore
        self.network = CodeDecoder(self.first_stage).eval()
        self.factor = 2 ** (len(self.first_stage.decoder.up) - 1)

    def sample(self, seeds: Sequence[int], captions: Sequence[str] | None = None) -> Sample:
        """Pictures (b 3 h w) in [-1, 1] and their codes, drawn by the transformer; captions mean nothing.

        Raises UserError if the model has no transformer, or one that asks for another picture.
        """
        import torch

        with torch.no_grad():
            quantized = self.first_stage.quantize.lookup(self.draw(seeds))
            return Sample(self.network(quantized).clamp(-1, 1), {"quantized": quantized})

    def draw(self, seeds: Sequence[int], cached: bool = True) -> Tensor:
        """Codes (b h w), each picture's from its seed alone; see networks.sampling.draw."""
        from .networks.sampling import gumbel

        both = self._both()
        side = self.spec.resolution // self.factor
        condition = self._condition(len(seeds))
        codes = both.draw(
            condition[:, :0],
            condition,
            side * side,
            noise=gumbel(seeds, side * side, both.transformer.vocab_size),
            temperature=self.spec.options.get("temperature", 1.0),
            top_k=self.spec.options.get("top_k"),
            cached=cached,
        )
        return codes.view(len(seeds), side, side)

    def _both(self) -> Net2NetTransformer:
        if self.both is None:
            drawing = self.spec.draws
            raise UserError(
                f"pictures drawn by {self.spec.name}",
                "its transformer is missing: the file holds the first stage alone"
                if drawing
                else "only a first stage was published, which draws nothing",
                "given pictures can be encoded: data = 'rooms'",
                "give the checkpoint of the transformer" if drawing else "leave it out, or show it pictures",
            )
        return self.both

    def _condition(self, count: int) -> Tensor:
        """Codes (b n) that stand before a picture's: none but a start, or where in a whole picture it is."""
        import torch

        from .networks.net2net import CoordStage, StartOfSequence

        both, side = self._both(), self.spec.resolution
        if not isinstance(both.cond_stage_model, CoordStage | StartOfSequence):
            raise UserError(
                f"pictures drawn by {self.spec.name}",
                "its transformer draws only given another picture or a class",
                "known are unconditional and coordinate-conditioned models",
                "show it pictures",
            )
        place = torch.arange(side * side, device=self.device).view(1, 1, side, side) / (side * side)
        return both.condition(place).expand(count, -1)

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """The code of pictures (b 3 h w) in [-1, 1]: for each latent of the encoder the nearest vector.

        Raises UserError if h or w is no multiple of the factor between picture and code.
        """
        import torch

        if images.shape[2] % self.factor or images.shape[3] % self.factor:
            size = " x ".join(str(side) for side in images.shape[2:])
            wrong = f"a code stands for {self.factor} x {self.factor} pixels, and they have {size}"
            raise UserError(f"pictures encoded by {self.spec.name}", wrong, "", "choose a multiple")
        with torch.no_grad():
            codes = self.first_stage.codes(images.to(self.device))
            return {"quantized": self.first_stage.quantize.lookup(codes)}

    def forward(self, code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
        """Pictures (b 3 h w), about [-1, 1], of codes; a VQGAN is not told which intrinsic is meant."""
        found: Tensor = self.network(code["quantized"].to(self.device))
        return found

    def features(self, code: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Activations (b c h w) of every block of the decoder."""
        return self.network.activations(code["quantized"].to(self.device))


def identity(spec: GeneratorSpec) -> str:
    """Hash of checkpoint and settings, or of configuration and seed, with how the model draws."""
    from .checkpoints.taming import taming_files

    options = [f"-{name}{spec.options[name]}" for name in ("temperature", "top_k") if name in spec.options]
    path = weights_file(spec)
    return weights_identity(spec, "".join(options), taming_files(path) if path else ())


def count(spec: GeneratorSpec, rank: int = 8) -> dict[str, int]:
    """Parameters of the first stage and its parts, of the transformer, and of LoRA; no weights are needed."""
    import torch

    from .networks.net2net import Net2NetTransformer, network

    with torch.device("meta"):
        whole = network(spec.options["class"], spec.options["config"])
    both = whole if isinstance(whole, Net2NetTransformer) else None
    stage: Any = both.first_stage_model if both else whole
    parts = {"parameters": stage, "encoder": stage.encoder, "decoder": stage.decoder}
    parts |= {"codebook": stage.quantize} | ({"transformer": both.transformer} if both else {})
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    layers = [m for n, m in stage.decoder.named_modules() if n.endswith(tuple(f".{a}" for a in ATTENTION))]
    return found | {"lora_parameters": sum(rank * (m.in_channels + m.out_channels) for m in layers)}


def load(spec: GeneratorSpec, device: str = "cpu") -> VqganGenerator:
    """A VQGAN in float32, frozen; raises UserError if its file is missing, broken or of another kind."""
    from .networks.net2net import initialized

    seed = spec.options.get("random_seed")
    if seed is not None:
        whole = initialized(spec.options["class"], spec.options["config"], seed)
    else:
        whole = read(find_weights(spec))
    return VqganGenerator(spec, whole, device)


def read(path: str | Path) -> Net2NetTransformer | VQModel:
    """The network of a taming checkpoint with its settings, a folder of both, or a safetensors file.

    Raises UserError if it is none, or its tensors are not those its settings describe.
    """
    from .checkpoints import read_taming
    from .networks.net2net import build

    file = read_taming(path)
    try:
        return build(file.class_name, file.init_kwargs, file.state)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"a VQGAN from {path}",
            f"its settings and tensors do not make one: {error}",
            f"the file holds a {file.class_name} with {', '.join(sorted(file.init_kwargs))}",
            "check that checkpoint and settings belong together",
        ) from error
