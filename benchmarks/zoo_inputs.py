"""What the commands of the zoo are asked for, and what a training depends on: all of it by hash."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.errors import UserError
from generators.hub import hash_files

if TYPE_CHECKING:
    from benchmarks.data.rooms.stock import Stock
    from generators.zoo.loop import Budget

# What a part is trained on: rooms, the second world, or rooms with their blocks shuffled (a control).
STOCKS = ("rooms", "objects", "scrambled")
# What is trained and then needed: its place below the folder, and the part whose training makes it.
MADE: Mapping[str, tuple[str, str]] = {
    "vae": ("vae/vae", "autoencoder"),
    "text_encoder": ("text/text_encoder", "text"),
    "tokenizer": ("text/tokenizer", "text"),
    "features": ("features/features.safetensors", "features"),
    "unet": ("sd.rooms64/unet", "unet"),
    "unet-velocity": ("sd.rooms64/unet-velocity", "velocity"),
    "backbone": ("dinov2.rooms64/s2", "dinov2"),
}
FROZEN = ("vae", "text_encoder", "tokenizer")  # what latents and text embeddings are made with


@dataclass(frozen=True)
class Asked:
    """What the command line asked for; None stands for the device's own budget.

    Attributes:
        world: a name of STOCKS.
        until: name of the stage after which training ends, None for the last; schedules do not change.
        ends: time.monotonic() after which to stop, None for never.
        every: seconds between two states.
        extend: whether to go on from the state of another budget.
    """

    device: str
    steps: int | None
    batch: int | None
    world: str = "rooms"
    until: str | None = None
    ends: float | None = None
    every: float = 120.0
    extend: bool = False

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
        """The budget of a training module, or of a part of it, with what was asked instead.

        Raises:
            UserError: a batch that torchrun's processes cannot share.
        """
        kind = "CPU_BUDGET" if self.device == "cpu" else "GPU_BUDGET"
        budget: Budget = getattr(module, part + kind)
        given: dict[str, Any] = {"steps": self.steps, "batch": self.batch}
        budget = replace(budget, **{name: value for name, value in given.items() if value is not None})
        if budget.batch % processes():
            raise UserError(
                f"batches of {budget.batch} pictures",
                "the processes cannot share one equally",
                f"{processes()} processes",
                f"--batch {budget.batch // processes() * processes() or processes()}",
            )
        return budget

    def session(self, budget: Budget, made_of: Mapping[str, str]) -> AbstractContextManager[None]:
        """Trainings within it go as asked, and on from no state of another budget, world or origin."""
        from generators.zoo.session import Session, session

        facts: dict[str, str | int] = {"steps": budget.steps, "world": self.world, **made_of}
        return session(Session(self.ends, self.every, facts, self.extend))


def processes() -> int:
    """How many processes torchrun started, 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else 1


def digest(path: Path, part: str) -> str:
    """Hash of a file, or of the files of a folder; raises UserError where `part` was not trained yet."""
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
    if not files:
        raise UserError(
            f"{path.parent.name}/{path.name} of the zoo",
            "it is needed, and was not trained yet",
            f"expected: {path}",
            f"intrinsic-bench zoo train FOLDER {part}",
        )
    return hash_files(files)


def origins(folder: Path, stock: Stock, *names: str) -> dict[str, str]:
    """Hashes of the stock and of what was trained before: names of MADE."""
    return {"stock": stock.fingerprint} | {
        name: digest(folder / MADE[name][0], MADE[name][1]) for name in names
    }


def stock_of(folder: Path, asked: Asked) -> Stock:
    """Scenes of the world that is asked for; a control is made of rooms."""
    from benchmarks.data.rooms.stock import open_stock

    return open_stock(folder / "stock", "objects" if asked.world == "objects" else "rooms")


def pictures_of(stock: Stock, asked: Asked) -> Any:
    """Pictures, uint8 (n 3 h w); a control's have their blocks shuffled."""
    from generators.zoo.scramble import scrambled

    return scrambled(stock.rgb()) if asked.world == "scrambled" else stock.rgb()


def autoencoder(folder: Path, device: str) -> Any:
    """The trained autoencoder in float32."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder / MADE["vae"][0], use_safetensors=True)
    return vae.float().to(device).eval()


def embed(folder: Path, prompts: Sequence[str]) -> Any:
    """Embeddings (n l d) of prompts by the trained text encoder."""
    from transformers import CLIPTextModel, CLIPTokenizer

    from generators.zoo.diffusion import embed_prompts

    tokenizer = CLIPTokenizer.from_pretrained(folder / MADE["tokenizer"][0])
    text = CLIPTextModel.from_pretrained(folder / MADE["text_encoder"][0], use_safetensors=True)
    return embed_prompts(tokenizer, text.float().eval(), prompts)


def frozen(folder: Path, asked: Asked, stock: Stock) -> Path:
    """File of the stock's latents and text embeddings, computed once for these weights and this stock."""
    from safetensors.torch import save_file

    from generators.zoo.diffusion import encode_latents

    path = asked.place(folder, "frozen").with_suffix(".safetensors")
    made_of = origins(folder, stock, *FROZEN) | {"world": asked.world}
    if _metadata(path) == made_of:
        return path
    tensors = {
        "latents": encode_latents(autoencoder(folder, asked.device), pictures_of(stock, asked), asked.device),
        "texts": embed(folder, stock.captions),
        "empty": embed(folder, [""]),
    }
    save_file(tensors, str(path.with_suffix(".tmp")), made_of)
    path.with_suffix(".tmp").rename(path)
    return path


def _metadata(path: Path) -> dict[str, str] | None:
    """What a safetensors file says of itself, None where there is none."""
    from safetensors import safe_open

    if not path.exists():
        return None
    with safe_open(path, "pt") as file:
        found: dict[str, str] | None = file.metadata()
    return found


def feature_network(folder: Path) -> Any:
    """The frozen network of the discriminators."""
    from safetensors.torch import load_file

    from generators.zoo.features import FeatureNetwork

    features = FeatureNetwork()
    features.load_state_dict(load_file(str(folder / MADE["features"][0])))
    return features


def last_unet(folder: Path, *adapters: str) -> Any:
    """The last stage's UNet in float32, adapters of `folder`/sd.rooms64 merged into it."""
    from diffusers import UNet2DConditionModel

    from generators.multi_step import merged

    place = folder / "sd.rooms64"
    unet = UNet2DConditionModel.from_pretrained(place, subfolder="unet", use_safetensors=True).float()
    for adapter in adapters:
        unet = merged(unet, place / adapter)
    return unet
