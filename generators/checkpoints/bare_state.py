"""A bare state dict as safetensors, with the constructor's arguments in its metadata: the zoo's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plain import parse_json
from .network_file import ModuleFacts, NetworkFile
from .records import Malformed, brief

if TYPE_CHECKING:
    from torch import Tensor

METADATA_KEY = "intrinsic_bench"
LENGTH_WIDTH = 8  # bytes of the header's length at the start of the file


def is_safetensors(view: memoryview) -> bool:
    """Whether a file starts with the length of a JSON header that fits it, and a brace."""
    length = int.from_bytes(view[:LENGTH_WIDTH], "little")
    return len(view) > LENGTH_WIDTH and length <= len(view) - LENGTH_WIDTH and view[LENGTH_WIDTH] == ord("{")


def write_state(
    path: Path | str,
    state: Mapping[str, Tensor],
    class_name: str,
    init_kwargs: Mapping[str, Any],
    modules: Mapping[str, ModuleFacts] | None = None,
) -> None:
    """Write tensors by official name, with what builds their network, as one safetensors file.

    Args:
        path: the file, replaced if it is there.
        state: parameters and persistent buffers.
        class_name: "Generator", "SuperresGenerator", "Net2NetTransformer" or another of official code.
        init_kwargs: keyword arguments of the constructor, as JSON can hold them.
        modules: facts of modules, which a SuperresGenerator is rebuilt from.
    """
    from safetensors.torch import save_file

    facts = {name: asdict(each) for name, each in (modules or {}).items()}
    described = {"class": class_name, "init_kwargs": dict(init_kwargs), "modules": facts}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    save_file(tensors, str(path), {METADATA_KEY: json.dumps(described, sort_keys=True)})


def read_state(path: Path) -> NetworkFile:
    """The network of a safetensors file written by `write_state`; raises Malformed."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            described = _described(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise Malformed(f"its header does not fit its data ({str(error)[:200]})") from None
    return NetworkFile("safetensors", state=state, **described)


def _described(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Class name, arguments and facts of modules from the metadata."""
    if METADATA_KEY not in metadata:
        raise Malformed(
            f"its metadata has no {METADATA_KEY!r}, so nothing says which network the tensors belong to",
            f"its metadata has {', '.join(brief(name) for name in list(metadata)[:10]) or 'no keys'}",
            "write it with generators.checkpoints.write_state",
        )
    try:
        found = parse_json(metadata[METADATA_KEY])
        return {
            "class_name": str(found["class"]),
            "init_kwargs": dict(found["init_kwargs"]),
            "modules": {name: ModuleFacts(**facts) for name, facts in found.get("modules", {}).items()},
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Malformed(f"its metadata {METADATA_KEY!r} cannot be read ({type(error).__name__})") from None
