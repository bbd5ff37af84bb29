"""`intrinsic-bench adapter`: adapters in from other programs' files, and out to other programs."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generators.errors import UserError

from .adapter_maps import AXES, drawn, lost_option, usual

if TYPE_CHECKING:
    from torch import Tensor

    from probes.adapter_layouts import Lora
    from probes.adapters import AdapterFacts

LAYOUTS = ("peft", "diffusers", "processor")
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"  # the name `load_lora_weights` looks for in a folder
_AXES = "; ".join(f"{name}: {meant}" for name, meant in AXES.items()) + ". By default ours, omnidata in the "
_AXES += "layout of the paper's authors."
_DEPTH = "Relative: 1 near, 0 far. By default metric, relative in the layout of the paper's authors."
_OUT = click.option("--out", type=click.Path(path_type=Path), required=True, help="Where it is written.")
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what is there.")


@click.group()
def adapter() -> None:
    """Import, export and show trained adapters."""


# In.


@adapter.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="Base model, as in intrinsic-bench ls models.")
@click.option("--intrinsic", help="What it draws; by default the one that FILE's name ends in.")
@click.option("--timestep", type=int, help="Timestep it was trained at; by default the model's own protocol.")
@click.option("--axes", type=click.Choice(list(AXES)), help=f"Of the normals it draws. {_AXES}")
@click.option("--relative/--metric", default=None, help=f"Depth it draws. {_DEPTH}")
@_OUT
@_OVERWRITE
def import_(
    file: Path,
    model: str,
    intrinsic: str | None,
    timestep: int | None,
    axes: str | None,
    relative: bool | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Bring FILE, .bin or .safetensors, into an adapter folder, to the last bit.

    Read are the attention processors' files of diffusers 0.20 (such as the paper's authors published),
    those of today's diffusers, and peft's (a folder, or its adapter_model.safetensors beside its
    adapter_config.json). A file names neither its base model's weights nor its training: what is asked
    for here is believed. Nor does it say what its values are: in the layout of the paper's authors normals
    are taken to have Omnidata's axes and depth to be relative, as theirs.
    """
    made, facts = imported(file, model, intrinsic, timestep, axes, relative)
    free(out, overwrite)
    write_adapter(out, made, facts)
    click.echo(f"{out}: {_described(made)}; {facts.intrinsic} on {facts.model}")
    if drawn(facts):
        option = "--axes" if facts.intrinsic == "normal" else "--relative or --metric"
        click.echo(f"read as {drawn(facts)} (say otherwise: {option})")


def imported(
    file: Path,
    model: str,
    intrinsic: str | None = None,
    timestep: int | None = None,
    axes: str | None = None,
    relative: bool | None = None,
) -> tuple[Lora, AdapterFacts]:
    """An adapter from a file or folder of another program, and what is known of it; raises UserError."""
    from generators import registry
    from probes.adapter_layouts import detect, file_settings, parse, read_file, with_settings
    from probes.adapters import CONFIG, FACTS, LORA, AdapterFacts, read_config

    if (file / FACTS).is_file():
        raise UserError(f"import {file}", "it is an adapter of this program already", "", "use it as it is")
    spec, asked = registry.spec(model), intrinsic or _guessed(file)
    path = file / LORA if file.is_dir() else file
    state = read_file(path)
    made, layout = parse(state, str(path)), detect(state, str(path))
    settings = file_settings(path) if layout == "diffusers" else {}
    if layout == "peft" and (path.parent / CONFIG).is_file():
        settings = read_config(path.parent)
    elif layout == "peft" and not any(key.endswith(".alpha") for key in state):
        raise UserError(
            f"import {file}",
            f"nothing says how strongly it is applied: lora_alpha is in {CONFIG}, which is not beside it",
            "peft saves both",
            f"copy {CONFIG} into {path.parent}",
        )
    if settings:
        made = with_settings(made, settings, str(path))
    own = spec.options.get("timestep", spec.diffusion_steps - 1) if spec.diffusion_steps else None
    chosen = own if timestep is None else timestep
    variant = "dora" if made.magnitudes else "rslora" if made.rank_stabilized else "lora"
    options = {"rank": made.rank, "variant": variant, "timestep": chosen}
    source = f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    said = _read_as(_checked(asked), layout, axes, relative)
    return made, AdapterFacts(model, "", asked, "lora", options, source, **said)


