"""A server on this machine that misbehaves as told, and a network that admits nothing else."""

import hashlib
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from generators.checkpoints.download import fetch
from generators.checkpoints.transfer import Network
from generators.sources import Source

NAME = "stylegan2.some64"
BIG = 2_700_001  # bytes; more than two chunks


def content(size: int = BIG, start: int = 7) -> bytes:
    """Bytes in which no two places look alike."""
    return b"".join((start + i).to_bytes(8, "big") for i in range(0, size + 8, 8))[:size]


BODY = content()
HASH = hashlib.sha256(BODY).hexdigest()


@dataclass
class File:
    """What a path answers.

    Attributes:
        cuts: for each request in turn, after how many bytes of its body the connection is cut.
        statuses: for each request in turn, a status code other than 200, or 0.
        ranges: "kept" as it should be, "ignored", "blind" to If-Range, "shifted" by a byte, "refused".
    """

    body: bytes = b""
    etag: str | None = '"v1"'
    date: str | None = None
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: str = "kept"
    kind: str = "application/octet-stream"
    length: bool = True
    location: str = ""
    retry_after: str | None = None
    pause: float = 0.0  # seconds in the middle of a body


@dataclass
class Server:
    """Files by path, and the headers of every request."""

    base: str
    files: dict[str, File]
    requests: list[dict[str, str]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        """Address of a file."""
        return f"{self.base}/{path}"

    def asked(self, header: str) -> list[str | None]:
        """A header of every request."""
        return [request.get(header) for request in self.requests]


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        """Answer as the file says."""
        place: Server = self.server.place
        place.requests.append(dict(self.headers) | {"path": self.path})
        file = place.files.get(self.path.lstrip("/"), File(statuses=[404] * 99))
        status = file.statuses.pop(0) if file.statuses else 0
        cut = file.cuts.pop(0) if file.cuts else -1
        if status:
            self._short(status, file)
            return
        body = self._headers(file)
        body = body if cut < 0 else body[:cut]
        with suppress(ConnectionError):  # the client may have been killed
            self.wfile.write(body[: len(body) // 2])
            place.closing.wait(file.pause)
            self.wfile.write(body[len(body) // 2 :])

    def _short(self, status: int, file: File) -> None:
        self.send_response(status)
        if file.location:
            self.send_header("Location", file.location)
        if file.retry_after:
            self.send_header("Retry-After", file.retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _headers(self, file: File) -> bytes:
        start = self._start(file)
        if start is not None and (start >= len(file.body) or file.ranges == "refused"):
            self._short(416, file)
            return b""
        told = (start or 0) + (start is not None and file.ranges == "shifted")
        body = file.body[told:]
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {told}-{len(file.body) - 1}/{len(file.body)}")
        for name, value in (("ETag", file.etag), ("Last-Modified", file.date), ("Content-Type", file.kind)):
            if value is not None:
                self.send_header(name, value)
        if file.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body

    def _start(self, file: File) -> int | None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not found or file.ranges == "ignored":
            return None
        fits = self.headers.get("If-Range") in (None, file.etag, file.date)
        return int(found[1]) if fits or file.ranges != "kept" else None


@contextmanager
def serving(certificate: tuple[str, str] | None = None) -> Iterator[Server]:
    """A server, of https with a certificate and key."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = False
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    scheme = "https" if certificate else "http"
    place = Server(f"{scheme}://127.0.0.1:{server.server_port}", {})
    server.place = place  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield place
    finally:
        place.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Local(Network):
    """Admits one server's addresses, which no real network does; remembers pauses instead of waiting."""

    base: str = ""
    pauses: list[float] = field(default_factory=list)

    def admits(self, url: str) -> bool:
        """Whether an address is that server's."""
        return url.startswith(f"{self.base}/")


def local(server: Server, attempts: int = 4) -> Local:
    """The network of a server."""
    pauses: list[float] = []
    return Local(timeout=10.0, attempts=attempts, sleep=pauses.append, base=server.base, pauses=pauses)


def get(server: Server, *paths: str, **more: Any) -> Path:
    """Fetch from the server; facts of the source and arguments of fetch by name."""
    arguments = {k: more.pop(k) for k in ("from_path", "say", "progress", "network") if k in more}
    source = Source(urls=tuple(server.url(path) for path in paths or ("a.pkl",)), **more)
    arguments = {"network": local(server)} | arguments
    return fetch(NAME, source, accept_licence=False, **arguments)


DONE = {f"{NAME}.pkl", f"{NAME}.pkl.json"}


def left(folder: Path) -> set[str]:
    """Names of what is in the folder of weights, without the lock."""
    return {path.name for path in folder.iterdir()} - {f".{NAME}.lock"}
