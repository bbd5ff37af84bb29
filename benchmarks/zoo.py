"""`intrinsic-bench zoo`: how the embedded models were made, command by command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from generators.zoo.loop import Budget

STEPS = (
    *("text", "autoencoder", "network", "unet", "features", "stylegan2", "stylegan-xl"),
    *("vqgan", "vqgan-transformer", "dinov2", "dinov2-longer", "velocity", "editing"),
)
# What a part is trained on: rooms, the second world, or rooms with their blocks shuffled (a control).
STOCKS = ("rooms", "objects", "scrambled")


@click.group()
def zoo() -> None:
    """Train the embedded models again: render, train one part after the other, grid."""


@dataclass(frozen=True)
class Asked:
    """What the command line asked for; None stands for the device's own budget.

    Attributes:
        world: a name of STOCKS.
        until: name of the stage after which training ends, None for the last; schedules do not change.
    """

    device: str
    steps: int | None
    batch: int | None
    world: str = "rooms"
    until: str | None = None

    def place(self, folder: Path, part: str) -> Path:
        """Where a part of this world is kept: beside that of rooms."""
        return folder / (part if self.world == "rooms" else f"{part}-{self.world}")

    def stage(self, name: str) -> str:
        """A stage as its files are called: a control has one, and no number."""
        return "scrambled" if self.world == "scrambled" else name

    def keeps(self, name: str) -> bool:
        """Whether a stage is written: of a control only the last that is asked for."""
        return self.world != "scrambled" or name == self.until

    def budget(self, module: Any, part: str = "") -> Budget:
        """The budget of a training module, or of a part of it, with what was asked instead."""
        kind = "CPU_BUDGET" if self.device == "cpu" else "GPU_BUDGET"
        budget: Budget = getattr(module, part + kind)
        given = {"steps": self.steps, "batch": self.batch}
        return replace(budget, **{name: value for name, value in given.items() if value})


@zoo.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--scenes", default=80_000, show_default=True, help="Scenes of the split zoo to render.")
@click.option("--shard", default=10_000, show_default=True, help="Scenes in a file.")
@click.option("--worker", default=0, help="Which share of the files this process renders.")
@click.option("--workers", default=1, help="Processes that render into the folder.")
@click.option("--world", default="rooms", show_default=True, type=click.Choice(["rooms", "objects"]))
def render(folder: Path, scenes: int, shard: int, worker: int, workers: int, world: str) -> None:
    """Render training scenes into FOLDER/stock; files that are there are kept."""
    import torch

    from benchmarks.data.rooms.stock import render_shard

    torch.set_num_threads(1)
    for start in range(worker * shard, scenes, workers * shard):
        click.echo(render_shard(folder / "stock", start, min(shard, scenes - start), world=world))


@zoo.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("what", type=click.Choice(STEPS))
@click.option("--device", default="cpu", show_default=True)
@click.option("--steps", type=int, help="Steps instead of the device's budget.")
@click.option("--batch", type=int, help="Pictures a step instead of the device's budget.")
@click.option("--threads", default=1, show_default=True)
@click.option("--world", default="rooms", show_default=True, type=click.Choice(STOCKS))
@click.option("--until", metavar="STAGE", help="End after this stage; `scrambled` needs one.")
def train(
    folder: Path,
    what: str,
    device: str,
    steps: int | None,
    batch: int | None,
    threads: int,
    world: str,
    until: str | None,
) -> None:
    """Train one part on FOLDER/stock; run it again to resume.

    `unet` needs text and autoencoder; `stylegan2`, `stylegan-xl` and `vqgan` need features;
    `vqgan-transformer` needs vqgan, `velocity` needs unet, `editing` needs velocity.

    `torchrun --nproc-per-node 2 -m benchmarks zoo train FOLDER unet` shares a batch between processes.
    """
    import torch

    if world == "scrambled" and until is None:
        raise click.UsageError("--world scrambled needs --until STAGE: the stage whose training it shares")
    torch.set_num_threads(threads)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    parts: dict[str, Callable[[Path, Asked], None]] = {
        "text": _text,
        "autoencoder": _autoencoder,
        "network": _network,
        "unet": _unet,
        "features": _features,
        "stylegan2": partial(_stylegan, "stylegan2"),
        "stylegan-xl": partial(_stylegan, "stylegan-xl"),
        "vqgan": _vqgan,
        "vqgan-transformer": _vqgan_transformer,
        "dinov2": _dinov2,
        "dinov2-longer": partial(_dinov2, longer=True),
        "velocity": _velocity,
        "editing": _editing,
    }
    parts[what](folder, Asked(device, steps, batch, world, until))


def _stock(folder: Path, asked: Asked) -> tuple[Any, Sequence[str]]:
    """Pictures, uint8 (n 3 h w), of the world that is asked for, and their captions."""
    from benchmarks.data.rooms.stock import open_stock
    from generators.zoo.scramble import scrambled

    stock = open_stock(folder / "stock", "objects" if asked.world == "objects" else "rooms")
    rgb = stock.rgb()
    return (scrambled(rgb) if asked.world == "scrambled" else rgb), stock.captions


def _text(folder: Path, asked: Asked) -> None:
    from benchmarks.data.rooms.stock import open_stock
    from generators.zoo import text

    stock = open_stock(folder / "stock")
    text.train_text_encoder(stock.rgb(), stock.captions, folder / "text", asked.budget(text), asked.device)


def _autoencoder(folder: Path, asked: Asked) -> None:
    from benchmarks.data.rooms.stock import open_stock
    from generators.zoo import autoencoder

    rgb = open_stock(folder / "stock").rgb()
    autoencoder.train_autoencoder(rgb, folder / "vae", asked.budget(autoencoder), asked.device)


def _network(folder: Path, asked: Asked) -> None:
    from safetensors.torch import save_file

    from benchmarks.data.rooms.stock import open_stock
    from benchmarks.predictors import rooms

    if asked.world == "scrambled":
        raise click.UsageError("the supervised network learns maps: there are none of scrambled pictures")
    planes, place = open_stock(folder / "stock", asked.world).planes, asked.place(folder, "network")
    start = rooms.load_rooms_network() if asked.world == "objects" else None
    network = rooms.train_rooms_network(planes, place, asked.budget(rooms), asked.device, start)
    weights = {name: value.half().contiguous().cpu() for name, value in network.state_dict().items()}
    save_file(weights, str(place / (rooms.OBJECTS if start else rooms.WEIGHTS).name))


def _frozen(folder: Path, asked: Asked) -> Path:
    """Latents and text embeddings of the stock, computed once."""
    from diffusers import AutoencoderKL
    from safetensors.torch import save_file
    from transformers import CLIPTextModel, CLIPTokenizer

    from generators.zoo.diffusion import embed_prompts, encode_latents

    path = asked.place(folder, "frozen").with_suffix(".safetensors")
    if path.exists():
        return path
    rgb, captions = _stock(folder, asked)
    vae = (
        AutoencoderKL.from_pretrained(folder / "vae" / "vae", use_safetensors=True)
        .float()
        .to(asked.device)
        .eval()
    )
    tokenizer = CLIPTokenizer.from_pretrained(folder / "text" / "tokenizer")
    text = (
        CLIPTextModel.from_pretrained(folder / "text" / "text_encoder", use_safetensors=True).float().eval()
    )
    tensors = {
        "latents": encode_latents(vae, rgb, asked.device),
        "texts": embed_prompts(tokenizer, text, captions),
        "empty": embed_prompts(tokenizer, text, [""]),
    }
    save_file(tensors, str(path.with_suffix(".tmp")))
    path.with_suffix(".tmp").rename(path)
    return path


def _unet(folder: Path, asked: Asked) -> None:
    import torch
    from safetensors.torch import load_file

    from generators.zoo import diffusion
    from generators.zoo.folder import keep_stage, write_index, write_shared
    from generators.zoo.loop import world

    if world()[0] == 0:
        _frozen(folder, asked)
        write_shared(folder / "sd.rooms64", folder / "vae", folder / "text")
        write_index(folder / "sd.rooms64")
    if world()[1] > 1:
        torch.distributed.barrier()
    frozen = load_file(str(_frozen(folder, asked)))

    def keep(stage: str, network: Any) -> None:
        if asked.keeps(stage):
            world = "objects-" if asked.world == "objects" else ""
            keep_stage(folder / "sd.rooms64", world + asked.stage(stage), network)

    diffusion.train_unet(
        frozen["latents"],
        frozen["texts"],
        frozen["empty"],
        asked.place(folder, "unet"),
        asked.budget(diffusion),
        keep,
        asked.device,
        asked.until,
    )


def _features(folder: Path, asked: Asked) -> None:
    from safetensors.torch import save_file

    from benchmarks.data.rooms.stock import open_stock
    from generators.zoo import features

    stock = open_stock(folder / "stock")
    network = features.train_features(
        stock.rgb(), stock.captions, folder / "features", asked.budget(features), asked.device
    )
    save_file(
        {name: value.contiguous().cpu() for name, value in network.state_dict().items()},
        str(folder / "features" / "features.safetensors"),
    )


def _feature_network(folder: Path) -> Any:
    from safetensors.torch import load_file

    from generators.zoo.features import FeatureNetwork

    features = FeatureNetwork()
    features.load_state_dict(load_file(str(folder / "features" / "features.safetensors")))
    return features


def _stylegan(family: str, folder: Path, asked: Asked) -> None:
    from generators.zoo import gan

    features = _feature_network(folder)
    budget = asked.budget(gan)
    kept = folder / f"{family}.{'objects' if asked.world == 'objects' else 'rooms'}64"
    steps = gan.stage_steps(budget)
    stages = {
        step: partial(gan.keep_stage, family, kept / f"{asked.stage(stage)}.safetensors")
        for stage, step in steps.items()
        if asked.keeps(stage)
    }
    last = replace(budget, steps=steps[asked.until]) if asked.until else budget
    duel = gan.projected_duel(family, features, last, stages)
    gan.train_gan(duel, _stock(folder, asked)[0], asked.place(folder, family), asked.device)


def _vqgan(folder: Path, asked: Asked) -> None:
    from safetensors.torch import save_file

    from generators.networks.net2net import initialized
    from generators.vqgan import RANDOM_SEED, ROOMS
    from generators.zoo import vqgan

    place = asked.place(folder, "vqgan")

    def keep(stage: str, network: Any) -> None:
        weights = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
        save_file(weights, str(place / f"first-{stage}.safetensors"))

    both: Any = initialized("Net2NetTransformer", ROOMS, RANDOM_SEED)
    network = both.first_stage_model.requires_grad_(True)
    vqgan.prepare(network, RANDOM_SEED)
    rgb, features = _stock(folder, asked)[0], _feature_network(folder)
    budget = asked.budget(vqgan)
    vqgan.train_first_stage(network, features, rgb, place, budget, keep, asked.device, until=asked.until)


def _vqgan_transformer(folder: Path, asked: Asked) -> None:
    """One after the other, for each stage of the first stage a transformer, as long as the stage's share."""
    from safetensors.torch import load_file

    from generators.networks.net2net import initialized
    from generators.vqgan import RANDOM_SEED, ROOMS
    from generators.zoo import vqgan

    rgb, whole = _stock(folder, asked)[0], asked.budget(vqgan, "TRANSFORMER_")
    place = asked.place(folder, "vqgan")
    for stage in [asked.until] if asked.world == "scrambled" and asked.until else vqgan.STAGES:
        both: Any = initialized("Net2NetTransformer", ROOMS, RANDOM_SEED)
        weights = load_file(str(place / f"first-{stage}.safetensors"))
        both.first_stage_model.load_state_dict(weights)
        budget = vqgan.stage_budget(whole, stage)
        vqgan.train_transformer(both, rgb, place / stage, budget, asked.device)
        vqgan.keep_stage(folder / "vqgan.rooms64" / f"{asked.stage(stage)}.safetensors", both)


