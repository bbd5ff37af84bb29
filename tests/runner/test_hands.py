"""What the runner hears of a worker that is killed while it speaks."""

import struct
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from tempfile import TemporaryFile

from benchmarks.hands import Hand
from benchmarks.store import Store
from benchmarks.worker import Settings
from tests.runner.fakes import EXECUTE


def test_a_worker_killed_amid_a_message_is_gone(tmp_path: Path) -> None:
    """Of a message of a thousand bytes there came five: no error of the connection ends the run."""
    half = struct.pack("!i", 1000) + b'{"kin'
    speak = f"import os, sys; os.write(int(sys.argv[1]), {half!r}); os.kill(os.getpid(), 9)"
    hand = Hand(0, Store(tmp_path), Settings(EXECUTE))
    hand.connection, theirs = Pipe()
    hand.output = TemporaryFile()  # noqa: SIM115 (as long as the process lives)
    arguments = [sys.executable, "-c", speak, str(theirs.fileno())]
    hand.process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()])
    theirs.close()
    message = hand.hear()
    assert message["kind"] == "gone" and "SIGKILL" in message["reason"] and hand.process is None
