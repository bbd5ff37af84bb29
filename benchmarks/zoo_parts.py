"""The parts of the zoo: how each is trained, on which worlds, and which stages it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from generators.errors import UserError, unknown

from .zoo_inputs import (
    FROZEN,
    MADE,
    STOCKS,
    Asked,
    autoencoder,
    digest,
    embed,
    feature_network,
    frozen,
    last_unet,
    origins,
    pictures_of,
    processes,
    stock_of,
)


@dataclass(frozen=True)
class Part:
    """What one command trains.

    Attributes:
        worlds: names of STOCKS it can be trained on.
        stages: names that `--until` may take, () where there is one result.
        shared: whether torchrun's processes may share its batches.
    """

    train: Callable[[Path, Asked], None]
    worlds: tuple[str, ...] = ("rooms",)
    stages: tuple[str, ...] = ()
    shared: bool = False


def check(name: str, asked: Asked) -> None:
    """Raise UserError where a part cannot be trained as asked."""
    part = PARTS[name]
    if asked.world not in part.worlds:
        raise UserError(
            f"--world {asked.world} for {name}",
            f"{name} is trained on {' or '.join(part.worlds)} alone",
            ", ".join(f"{other}: {', '.join(p.worlds)}" for other, p in PARTS.items() if len(p.worlds) > 1),
            "leave --world out, or ask for another part",
        )
    if asked.until is not None and asked.until not in part.stages:
        if part.stages:
            raise unknown(f"stage of {name}", asked.until, part.stages)
        raise UserError(f"--until {asked.until} for {name}", f"{name} has no stages", "", "leave --until out")
    if asked.world == "scrambled" and asked.until is None:
        raise UserError(
            f"--world scrambled for {name}",
            "a control shares the training of one stage, and none is named",
            ", ".join(part.stages),
            "add --until STAGE",
        )
    if processes() > 1 and not part.shared:
        raise UserError(
            f"{processes()} processes for {name}",
            "its batches cannot be shared",
            ", ".join(other for other, p in PARTS.items() if p.shared),
            "run it without torchrun",
        )


def _weights(network: Any) -> dict[str, Any]:
    return {name: value.contiguous().cpu() for name, value in network.state_dict().items()}


def _text(folder: Path, asked: Asked) -> None:
    from generators.zoo import text

    stock, budget = stock_of(folder, asked), asked.budget(text)
    with asked.session(budget, origins(folder, stock)):
        text.train_text_encoder(stock.rgb(), stock.captions, folder / "text", budget, asked.device)


def _autoencoder(folder: Path, asked: Asked) -> None:
    from generators.zoo import autoencoder as module

    stock, budget = stock_of(folder, asked), asked.budget(module)
    with asked.session(budget, origins(folder, stock)):
        module.train_autoencoder(stock.rgb(), folder / "vae", budget, asked.device)


def _network(folder: Path, asked: Asked) -> None:
    from safetensors.torch import save_file

    from benchmarks.methods import network_hash
    from benchmarks.predictors import rooms

    stock, place, budget = stock_of(folder, asked), asked.place(folder, "network"), asked.budget(rooms)
    start = rooms.load_rooms_network() if asked.world == "objects" else None
    made_of = origins(folder, stock) | ({"start": network_hash()} if start else {})
    with asked.session(budget, made_of):
        network = rooms.train_rooms_network(stock.planes, place, budget, asked.device, start)
    path = place / (rooms.OBJECTS if start else rooms.WEIGHTS).name
    save_file({name: value.half() for name, value in _weights(network).items()}, str(path))


def _unet(folder: Path, asked: Asked) -> None:
    import torch
    from safetensors.torch import load_file

    from generators.zoo import diffusion
    from generators.zoo.folder import keep_stage, write_index, write_shared
    from generators.zoo.loop import world

    stock, budget, made = stock_of(folder, asked), asked.budget(diffusion), folder / "sd.rooms64"
    if world()[0] == 0:
        frozen(folder, asked, stock)
    if world()[1] > 1:
        torch.distributed.barrier()
    tensors = load_file(str(frozen(folder, asked, stock)))

    def keep(stage: str, network: Any) -> None:
        if asked.keeps(stage):
            write_shared(made, folder / "vae", folder / "text")
            write_index(made)
            keep_stage(made, ("objects-" if asked.world == "objects" else "") + asked.stage(stage), network)

    with asked.session(budget, origins(folder, stock, *FROZEN)):
        diffusion.train_unet(
            tensors["latents"],
            tensors["texts"],
            tensors["empty"],
            asked.place(folder, "unet"),
            budget,
            keep,
            asked.device,
            asked.until,
        )


def _features(folder: Path, asked: Asked) -> None:
    from safetensors.torch import save_file

    from generators.zoo import features

    stock, budget, place = stock_of(folder, asked), asked.budget(features), folder / "features"
    with asked.session(budget, origins(folder, stock)):
        network = features.train_features(stock.rgb(), stock.captions, place, budget, asked.device)
    save_file(_weights(network), str(place / "features.safetensors"))


def _stylegan(family: str, folder: Path, asked: Asked) -> None:
    from dataclasses import replace

    from generators.zoo import gan

    stock, budget = stock_of(folder, asked), asked.budget(gan)
    made_of = origins(folder, stock, "features")
    kept = folder / f"{family}.{'objects' if asked.world == 'objects' else 'rooms'}64"
    steps = gan.stage_steps(budget)
    stages = {
        step: partial(gan.keep_stage, family, kept / f"{asked.stage(stage)}.safetensors")
        for stage, step in steps.items()
        if asked.keeps(stage)
    }
    last = replace(budget, steps=steps[asked.until]) if asked.until else budget
    duel = gan.projected_duel(family, feature_network(folder), last, stages)
    with asked.session(budget, made_of):
        gan.train_gan(duel, pictures_of(stock, asked), asked.place(folder, family), asked.device)


def _vqgan(folder: Path, asked: Asked) -> None:
    from safetensors.torch import save_file

    from generators.networks.net2net import initialized
    from generators.vqgan import RANDOM_SEED, ROOMS
    from generators.zoo import vqgan

    stock, budget, place = stock_of(folder, asked), asked.budget(vqgan), asked.place(folder, "vqgan")
    made_of = origins(folder, stock, "features")

    def keep(stage: str, network: Any) -> None:
        save_file(_weights(network), str(place / f"first-{stage}.safetensors"))

    both: Any = initialized("Net2NetTransformer", ROOMS, RANDOM_SEED)
    network = both.first_stage_model.requires_grad_(True)
    vqgan.prepare(network, RANDOM_SEED)
    rgb, features = pictures_of(stock, asked), feature_network(folder)
    with asked.session(budget, made_of):
        vqgan.train_first_stage(network, features, rgb, place, budget, keep, asked.device, asked.until)


def _transformer_stages(asked: Asked, stages: tuple[str, ...]) -> tuple[str, ...]:
    """Those up to the one that is asked for; of a control that one alone."""
    if asked.until is None:
        return stages
    return (asked.until,) if asked.world == "scrambled" else stages[: stages.index(asked.until) + 1]


def _vqgan_transformer(folder: Path, asked: Asked) -> None:
    """One after the other, for each stage of the first stage a transformer, as long as the stage's share."""
    from safetensors.torch import load_file

    from generators.networks.net2net import initialized
    from generators.vqgan import RANDOM_SEED, ROOMS
    from generators.zoo import vqgan

    stock, whole, place = stock_of(folder, asked), asked.budget(vqgan, "TRANSFORMER_"), asked.place
    rgb = pictures_of(stock, asked)
    for stage in _transformer_stages(asked, tuple(vqgan.STAGES)):
        path = place(folder, "vqgan") / f"first-{stage}.safetensors"
        made_of = origins(folder, stock) | {"first stage": digest(path, "vqgan")}
        both: Any = initialized("Net2NetTransformer", ROOMS, RANDOM_SEED)
        both.first_stage_model.load_state_dict(load_file(str(path)))
        budget = vqgan.stage_budget(whole, stage)
        with asked.session(budget, made_of):
            vqgan.train_transformer(both, rgb, path.parent / stage, budget, asked.device)
        vqgan.keep_stage(folder / "vqgan.rooms64" / f"{asked.stage(stage)}.safetensors", both)


