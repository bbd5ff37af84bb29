"""What `--device` may be: one check for every command, before anything is written."""

from __future__ import annotations

import re

from generators.errors import UserError, unknown

_NAME = re.compile(r"cpu|cuda(:(0|[1-9][0-9]{0,3}))?")


def check_device(device: str, here: bool = True) -> None:
    """Raise UserError for what is no device, or is none of this machine.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        here: whether this machine must have it; a cluster's is another's.
    """
    if not _NAME.fullmatch(device):
        raise unknown("device", device, ("cpu", "cuda", "cuda:0"), "--device cpu")
    if device == "cpu" or not here:
        return
    import torch

    count = torch.cuda.device_count()
    if int(device.partition(":")[2] or 0) >= count:
        raise UserError(f"device {device}", "it is not there", f"CUDA devices here: {count}", "--device cpu")