def _dinov2(folder: Path, asked: Asked, longer: bool = False) -> None:
    from generators import registry
    from generators.dinov2 import RANDOM_SEED, random_backbone
    from generators.zoo import dinov2

    def keep(stage: str, network: Any) -> None:
        if asked.keeps(stage):
            dinov2.keep_stage(folder / "dinov2.rooms64" / asked.stage(stage), network)

    place = asked.place(folder, "dinov2-longer" if longer else "dinov2")
    backbone: Any = random_backbone(registry.spec("dinov2.rooms64-random"), RANDOM_SEED)
    if longer:  # from the last stage of the first half, with a schedule of its own
        from transformers import Dinov2Model

        backbone = Dinov2Model.from_pretrained(folder / "dinov2.rooms64" / "s2", use_safetensors=True).float()
    rgb, budget = _stock(folder, asked)[0], asked.budget(dinov2, "LONGER_" if longer else "")
    stages = dinov2.LONGER if longer else dinov2.STAGES
    dinov2.train_dinov2(backbone, rgb, place, budget, keep, asked.device, stages, asked.until)


def _last_unet(folder: Path, *adapters: str) -> Any:
    """The last stage's UNet in float32, adapters of `folder`/sd.rooms64 merged into it."""
    from diffusers import UNet2DConditionModel

    from generators.multi_step import merged

    place = folder / "sd.rooms64"
    unet = UNet2DConditionModel.from_pretrained(place, subfolder="unet", use_safetensors=True).float()
    for adapter in adapters:
        unet = merged(unet, place / adapter)
    return unet


