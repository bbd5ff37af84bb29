"""Two hosts on this machine: network and host name of their own, one disk; their cable can be pulled."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.runner.fakes import ROOT

RAY = str(Path(sys.executable).with_name("ray"))


def _ip(*arguments: str) -> str:
    made = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if made.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {made.stderr.strip()}")
    return made.stdout


def impossible() -> str:
    """Why no hosts can be made here, "" where they can."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "there is no ip or no unshare (iproute2, util-linux)"
    name = f"ibtry{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
        subprocess.run(["unshare", "--uts", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces: {error}"
    return ""


class Host:
    """One of the two.

    Attributes:
        name: its host name; address: of its end of the cable.
    """

    def __init__(self, name: str, address: str, other: str) -> None:
        self.name, self.address, self.other = name, address, other
        self.space = f"{name[:8]}{os.getpid()}"
        self.started: list[subprocess.Popen] = []
        self.end = f"v{name[:4]}{os.getpid()}"[:15]

    def make(self) -> None:
        """Its namespace, with nothing in it."""
        _ip("netns", "add", self.space)
        _ip("-n", self.space, "link", "set", "lo", "up")

    def plug(self) -> None:
        """Its end of the cable, which must be there, up."""
        _ip("link", "set", self.end, "netns", self.space)
        _ip("-n", self.space, "addr", "add", f"{self.address}/24", "dev", self.end)
        _ip("-n", self.space, "link", "set", self.end, "up")
        _ip("-n", self.space, "route", "add", "default", "via", self.other)

    def cut(self) -> None:
        """Pull the cable."""
        _ip("-n", self.space, "link", "set", self.end, "down")

    def start(self, *command: str, quiet: bool = False) -> subprocess.Popen:
        """A process on it; its errors are ours unless it is quiet."""
        inside = ["sh", "-c", 'hostname "$0" && exec "$@"', self.name, *command]
        whole = ["ip", "netns", "exec", self.space, "unshare", "--uts", *inside]
        known = os.environ | {"PYTHONPATH": str(ROOT)}
        nothing = subprocess.DEVNULL
        said = {"stdin": nothing, "stdout": nothing, "stderr": nothing if quiet else None}
        self.started.append(subprocess.Popen(whole, cwd=ROOT, env=known, **said))
        return self.started[-1]

    def processes(self) -> list[int]:
        """Every process on it."""
        return [int(pid) for pid in _ip("netns", "pids", self.space).split()]

    def remove(self) -> None:
        """Kill what runs on it, and it."""
        if self.space not in _ip("netns", "list").split():
            return
        end = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < end:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # gone since it was listed
            time.sleep(0.1)
        for process in self.started:
            process.wait()
        _ip("netns", "del", self.space)


@contextmanager
def two_hosts(names: Sequence[str]) -> Iterator[tuple[Host, Host]]:
    """Two hosts and a cable between them; afterwards neither they nor their processes are there."""
    net = f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
    first, second = Host(names[0], f"{net}.1", f"{net}.2"), Host(names[1], f"{net}.2", f"{net}.1")
    try:
        first.make()
        second.make()
        _ip("link", "add", first.end, "type", "veth", "peer", "name", second.end)
        first.plug()
        second.plug()
        yield first, second
    finally:
        second.remove()
        first.remove()
