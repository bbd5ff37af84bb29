"""How a network runs while it is trained: in bfloat16, compiled, with checkpoints; and as it was after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from generators.errors import UserError

# Layers whose work is matrix products, which autocast does in the lower precision.
PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device


def frozen_products(network: nn.Module) -> list[nn.Parameter]:
    """Weights and biases of linear layers and convolutions that are not trained, each once."""
    found = {
        id(p): p
        for module in network.modules()
        if isinstance(module, PRODUCTS)
        for p in module.parameters(recurse=False)
        if not p.requires_grad and p.dtype == torch.float32
    }
    return list(found.values())


@contextmanager
def cast_frozen(network: nn.Module, dtype: torch.dtype, channels_last: bool) -> Iterator[None]:
    """Cast what autocast would cast anew in every step once; the very bits of before are put back.

    Norms, embeddings and everything that is trained stay in float32. On a CUDA device the first weights
    wait in the host's memory.

    Args:
        channels_last: whether weights of convolutions, and so the activations, lie as (b h w c).
    """
    parameters = frozen_products(network)
    before = [p.data.cpu() if p.is_cuda else p.data for p in parameters]
    try:
        for p in parameters:
            last = channels_last and p.dim() == 4
            form = torch.channels_last if last else torch.preserve_format
            p.data = p.data.to(dtype, memory_format=form)
        yield
    finally:
        for p, value in zip(parameters, before, strict=True):
            p.data = value.to(p.device)


@contextmanager
def checkpointed(network: nn.Module) -> Iterator[None]:
    """Keep the inputs of blocks alone and compute them again in the backward pass (Chen et al. 2016).

    Raises UserError where the network has no such thing: it is diffusers' own.
    """
    from diffusers.models.modeling_utils import ModelMixin

    if not isinstance(network, ModelMixin) or not network._supports_gradient_checkpointing:
        raise UserError(
            f"checkpointing = true on a {type(network).__name__}",
            "this network cannot compute its blocks again",
            "diffusers' networks can: the UNet of Stable Diffusion",
            "leave the option out",
        )
    network.enable_gradient_checkpointing()
    try:
        yield
    finally:
        network.disable_gradient_checkpointing()


def _no_compiler(wrong: str, todo: str) -> UserError:
    return UserError("compile = true", wrong, "everything runs without it, more slowly", todo)


def _check_compiler(device: torch.device) -> None:
    """Raise UserError unless torch.compile finds what it compiles with."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    if device.type == "cuda" and not has_triton():
        raise _no_compiler("there is no triton, which compiles for the GPU", "install triton")
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise _no_compiler("there is no C++ compiler", "install g++, or name one in CXX") from error


@contextmanager
def compiled(network: nn.Module) -> Iterator[None]:
    """Compile the network's forward pass; raises UserError without a compiler, and if nothing called it."""
    _check_compiler(device_of(network))
    network.compile()
    inner: Any = network._compiled_call_impl
    called = False

    def call(*inputs: Any, **named: Any) -> Any:
        nonlocal called
        called = True
        return inner(*inputs, **named)

    network._compiled_call_impl = call
    try:
        yield
        if not called:
            raise UserError(
                f"compile = true on a {type(network).__name__}",
                "its generator calls parts of the network, never the whole: nothing was compiled",
                "",
                "leave the option out",
            )
    finally:
        network._compiled_call_impl = None


@contextmanager
def prepared(network: nn.Module, options: Mapping[str, Any]) -> Iterator[None]:
    """A network as the options precision, checkpointing and compile want it trained.

    Raises UserError for what it or this machine cannot do; everything is as before when it is left.
    """
    low = options.get("precision", "float32") == "bfloat16"
    with ExitStack() as stack:
        if low:
            on_cuda = device_of(network).type == "cuda"
            stack.enter_context(cast_frozen(network, torch.bfloat16, channels_last=on_cuda))
        if options.get("checkpointing", False):
            stack.enter_context(checkpointed(network))
        if options.get("compile", False):
            stack.enter_context(compiled(network))
        yield


def autocast(network: nn.Module, options: Mapping[str, Any]) -> torch.autocast:
    """Matrix products in bfloat16 where the options say so, all else as it is."""
    low = options.get("precision", "float32") == "bfloat16"
    return torch.autocast(device_of(network).type, torch.bfloat16, enabled=low)


def optimizer_for(
    parameters: Sequence[nn.Parameter], rate: float, decay: float = 0.0
) -> torch.optim.Optimizer:
    """AdamW, one fused kernel where the parameters are on a CUDA device."""
    fused = True if parameters[0].is_cuda else None
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=fused)


class Feed:
    """Codes and targets of rows, on the device that needs them.

    On a CUDA device they are kept if they take no more than half of what is free there; else each batch
    is copied from pinned memory, and the host waits for no copy.
    """

    def __init__(
        self,
        code: Mapping[str, Tensor],
        target: Tensor,
        device: torch.device,
        valid: Tensor | None = None,
    ) -> None:
        self.device, self.values = device, {**{f"code.{k}": v for k, v in code.items()}, "target": target}
        if valid is not None:
            self.values["valid"] = valid
        self.kept = device.type == "cuda" and self._fits()
        if self.kept:
            self.values = {name: value.to(device) for name, value in self.values.items()}

    def _fits(self) -> bool:
        size = sum(v.numel() * v.element_size() for v in self.values.values())
        return size <= torch.cuda.mem_get_info(self.device)[0] / 2

    def __call__(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Code and target of some rows, given on the CPU."""
        code = {k: self._rows(k, rows) for k in self.values if k.startswith("code.")}
        return {k.removeprefix("code."): v for k, v in code.items()}, self._rows("target", rows)

    def valid(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Where the targets of some rows are valid (b 1 h w); () where everywhere."""
        return (self._rows("valid", rows),) if "valid" in self.values else ()

    def _rows(self, name: str, rows: Tensor) -> Tensor:
        return self._take_kept(self.values[name], rows) if self.kept else self._take(self.values[name], rows)

    def _take_kept(self, value: Tensor, rows: Tensor) -> Tensor:
        return value[rows.pin_memory().to(self.device, non_blocking=True)]

    def _take(self, value: Tensor, rows: Tensor) -> Tensor:
        found = value[rows]
        if self.device.type != "cuda":
            return found
        return found.pin_memory().to(self.device, non_blocking=True)


class Losses:
    """Losses of the steps; on a CUDA device they stay there, and the host looks at them now and then.

    Args:
        every: steps between two looks; 1 where looking costs nothing.
        refuse: raises, of the first step whose loss is not finite and that loss.
        track: told the number of steps done and the loss of the last of them, when it is looked at.
    """

    def __init__(
        self,
        every: int,
        refuse: Callable[[int, float], None],
        track: Callable[[int, float], None] = lambda step, loss: None,
    ) -> None:
        self.every, self.refuse, self.track = every, refuse, track
        self.seen: list[float] = []
        self.waiting: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Take the loss of one more step."""
        self.waiting.append(loss.detach())
        if len(self.waiting) >= self.every:
            self.look()

    def look(self) -> list[float]:
        """All losses so far, checked."""
        new = torch.stack(self.waiting).tolist() if self.waiting else []
        self.waiting.clear()
        for value in new:
            if not torch.isfinite(torch.tensor(value)):
                self.refuse(len(self.seen), value)
            self.seen.append(value)
            self.track(len(self.seen), value)
        return self.seen