def _embed(folder: Path, prompts: Sequence[str]) -> Any:
    from transformers import CLIPTextModel, CLIPTokenizer

    from generators.zoo.diffusion import embed_prompts

    tokenizer = CLIPTokenizer.from_pretrained(folder / "text" / "tokenizer")
    text = (
        CLIPTextModel.from_pretrained(folder / "text" / "text_encoder", use_safetensors=True).float().eval()
    )
    return embed_prompts(tokenizer, text, prompts)


def _velocity(folder: Path, asked: Asked) -> None:
    from safetensors.torch import load_file

    from generators.zoo import velocity

    frozen, budget = load_file(str(_frozen(folder, asked))), asked.budget(velocity)
    network = velocity.train_velocity(
        _last_unet(folder),
        frozen["latents"],
        frozen["texts"],
        frozen["empty"],
        folder / "velocity",
        budget,
        asked.device,
    )
    velocity.keep_adapter(network, folder / "sd.rooms64" / "unet-velocity")


def _editing(folder: Path, asked: Asked) -> None:
    from diffusers import AutoencoderKL

    from benchmarks.data.rooms.stock import open_stock
    from generators.zoo import editing, velocity

    rgb, budget = open_stock(folder / "stock").rgb(), asked.budget(editing)
    vae = (
        AutoencoderKL.from_pretrained(folder / "vae" / "vae", use_safetensors=True)
        .float()
        .to(asked.device)
        .eval()
    )
    texts = _embed(folder, [*editing.EDITS, ""])
    unet = _last_unet(folder, "unet-velocity")
    network = editing.train_editing(
        unet, vae, rgb, texts[:-1], texts[-1:], folder / "editing", budget, asked.device
    )
    velocity.keep_adapter(network, folder / "sd.rooms64" / "unet-editing")


