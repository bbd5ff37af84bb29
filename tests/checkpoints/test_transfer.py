"""One address: what breaks off is continued, what is wrong is refused, nothing is mixed, only https."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.checkpoints import download, transfer
from generators.checkpoints.download import fetch, local_path, provenance, weights_folder
from generators.errors import UserError
from generators.sources import Source
from tests.checkpoints.local_server import (
    BIG,
    BODY,
    DONE,
    HASH,
    NAME,
    File,
    Server,
    content,
    get,
    left,
    local,
    serving,
)

pytestmark = pytest.mark.usefixtures("folder")


# What breaks off is continued.


@pytest.mark.parametrize(
    ("etag", "date", "sent"),
    [
        ('"v1"', "Mon, 01 Jan 2024 00:00:00 GMT", '"v1"'),
        (None, "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ('W/"v1"', "Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"),
    ],
)
def test_a_cut_connection_is_resumed(server: Server, etag: str | None, date: str, sent: str) -> None:
    server.files["a.pkl"] = File(BODY, etag, date, cuts=[1_500_000, 700_000])
    said: list[str] = []
    assert get(server, sha256=HASH, say=said.append).read_bytes() == BODY
    assert server.asked("Range") == [None, "bytes=1500000-", "bytes=2200000-"]
    assert server.asked("If-Range") == [None, sent, sent]
    assert any("continuing after 2 MB" in line for line in said)


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_validator_it_starts_anew(server: Server, etag: str | None) -> None:
    server.files["a.pkl"] = File(BODY, etag, cuts=[1_500_000])
    assert get(server).read_bytes() == BODY
    assert server.asked("Range") == [None, None]


@pytest.mark.parametrize("ranges", ["ignored", "shifted", "refused"])
def test_a_server_bad_at_ranges_is_asked_from_the_start(server: Server, ranges: str) -> None:
    server.files["a.pkl"] = File(BODY, cuts=[1_500_000], ranges=ranges)
    assert get(server).read_bytes() == BODY
    assert server.asked("Range")[:2] == [None, "bytes=1500000-"]


@pytest.mark.parametrize("ranges", ["kept", "blind"])
@pytest.mark.parametrize("size", [BIG, BIG + 5, 1_000_000])
def test_a_file_that_changed_meanwhile_is_not_mixed(server: Server, ranges: str, size: int) -> None:
    server.files["a.pkl"] = File(BODY, cuts=[1_500_000])
    with pytest.raises(UserError, match="no address gives"):
        get(server, network=local(server, attempts=0))
    new = content(size, start=99)
    server.files["a.pkl"] = File(new, etag='"v2"', ranges=ranges)
    assert get(server).read_bytes() == new


DATE = "Mon, 01 Jan 2024 00:00:00 GMT"


@pytest.mark.parametrize(("etag", "date", "size"), [('"v1"', None, BIG), (None, DATE, BIG + 5)])
def test_a_part_is_not_continued_with_bytes_of_unknown_version(
    server: Server, etag: str | None, date: str | None, size: int
) -> None:
    server.files["a.pkl"] = File(BODY, etag, date, cuts=[1_500_000])
    with pytest.raises(UserError):
        get(server, network=local(server, attempts=0))
    new = content(size, start=99)
    server.files["a.pkl"] = File(new, etag=None, ranges="blind")
    assert get(server).read_bytes() == new


def test_a_part_is_not_continued_from_another_address(server: Server) -> None:
    other = content(start=99)
    server.files["a.pkl"] = File(BODY, cuts=[1_500_000], statuses=[0, 404])
    server.files["b.pkl"] = File(other)
    path = get(server, "a.pkl", "b.pkl")
    assert path.read_bytes() == other
    assert [(r["path"], r.get("Range")) for r in server.requests] == [
        ("/a.pkl", None),
        ("/a.pkl", "bytes=1500000-"),
        ("/b.pkl", None),
    ]


def test_what_came_is_kept_for_the_next_call(server: Server, folder: Path) -> None:
    server.files["a.pkl"] = File(BODY, cuts=[1_500_000, 0, 0, 0, 0])
    with pytest.raises(UserError, match=r"ended after 1,500,000 of 2,700,001 bytes \(4 attempts\)") as error:
        get(server, network=local(server))
    assert "2 MB are kept" in error.value.todo
    assert download.part_bytes(NAME) == 1_500_000 and local_path(NAME) is None
    assert get(server).read_bytes() == BODY
    assert server.asked("Range")[-1] == "bytes=1500000-"
    assert left(folder) == DONE


def test_a_whole_part_is_not_fetched_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download, "_finish", stopped)
        get(server)
    assert get(server).read_bytes() == BODY
    assert len(server.requests) == 1


def test_pauses_double_and_only_progress_resets_them(server: Server) -> None:
    server.files["a.pkl"] = File(BODY, cuts=[0, 0, 5, 0, 0, 0, 0])
    network = local(server)
    with pytest.raises(UserError):
        get(server, network=network)
    assert network.pauses == [1, 2, 1, 1, 2, 4]


def test_a_busy_server_is_asked_again_when_it_says(server: Server) -> None:
    server.files["a.pkl"] = File(BODY, statuses=[503, 429], retry_after="7")
    network = local(server)
    assert get(server, network=network).read_bytes() == BODY
    assert network.pauses == [7, 7]


def test_a_part_that_was_damaged_on_disk_is_dropped(server: Server, folder: Path) -> None:
    server.files["a.pkl"] = File(BODY, cuts=[1_500_000])
    with pytest.raises(UserError):
        get(server, network=local(server, attempts=0))
    (folder / f"{NAME}.pkl.part").write_bytes(bytes(1_500_000))
    assert get(server, sha256=HASH).read_bytes() == BODY
    assert server.asked("Range") == [None, "bytes=1500000-", None]


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 3000), max_size=6),
    ranges=st.sampled_from(["kept", "ignored", "blind", "shifted", "refused"]),
    etag=st.sampled_from(['"v1"', None]),
    length=st.booleans(),
)
def test_whatever_the_server_does_the_file_is_right_or_refused(
    cuts: list[int], ranges: str, etag: str | None, length: bool
) -> None:
    body = content(3000)
    digest = hashlib.sha256(body).hexdigest()
    with serving() as server:
        shutil.rmtree(weights_folder(), ignore_errors=True)
        server.files["a.pkl"] = File(body, etag, cuts=list(cuts), ranges=ranges, length=length)
        for _ in range(4):
            try:
                found = get(server, sha256=digest, network=local(server, attempts=2))
            except UserError as error:
                assert "no address gives the file" in error.wrong
                assert local_path(NAME) is None
                continue
            assert found.read_bytes() == body
            return
    assert cuts, "a server that cuts nothing gives the file"


# What is wrong is refused.


def test_a_wrong_hash_leaves_nothing_and_names_both(server: Server, folder: Path) -> None:
    with pytest.raises(UserError, match=f"sha256 {HASH}, expected is {'0' * 64}"):
        get(server, sha256="0" * 64)
    assert left(folder) == set()
    assert len(server.requests) == 1


def test_a_body_that_ends_early_is_never_taken_for_the_file(server: Server) -> None:
    server.files["a.pkl"] = File(BODY, etag=None, cuts=[2_000_000] * 20)
    with pytest.raises(UserError, match="ended after 2,000,000 of 2,700,001 bytes"):
        get(server)
    server.files["a.pkl"] = File(BODY[:-1], length=False)
    with pytest.raises(UserError, match="ended after 2,700,000 of 2,700,001 bytes"):
        get(server, bytes=BIG)
    assert local_path(NAME) is None


@pytest.mark.parametrize("length", [True, False])
def test_a_file_of_another_size_is_refused(server: Server, folder: Path, length: bool) -> None:
    server.files["a.pkl"] = File(BODY, length=length)
    with pytest.raises(UserError, match=r"2,700,001 bytes, expected are 1,000|more than the expected 1,000"):
        get(server, bytes=1000)
    assert left(folder) == set()


def test_a_web_page_is_no_file(server: Server) -> None:
    server.files["a.pkl"] = File(b"<html>please sign in", kind="text/html; charset=utf-8")
    with pytest.raises(UserError, match="answers with a web page"):
        get(server)


def test_mirrors_are_tried_in_order_and_failures_told(server: Server) -> None:
    said: list[str] = []
    path = get(server, "gone.pkl", "a.pkl", sha256=HASH, say=said.append)
    assert path.read_bytes() == BODY and provenance(path)["source"] == server.url("a.pkl")
    assert said[1:4] == [
        f"from {server.url('gone.pkl')}",
        "refused: HTTP 404 Not Found",
        f"from {server.url('a.pkl')}",
    ]
    path.unlink()
    server.files["locked.pkl"] = File(statuses=[403])
    with pytest.raises(UserError) as error:
        get(server, "gone.pkl", "locked.pkl")
    for fact in (f"{server.url('gone.pkl')}: HTTP 404", f"{server.url('locked.pkl')}: HTTP 403"):
        assert fact in error.value.wrong
    assert "--from PATH" in error.value.todo


def test_nobody_listens(server: Server) -> None:
    url = "http://127.0.0.1:9/a.pkl"
    network = transfer.Network(attempts=2, sleep=lambda _: None)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match=r"refused.*\(2 attempts\)"):
        patch.setattr(transfer.Network, "admits", lambda self, url: True)
        fetch(NAME, Source(urls=(url,)), accept_licence=False, network=network)


def test_no_such_host() -> None:
    with pytest.raises(UserError, match="is there a network"):
        fetch(NAME, Source(urls=("https://nowhere.invalid/a.pkl",)), accept_licence=False)


# Only https.


def test_http_is_refused_before_anything_is_sent(server: Server) -> None:
    with pytest.raises(UserError, match="not an https address"):
        get(server, network=transfer.HTTPS)
    assert server.requests == []


def test_a_redirect_keeps_the_range_and_cannot_leave(server: Server) -> None:
    server.files["here.pkl"] = File(statuses=[302] * 9, location="/a.pkl")
    server.files["a.pkl"].cuts = [1_500_000]
    assert get(server, "here.pkl").read_bytes() == BODY
    assert server.asked("Range")[-1] == "bytes=1500000-"
    with serving() as other:
        server.files["away.pkl"] = File(statuses=[302], location=other.url("a.pkl?secret=1"))
        (weights_folder() / f"{NAME}.pkl").unlink()
        with pytest.raises(UserError, match=rf"redirected to {other.url('a.pkl')}, which is not https"):
            get(server, "away.pkl")
        assert other.requests == []


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    pair = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=local"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", pair[0], "-keyout", pair[1]]
    subprocess.run(command, check=True, capture_output=True)
    return pair


def test_https_with_its_certificate(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    with serving(certificate) as secure:
        secure.files["a.pkl"] = File(BODY)
        secure.files["away.pkl"] = File(statuses=[301], location=server.url("a.pkl"))
        with pytest.raises(UserError, match="certificate verify failed"):
            get(secure, network=transfer.HTTPS)
        monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
        with pytest.raises(UserError, match="which is not https"):
            get(secure, "away.pkl", network=transfer.HTTPS)
        assert get(secure, network=transfer.HTTPS).read_bytes() == BODY
    assert server.requests == []
