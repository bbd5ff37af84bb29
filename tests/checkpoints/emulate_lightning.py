"""Lightning checkpoints of taming-transformers as their trainer wrote them, and poisoned ones.

Everything is written by torch.save itself, in either container; classes of packages that are not here
are put in their place while it writes. Exploits are real: `Exploit.run` shows what each would do.
"""

import contextlib
import io
import logging
import sys
import types
import typing
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tests.checkpoints.golden_networks import Golden

CONTAINERS = ("zip", "sequence")
CLASSES = {
    "VQModel": "taming.models.vqgan.VQModel",
    "GumbelVQ": "taming.models.vqgan.GumbelVQ",
    "Net2NetTransformer": "taming.models.cond_transformer.Net2NetTransformer",
}
SECTIONS = ("callbacks", "optimizer_states", "lr_schedulers", "hyper_parameters")


@contextlib.contextmanager
def foreign_class(module: str, name: str, base: type = object) -> Iterator[type]:
    """A class of a package that is not installed, for as long as something is written."""
    found = type(name, (base,), {"__module__": module})
    parts = module.split(".")
    added = [".".join(parts[: i + 1]) for i in range(len(parts))]
    added = [each for each in added if each not in sys.modules]
    sys.modules.update({each: types.ModuleType(each) for each in added})
    setattr(sys.modules[module], name, found)
    try:
        yield found
    finally:
        delattr(sys.modules[module], name)
        for each in added:
            del sys.modules[each]


def checkpoint(state: Mapping[str, Tensor], callback: type) -> dict[str, Any]:
    """What Lightning 1.0 saves around a state dict, with the networks of the loss in it."""
    first = next(iter(state.values()))
    losses = {
        "loss.perceptual_loss.net.slice1.0.weight": torch.full((64, 3), 7.0),
        "loss.discriminator.main.0.weight": torch.full((8, 3, 4, 4), 9.0),
        "first_stage_model.loss.perceptual_loss.lin0.model.1.weight": torch.full((1, 64), 5.0),
        "cond_stage_model.loss.discriminator.main.0.bias": torch.full((8,), 3.0),
    }
    moments = {"step": 340, "exp_avg": torch.zeros_like(first), "exp_avg_sq": torch.ones_like(first)}
    group = {"lr": 4.5e-06, "betas": (0.5, 0.9), "eps": 1e-08, "weight_decay": 0, "params": [0]}
    return {
        "epoch": 52,
        "global_step": 340_000,
        "pytorch-lightning_version": "1.0.8",
        "callbacks": {callback: {"best_model_score": torch.tensor(0.25), "best_model_path": "last.ckpt"}},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [group]}],
        "lr_schedulers": [],
        "state_dict": OrderedDict(state) | OrderedDict(losses),
    }


def write_checkpoint(
    path: Path,
    state: Mapping[str, Tensor],
    container: str = "zip",
    change: Callable[[dict[str, Any]], None] | None = None,
    protocol: int = 2,
) -> None:
    """A checkpoint of these tensors; `change` may add to it what it likes."""
    with foreign_class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") as callback:
        content = checkpoint(state, callback)
        if change is not None:
            change(content)
        save(content, path, container, protocol)


def save(content: Any, path: Path | io.BytesIO, container: str = "zip", protocol: int = 2) -> None:
    torch.save(
        content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=container == CONTAINERS[0]
    )


def saved(content: Any, container: str = "zip", protocol: int = 2) -> bytes:
    file = io.BytesIO()
    save(content, file, container, protocol)
    return file.getvalue()


# Settings.


