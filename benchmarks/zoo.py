"""`intrinsic-bench zoo`: how the embedded models were made, command by command."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from generators.errors import UserError

from .devices import check_device
from .zoo_inputs import STOCKS, Asked
from .zoo_parts import PARTS, check


@click.group()
def zoo() -> None:
    """Train the embedded models again: render, train one part after the other, grid."""


@zoo.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--scenes",
    type=click.IntRange(1),
    default=80_000,
    show_default=True,
    help="Scenes of the split zoo to render.",
)
@click.option("--shard", type=click.IntRange(1), default=10_000, show_default=True, help="Scenes in a file.")
@click.option(
    "--worker", type=click.IntRange(0), default=0, help="Which share of the files this process renders."
)
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that render into the folder.")
@click.option("--world", default="rooms", show_default=True, type=click.Choice(["rooms", "objects"]))
def render(folder: Path, scenes: int, shard: int, worker: int, workers: int, world: str) -> None:
    """Render training scenes into FOLDER/stock; files that are there are kept."""
    if worker >= workers:
        asked, known = f"--worker {worker} of --workers {workers}", f"workers 0 to {workers - 1}"
        raise UserError(asked, "there is no such worker", known, "count from 0")
    import torch

    from benchmarks.data.rooms.stock import render_shard

    torch.set_num_threads(1)
    for start in range(worker * shard, scenes, workers * shard):
        click.echo(render_shard(folder / "stock", start, min(shard, scenes - start), world=world))


@zoo.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("what", type=click.Choice(list(PARTS)))
@click.option("--device", default="cpu", show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Steps instead of the device's budget.")
@click.option("--batch", type=click.IntRange(1), help="Pictures a step instead of the device's budget.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--world", default="rooms", show_default=True, type=click.Choice(STOCKS))
@click.option("--until", metavar="STAGE", help="End after this stage; `scrambled` needs one.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Stop after so many; see below.")
@click.option(
    "--every",
    type=click.FloatRange(0),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two states on disk.",
)
@click.option("--extend", is_flag=True, help="Go on from a training of other --steps, --batch or scenes.")
def train(folder: Path, what: str, threads: int, minutes: float | None, **options: Any) -> None:
    """Train one part on FOLDER/stock; run it again to resume.

    `unet` needs text and autoencoder; `stylegan2`, `stylegan-xl` and `vqgan` need features;
    `vqgan-transformer` needs vqgan, `velocity` needs unet, `editing` needs velocity.

    Exit status: 0 all is done, 4 stopped before the end (--minutes, Ctrl-C, SIGTERM) with the state saved, 2
    something to mend.

    `torchrun --nproc-per-node 2 -m benchmarks zoo train FOLDER unet` shares a batch between processes. Its
    exit status is torchrun's own: 1 for a training that was stopped, its state saved all the same.
    """
    asked = Asked(ends=time.monotonic() + 60 * minutes if minutes else None, **options)
    check_device(asked.device)
    check(what, asked)
    import torch

    torch.set_num_threads(threads)
    asked = replace(asked, device=_join(asked.device))
    try:
        PARTS[what].train(folder, asked)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _join(device: str) -> str:
    """Join the processes of torchrun, if it is what started this one; the device of this process."""
    import torch

    if "RANK" not in os.environ:
        return device
    cuda = device.startswith("cuda")
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    return device


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
