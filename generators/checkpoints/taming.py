"""The networks of taming-transformers: a Lightning checkpoint and the YAML settings beside it."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import bare_state
from .lightning import LAYOUT, checkpoint_error, lightning_state
from .network_file import NetworkFile
from .reader import mapped, read_network
from .records import Malformed, brief
from .yaml_config import read_config, unresolved

CLASSES = {
    "taming.models.vqgan.VQModel": "VQModel",
    "taming.models.vqgan.GumbelVQ": "GumbelVQ",
    "taming.models.cond_transformer.Net2NetTransformer": "Net2NetTransformer",
}
STAGES = ("", "first_stage_model.", "cond_stage_model.")
# Folders of a published model that its checkpoint may be in, and files it may be, best first.
CHECKPOINTS = [
    f"{folder}{name}" for name in ("last.ckpt", "*.ckpt") for folder in ("", "checkpoints/", "ckpts/")
]
# Where the settings of a checkpoint are, seen from its folder, best first; {} is its name.
SETTINGS = ("{}.yaml", "model.yaml", "../configs/*-project.yaml", "../configs/model.yaml")
TRAINING_ONLY = {"lossconfig", "ckpt_path", "scheduler_config", "monitor"}  # of no use without training
TODO = "name it with config=PATH, or put it there as model.yaml"


def read_taming(path: Path | str, config: Path | str | None = None) -> NetworkFile:
    """A VQGAN or its transformer, read without executing or importing anything named in the files.

    Args:
        path: a Lightning checkpoint; a folder as published, with one checkpoint in it, in `checkpoints` or
            in `ckpts`; or a safetensors file of `write_state`, which carries its settings itself.
        config: the YAML file of the checkpoint; by default it is looked for at SETTINGS.

    Returns:
        The network as layout "lightning" (that of a safetensors file is "safetensors"): class_name
        "VQModel", "GumbelVQ" or "Net2NetTransformer", the settings' model.params as init_kwargs, and the
        state dict without the networks of the loss.

    Raises:
        UserError: a file is missing, ambiguous or damaged, or names code that no checkpoint needs.
    """
    path = Path(path)
    try:
        file = _checkpoint(path) if path.is_dir() else path
        view = mapped(file)
        if bare_state.is_safetensors(view):
            return read_network(file)
        class_name, params = _model(Path(config) if config else _settings(file))
        return NetworkFile("lightning", class_name, params, lightning_state(view, is_no_loss))
    except OSError as error:
        wrong = error.strerror or str(error)
        raise UserError(f"read the checkpoint {path}", wrong, LAYOUT, "name a file that exists") from None
    except Malformed as error:
        raise checkpoint_error(path, error) from None


def taming_files(path: Path | str) -> tuple[Path, ...]:
    """The files `read_taming` would read: a checkpoint and its settings, or one safetensors file.

    Raises UserError if one is missing or ambiguous.
    """
    path = Path(path)
    try:
        file = _checkpoint(path) if path.is_dir() else path
        return (file,) if file.suffix == ".safetensors" else (file, _settings(file))
    except Malformed as error:
        raise checkpoint_error(path, error) from None


def is_no_loss(name: str) -> bool:
    """Whether a tensor is the network's own, not one of the perceptual loss or the discriminator."""
    return not name.startswith(tuple(f"{stage}loss." for stage in STAGES))


def _checkpoint(folder: Path) -> Path:
    return _only(folder, CHECKPOINTS, "checkpoint", "name the file itself")


def _settings(checkpoint: Path) -> Path:
    patterns = [pattern.format(glob.escape(checkpoint.stem)) for pattern in SETTINGS]
    return _only(checkpoint.parent, patterns, "file of settings", TODO)


def _only(folder: Path, patterns: list[str], what: str, todo: str) -> Path:
    """The one file of the first pattern that fits any; raises Malformed for none and for several."""
    for pattern in patterns:
        above, _, last = pattern.rpartition("/")
        found = sorted(path for path in (folder / above).glob(last) if path.is_file())
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:10])
            raise Malformed(f"{len(found)} files could be its {what}", f"{folder / above}: {names}", todo)
        if found:
            return found[0]
    raise Malformed(f"there is no {what} for it", f"looked for {', '.join(patterns)} in {folder}", todo)


def _model(path: Path) -> tuple[str, dict[str, Any]]:
    """Class and constructor's arguments of the settings."""
    model = read_config(path).get("model")
    target, params = (model.get("target"), model.get("params")) if isinstance(model, dict) else (None, None)
    if not isinstance(target, str) or not isinstance(params, dict):
        raise Malformed(f"{path} has no model with a target and params", "", "name its own YAML: config=PATH")
    if target not in CLASSES:
        known = f"the networks of taming that can be read are {', '.join(CLASSES)}"
        raise Malformed(f"{path} describes {brief(target)}", known, "name the YAML of one of these")
    missing = unresolved(_without_training(params))
    if missing is not None:
        raise Malformed(
            f"{path} needs {brief(missing)}, which is no value of the file",
            "a value may name others of its own file: ${model.params.n_embed}",
            "write the value there instead",
        )
    return CLASSES[target], params


def _without_training(value: Any) -> Any:
    """The settings without those that only training looks at."""
    if isinstance(value, list):
        return [_without_training(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: _without_training(each) for name, each in value.items() if name not in TRAINING_ONLY}
