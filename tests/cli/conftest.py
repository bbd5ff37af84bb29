"""Processes that have ended, and folders of somebody else."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dead() -> int:
    """The pid of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, and afterwards the rights to take it away again."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)
        if os.geteuid() != os.getuid():
            os.seteuid(os.getuid())
        for path in [Path(made), *Path(made).rglob("*")]:
            path.chmod(0o755)
