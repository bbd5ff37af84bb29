"""Predictors whose weights are a folder of the hub, onto this machine; their rows of `fetch --list`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from generators.errors import UserError

from .base import WEIGHTS_VARIABLE, fetch_folder, own_folder
from .registry import PREDICTORS, describe_predictor, on_machine


def fetch_predictor(name: str, accepted: bool, given: Path | None, say: Callable[[str], None]) -> Path | None:
    """The folder of a predictor, by the client of the hub; None for one whose weights come with the package.

    Args:
        accepted: whether the user accepts the licence; needed for non-commercial ones.
        given: of --from: refused, for a folder is used where it is.

    Raises:
        UserError: the licence is not accepted, or the hub gives nothing.
    """
    from generators.checkpoints.download import check_licence
    from generators.sources import Source

    spec = describe_predictor(name)
    if spec.embedded:
        return None
    if given is not None:
        raise UserError(
            f"fetch {name} --from {given}",
            "this predictor is a folder, which is used where it is",
            f"licence {spec.licence}",
            f"set {WEIGHTS_VARIABLE} to the folder that holds it under the name {name}/",
        )
    if own_folder(spec) is None:
        source = Source(licence=spec.licence, non_commercial=spec.non_commercial)
        check_licence(name, source, accepted)
        say(f"{name}: licence: {spec.licence}\nfrom hub:{spec.source}")
    return fetch_folder(spec)


def rows() -> list[tuple[str, str, str, str, str]]:
    """Name, size, licence, whether it must be accepted, state; files have rows of their own."""
    from generators.checkpoints.transfer import megabytes

    found = []
    for name, spec in PREDICTORS.items():
        if not spec.on_hub:
            continue
        own = own_folder(spec)
        state = "fetched, in the hub's cache" if on_machine(name) else "not here"
        if own is not None:
            state = f"your own: {own}" + ("" if on_machine(name) else ", not whole")
        needed = "needed" if spec.non_commercial else "-"
        found.append((name, megabytes(spec.bytes), spec.licence, needed, state))
    return found
