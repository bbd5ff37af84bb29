"""One address: https only, redirects included; what breaks off is continued, and hashed as it comes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ..errors import UserError
from ..plain import parse_json

CACHE_VARIABLE = "INTRINSIC_BENCH_CACHE"  # as in benchmarks.cache, which this layer may not import
CHUNK = 1 << 20
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # status codes that may be others in a moment
LONGEST_PAUSE = 60.0  # seconds

Progress = Callable[[int, int | None], None]  # bytes there, bytes in all or None
Say = Callable[[str], None]  # a line of what goes on


class Refused(Exception):
    """This address cannot give the file; another may."""


class Interrupted(Exception):
    """It broke off; the same address may give the rest.

    Args:
        pause: seconds the server asks to wait, or None.
    """

    def __init__(self, text: str, pause: float | None = None) -> None:
        super().__init__(text)
        self.pause = pause


class _Changed(Interrupted):
    """What is there is no part of what the server has now."""


# Files.


def beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, facts: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def megabytes(count: int | None) -> str:
    """A number of bytes to read, in units of a million; "?" for None."""
    return "?" if count is None else f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count:,} bytes"


def check_space(folder: Path, total: int | None, there: int) -> None:
    """Raises UserError if a folder's disk cannot hold what is missing; nothing if that is unknown."""
    free = shutil.disk_usage(folder).free
    if total is not None and total - there > free:
        known = f"needed: {megabytes(total - there)}, free: {megabytes(free)}"
        todo = f"free some space, or name another folder: {CACHE_VARIABLE}"
        raise UserError(f"a file of {megabytes(total)} in {folder}", "the disk is too full", known, todo)


# The network.


class _Redirects(HTTPRedirectHandler):
    """Follows redirects to admitted addresses only."""

    def __init__(self, admits: Callable[[str], bool]) -> None:
        self.admits = admits

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """The request to follow; raises Refused if it would leave https."""
        if not self.admits(newurl):
            fp.close()
            raise Refused(f"redirected to {newurl.partition('?')[0]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(frozen=True)
class Network:
    """How addresses are opened.

    Attributes:
        timeout: seconds without a byte after which a connection counts as broken.
        attempts: how many in a row may bring nothing before an address is given up.
        sleep: waits for seconds.
    """

    timeout: float = 30.0
    attempts: int = 5
    sleep: Callable[[float], None] = time.sleep

    def admits(self, url: str) -> bool:
        """Whether an address may be opened: https only."""
        return urlsplit(url).scheme == "https"

    def open(self, url: str, headers: Mapping[str, str]) -> HTTPResponse:
        """The response to GET; raises Refused or Interrupted."""
        if not self.admits(url):
            raise Refused("not an https address")
        fixed = {"User-Agent": "intrinsic-bench", "Accept-Encoding": "identity"}
        opener = build_opener(_Redirects(self.admits))
        try:
            found: HTTPResponse = opener.open(
                Request(url, headers=fixed | dict(headers)), timeout=self.timeout
            )
        except HTTPError as error:
            with error:
                raise _status_failure(error) from error
        except URLError as error:
            raise _connection_failure(error.reason) from error
        except (OSError, HTTPException) as error:
            raise _connection_failure(error) from error
        return found


HTTPS = Network()


def _status_failure(error: HTTPError) -> Exception:
    text = f"HTTP {error.code} {error.reason}"
    if error.code == 416:  # Range Not Satisfiable: the file is shorter than it was
        return _Changed(text)
    asked = error.headers.get("Retry-After") or ""
    pause = min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else None
    return Interrupted(text, pause) if error.code in TRANSIENT else Refused(text)


def _connection_failure(reason: object) -> Exception:
    """A wrong name or certificate will not mend itself; anything else may."""
    text = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else str(reason)
    if isinstance(reason, socket.gaierror):
        return Refused(f"its host cannot be found; is there a network? ({reason})")
    return Refused(text) if isinstance(reason, ssl.SSLCertVerificationError) else Interrupted(text)


# One address.


@dataclass(frozen=True)
class Origin:
    """One place of a file, and what is known of the file there."""

    url: str
    sha256: str | None
    bytes: int | None


class Part:
    """What is there of a file, and of which one: `<file>.part` and `<file>.part.json`."""

    def __init__(self, target: Path, ending: str = "part") -> None:
        self.path = target.with_name(f"{target.name}.{ending}")
        self.about = beside(self.path)

    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def begin(self, **facts: Any) -> None:
        """Start anew, as a part of the file these facts describe."""
        self.remove()
        write_json(self.about, facts)

    def remove(self) -> None:
        """Leave nothing."""
        self.path.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)

    def resumable(self, url: str) -> tuple[int, dict[str, Any]]:
        """How many bytes of the file at this address are there, and its facts; 0 if it must start anew."""
        facts = read_json(self.about)
        size, total = self.size(), facts.get("total")
        if (
            "total" not in facts
            or type(total) not in (int, type(None))
            or not isinstance(facts.get("validator"), str | None)
        ):
            return 0, facts  # damaged: it starts anew
        fits = facts.get("url") == url and facts.get("validator") and (total is None or size <= total)
        return (size if fits else 0), facts