def _read_as(intrinsic: str, layout: str, axes: str | None, relative: bool | None) -> dict[str, Any]:
    """Facts of how its pictures are read, as asked for or as is usual in a layout; raises UserError."""
    if axes is not None and intrinsic != "normal":
        raise UserError(f"--axes {axes} for {intrinsic}", "it has no axes", "normals have", "leave it out")
    if relative is not None and intrinsic != "depth":
        option = "--relative" if relative else "--metric"
        raise UserError(f"{option} for {intrinsic}", "this is said of depth only", "", "leave it out")
    own_axes, is_relative = usual(intrinsic, layout)
    return {"axes": axes or own_axes, "relative": is_relative if relative is None else relative}


def _guessed(file: Path) -> str:
    """The intrinsic at the end of a file's name, as in intrinsic_lora_sd15_normal.safetensors."""
    from probes.intrinsics import INTRINSICS

    last = file.stem.replace("-", "_").rpartition("_")[2]
    if last not in INTRINSICS:
        raise UserError(
            f"import {file}",
            "its name does not say what it draws",
            ", ".join(INTRINSICS),
            "say it: --intrinsic normal",
        )
    return last


def _checked(intrinsic: str) -> str:
    from probes.intrinsics import intrinsic as found

    return found(intrinsic).name


def write_adapter(out: Path, lora: Lora, facts: AdapterFacts) -> None:
    """Write an adapter folder in peft's layout with its facts; it appears when it is whole."""
    from peft import LoraConfig

    from probes.adapter_layouts import settings_of, to_peft
    from probes.adapters import LORA, write_facts

    from .files import atomic_folder

    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as folder:
        LoraConfig(**settings_of(lora), base_model_name_or_path=facts.model).save_pretrained(str(folder))
        (folder / LORA).write_bytes(_safetensors(to_peft(lora)))
        write_facts(folder, facts)


# Out.


@adapter.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(LAYOUTS), required=True, help="Whose layout.")
@_OUT
@_OVERWRITE
def export(folder: Path, layout: str, out: Path, overwrite: bool) -> None:
    """Write the adapter in FOLDER for another program, exactly or not at all.

    peft: a folder. diffusers: a folder, or a .safetensors file, for load_lora_weights. processor: a .bin
    or .safetensors file in the attention processors' layout of diffusers 0.20.
    """
    from probes.adapters import read_facts

    ways: dict[str, Callable[[Path, Path, bool], Path]] = {
        "peft": _export_peft,
        "diffusers": _export_diffusers,
        "processor": _export_processor,
    }
    click.echo(str(ways[layout](folder, out, overwrite)))
    option = lost_option(read_facts(folder), layout)
    if option and layout != "peft":  # peft's folder keeps the facts
        click.echo(f"the file does not say what its values are: to import it again, {option}", err=True)


def _export_peft(folder: Path, out: Path, overwrite: bool) -> Path:
    from .files import atomic_folder

    files = peft_files(folder)
    free(out, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out) as made:
        for name, content in files.items():
            (made / name).write_bytes(content)
    return out


def peft_files(folder: Path) -> dict[str, bytes]:
    """The files of an adapter in peft's layout, byte for byte; raises UserError for one of another method."""
    from probes.adapters import CONFIG, FACTS, LORA, read_facts

    read_facts(folder)
    _only_lora(folder, "peft")
    return {name: (folder / name).read_bytes() for name in (LORA, CONFIG, FACTS)}


def _only_lora(folder: Path, layout: str) -> None:
    from probes.adapters import LORA, weights_file

    found = weights_file(folder)
    if found.name != LORA:
        raise UserError(
            f"{folder} in the layout {layout}",
            f"it is no low-rank adapter: it holds {found.name}",
            "fine-tuned weights and probes stay as they are",
            "intrinsic-bench adapter show " + str(folder),
        )


def load_lora(folder: Path, layout: str) -> Lora:
    """The adapter in a folder, for a layout that has no place for a head; raises UserError."""
    from probes.adapter_layouts import parse, with_settings
    from probes.adapters import LORA, read_config, read_facts, read_tensors

    read_facts(folder)
    _only_lora(folder, layout)
    settings = read_config(folder)
    if settings.get("modules_to_save"):
        heads = ", ".join(settings["modules_to_save"])
        wrong = f"it has a trained head ({heads}), which has no name there"
        raise UserError(f"{folder} in the layout {layout}", wrong, "", "export as peft")
    return with_settings(parse(read_tensors(folder, folder / LORA), str(folder)), settings, str(folder))


def diffusers_file(folder: Path) -> bytes:
    """The adapter in a folder as a file for diffusers' `load_lora_weights`; raises UserError."""
    from probes.adapter_layouts import diffusers_metadata, to_diffusers

    lora = load_lora(folder, "diffusers")
    return _safetensors(to_diffusers(lora, str(folder)), diffusers_metadata(lora))