@zoo.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def shrink(files: tuple[Path, ...]) -> None:
    """Store the weights of safetensors FILES in a byte a number, in place."""
    from generators.zoo.shrink import shrink_file

    for path in files:
        before, after = shrink_file(path)
        click.echo(f"{path}: {before:,} bytes, now {after:,}")


@zoo.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="PNG to write.")
@click.option("--columns", default=12, show_default=True)
@click.option("--steps", default=30, show_default=True)
@click.option("--guidance", default=2.0, show_default=True)
def grid(models: tuple[str, ...], out: Path, columns: int, steps: int, guidance: float) -> None:
    """Draw a row of samples for each of MODELS (same captions and seeds) below a row of renders.

    The renders are of the world that the first model was trained on.
    """
    import numpy as np
    import torch
    from PIL import Image

    from benchmarks.data.load import load_pictures
    from benchmarks.data.rooms.worlds import WORLDS
    from generators import load, registry

    torch.set_num_threads(1)
    domain = registry.spec(models[0]).domain
    renders = load_pictures(domain if domain in WORLDS else "rooms", "reference", range(columns), 64, ())
    rows = [renders.pictures]
    for name in models:
        generator = load(name)
        sampler = {"steps": steps, "guidance": guidance} if generator.spec.diffusion_steps else {}
        rows.append(generator.sample(range(columns), renders.captions, **sampler).images)
    picture = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    array = ((picture + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    scaled = Image.fromarray(np.ascontiguousarray(array)).resize(
        (array.shape[1] * 2, array.shape[0] * 2), Image.Resampling.NEAREST
    )
    scaled.save(out)
    click.echo(json.dumps({"rows": ["renders", *models], "captions": renders.captions}, indent=1))
