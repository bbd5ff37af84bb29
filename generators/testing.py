"""The contract as a test kit: what a generator violates, in sentences.

For us and for authors of plugins: `assert_generator("mine.tag")` in a test, or
`intrinsic-bench check mine.tag` (or the name of the module, before it is registered) in a shell.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from .base import Generator, GeneratorSpec
from .errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

INTRINSICS = ("normal", "depth", "albedo", "shading")
TOLERANCE = 1e-4  # of a picture alone against the same picture in a batch, relative to its largest value
BRIGHTEST = 1.5  # of a sample in [-1, 1]; decoders of latents overshoot a little
SEEDS = (11, 12)

Code = Mapping[str, "Tensor"]


def check_generator(asked: str | Generator) -> list[str]:
    """Sentences that say how a generator breaks the contract; none if it is fine.

    Args:
        asked: a registered name ("sd.rooms64-s4"), an importable module with SPECS and load (each of
            its specs is checked), or a loaded generator.

    Raises:
        UserError: if there is neither a generator nor a module of this name.
    """
    if not isinstance(asked, str):
        return _check(asked)
    found: list[str] = []
    with _path_as_before():
        for label, load in _loaders(asked):
            found += [f"{label}: {sentence}" for sentence in _check_loader(load)]
    return found or list(_unnamed(asked))


def assert_generator(asked: str | Generator) -> None:
    """Raise AssertionError with every sentence of `check_generator`, if there is one."""
    sentences = check_generator(asked)
    if sentences:
        raise AssertionError("\n".join(sentences))


# What to check: a name, or a module.


def _loaders(asked: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    from . import registry

    try:
        registry.spec(asked)
    except UserError as no_name:
        yield from _module_loaders(asked, no_name)
    else:
        yield asked, lambda: registry.load(asked)


@contextmanager
def _path_as_before() -> Iterator[None]:
    """Take the working folder out of where modules are searched, unless it was there."""
    here, before = os.getcwd(), [*sys.path]
    try:
        yield
    finally:
        if here not in before and here in sys.path:
            sys.path.remove(here)


def _module_loaders(asked: str, no_name: UserError) -> Iterator[tuple[str, Callable[[], Any]]]:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # a module of one's own, not installed yet
    try:
        module = importlib.import_module(asked)
    except ModuleNotFoundError as error:
        if error.name and (asked == error.name or asked.startswith(f"{error.name}.")):
            raise no_name from None
        yield asked, _raiser(error)
        return
    except Exception as error:  # whatever the module does wrong is what this kit reports
        yield asked, _raiser(error)
        return
    if not getattr(module, "SPECS", None) or not callable(getattr(module, "load", None)):
        yield (
            asked,
            _raiser(TypeError("a family needs SPECS, a list of GeneratorSpec, and load(spec, device)")),
        )
        return
    for spec in module.SPECS:
        yield getattr(spec, "name", repr(spec)), partial(module.load, spec, "cpu")


def _raiser(error: Exception) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


def _check_loader(load: Callable[[], Any]) -> list[str]:
    try:
        generator = load()
    except UserError:
        raise  # weights that are missing are no fault of the code
    except Exception as error:
        return [f"cannot be loaded: {type(error).__name__}: {error}"]
    return _check(generator)


def _unnamed(asked: str) -> Iterator[str]:
    """Specs whose weights no record could tell from others: those of a hub id are the newest there."""
    from . import registry

    module = sys.modules.get(asked) or registry.family_module(asked)
    specs = module.SPECS if asked in sys.modules else [registry.spec(asked)]
    for spec in specs:
        source = spec.source or ""
        on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not os.path.exists(source)
        if on_hub and not spec.revision and not hasattr(module, "identity"):
            yield (
                f"{spec.name}: spec.source is the hub id {source!r} without spec.revision, and there is "
                "no identity(spec): the weights may change, and records would not tell"
            )


# The checks, each a function from a generator to sentences.


def _check(generator: Any) -> list[str]:
    import torch

    missing = [m for m in _MEMBERS if not hasattr(generator, m)]
    if missing:
        return [f"has no {', '.join(missing)}; a generator has {', '.join(_MEMBERS)}"]
    found = [*_spec(generator.spec), *_frozen(generator)]
    if found:  # without a sound spec and network nothing below has a meaning
        return found
    for title, check in _CHECKS:
        with torch.random.fork_rng(devices=[]):
            found += _sentences(title, check, generator)
    return found


def _sentences(title: str, check: Callable[[Generator], Iterator[str]], generator: Generator) -> list[str]:
    found: list[str] = []
    try:
        for sentence in check(generator):
            found.append(sentence)  # one by one: what was said before an exception stays said
    except Exception as error:  # the next check may still say something of use
        found.append(f"{title} raises {type(error).__name__}: {error}")
    return found


def _spec(spec: Any) -> Iterator[str]:
    if not isinstance(spec, GeneratorSpec):
        yield f"spec is a {type(spec).__name__}, not a GeneratorSpec"
        return
    if not re.fullmatch(r"[\w-]+\.[\w.-]+", spec.name):
        yield f'spec.name is {spec.name!r}; it must read "arch.tag", as in "sd.v1-5"'
    if spec.takes not in ("images", "seeds", "both"):
        yield f'spec.takes is {spec.takes!r}; it must be "images", "seeds" or "both"'
    if spec.space not in ("pixels", "latents"):
        yield f'spec.space is {spec.space!r}; it must be "pixels" or "latents"'
    if not isinstance(spec.resolution, int) or spec.resolution < 1:
        yield f"spec.resolution is {spec.resolution!r}; it must be a number of pixels"
    for name in ("family", "title", "domain", "licence"):
        if not getattr(spec, name):
            yield f"spec.{name} is empty; tables and the ledger show it"
    if not spec.draws and spec.takes != "images":
        yield f"spec.draws is False, but spec.takes is {spec.takes!r}; a model of seeds draws"
    if not spec.lora_targets:
        yield "spec.lora_targets is empty, so LoRA has nothing to adapt"


def _frozen(generator: Any) -> Iterator[str]:
    from torch import nn

    network = generator.network
    if not isinstance(network, nn.Module):
        yield f"network is a {type(network).__name__}, not a torch.nn.Module"
        return
    trainable = [n for n, p in network.named_parameters() if p.requires_grad]
    if trainable:
        yield f"network is not frozen: {len(trainable)} parameters require gradients, first {trainable[0]!r}"
    training = [n or "network itself" for n, m in network.named_modules() if m.training]
    if training:
        yield f"network is not in evaluation mode: {len(training)} modules train, first {training[0]!r}"


def _sample(generator: Generator) -> Iterator[str]:
    import torch

    spec = generator.spec
    try:
        images, code = generator.sample(list(SEEDS))
    except UserError as refusal:
        if spec.draws:
            yield f"sample refuses although spec.draws is True: {refusal.wrong or 'no reason'}"
        return
    if not spec.draws:
        yield "sample works although spec.draws is False; leave the field out, or raise UserError"
    expected = (len(SEEDS), 3, spec.resolution, spec.resolution)
    if tuple(images.shape) != expected:
        yield f"sample gives pictures of shape {tuple(images.shape)}; expected {expected}"
        return
    wrong = list(_code("sample", code, len(SEEDS)))
    if wrong:
        yield from wrong
        return
    if images.requires_grad:
        yield "sample gives pictures that carry gradients"
    largest = images.abs().max().item()
    if not largest <= BRIGHTEST:
        yield f"sample gives values up to {largest:.3g}; pictures lie in [-1, 1]"
    elif images.min() >= 0 and images.any():
        yield "sample gives no value below 0 in any picture; pictures lie in [-1, 1], not in [0, 1]"
    if torch.equal(images[0], images[1]):
        yield f"sample gives the same picture for the seeds {SEEDS[0]} and {SEEDS[1]}"
    torch.manual_seed(1)
    if not torch.equal(generator.sample(list(SEEDS)).images, images):
        yield "sample gives other pictures the second time; it must depend on the seeds alone"
    alone = generator.sample(list(SEEDS[1:]))
    yield from _same("sample: the picture of a seed", images[1:], alone.images)
    for name, tensor in code.items():
        yield from _same(f"sample: the code {name!r} of a seed", tensor[1:], alone.code[name])


def _embed(generator: Generator) -> Iterator[str]:
    images = _pictures(generator)
    if generator.spec.takes == "seeds":
        yield from _refuses_to_embed(generator, images)
        return
    code = generator.embed(images)
    wrong = list(_code("embed", code, len(images)))
    if wrong:
        yield from wrong
        return
    alone = generator.embed(images[1:])
    for name, tensor in code.items():
        yield from _same(f"embed: the code {name!r} of a picture", tensor[1:], alone[name])


def _refuses_to_embed(generator: Generator, images: Tensor) -> Iterator[str]:
    try:
        generator.embed(images)
    except UserError as refusal:
        if not refusal.wrong:
            yield "embed refuses without saying why (the second part of UserError)"
        return
    yield 'embed works although spec.takes is "seeds"; say "both", or raise UserError'


def _forward(generator: Generator) -> Iterator[str]:
    import torch

    code = _any_code(generator)
    with torch.no_grad():
        outputs = {i: generator.forward(code, i) for i in INTRINSICS}
        expected = tuple(generator.encode(_pictures(generator)).shape)
        for intrinsic, output in outputs.items():
            if tuple(output.shape) != expected:
                yield (
                    f"forward({intrinsic!r}) gives shape {tuple(output.shape)}; encode, the same space, "
                    f"gives {expected}"
                )
            if not output.isfinite().all():
                yield f"forward({intrinsic!r}) gives NaN or infinity"
        torch.manual_seed(1)
        if not torch.equal(generator.forward(code, INTRINSICS[0]), outputs[INTRINSICS[0]]):
            yield "forward gives another output the second time; it must be deterministic"
        alone = generator.forward({k: v[1:] for k, v in code.items()}, INTRINSICS[0])
        yield from _same("forward: the output of a code", outputs[INTRINSICS[0]][1:], alone)


def _gradient(generator: Generator) -> Iterator[str]:
    targets = {
        n: m for n, m in generator.network.named_modules() if _is_target(n, generator.spec.lora_targets)
    }
    weights = {n: m.weight for n, m in targets.items() if _is_adaptable(m)}
    if not weights:
        return  # said by the check of the targets
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        yield from _reaches(generator, weights)
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
            weight.grad = None


def _reaches(generator: Generator, weights: Mapping[str, Any]) -> Iterator[str]:
    output = generator.forward(_any_code(generator), INTRINSICS[0])
    if not output.requires_grad:
        yield "forward is not differentiable in the network: its output carries no gradient"
        return
    output.square().mean().backward()
    gradients = [w.grad for w in weights.values() if w.grad is not None]
    if not any(g.abs().max() > 0 for g in gradients):
        yield f"forward: no gradient reaches any of the {len(weights)} modules of spec.lora_targets"
    if not all(g.isfinite().all() for g in gradients):
        yield "forward: gradients hold NaN or infinity"


def _spaces(generator: Generator) -> Iterator[str]:
    import torch

    images = _pictures(generator)
    with torch.no_grad():
        output = generator.encode(images)
        back = generator.decode(output)
    if len(output) != len(images) or output.ndim != 4:
        yield f"encode gives shape {tuple(output.shape)}; expected ({len(images)}, c, h, w)"
    if back.shape != images.shape:
        yield f"decode(encode(pictures)) has shape {tuple(back.shape)}; expected {tuple(images.shape)}"
    elif generator.spec.space == "pixels" and not (torch.equal(output, images) and torch.equal(back, images)):
        yield 'spec.space is "pixels", but encode and decode are not the identity'


def _features(generator: Generator) -> Iterator[str]:
    import torch

    code = _any_code(generator)
    with torch.no_grad():
        before = generator.forward(code, INTRINSICS[0])
        first, second = generator.features(code), generator.features(code)
        after = generator.forward(code, INTRINSICS[0])
    if not torch.equal(before, after):
        yield "features changes what forward gives afterwards"
    if not first:
        yield "features gives no layer, so the linear probe has nothing to read"
    if list(first) != list(second):
        yield "features names its layers differently the second time"
    for name, layer in first.items():
        if layer.ndim != 4 or len(layer) != len(before) or not layer.is_floating_point():
            yield (
                f"features: layer {name!r} is {layer.dtype} of shape {tuple(layer.shape)}; expected "
                f"floats ({len(before)}, c, h, w)"
            )
        elif layer.requires_grad:
            yield f"features: layer {name!r} carries gradients"


def _targets(generator: Generator) -> Iterator[str]:
    modules = dict(generator.network.named_modules())
    for suffix in generator.spec.lora_targets:
        matched = {n: m for n, m in modules.items() if _is_target(n, (suffix,))}
        if not matched:
            yield f"spec.lora_targets: no module of the network is called {suffix!r}"
        for name, module in matched.items():
            if not _is_adaptable(module):
                yield (
                    f"spec.lora_targets: {name!r} is a {type(module).__name__}; LoRA adapts nn.Linear and "
                    "nn.Conv2d"
                )
    for title, pattern in generator.spec.target_sets.items():
        if not any(re.fullmatch(pattern, n) and _is_adaptable(m) for n, m in modules.items()):
            yield f"spec.target_sets: {title!r} ({pattern!r}) matches no nn.Linear or nn.Conv2d"


def _head(generator: Generator) -> Iterator[str]:
    """The head is found by its name, as peft finds it, adapted by nothing else, and used."""
    spec, network = generator.spec, generator.network
    if not spec.head:
        return
    names = [name for name, _ in network.named_modules() if name.endswith(spec.head)]
    if names != [spec.head]:
        found = f"{', '.join(repr(n) for n in names)} end in it" if names else "no module is called so"
        yield f"spec.head: {found}; it must be the name of one module of the network, {spec.head!r}"
        return
    for name, _ in network.get_submodule(spec.head).named_modules(prefix=spec.head):
        if _is_target(name, spec.lora_targets) or any(
            re.fullmatch(p, name) for p in spec.target_sets.values()
        ):
            yield f"spec.head: {name!r} is a LoRA target too; the head is trained as it is"
    yield from _head_is_used(generator)


def _head_is_used(generator: Generator) -> Iterator[str]:
    parameters = list(generator.network.get_submodule(generator.spec.head).parameters())
    if not parameters:
        yield f"spec.head: {generator.spec.head!r} has no parameters"
        return
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        output = generator.forward(_any_code(generator), INTRINSICS[0])
        if output.requires_grad:
            output.square().mean().backward()
        if not any(p.grad is not None and p.grad.abs().max() > 0 for p in parameters):
            yield f"spec.head: forward does not use {generator.spec.head!r}: no gradient reaches it"
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


_CHECKS: tuple[tuple[str, Callable[[Generator], Iterator[str]]], ...] = (
    ("sample", _sample),
    ("embed", _embed),
    ("forward", _forward),
    ("the gradient of forward", _gradient),
    ("encode or decode", _spaces),
    ("features", _features),
    ("the search for LoRA targets", _targets),
    ("the search for the head", _head),
)
_MEMBERS = ("spec", "network", "sample", "embed", "forward", "encode", "decode", "features")


# What the checks share.


def _pictures(generator: Generator) -> Tensor:
    """Two smooth pictures (2 3 h w) in [-1, 1]: noise at an eighth of the resolution, enlarged."""
    import torch
    from torch.nn import functional

    side = generator.spec.resolution
    noise = torch.rand(2, 3, max(2, side // 8), max(2, side // 8), generator=torch.Generator().manual_seed(5))
    device = next(generator.network.parameters()).device
    return functional.interpolate(noise * 2 - 1, (side, side), mode="bilinear").to(device)


def _any_code(generator: Generator) -> Code:
    if generator.spec.takes == "seeds":
        return generator.sample(list(SEEDS)).code
    return generator.embed(_pictures(generator))


def _code(where: str, code: Any, count: int) -> Iterator[str]:
    import torch

    if not isinstance(code, Mapping) or not code:
        yield f"{where} gives the code {type(code).__name__}; expected a mapping from names to tensors"
        return
    for name, tensor in code.items():
        if not isinstance(tensor, torch.Tensor) or tensor.ndim < 1 or len(tensor) != count:
            shape = tuple(getattr(tensor, "shape", ()))
            yield f"{where}: the first axis of code {name!r} {shape} is not the {count} pictures"
        elif tensor.requires_grad:
            yield f"{where}: the code {name!r} carries gradients; it is computed once and cached"


def _same(what: str, batched: Tensor, alone: Tensor) -> Iterator[str]:
    if batched.shape != alone.shape:
        yield f"{what} has shape {tuple(alone.shape)} alone and {tuple(batched.shape)} in a batch"
        return
    scale = max(1.0, batched.double().abs().max().item())
    difference = (batched.double() - alone.double()).abs().max().item() / scale
    if not difference <= TOLERANCE:
        yield f"{what} depends on the batch it is in: alone it differs by {difference:.2g} (relative)"


def _is_target(name: str, suffixes: tuple[str, ...]) -> bool:
    return any(name == s or name.endswith(f".{s}") for s in suffixes)  # as peft matches a list


def _is_adaptable(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, (nn.Linear, nn.Conv2d))
