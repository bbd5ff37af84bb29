"""The state dict of a Lightning checkpoint; optimizer states and what else is in the file stay unread."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .reader import AGAIN, mapped
from .records import Malformed, Reading, Storage, View, brief
from .storages import WIDTHS
from .torch_save import Saved, is_torch_save, unpickle_saved

if TYPE_CHECKING:
    from torch import Tensor

TENSOR_COST = 1024  # bytes of memory of a tensor object
NAME_LIMIT = 256
LAYOUT = "a checkpoint is what torch.save writes of a dict with a state_dict, as a zip archive or before 1.6"


def read_lightning(path: Path | str, wanted: Callable[[str], bool] = bool) -> dict[str, Tensor]:
    """The tensors of a checkpoint's state_dict on the CPU, executing and importing nothing named in it.

    Only the data of wanted tensors is read. They may share memory where the file says so.

    Args:
        path: a file of torch.save, of either container.
        wanted: which names of the state dict to read; all of them by default.

    Raises:
        UserError: the file cannot be opened, breaks a rule of its layout, has no state_dict, or names
            code that no checkpoint needs (see `poison`); says where.
    """
    path = Path(path)
    try:
        return lightning_state(mapped(path), wanted)
    except OSError as error:
        wrong = error.strerror or str(error)
        raise UserError(f"read the checkpoint {path}", wrong, LAYOUT, "name a file that exists") from None
    except Malformed as error:
        raise checkpoint_error(path, error) from None


def checkpoint_error(path: Path, error: Malformed) -> UserError:
    """What is wrong in a checkpoint, for its user."""
    return UserError(f"read the checkpoint {path}", error.wrong, error.known or LAYOUT, error.todo or AGAIN)


def lightning_state(
    view: memoryview, wanted: Callable[[str], bool] = bool, flat: bool = False
) -> dict[str, Tensor]:
    """As `read_lightning`, of the bytes of a file; raises Malformed.

    Args:
        flat: whether the file's dict is the state dict itself, not one that has it.
    """
    if not is_torch_save(view):
        raise Malformed(f"it starts with {bytes(view[:8])!r}, which torch.save does not write")
    reading = Reading(len(view))
    saved = unpickle_saved(view, reading)
    top = {"state_dict": saved.top} if flat else saved.top
    views = {name: value for name, value in _named(top, reading) if wanted(name)}
    for name, value in views.items():
        if not isinstance(value, View):
            raise Malformed(f"{brief(name)} in the state_dict is not a tensor but {brief(value)}")
    _check_size(views, reading)
    _fill(views, saved)
    return {name: value.tensor() for name, value in views.items()}


def _named(top: Any, reading: Reading) -> list[tuple[str, Any]]:
    """Names and values of the state dict."""
    if not isinstance(top, dict):
        raise Malformed(f"it holds {brief(top)}, not a dict with a state_dict")
    state = top.get("state_dict")
    if not isinstance(state, dict):
        names = ", ".join(brief(name) for name in list(top)[:20] if isinstance(name, str))
        has = f"it has {names}" if names else "it has no names"
        raise Malformed("it has no state_dict" if state is None else "its state_dict is no dict", has)
    for name in state:
        reading.step(TENSOR_COST)
        if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT:
            raise Malformed(f"{brief(name)} in the state_dict is not the name of a tensor")
    return list(state.items())


def _check_size(views: dict[str, View], reading: Reading) -> None:
    """Raise Malformed if the tensors, or what they share, take more than a file of this size can hold.

    A transformer whose condition is `__is_first_stage__` names the first stage twice.
    """
    storages: set[Storage] = {view.storage for view in views.values()}
    held = sum(storage.count * WIDTHS[storage.dtype] for storage in storages)
    seen = sum(_elements(view) * WIDTHS[view.storage.dtype] for view in views.values())
    if held > reading.size or seen > 2 * reading.size:
        raise Malformed(f"its tensors take {max(held, seen):,} bytes, the file has {reading.size:,}")


def _elements(view: View) -> int:
    return math.prod(view.size)


def _fill(views: dict[str, View], saved: Saved) -> None:
    """Find the data of every storage once; errors name one of its tensors."""
    for storage, name in {view.storage: name for name, view in views.items()}.items():
        try:
            saved.fill(storage)
        except Malformed as error:
            raise Malformed(f"the data of {brief(name)}: {error.wrong}", error.known, error.todo) from None
