"""`doctor` on weights and their addresses, and the command itself; the network is a server right here."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks import health, health_weights
from benchmarks.store import Store
from generators import registry
from generators.finding import FAILED, OK, SKIPPED, WARNING
from tests.cli.told import doctor, one, sound
from tests.runner.fakes import cell


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A sound store of two records."""
    return sound(tmp_path / "store")


# Weights and the network


def test_families_of_this_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("INTRINSIC_BENCH_WEIGHTS", "INTRINSIC_BENCH_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    found = {finding.what: finding for finding in health_weights.families()}
    assert {each.mark for each in found.values()} <= {OK, SKIPPED}
    assert "come with the package, 5 to be fetched" not in found["weights of stylegan2"].text
    assert "8 come with the package, 3 to be fetched" in found["weights of stylegan2"].text
    assert "intrinsic-bench fetch stylegan2.ffhq256" in found["weights of stylegan2"].cure
    (tmp_path / "stylegan2.ffhq256.pkl").write_bytes(b"x")
    again = {finding.what: finding for finding in health_weights.families()}["weights of stylegan2"]
    assert "8 come with the package, 1 fetched and here, 2 to be fetched" in again.text


def test_embedded_weights_that_were_not_copied(tmp_path: Path) -> None:
    spec = registry.spec("sd.rooms64-s5")
    assert health_weights.lacking(spec) == ""
    gone = replace(spec, source=str(tmp_path / "weights"))
    one([health_weights.family("sd", [gone])], FAILED, f"there is no {tmp_path / 'weights'}")
    (tmp_path / "weights" / "unet").mkdir(parents=True)
    one([health_weights.family("sd", [gone])], FAILED, "is empty")
    pointer = tmp_path / "weights" / "unet" / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    found = one([health_weights.family("sd", [gone])], FAILED, f"{pointer} is a pointer of Git LFS")
    assert "git lfs pull" in found.cure
    assert health_weights.lacking(replace(gone, source=str(tmp_path / "none"), trained=0.0)) == ""


def test_weights_of_ones_own_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's folder that `zoo train` wrote stands for the package's as a whole."""
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    names = ("stylegan2.rooms64-s1", "stylegan2.rooms64-s2", "stylegan2.rooms64-random")
    first, *rest = (registry.spec(name) for name in names)
    one([health_weights.family("stylegan2", [first, *rest])], OK, "3 come with the package")
    (tmp_path / "stylegan2.rooms64").mkdir()
    (tmp_path / "stylegan2.rooms64" / "s1.safetensors").write_bytes(b"x")
    one([health_weights.family("stylegan2", [first, rest[1]])], OK, "2 come with the package")
    lost = tmp_path / "stylegan2.rooms64" / "s2.safetensors"
    found = one([health_weights.family("stylegan2", [first, *rest])], FAILED, f"there is no {lost}")
    assert found.cure == "train that stage, too, or unset INTRINSIC_BENCH_WEIGHTS"
    assert "INTRINSIC_BENCH_WEIGHTS" in found.cause and "large files" not in found.cause
    (tmp_path / "sd.rooms64").mkdir()
    spec = registry.spec("sd.rooms64-s5")
    found = one([health_weights.family("sd", [spec])], FAILED, f"{tmp_path / 'sd.rooms64'} is empty")
    assert "unset INTRINSIC_BENCH_WEIGHTS" in found.cure


def test_two_models_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "taken_names", lambda: {"shiny": "its model 'sd.v1-5' is left out: why"})
    found = one(health_weights.families(), WARNING, "plugin shiny: its model 'sd.v1-5' is left out")
    assert "rename it in the plugin, or uninstall 'shiny'" in found.cure


class Answers(BaseHTTPRequestHandler):
    """Answers with the status its path names; /slow waits longer than anybody does, /away is elsewhere."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_HEAD(self) -> None:
        self.asked.append((self.command, self.path))
        name = self.path.strip("/").partition("?")[0]
        if name == "slow":
            time.sleep(1.5)
        self.send_response(302 if name == "away" else int(name) if name.isdigit() else 200)
        if name == "away":
            self.send_header("Location", "/200")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("200", ""),
        ("away", ""),
        ("405", ""),
        ("404", "HTTP 404 Not Found"),
        ("403", "HTTP 403 Forbidden"),
        ("500", "HTTP 500 Internal Server Error"),
        ("slow", "no answer within 0.5 seconds"),
    ],
)
def test_addresses_that_answer_and_those_that_do_not(server: str, path: str, wrong: str) -> None:
    assert health_weights.refusal(f"{server}/{path}", timeout=0.5) == wrong
    assert {command for command, _ in Answers.asked} == {"HEAD"}


def test_nobody_listens(server: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    assert "refused" in health_weights.refusal(address)
    assert health_weights.refusal("http://no-such-host.invalid/x")


def test_the_network_is_asked_once_for_each_address(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    Answers.asked.clear()
    asked = {"a": f"{server}/200", "b": f"{server}/404", "c": f"{server}/404", "d": f"{server}/404?d"}
    found = list(health_weights.network(asked))
    warning = one(found, WARNING, "network: HTTP 404 Not Found, addresses: 2")
    assert f"  {server}/404 (b, c)\n  {server}/404?d (d)" in warning.text
    assert "HTTPS_PROXY" in warning.cure and "fetch b --from FILE" in warning.cure
    one(found, OK, "1 of 3 addresses answer")
    assert sorted(Answers.asked) == [("HEAD", "/200"), ("HEAD", "/404"), ("HEAD", "/404?d")]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    one(health_weights.network({"a": f"{server}/200"}), WARNING, "HF_HUB_OFFLINE is set")


def test_what_would_be_asked() -> None:
    found = health_weights.addresses()
    assert found["stylegan2.ffhq1024"].startswith("https://")
    assert found["sd.v1-5"].endswith("/stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert found["omnidata-v2"].endswith(".ckpt") and "diode.val" in found
    assert all(address.startswith("https://") for address in found.values())
    assert not any(name.startswith("sd.rooms64") for name in found)


@pytest.mark.parametrize("flag", [[], ["--network"]])
def test_only_the_flag_touches_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str, flag: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.doctor.compiled", lambda build_cuda: iter(()))
    monkeypatch.setattr(health_weights, "addresses", lambda: {"a": f"{server}/404"})
    connected: list[object] = []
    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda *told: (connected.append(told), connect(*told))[1])
    result = doctor(*flag)
    assert bool(connected) == bool(flag) == ("HTTP 404" in result.output)
    assert result.exit_code == 0, result.output  # an address that does not answer is a warning


# The command


def test_json(store: Store) -> None:
    store.path(cell(1)).write_text("{")
    result = doctor("--store", store.folder, "--json")
    found = json.loads(result.output)
    assert result.exit_code == 1 and {"mark", "what", "text", "cause", "cure"} == set(found[0])
    assert [each["what"] for each in found if each["mark"] == FAILED] == [f"store {store.folder}"]


def test_a_look_that_breaks_is_a_finding_and_ends_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.doctor.compiled", lambda build_cuda: iter(()))
    monkeypatch.setattr(health, "memory", lambda: 1 / 0)
    result = doctor()
    assert result.exit_code == 1 and "doctor: ZeroDivisionError: division by zero" in result.output
    assert "weights of sd" in result.output and "Traceback" not in result.output
