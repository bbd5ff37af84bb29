"""Trained adapters on disk: what belongs to one, and putting it on a model and taking it off again.

A folder holds adapter_model.safetensors and adapter_config.json (peft's layout), or network.safetensors
(all weights, fine-tuned), and beside them one JSON file of facts: which model, which weights of it, which
intrinsic, how it was asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators import registry
from generators.base import Denoiser, Generator
from generators.errors import UserError
from generators.plain import parse_json

from .intrinsics import intrinsic
from .methods import RELATIVE

if TYPE_CHECKING:
    from torch import Tensor, nn

FACTS = "intrinsic-bench.json"
LORA, CONFIG, NETWORK = "adapter_model.safetensors", "adapter_config.json", "network.safetensors"
PREFIX = "base_model.model."  # of every key that peft saves
AXES = ("ours", "omnidata")  # of normals as an adapter draws them; benchmarks.data.axes says which they are
# Facts of imported adapters that a file holds only where they differ from this.
LATER: dict[str, Any] = {"axes": "ours", "relative": False}
_FOLDER = f"an adapter is a folder with {FACTS} and {LORA} + {CONFIG}, or {NETWORK}"
_AGAIN = "train it again, or copy the whole folder again"


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter is, beside its weights.

    Attributes:
        model: name of the base model.
        weights: identity of the base model's weights; "" where they are unknown (imported).
        intrinsic: what it draws.
        method: how it was trained, a name in probes.methods.METHODS.
        options: of the method; how the model has to be asked (timestep) is among them.
        source: where it was imported from; "" for one trained here.
        cell: the whole cell, for one trained here.
        axes: of the normals it draws, one of AXES; one trained here draws ours.
        relative: of one that was imported, whether it draws depth without unit (probes.intrinsics).
    """

    model: str
    weights: str
    intrinsic: str
    method: str
    options: Mapping[str, Any]
    source: str = ""
    cell: Mapping[str, Any] | None = None
    axes: str = "ours"
    relative: bool = False

    @property
    def alignment(self) -> str:
        """Of the depth it draws (see probes.intrinsics.intrinsic); "none" for meters."""
        return RELATIVE if self.relative else str((self.cell or {}).get("alignment", "none"))


# Facts.


def write_facts(folder: Path, facts: AdapterFacts) -> None:
    """Write the facts beside the weights; whatever happens, no half file is left."""
    said = {name: value for name, value in asdict(facts).items() if name not in LATER or value != LATER[name]}
    text = json.dumps(said, indent=1, allow_nan=False, default=dict) + "\n"
    temporary = folder / f".{FACTS}.{os.getpid()}.tmp"
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / FACTS)
    finally:
        temporary.unlink(missing_ok=True)


def _error(folder: Path, wrong: str, todo: str = _AGAIN, known: str = _FOLDER) -> UserError:
    return UserError(f"adapter {folder}", wrong, known, todo)


def read_facts(folder: Path) -> AdapterFacts:
    """The facts of an adapter whose weights are there and whole.

    Raises:
        UserError: no folder, no facts or broken ones, an unknown key, missing or truncated weights.
    """
    if not folder.is_dir():
        raise _error(folder, "there is no such folder", "name a folder below the adapters/ of a store")
    facts = _facts(folder, _json(folder, FACTS))
    try:
        intrinsic(facts.intrinsic)
    except UserError as error:
        raise _error(folder, f"{FACTS}: {error.wrong}: {error.asked[:100]}", known=error.known) from error
    weights = weights_file(folder)
    _opened(folder, weights)
    if weights.name == LORA:
        _json(folder, CONFIG)
    return facts


