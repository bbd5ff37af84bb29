"""A Ray cluster on this machine, to which tests add nodes, and how to wait."""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

# Before Ray is imported: it reads these once. Without a token of ours it writes one into the user's home.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

# Ray looks for the dead twice a second and believes them dead after a second and a half.
HEALTH = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}
Found = TypeVar("Found")
OBJECTS = 80 * 2**20  # bytes, the least Ray takes


def wait_for(what: Callable[[], Found], seconds: float = 60) -> Found:
    """What something gives as soon as it is true; fail if it does not come true in time."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s: {what.__qualname__}")
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def folder_of_ray() -> Iterator[str]:
    """Where Ray keeps sockets and logs: a short path, for sockets have no others."""
    folder = tempfile.mkdtemp(prefix="ray")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(folder_of_ray: str) -> Iterator:
    """A head of one CPU; `add_node` adds others. Everything of it is gone afterwards."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[cluster]'")
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(shutdown_at_exit=False)
    with pytest.MonkeyPatch.context() as patch:
        # Where the head's address is noted: not where a user's own Ray has it.
        patch.setenv("RAY_TMPDIR", folder_of_ray)
        Path(folder_of_ray, "ray").mkdir(exist_ok=True)
        made.add_node(
            num_cpus=1,
            object_store_memory=OBJECTS,
            include_dashboard=False,
            temp_dir=folder_of_ray,
            _system_config=HEALTH,
        )
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
