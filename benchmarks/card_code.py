"""The code on a model card: how to draw a map with the adapter, and how to train it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cell import LATER

if TYPE_CHECKING:
    from generators.base import GeneratorSpec
    from probes.adapters import AdapterFacts

    from .cell import Cell

_FROM_PICTURES = """from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from PIL import Image

from benchmarks.adapter_maps import intrinsic_of
from generators import registry
from probes.adapters import attached, check_base, read_facts

folder = Path(snapshot_download("{repo_id}"))
facts = read_facts(folder)
check_base(facts, "{model}")
generator = registry.load("{model}")
shown = Image.open("picture.png").convert("RGB").resize(({size}, {size}))
picture = torch.from_numpy(np.array(shown)).permute(2, 0, 1)[None] / 127.5 - 1  # in [-1, 1]
with torch.no_grad(), attached(generator, folder, facts):
    code = generator.embed(picture)
    drawn = generator.decode(generator.forward(code, facts.intrinsic))
found = intrinsic_of(facts).from_picture(drawn)  # (1 c h w) in natural units"""

_FROM_SEEDS = """from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from benchmarks.adapter_maps import intrinsic_of
from generators import registry
from probes.adapters import attached, check_base, read_facts

folder = Path(snapshot_download("{repo_id}"))
facts = read_facts(folder)
check_base(facts, "{model}")
generator = registry.load("{model}")
sample = generator.sample([0])  # it draws pictures of seeds and cannot be shown one
with torch.no_grad(), attached(generator, folder, facts):
    drawn = generator.decode(generator.forward(sample.code, facts.intrinsic))
found = intrinsic_of(facts).from_picture(drawn)  # (1 c h w) in natural units"""

_DIFFUSERS = """import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

pipe = StableDiffusionPipeline.from_pretrained("{base}", safety_checker=None).to(torch.float32)
pipe.load_lora_weights("{repo_id}", weight_name="pytorch_lora_weights.safetensors")
shown = Image.open("picture.png").convert("RGB").resize(({size}, {size}))
picture = torch.from_numpy(np.array(shown)).permute(2, 0, 1)[None] / 127.5 - 1
with torch.no_grad():
    text = pipe.encode_prompt("{prompt}", "cpu", 1, False)[0]
    scale = pipe.vae.config.scaling_factor
    latent = pipe.vae.encode(picture).latent_dist.mode() * scale
    output = pipe.unet(latent, {timestep}, encoder_hidden_states=text).sample
    drawn = pipe.vae.decode(output / scale).sample  # (1 3 h w), the map as a picture in [-1, 1]"""

_AGAIN = """from benchmarks import make_cell, run

options = {options!r}
cell = make_cell(
    {model!r},
    {intrinsic!r},
    {method!r},
    options,
    {named},
)
print(cell.hash)  # {hash}, if model, data and protocol are the same
record = run(cell, store="results/mine")"""


def usage(spec: GeneratorSpec, repo_id: str) -> str:
    """Python that draws one map with this package."""
    text = _FROM_SEEDS if spec.takes == "seeds" else _FROM_PICTURES
    return text.format(repo_id=repo_id, model=spec.name, size=spec.resolution)


def single_step_prompt(intrinsic: str) -> str:
    """What Stable Diffusion is prompted with in one step."""
    from generators.stable_diffusion import PROMPTS

    return PROMPTS[intrinsic]


def diffusers_usage(facts: AdapterFacts, spec: GeneratorSpec, base: str, repo_id: str) -> str:
    """Python that draws one map with diffusers alone, in a single step."""
    own = spec.options.get("timestep", spec.diffusion_steps - 1)
    chosen = facts.options.get("timestep")
    return _DIFFUSERS.format(
        base=base,
        repo_id=repo_id,
        size=spec.resolution,
        prompt=single_step_prompt(facts.intrinsic),
        timestep=own if chosen is None else chosen,
    )


def reproduction(cell: Cell) -> str:
    """Python that runs a cell again: every value is named."""
    kept: tuple[str, ...] = ("data", "size", "train", "validation", "test", "labels", "alignment", "seed")
    kept += tuple(name for name in LATER if getattr(cell, name))
    named = ",\n    ".join(f"{name}={getattr(cell, name)!r}" for name in kept)
    return _AGAIN.format(
        options=dict(cell.options),
        model=cell.model,
        intrinsic=cell.intrinsic,
        method=cell.method,
        named=named,
        hash=cell.hash,
    )
