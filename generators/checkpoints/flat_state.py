"""A file of torch.save that holds nothing but names and tensors, as adapters were once published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .lightning import lightning_state
from .reader import AGAIN, mapped
from .records import Malformed

if TYPE_CHECKING:
    from torch import Tensor

FLAT = "a dict of names and tensors, written by torch.save as a zip archive or before 1.6"


def read_flat(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a dict on the CPU, executing and importing nothing named in the file.

    Raises:
        UserError: the file cannot be opened, breaks a rule of its layout, holds anything but tensors, or
            names code that no checkpoint needs (see `poison`); says where.
    """
    asked = f"read the tensors in {path}"
    try:
        return lightning_state(mapped(Path(path)), flat=True)
    except OSError as error:
        raise UserError(asked, error.strerror or str(error), FLAT, "name a file that exists") from None
    except Malformed as error:
        raise UserError(asked, error.wrong, error.known or FLAT, error.todo or AGAIN) from None
