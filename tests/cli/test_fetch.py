"""`intrinsic-bench fetch`: what it prints, what it asks for, how it ends."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.cli import main
from generators import registry, sources
from generators.base import GeneratorSpec
from generators.checkpoints import download
from generators.checkpoints.download import fetch
from generators.sources import SOURCES, Source
from tests.checkpoints.local_server import BIG, File, Server, content, local, serving

ROOT = Path(__file__).parents[2]
PARTS = ("asked:", "wrong:", "known:", "to do:")
BODY = content()
NAME = "stylegan2.ffhq256"  # of non-commercial use


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["fetch", *(str(a) for a in arguments)])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, ours and the hub's, and no folder of the user's own."""
    monkeypatch.setenv("INTRINSIC_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.delenv("INTRINSIC_BENCH_WEIGHTS", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "cache" / "weights"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves the file of NAME; the command talks to it only."""
    with serving() as found:
        found.files["a.pkl"] = File(BODY)
        source = Source(
            urls=(found.url("a.pkl"),), licence="Mine", licence_address="https://l", non_commercial=True
        )
        monkeypatch.setitem(SOURCES, NAME, source)
        monkeypatch.setattr(
            download, "fetch", lambda *args, **more: fetch(*args, **more, network=local(found))
        )
        yield found


def refused(result: Result, fact: str) -> None:
    """Four parts, status 2, no traceback and nothing on standard output."""
    assert result.exit_code == 2, result.output
    assert fact in result.stderr
    assert all(part in result.stderr for part in PARTS)
    assert "Traceback" not in result.output and result.stdout == ""


def test_it_downloads_once_and_prints_the_path(server: Server, folder: Path) -> None:
    first = call(NAME, "--accept-licence")
    assert first.exit_code == 0, first.output
    assert first.stdout == f"{folder / NAME}.pkl\n"
    assert f"{NAME}: licence: Mine https://l" in first.stderr
    assert "unverified: none is published" in first.stderr
    lines = [line for line in first.stderr.splitlines() if "%" in line]
    assert lines[0] == "  0 %, 0 bytes of 3 MB" and lines[-1] == "100 %, 3 MB of 3 MB"
    second = call(NAME)
    assert second.exit_code == 0 and second.stdout == first.stdout
    assert len(server.requests) == 1


def test_a_non_commercial_licence_must_be_accepted(server: Server, folder: Path) -> None:
    result = call(NAME)
    refused(result, "Mine https://l")
    assert f"intrinsic-bench fetch {NAME} --accept-licence" in result.stderr
    assert server.requests == [] and not folder.exists()
    assert call(NAME, "--accept-license").exit_code == 0


def test_the_real_ones_name_their_licence() -> None:
    refused(
        call("stylegan2.ffhq1024"), "NVIDIA Source Code License (non-commercial) https://nvlabs.github.io"
    )


def test_a_failing_server_is_told_with_its_address(server: Server) -> None:
    server.files["a.pkl"].statuses = [404]
    result = call(NAME, "--accept-licence")
    assert result.exit_code == 2
    assert f"wrong: no address gives the file: {server.url('a.pkl')}: HTTP 404 Not Found" in result.stderr
    assert "Traceback" not in result.output


def test_bedroom_has_no_public_file_and_takes_a_local_one(folder: Path, tmp_path: Path) -> None:
    result = call("stylegan2.bedroom256")
    refused(result, "no public address of its weights is known")
    assert "fetch stylegan2.bedroom256 --from PATH" in result.stderr
    (tmp_path / "bedroom.pkl").write_bytes(BODY)
    result = call("stylegan2.bedroom256", "--from", tmp_path / "bedroom.pkl")
    assert result.stdout == f"{folder / 'stylegan2.bedroom256'}.pkl\n"
    assert "unverified" in result.stderr


def test_a_local_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ffhq.pkl").write_bytes(BODY)
    result = call("stylegan2.ffhq1024", "--accept-licence", "--from", tmp_path / "ffhq.pkl")
    assert result.exit_code == 2
    assert f"expected is {SOURCES['stylegan2.ffhq1024'].sha256}" in result.stderr


def test_embedded_models_need_nothing() -> None:
    result = call("sd.rooms64-s5")
    assert result.exit_code == 0
    assert "nothing to fetch: its weights come with this package" in result.stdout


def test_a_diffusers_folder_is_left_to_the_hubs_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[tuple[str, list[str]]] = []

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        for file in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
            path = tmp_path / "snapshot" / f"{file}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    result = call("sd.v1-5")
    assert result.stdout == f"{tmp_path / 'snapshot'}\n"
    assert "licence: CreativeML OpenRAIL-M" in result.stderr
    assert asked[0][0] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert "unet/*model.safetensors" in asked[0][1]
    refused(call("sd.v1-5", "--from", tmp_path), "INTRINSIC_BENCH_WEIGHTS")


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def snapshot(*_: object, **__: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    result = call("sd.v1-5")
    assert result.exit_code == 2 and "ConnectionError: no network" in result.stderr


def test_a_diffusers_folder_of_ones_own_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sd.v1-5").mkdir()
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    result = call("sd.v1-5")
    assert result.stdout == f"{tmp_path / 'sd.v1-5'}\n" and "hub" not in result.stderr


def test_a_plugins_file_is_fetched_by_what_its_spec_says(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = GeneratorSpec("mine.a", "M", "M", "seeds", "pixels", 64, "faces", "MIT", source="https://x/a.pkl")
    monkeypatch.setattr(registry, "specs", lambda: [spec])
    monkeypatch.setattr(registry, "spec", lambda name: spec)
    monkeypatch.setattr(registry, "family_module", lambda name: sys)
    monkeypatch.setattr(
        sources, "source_of", lambda asked: Source(urls=(server.url("a.pkl"),), licence="MIT")
    )
    assert call("mine.a").stdout == f"{folder / 'mine.a'}.pkl\n"
    assert "mine.a" in call("--list").stdout


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["stylegan2.ffhq25"], "did you mean 'stylegan2.ffhq256'"),
        (["../../etc"], "there is no model of this name"),
        ([], "no model is named"),
    ],
)
def test_bad_input_is_four_parts(arguments: list[str], fact: str) -> None:
    refused(call(*arguments), fact)