def _dinov2(folder: Path, asked: Asked, longer: bool = False) -> None:
    from generators import registry
    from generators.dinov2 import RANDOM_SEED, random_backbone
    from generators.zoo import dinov2

    def keep(stage: str, network: Any) -> None:
        if asked.keeps(stage):
            dinov2.keep_stage(folder / "dinov2.rooms64" / asked.stage(stage), network)

    stock, budget = stock_of(folder, asked), asked.budget(dinov2, "LONGER_" if longer else "")
    made_of = origins(folder, stock, *(["backbone"] if longer else []))
    place = asked.place(folder, "dinov2-longer" if longer else "dinov2")
    backbone: Any = random_backbone(registry.spec("dinov2.rooms64-random"), RANDOM_SEED)
    if longer:  # from the last stage of the first half, with a schedule of its own
        from transformers import Dinov2Model

        backbone = Dinov2Model.from_pretrained(folder / MADE["backbone"][0], use_safetensors=True).float()
    stages = dinov2.LONGER if longer else dinov2.STAGES
    rgb = pictures_of(stock, asked)
    with asked.session(budget, made_of):
        dinov2.train_dinov2(backbone, rgb, place, budget, keep, asked.device, stages, asked.until)


def _velocity(folder: Path, asked: Asked) -> None:
    from safetensors.torch import load_file

    from generators.zoo import velocity

    stock, budget = stock_of(folder, asked), asked.budget(velocity)
    made_of = origins(folder, stock, *FROZEN, "unet")
    tensors = load_file(str(frozen(folder, asked, stock)))
    with asked.session(budget, made_of):
        network = velocity.train_velocity(
            last_unet(folder),
            tensors["latents"],
            tensors["texts"],
            tensors["empty"],
            folder / "velocity",
            budget,
            asked.device,
        )
    velocity.keep_adapter(network, folder / "sd.rooms64" / "unet-velocity")


