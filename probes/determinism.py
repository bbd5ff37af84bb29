"""The same bits on every run: what PyTorch must be told for it, and with which variables to start.

On a CPU with one thread, which is how workers run, nothing needs to be told. On a CUDA device some
operations add in whichever order their threads come (atomic additions), and cuBLAS and cuDNN may choose
another algorithm. The compiled operations of this package (generators/ops) use no atomic additions:
every output is summed by one thread, in one order.
"""

from __future__ import annotations

import os

from generators.errors import UserError

# Read by cuBLAS when it starts: workspaces of one size for each stream.
ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
ACCEPTED = (":4096:8", ":16:8")  # NVIDIA, cuBLAS documentation, "Results reproducibility"


def deterministic() -> None:
    """Let this process use deterministic algorithms alone, before it uses a CUDA device.

    An operation that has none then raises a RuntimeError that names it, and its cell fails. More than one
    call does no harm. Raises UserError if cuBLAS has been started without what ENVIRONMENT says.
    """
    import torch

    name = next(iter(ENVIRONMENT))
    if torch.cuda.is_initialized() and os.environ.get(name) not in ACCEPTED:
        raise UserError(
            "deterministic algorithms",
            f"CUDA is at work in this process already, with {name} = {os.environ.get(name, '')!r}",
            f"known: {', '.join(ACCEPTED)}",
            f"start the process with {name}={ENVIRONMENT[name]}",
        )
    if os.environ.get(name) not in ACCEPTED:
        os.environ.update(ENVIRONMENT)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
