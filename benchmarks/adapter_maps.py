"""How what an adapter draws is read: the picture of normals in our axes, of depth in meters or relative."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from probes.methods import RELATIVE

if TYPE_CHECKING:
    from torch import Tensor

    from probes.adapters import AdapterFacts
    from probes.intrinsics import Intrinsic

AXES = {"ours": "x right, y up, z towards the camera", "omnidata": "x right, y down, z away from the camera"}


def intrinsic_of(facts: AdapterFacts) -> Intrinsic:
    """The intrinsic whose pictures are those an adapter draws; its maps are in natural units and our axes."""
    from probes.intrinsics import intrinsic

    found = intrinsic(facts.intrinsic, facts.alignment)
    if facts.axes != "omnidata":
        return found
    return replace(
        found,
        to_picture=lambda m: _turned(found.to_picture(m)),
        from_picture=lambda p: found.from_picture(_turned(p)),
    )


def _turned(pictures: Tensor) -> Tensor:
    """Normals (b 3 h w) in [-1, 1] from Omnidata's axes to ours, and back."""
    from .data.axes import from_omnidata

    return from_omnidata((pictures + 1) / 2)


def drawn(facts: AdapterFacts) -> str:
    """What the values of an adapter's pictures are, for people; "" where there is nothing to choose."""
    if facts.intrinsic == "normal":
        return f"normals in the axes {facts.axes}: {AXES[facts.axes]}"
    if facts.intrinsic == "depth":
        from probes.intrinsics import DEPTH_METERS

        if facts.alignment == RELATIVE:
            return "relative depth: 1 is the nearest point, 0 the farthest"
        return f"metric depth: black is 0 m, white {DEPTH_METERS:g} m"
    return ""


def usual(intrinsic: str, layout: str) -> tuple[str, bool]:
    """Axes, and whether depth is relative, of files in a layout where nothing else is said.

    The attention processors' layout is that of the files of Du et al. 2023. Their normals have Omnidata's
    axes (their loader of DIODE turns its y and z to agree), their depth is 1 at the nearest point.
    """
    theirs = layout == "processor"
    return "omnidata" if theirs and intrinsic == "normal" else "ours", theirs and intrinsic == "depth"


def lost_option(facts: AdapterFacts, layout: str) -> str:
    """The option of import without which a file in a layout would be read otherwise; "" if none is needed."""
    axes, relative = usual(facts.intrinsic, layout)
    if facts.intrinsic == "normal" and facts.axes != axes:
        return f"--axes {facts.axes}"
    if facts.intrinsic == "depth" and (facts.alignment == RELATIVE) != relative:
        return "--metric" if relative else "--relative"
    return ""