def _editing(folder: Path, asked: Asked) -> None:
    from generators.zoo import editing, velocity

    stock, budget = stock_of(folder, asked), asked.budget(editing)
    made_of = origins(folder, stock, *FROZEN, "unet", "unet-velocity")
    vae, texts = autoencoder(folder, asked.device), embed(folder, [*editing.EDITS, ""])
    unet, place = last_unet(folder, "unet-velocity"), folder / "editing"
    with asked.session(budget, made_of):
        network = editing.train_editing(
            unet, vae, stock.rgb(), texts[:-1], texts[-1:], place, budget, asked.device
        )
    velocity.keep_adapter(network, folder / "sd.rooms64" / "unet-editing")


_FOUR, _CONTROLLED = ("s1", "s2", "s3", "s4"), ("rooms", "scrambled")

PARTS: Mapping[str, Part] = {
    "text": Part(_text),
    "autoencoder": Part(_autoencoder),
    "network": Part(_network, ("rooms", "objects")),
    "unet": Part(_unet, STOCKS, (*_FOUR, "s5"), shared=True),
    "features": Part(_features),
    "stylegan2": Part(partial(_stylegan, "stylegan2"), STOCKS, _FOUR),
    "stylegan-xl": Part(partial(_stylegan, "stylegan-xl"), STOCKS, _FOUR),
    "vqgan": Part(_vqgan, _CONTROLLED, _FOUR),
    "vqgan-transformer": Part(_vqgan_transformer, _CONTROLLED, _FOUR),
    "dinov2": Part(_dinov2, _CONTROLLED, ("s1", "s2")),
    "dinov2-longer": Part(partial(_dinov2, longer=True), stages=("s3", "s4")),
    "velocity": Part(_velocity),
    "editing": Part(_editing),
}