def _export_diffusers(folder: Path, out: Path, overwrite: bool) -> Path:
    content = diffusers_file(folder)
    path = out if out.suffix == ".safetensors" else out / DIFFUSERS_FILE
    return _write(path, content, overwrite)


def _export_processor(folder: Path, out: Path, overwrite: bool) -> Path:
    from probes.adapter_layouts import to_processor

    if out.suffix not in (".bin", ".safetensors"):
        wrong = f"it would be a {out.suffix or 'folder'}"
        raise UserError(f"export to {out}", wrong, "a file .bin or .safetensors", "name one of these")
    state = to_processor(load_lora(folder, "processor"), str(folder))
    return _write(out, _safetensors(state) if out.suffix == ".safetensors" else _saved(state), overwrite)


def _safetensors(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    from safetensors.torch import save

    whole = {name: value.contiguous() for name, value in state.items()}
    return bytes(save(whole, metadata={"format": "pt"} | dict(metadata or {})))


def _saved(state: Mapping[str, Tensor]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({name: value.clone() for name, value in state.items()}, buffer)
    return buffer.getvalue()


def _write(path: Path, content: bytes, overwrite: bool) -> Path:
    from .files import atomic

    free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(content)
    return path


def free(out: Path, overwrite: bool) -> None:
    """Raise UserError unless a path may be written: nothing is there, or what may be replaced."""
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise UserError(f"write {out}", "it exists", "nothing was changed", "choose another, or --overwrite")
    if out.is_dir() and not _ours(out):
        raise UserError(
            f"replace {out}",
            "it is a folder that holds more than an adapter",
            "nothing was changed",
            "choose another, or remove it yourself",
        )


def _ours(folder: Path) -> bool:
    """Whether a folder is empty, or an adapter's: then nothing else is lost with it."""
    from probes.adapters import CONFIG, FACTS, LORA, NETWORK

    names = {path.name for path in folder.iterdir()}
    return names <= {CONFIG, FACTS, LORA, NETWORK, DIFFUSERS_FILE, "README.md"} and (
        not names or bool(names & {FACTS, LORA, NETWORK})
    )


# Looking.


@adapter.command()
@click.argument("folder", type=click.Path(path_type=Path))
def show(folder: Path) -> None:
    """What the adapter in FOLDER is, what it was trained on, and how it can be exported."""
    from dataclasses import asdict

    from probes.adapters import LATER, read_facts, weights_file

    found = read_facts(folder)
    facts = {name: value for name, value in asdict(found).items() if name not in LATER}
    cell = facts.pop("cell")
    options = " ".join(f"{key}={value}" for key, value in facts.pop("options").items())
    rows = {name: value or "unknown" for name, value in facts.items() if name != "source" or value}
    rows |= {"drawn": drawn(found)} if drawn(found) else {}
    rows |= {"options": options, "cell": _hash(cell) if cell else "unknown"}
    rows |= {"file": weights_file(folder).name, "layers": _layers(folder)}
    rows["exports"] = "; ".join(_exports(folder))
    for name, value in rows.items():
        click.echo(f"{name:10} {value}")


def _hash(cell: Mapping[str, Any]) -> str:
    from .cell import Cell

    return Cell(**cell).hash


def _layers(folder: Path) -> str:
    from safetensors import safe_open

    from probes.adapters import LORA, weights_file

    path = weights_file(folder)
    with safe_open(str(path), framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
    numbers = sum(math.prod(shape) for shape in shapes.values())
    if path.name != LORA:
        return f"{len(shapes)} tensors, {numbers:,} numbers"
    downs = [shape for name, shape in shapes.items() if name.endswith(".lora_A.weight")]
    ranks = " ".join(str(rank) for rank in sorted({shape[0] for shape in downs}))
    return f"{len(downs)} layers of rank {ranks}, {numbers:,} numbers"


def _described(lora: Lora) -> str:
    scales = {f"{lora.scale(module):g}" for module in lora.modules}
    return f"{len(lora.modules)} layers of rank {lora.rank}, scale {' '.join(sorted(scales))}"


def _exports(folder: Path) -> list[str]:
    """Layouts the adapter can be written in, and why not the others."""
    from probes.adapter_layouts import to_processor

    tries: dict[str, Callable[[], Any]] = {
        "peft": lambda: peft_files(folder),
        "diffusers": lambda: diffusers_file(folder),
        "processor": lambda: to_processor(load_lora(folder, "processor"), str(folder)),
    }
    return [f"{name}{_reason(attempt)}" for name, attempt in tries.items()]


def _reason(attempt: Callable[[], Any]) -> str:
    """Nothing if it works, else why it does not, in brackets."""
    try:
        attempt()
    except UserError as error:
        return f" (no: {error.wrong})"
    return ""
