"""Colors for the eye."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def srgb(linear: NDArray[Any]) -> NDArray[Any]:
    """Linear RGB to sRGB (IEC 61966-2-1), in [0, 1]; what lies outside is clipped."""
    light = np.clip(linear, 0, 1)
    coded: NDArray[Any] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return coded