def _json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the folder; raises UserError."""
    try:
        found = parse_json((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        todo = "intrinsic-bench adapter import FILE --model MODEL --out DIR makes such a folder of a file"
        raise _error(folder, f"it has no {name}", todo) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _error(folder, f"{name} cannot be read: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise _error(folder, f"{name} holds no JSON object but a {type(found).__name__}")
    return found


def _facts(folder: Path, said: Mapping[str, Any]) -> AdapterFacts:
    known = {field.name for field in fields(AdapterFacts)}
    odd = sorted(set(said) - known)
    if odd:
        raise _error(folder, f"{FACTS} has the unknown key {odd[0]!r}", known=", ".join(sorted(known)))
    for key in ("model", "weights", "intrinsic", "method", "options"):
        if key not in said:
            raise _error(folder, f"{FACTS} lacks {key!r}")
    kinds: dict[str, type] = {"options": dict, "cell": dict, "relative": bool}
    for key, value in said.items():
        kind = kinds.get(key, str)
        if not isinstance(value, kind) and not (key == "cell" and value is None):
            raise _error(folder, f"{key!r} in {FACTS} is {str(value)[:60]!r}, not a {kind.__name__}")
    facts = AdapterFacts(**said)
    _check_drawn(folder, facts)
    return facts


def _check_drawn(folder: Path, facts: AdapterFacts) -> None:
    """Raise UserError unless what is said of axes and of relative depth can be true of the adapter."""
    of = {"axes": "normal", "relative": "depth"}
    for name, usual in LATER.items():
        value = getattr(facts, name)
        wrong = f"{FACTS} says {name} = {str(value)[:60]!r} of {facts.intrinsic[:60]}"
        if value != usual and facts.intrinsic != of[name]:
            raise _error(folder, wrong, known=f"only {of[name]} has it")
        if value != usual and facts.cell is not None:
            raise _error(folder, f"{wrong}, trained here", known="its cell says what it draws")
        if name == "axes" and value not in AXES:
            raise _error(folder, wrong, known=", ".join(AXES))


# Weights.


def weights_file(folder: Path) -> Path:
    """The file that holds the adapter's weights; raises UserError if there is none."""
    for path in (folder / LORA, folder / NETWORK, *sorted(folder.glob("*.safetensors"))):
        if path.is_file():
            return path
    raise _error(folder, f"its weights are missing: there is neither {LORA} nor {NETWORK}")


def _opened(folder: Path, path: Path) -> None:
    """Raise UserError unless the file is as long as its header says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise _error(folder, f"{path.name} is truncated or corrupt: {str(error)[:200]}") from error
    if not names:
        raise _error(folder, f"{path.name} holds no tensor")


def read_tensors(folder: Path, path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file of the folder; raises UserError, also on NaN and infinity."""
    from safetensors.torch import load_file

    _opened(folder, path)
    found: dict[str, Tensor] = load_file(str(path))
    for name, value in found.items():
        if not value.isfinite().all():
            raise _error(folder, f"the tensor {name!r} in {path.name} holds NaN or infinity")
    return found


def check_base(facts: AdapterFacts, name: str) -> None:
    """Raise UserError unless the model of a name, fetched if need be, is the one an adapter was trained on.

    Of an imported adapter the weights are unknown: then the family must be the same, and the shapes are
    checked when it is put on.
    """
    asked = f"an adapter of {facts.model} on {name}"
    if not facts.weights:
        if registry.family_module(facts.model) is not registry.family_module(name):
            raise UserError(
                asked, "the models are of different families", "", f"name the model {facts.model}"
            )
        return
    base = f"its base is {facts.model} with the weights {facts.weights}"
    if registry.spec(name).name != facts.model:
        raise UserError(asked, "it was trained on another model", base, f"name the model {facts.model}")
    registry.fetch(name)
    here = registry.identity(name)
    if here != facts.weights:
        raise UserError(
            asked,
            f"the weights of {name} are {here} here",
            base,
            "use the very weights it was trained on (a folder and a hub address count as different), "
            "or train an adapter of these",
        )


# On and off.