def _validator(headers: HTTPMessage) -> str | None:
    """What names this version of a file: a strong ETag, or the date (RFC 9110, section 13.1.5)."""
    tag = headers.get("ETag") or ""
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _stream(origin: Origin, part: Part, network: Network, progress: Progress, say: Say) -> tuple[str, bool]:
    """Hash of the whole file, and whether a part of it was there before; raises Refused or Interrupted."""
    offset, facts = part.resumable(origin.url)
    digest = _digest_of_part(part, offset)
    if offset and offset == facts["total"]:
        return digest.hexdigest(), True
    headers = {"Range": f"bytes={offset}-", "If-Range": facts["validator"]} if offset else {}
    with network.open(origin.url, headers) as response:
        if response.status == 206:
            total = _continued(response, offset, facts)
            say(f"continuing after {megabytes(offset)}")
        else:
            if offset:
                say(f"the server sends the file from the start; {megabytes(offset)} are dropped")
            total = _begun(response, origin, part)
            offset, digest = 0, hashlib.sha256()
        check_space(part.path.parent, total, offset)
        _append(response, part, digest, total if total is not None else origin.bytes, progress)
    return digest.hexdigest(), offset > 0


def _digest_of_part(part: Part, offset: int) -> Any:
    if not offset:
        return hashlib.sha256()
    with part.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _continued(response: HTTPResponse, offset: int, facts: Mapping[str, Any]) -> int | None:
    """Bytes in all, of a response with status 206; raises _Changed unless it continues the part."""
    said = response.headers.get("Content-Range") or ""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said.strip())
    total = _number(found[3]) if found else None
    if not found or not offset or int(found[1]) != offset or facts["total"] not in (None, total):
        raise _Changed(f"the server answers with the range {said!r} to a request for {offset}-")
    # A date may be left out of such an answer, an ETag may not (RFC 9110, section 15.3.7).
    now, before = _validator(response.headers), facts["validator"]
    if now != before and (now is not None or before.startswith('"')):
        raise _Changed("the file on the server is another one than before")
    return total


def _begun(response: HTTPResponse, origin: Origin, part: Part) -> int | None:
    """Bytes in all, of a response that starts at the first; raises Refused for what cannot be weights."""
    headers = response.headers
    if headers.get_content_type() == "text/html":
        raise Refused("it answers with a web page, not with a file")
    total = _number(headers.get("Content-Length"))
    if None not in (total, origin.bytes) and total != origin.bytes:
        raise Refused(f"the file there has {total:,} bytes, expected are {origin.bytes:,}")
    part.begin(url=origin.url, validator=_validator(headers), total=total)
    return total


def _append(
    response: HTTPResponse, part: Part, digest: Any, expected: int | None, progress: Progress
) -> None:
    with part.path.open("ab") as file:
        done = file.tell()
        progress(done, expected)
        while chunk := _read(response):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress(done, expected)
            if expected is not None and done > expected:
                break
    if expected is not None and done > expected:
        part.remove()
        raise Refused(f"the file there has more than the expected {expected:,} bytes")
    if expected is not None and done < expected:
        raise Interrupted(f"the connection ended after {done:,} of {expected:,} bytes")


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise Interrupted(f"{type(error).__name__}: {error}") from error


def _patiently(
    origin: Origin, part: Part, network: Network, progress: Progress, say: Say
) -> tuple[str, bool]:
    """As `_stream`, until `attempts` in a row brought nothing new; pauses double from 1 second."""
    most, idle = part.size(), 0
    while True:
        try:
            return _stream(origin, part, network, progress, say)
        except Interrupted as error:
            if isinstance(error, _Changed):
                part.remove()
            idle = 0 if part.size() > most else idle + 1
            most = max(most, part.size())
            if idle >= network.attempts:
                raise Refused(f"{error} ({idle} attempts)") from error
            pause = error.pause if error.pause is not None else min(2.0 ** max(idle - 1, 0), LONGEST_PAUSE)
            say(f"{error}; next attempt in {pause:.0f} s")
            network.sleep(pause)


def from_origin(origin: Origin, part: Part, network: Network, progress: Progress, say: Say) -> str:
    """Hash of the file, which then is the whole part; raises Refused if it is not the expected one."""
    found, resumed = _patiently(origin, part, network, progress, say)
    if resumed and origin.sha256 not in (None, found):
        say("together with what was there before its sha256 is wrong; from the start again")
        part.remove()
        found, _ = _patiently(origin, part, network, progress, say)
    if origin.sha256 not in (None, found):
        part.remove()
        raise Refused(f"the file there has sha256 {found}, expected is {origin.sha256}")
    return found
