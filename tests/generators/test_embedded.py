"""The embedded models keep the contract: a trained one, and one whose network is made from a seed."""

import pytest

from generators.testing import check_generator


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd.rooms64-s5", "sd.rooms64-random"])
def test_embedded_models_keep_the_contract(name: str) -> None:
    assert check_generator(name) == []