@contextmanager
def attached(generator: Generator, folder: Path, facts: AdapterFacts | None = None) -> Iterator[None]:
    """The generator with the adapter of a folder on its network, asked as the adapter was trained.

    Afterwards, also after an error, the network has the very modules and weights it had before.

    Args:
        facts: of the folder, where they have been read already.

    Raises:
        UserError: the adapter is broken, was trained on another model, does not fit the network, or is
            of a method that leaves no weights to put on a network.
    """
    facts = facts or read_facts(folder)
    _check_asked(generator, folder, facts)
    weights = weights_file(folder)
    ways: dict[str, Callable[..., AbstractContextManager[None]]] = {LORA: _adapted, NETWORK: _finetuned}
    if weights.name not in ways:
        raise UserError(
            f"the adapter {folder} on {generator.spec.name}",
            f"what the method {facts.method!r} trains cannot be put on a model yet",
            f"it left {weights.name}; {_FOLDER}",
            "train with the method lora or finetune",
        )
    with _asked_as(generator, facts), ways[weights.name](generator, folder, weights):
        yield


def _check_asked(generator: Generator, folder: Path, facts: AdapterFacts) -> None:
    name, asked = generator.spec.name, f"the adapter {folder} on {generator.spec.name}"
    if facts.weights and facts.model != name:
        raise UserError(asked, f"it was trained on {facts.model}", "", f"name the model {facts.model}")
    if facts.options.get("noise"):
        raise UserError(
            asked,
            f"it was trained on weights with a share {facts.options['noise']} of noise blended in",
            "such an adapter answers a question about noise; the plain model is another one",
            "train one with noise = 0",
        )


@contextmanager
def _asked_as(generator: Generator, facts: AdapterFacts) -> Iterator[None]:
    """The timestep the adapter was trained at, where its cell chose one, and how its model samples."""
    options, steps = facts.options, getattr(generator, "timestep", None)
    asks = dict(generator.asked) if isinstance(generator, Denoiser) else {}
    try:
        if options.get("timestep") is not None and steps is not None:
            generator.timestep = options["timestep"]  # type: ignore[attr-defined]
        if isinstance(generator, Denoiser):
            generator.ask(**{name: options[name] for name in asks if name in options})
        yield
    finally:
        if steps is not None:
            generator.timestep = steps  # type: ignore[attr-defined]
        if isinstance(generator, Denoiser):
            generator.ask(**asks)


@contextmanager
def _same_modules(network: nn.Module) -> Iterator[None]:
    """Whatever is wrapped, replaced or noted in a network while the context is open is put back."""
    before, attributes = dict(network.named_modules()), set(vars(network))
    try:
        yield
    finally:
        for name, module in before.items():  # parents come before their children
            if name and network.get_submodule(name) is not module:
                network.set_submodule(name, module)
        for name in set(vars(network)) - attributes:  # peft notes its settings there
            delattr(network, name)
        network.requires_grad_(False)


@contextmanager
def _adapted(generator: Generator, folder: Path, path: Path) -> Iterator[None]:
    """peft's layers in the network, with the weights of the file."""
    import torch
    from peft import get_peft_model, set_peft_model_state_dict

    network = generator.network
    tensors, config = read_tensors(folder, path), _config(generator, folder)
    asked = f"the adapter {folder} on {generator.spec.name}"
    _check_layers(asked, tensors, network)
    _check_rank(asked, tensors, config)
    with _same_modules(network), torch.random.fork_rng(devices=[]):
        try:
            adapted = get_peft_model(network, config)
        except (ValueError, TypeError) as error:  # no layer of a name, or one of an unknown kind
            raise UserError(asked, f"peft refuses: {str(error)[:300]}", "", _AGAIN) from error
        _check_tensors(asked, tensors, _expected(adapted))
        set_peft_model_state_dict(adapted, tensors)
        adapted.eval().requires_grad_(False)
        yield


def _expected(adapted: Any) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    found: dict[str, Tensor] = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return found