def settings(golden: Golden) -> dict[str, Any]:
    """The YAML file of a golden network, with what only training needs."""
    facts = golden.facts
    loss = {
        "lossconfig": {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator", "params": {}}
    }
    params = dict(facts.get("kwargs", {})) | loss
    if facts["cls"] == "Net2NetTransformer":
        first = dict(facts["first_stage_kwargs"]) | {
            "ckpt_path": "logs/first/checkpoints/last.ckpt",
            "lossconfig": {"target": "torch.nn.Identity"},
        }
        params = {
            "transformer_config": {
                "target": "taming.modules.transformer.mingpt.GPT",
                "params": facts["transformer_kwargs"],
            },
            "first_stage_config": {"target": CLASSES["VQModel"], "params": first},
            "cond_stage_config": facts.get("cond_stage", "__is_unconditional__"),
        }
    return {
        "model": {"base_learning_rate": 4.5e-06, "target": CLASSES[facts["cls"]], "params": params},
        "data": {"target": "main.DataModuleFromConfig", "params": {"batch_size": 3}},
    }


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")


# What genuine checkpoints hold besides.


def harmless() -> dict[str, Any]:
    """Settings and states that trainers save: containers, numbers, paths, classes of several packages."""
    import argparse
    import datetime
    import functools
    import pathlib

    import numpy as np

    return {
        "namespace": argparse.Namespace(lr=1e-4, nested={"a": [1, 2.5, None]}),
        "paths": [pathlib.Path("logs") / "run", pathlib.PureWindowsPath("logs")],
        "dates": [datetime.datetime(2021, 4, 23, 18, 19, 1), datetime.timedelta(hours=1)],
        "containers": [{1, 2}, frozenset({3}), defaultdict(dict, a=1), OrderedDict(b=2), range(3), 1 + 2j],
        "numpy": [np.float64(0.5), np.arange(3), np.random.RandomState(0), np.dtype("f4"), np.bool_(True)],
        "torch": [torch.device("cpu"), torch.float16, torch.Size([1, 2]), torch.nn.Parameter(torch.ones(2))],
        "types": [int, dict, typing.Any, torch.nn.LayerNorm, torch.optim.Adam],
        "partial": functools.partial(torch.nn.LayerNorm, eps=1e-6),
        "bytes": b"\x00\xff" * 40,
    }


@contextlib.contextmanager
def foreign_settings() -> Iterator[dict[str, Any]]:
    """Settings that are objects of Lightning, OmegaConf and the user's own package."""
    with (
        foreign_class("pytorch_lightning.utilities.parsing", "AttributeDict", dict) as attributes,
        foreign_class("omegaconf.dictconfig", "DictConfig") as config,
        foreign_class("omegaconf.base", "ContainerMetadata") as metadata,
        foreign_class("my_project.callbacks", "PictureLogger") as logger,
    ):
        described = metadata()
        described.__dict__.update(ref_type=typing.Any, object_type=dict, resolver_cache=defaultdict(dict))
        settings = config()
        settings.__dict__.update(_metadata=described, _content={"lr": 1.0, "parent": settings})
        yield {"attributes": attributes(lr=1.0), "config": settings, "logger": {logger: logger()}}


# Poison.


@dataclass(eq=False)
class Exploit:
    """An object that calls a function when it is unpickled by a reader that trusts what it reads."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments

    def run(self) -> None:
        """What unpickling it would do; a file that this opens is closed."""
        found = self.function(*self.arguments)
        if isinstance(found, io.IOBase | logging.Handler):
            found.close()


def exploits(marker: Path) -> dict[str, Exploit]:
    """Calls that leave a file, by the name that must be found in the error."""
    import operator
    import os
    import runpy
    import shutil
    import subprocess
    import timeit

    write = f"open({str(marker)!r}, 'w').close()"
    script = marker.with_suffix(".py")
    script.write_text(write, encoding="utf-8")
    inner = saved(Exploit(os.system, (f"touch {marker}",)), "sequence")
    return {
        f"{os.system.__module__} system": Exploit(os.system, (f"touch {marker}",)),
        f"{os.mkdir.__module__} mkdir": Exploit(os.mkdir, (str(marker),)),
        "subprocess call": Exploit(subprocess.call, (["touch", str(marker)],)),
        "builtins eval": Exploit(eval, (write,)),
        "builtins exec": Exploit(exec, (write,)),
        "operator methodcaller": Exploit(operator.methodcaller("touch"), (marker,)),  # type: ignore[arg-type]
        "io open": Exploit(open, (str(marker), "w")),
        "runpy run_path": Exploit(runpy.run_path, (str(script),)),
        "shutil copyfile": Exploit(shutil.copyfile, (str(script), str(marker))),
        "timeit timeit": Exploit(timeit.timeit, ("pass", write)),
        "logging FileHandler": Exploit(logging.FileHandler, (str(marker),)),
        "torch.storage _load_from_bytes": Exploit(torch.storage._load_from_bytes, (inner,)),
    }


PLACES = (*SECTIONS, "a key", "a loss", "a tensor", "the state of an object")


def poison(content: dict[str, Any], place: str, exploit: Exploit) -> None:
    """Put an exploit somewhere in a checkpoint."""
    if place == "a key":
        content["callbacks"] = {exploit: 1}
    elif place == "a loss":
        content["state_dict"]["loss.logvar"] = exploit
    elif place == "a tensor":
        content["state_dict"][next(iter(content["state_dict"]))] = exploit
    elif place == "the state of an object":
        content["callbacks"] = types.SimpleNamespace(value=[{"deep": (exploit,)}])
    else:
        content[place] = exploit


# Archives, opened and closed again.


def rezipped(content: bytes, changes: Mapping[str, bytes | None]) -> bytes:
    """An archive with other entries in the place of some (None takes one away), sound in itself."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(file, "w") as after:
        entries = {name: before.read(name) for name in before.namelist()} | dict(changes)
        for name, data in entries.items():
            if data is not None:
                after.writestr(zipfile.ZipInfo(name), data)
    return file.getvalue()
