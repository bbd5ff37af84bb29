"""Every protocol says why there is one."""

from benchmarks.cell import PROTOCOL
from benchmarks.report.readme import PROTOCOLS


def test_the_protocol_has_its_reason() -> None:
    assert set(PROTOCOLS) == set(range(1, PROTOCOL + 1))