def test_list_shows_licence_size_and_state(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(name: str) -> str:
        return next(line for line in call("--list").stdout.splitlines() if line.startswith(name))

    assert row(NAME).split("  ")[-1].strip() == "not here" and "needed" in row(NAME)
    assert "382 MB" in row("stylegan2.ffhq1024")
    assert row("stylegan2.bedroom256").endswith("needs --from PATH")
    assert "OpenRAIL" in row("sd.v1-5") and row("sd.v1-5").endswith("not here")
    server.files["a.pkl"].cuts = [1_500_000, *[0] * 9]
    call(NAME, "--accept-licence")
    assert row(NAME).endswith("begun, 2 MB")
    server.files["a.pkl"].cuts = []
    call(NAME, "--accept-licence")
    assert row(NAME).endswith("fetched, unverified")
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file, revision: f"/x/{file}")
        assert row("sd.v1-5").endswith("fetched, in the hub's cache")
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    for path in (tmp_path / NAME, tmp_path / "sd.v1-5"):
        path.mkdir()
        assert row(path.name).endswith(f"your own: {path}")


def test_listing_loads_nothing_heavy() -> None:
    code = "from benchmarks.cli import main\nmain(['fetch', '--list'], standalone_mode=False)\nimport sys\n"
    code += "print(*{'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.strip() == "", done.stderr


def test_ctrl_c_says_how_to_continue(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "fetch", stopped)
    result = call(NAME, "--accept-licence")
    assert result.exit_code == 130
    assert f"run again: intrinsic-bench fetch {NAME}" in result.stderr


TERMINAL = """
import sys
from benchmarks.cli import main
from generators.checkpoints import download
from generators.sources import SOURCES, Source
from tests.checkpoints.local_server import Server, local
fetch, server = download.fetch, Server(sys.argv[1], {})
SOURCES["stylegan2.ffhq256"] = Source(urls=(server.url("a.pkl"),))
download.fetch = lambda *args, **more: fetch(*args, **more, network=local(server))
main(["fetch", "stylegan2.ffhq256"])
"""


def test_a_terminal_gets_a_bar(server: Server, folder: Path) -> None:
    server.files["a.pkl"].pause = 0.5
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", TERMINAL, server.base]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=follower, text=True
    )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError as error:  # how Linux says that the other end is closed
        assert "Input/output" in str(error)
    finally:
        os.close(leader)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and out == f"{folder / NAME}.pkl\n"
    assert f"{BIG / 1e6:.1f}/{BIG / 1e6:.1f} MB" in shown.decode(), shown.decode()
    assert "━" in shown.decode()
