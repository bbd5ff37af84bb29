"""The networks of NVIDIA's persistence pickles: module trees of plain state, read without their code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .network_file import ModuleFacts, NetworkFile, arguments, plain_part, whole_state
from .records import Inert, Malformed, Persistent, Reading, View, brief

if TYPE_CHECKING:
    from torch import Tensor

TREE_DEPTH = 32
MODULE_COST = 1024  # bytes of memory of a module's facts, and of a tensor object
NAMED = ("_parameters", "_buffers", "_modules")


def network(top: dict[Any, Any], which: str, reading: Reading) -> NetworkFile:
    """One network of the file's dict (G_ema is the one to use); raises Malformed naming what there is."""
    if which not in top:
        names = ", ".join(brief(name) for name in list(top)[:20] if isinstance(name, str))
        raise Malformed(f"it has no {which}", f"it has {names or 'no names at all'}")
    root = top[which]
    if _parts(root) is None:
        raise Malformed(f"{which} is not a network but {brief(root)}")
    tree = _Tree(reading)
    tree.visit("", root, 0)
    class_name, state = _parts(root) or ("", {})
    return NetworkFile(
        layout="nvidia",
        class_name=class_name,
        init_kwargs=_mapping(arguments(state.get("_init_kwargs", {}), "constructor's arguments", reading)),
        state=whole_state(tree.state, reading),
        modules=tree.modules,
        init_args=list(arguments(state.get("_init_args", ()), "constructor's arguments", reading) or []),
    )


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"the constructor's arguments are {brief(value)}")
    return value


def _parts(module: Any) -> tuple[str, dict[Any, Any]] | None:
    """Class name and state of a module: persistent, or a plain torch module such as Embedding."""
    if isinstance(module, Persistent):
        name, state = module.class_name, module.state
    elif isinstance(module, Inert) and isinstance(module.state, dict):
        name, state = module.name.rpartition(" ")[2], module.state
    else:
        return None
    return (name, state) if all(isinstance(state.get(part), dict) for part in NAMED) else None


class _Tree:
    """State and facts collected from a tree of modules.

    A file may use one module in many places, so a tree can be exponentially larger than the file: every
    visit is paid for.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.state: dict[str, Tensor] = {}
        self.modules: dict[str, ModuleFacts] = {}

    def visit(self, name: str, module: Any, depth: int) -> None:
        self.reading.step(MODULE_COST)
        parts = _parts(module)
        if parts is None:
            raise Malformed(f"the module {brief(name)} is not a module but {brief(module)}")
        if depth > TREE_DEPTH:
            raise Malformed(f"modules nest more than {TREE_DEPTH} deep")
        class_name, state = parts
        self.modules[name] = ModuleFacts(class_name, plain_part(state, self.reading))
        self._take_tensors(name, state)
        for child, below in state["_modules"].items():
            if below is not None:
                self.visit(_joined(name, child), below, depth + 1)

    def _take_tensors(self, name: str, state: dict[Any, Any]) -> None:
        passing = state.get("_non_persistent_buffers_set", set())
        if not isinstance(passing, set):
            raise Malformed(f"the non-persistent buffers of {brief(name)} are {brief(passing)}")
        buffers = {own: value for own, value in state["_buffers"].items() if own not in passing}
        for own, value in [*state["_parameters"].items(), *buffers.items()]:
            if value is not None:
                self._take(_joined(name, own), value)

    def _take(self, name: str, value: Any) -> None:
        self.reading.step(MODULE_COST)
        if not isinstance(value, View):
            raise Malformed(f"{brief(name)} is not a tensor but {brief(value)}")
        if name in self.state:
            raise Malformed(f"{brief(name)} is there twice")
        self.state[name] = value.tensor()


def _joined(name: str, own: Any) -> str:
    if not isinstance(own, str) or not own or "." in own or len(own) > 256:
        raise Malformed(f"{brief(own)} in {brief(name)} is not a name")
    return f"{name}.{own}" if name else own
