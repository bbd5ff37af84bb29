"""What tests of the operations share."""

from collections.abc import Iterator

import pytest


@pytest.fixture
def ieee() -> Iterator[None]:
    """Convolutions of float32 without TF32: those of the reference, and of conv2d_resample."""
    from benchmarks.speed.ops import ieee_convolutions

    with ieee_convolutions():
        yield