# Settings of peft that say where weights go and how they are scaled, and those that only describe. Another
# one that is not at its default changes what is computed in a way nothing here knows.
_APPLIED = (
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"),
    *("modules_to_save", "use_dora", "use_rslora", "fan_in_fan_out"),
)
_DESCRIBED = (
    *("base_model_name_or_path", "auto_mapping", "inference_mode", "peft_type", "peft_version"),
    *("task_type", "revision", "lora_dropout", "init_lora_weights"),
)
_INITIAL = (True, False, "gaussian")  # initial values that leave the base weights alone


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, known to be of a LoRA that nothing but its weights decides; raises UserError."""
    from peft import LoraConfig

    said = _json(folder, CONFIG)
    if said.get("peft_type") != "LORA":
        raise _error(folder, f"{CONFIG} is of the kind {str(said.get('peft_type'))[:60]!r}, not 'LORA'")
    defaults = LoraConfig().to_dict()
    for key, value in said.items():
        plain = value == defaults.get(key) or value in (None, False) or value == {} or value == []
        if (key not in (*_APPLIED, *_DESCRIBED) and not plain) or (
            key == "init_lora_weights" and value not in _INITIAL
        ):
            raise _error(folder, f"{CONFIG} sets {key} = {str(value)[:60]!r}, which is not supported")
    return said


def _config(generator: Generator, folder: Path) -> Any:
    from peft import LoraConfig

    said, head = read_config(folder), generator.spec.head
    if (said.get("modules_to_save") or []) not in ([], [head]):
        saved = said["modules_to_save"]
        raise _error(folder, f"it replaces the modules {saved}; {generator.spec.name} has the head {head!r}")
    try:
        return LoraConfig(**{key: said[key] for key in _APPLIED if key in said})
    except (TypeError, ValueError) as error:
        raise _error(folder, f"{CONFIG} is refused by peft: {str(error)[:300]}") from error


def _module_of(key: str) -> str:
    """Name of the layer a key of peft's belongs to."""
    name = key.removeprefix(PREFIX)
    return name.partition(".lora_")[0] if ".lora_" in name else name.rpartition(".")[0]


def _check_layers(asked: str, tensors: Mapping[str, Tensor], network: nn.Module) -> None:
    names = {name for name, _ in network.named_modules()}
    for key in sorted(tensors):
        if not key.startswith(PREFIX) or _module_of(key) not in names:
            raise UserError(
                asked,
                f"its tensor {key!r} belongs to a layer that the network does not have",
                f"the network has {len(names)} modules; the names in the file are {PREFIX}MODULE...",
                "use the model it was made for; intrinsic-bench adapter show DIR names it",
            )


def _check_rank(asked: str, tensors: Mapping[str, Tensor], config: Any) -> None:
    """No memory is taken for a rank that no tensor has."""
    there = {len(value) for key, value in tensors.items() if ".lora_A." in key and value.ndim}
    for rank in (config.r, *(config.rank_pattern or {}).values()):
        if rank not in there:
            found = ", ".join(map(str, sorted(there))) or "none"
            raise UserError(asked, f"{CONFIG} says rank {rank}", f"ranks of its tensors: {found}", _AGAIN)


def _check_tensors(asked: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise UserError unless names and shapes are the same, naming the first that is not."""
    for key in sorted(set(tensors) | set(expected)):
        if key not in expected:
            raise UserError(asked, f"its tensor {key!r} has no place in the network", "", _AGAIN)
        if key not in tensors:
            raise UserError(asked, f"its file lacks the tensor {key!r}", "", _AGAIN)
        there, needed = tuple(tensors[key].shape), tuple(expected[key].shape)
        if there != needed:
            raise UserError(
                asked,
                f"its tensor {key!r} has the shape {there}",
                f"the network needs {needed}",
                "use the model it was made for; intrinsic-bench adapter show DIR names it",
            )


@contextmanager
def _finetuned(generator: Generator, folder: Path, path: Path) -> Iterator[None]:
    """All weights of the file in the network."""
    network, tensors = generator.network, read_tensors(folder, path)
    here = network.state_dict()
    _check_tensors(f"the adapter {folder} on {generator.spec.name}", tensors, here)
    before = {name: value.detach().clone() for name, value in here.items()}
    try:
        network.load_state_dict(tensors)
        yield
    finally:
        network.load_state_dict(before)
