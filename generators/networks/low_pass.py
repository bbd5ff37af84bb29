"""Low-pass filters of the alias-free layers: Kaiser-windowed sinc, or its radially symmetric sister.

Karras et al., "Alias-Free Generative Adversarial Networks" (2021), section 3 and appendix B.
"""

from __future__ import annotations

import functools

import numpy
import scipy.signal
import scipy.special
import torch
from torch import Tensor


def design_low_pass(
    taps: int, cutoff: float, width: float, sampling_rate: float, radial: bool = False
) -> Tensor | None:
    """A float32 low-pass filter of unit sum: (taps), or (taps taps) if radial; None for a single tap.

    Args:
        taps: length; 1 means no filter at all. A radial one needs an even length.
        cutoff: frequency where the response has fallen to a half, in cycles per picture width.
        width: of the transition band around it, in the same unit.
        sampling_rate: of the signal it is applied to, in samples per picture width.
        radial: the same response in all directions, for rotation equivariance.

    Raises:
        ValueError: if the length is below one, or odd and radial (the center would be 0 / 0).
    """
    if taps < 1 or (radial and taps > 1 and taps % 2):
        raise ValueError(f"a {'radial ' if radial else ''}filter cannot have {taps} taps")
    if taps == 1:
        return None
    design = _radial if radial else _separable
    return torch.tensor(design(taps, cutoff, width, sampling_rate), dtype=torch.float32)


@functools.lru_cache(maxsize=256)
def _separable(taps: int, cutoff: float, width: float, sampling_rate: float) -> numpy.ndarray:
    """Kaiser-windowed sinc; the window's beta follows from the width."""
    return scipy.signal.firwin(taps, cutoff, width=width, fs=sampling_rate)


@functools.lru_cache(maxsize=256)
def _radial(taps: int, cutoff: float, width: float, sampling_rate: float) -> numpy.ndarray:
    """Jinc J1(2 pi fc r) / (pi r), the transform of a disc, under the outer product of two Kaiser windows."""
    offsets = (numpy.arange(taps) - (taps - 1) / 2) / sampling_rate
    radius = numpy.hypot(*numpy.meshgrid(offsets, offsets))
    jinc = scipy.special.j1(2 * cutoff * numpy.pi * radius) / (numpy.pi * radius)
    beta = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, width / (sampling_rate / 2)))
    window = numpy.kaiser(taps, beta)
    kernel = jinc * numpy.outer(window, window)
    return kernel / kernel.sum()
