"""One thread, no network, no window; tests marked `gpu` run where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, and the tests out of it.

    What is compiled is named by its sources, so it is kept from one session to the next.
    """
    compiled, folder = ROOT / ".pytest_cache" / "ops", tmp_path_factory.mktemp("cache")
    compiled.mkdir(parents=True, exist_ok=True)
    (folder / "ops").symlink_to(compiled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTRINSIC_BENCH_CACHE", str(folder))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: the last one that a process takes is a short one."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        from generators.ops import toolchain

        if "ops" in item.path.parts and toolchain.nvcc() is None:
            pytest.skip("no nvcc: the kernels cannot be compiled")
