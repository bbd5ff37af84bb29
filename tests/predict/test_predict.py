"""From picture files to maps: right values, resumed, refused, and nothing lost."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from benchmarks import files
from benchmarks.cli import main
from benchmarks.color import srgb
from benchmarks.predict import Outcome, Settings, Shown, predict_pictures, sheets
from benchmarks.predict.reading import read_picture
from benchmarks.predict.show import Bar
from benchmarks.predict.writing import color_limits
from generators import registry
from generators.errors import UserError
from probes.adapters import attached
from probes.intrinsics import INTRINSICS
from probes.methods import fill_options
from tests.predict.pictures import MODEL, smooth, write_adapter

ROOT = Path(__file__).parents[2]
ALL = Shown(("png8", "png16", "npy"))


@pytest.fixture(scope="module")
def generator() -> Any:
    return registry.load(MODEL)


@pytest.fixture(scope="module")
def adapters(generator: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of an adapter for an intrinsic."""
    made: dict[str, Path] = {}

    def adapter(intrinsic: str) -> Path:
        if intrinsic not in made:
            made[intrinsic] = write_adapter(tmp_path_factory.mktemp("adapter"), generator, intrinsic)
        return made[intrinsic]

    return adapter


@pytest.fixture
def loads(generator: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were asked for; all get the one that was loaded already."""
    asked: list[str] = []

    def load(name: str, device: str = "cpu") -> Any:
        asked.append(name)
        return generator

    monkeypatch.setattr("benchmarks.predict.run.registry.load", load)
    return asked


@pytest.fixture
def pics(tmp_path: Path) -> Path:
    """Three pictures of two sizes."""
    folder = tmp_path / "pics"
    (folder / "more").mkdir(parents=True)
    for name, size, phase in (("a", (64, 64), 0.0), ("b", (80, 96), 1.0), ("more/c", (64, 64), 2.0)):
        Image.fromarray(smooth(*size, phase)).save(folder / f"{name}.png")
    return folder


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *(str(a) for a in arguments)])


def values(out: Path, name: str) -> np.ndarray:
    found: np.ndarray = np.load(out / f"{name}.npy", allow_pickle=False)
    return found


# Values.


@pytest.mark.parametrize("intrinsic", list(INTRINSICS))
def test_maps_are_what_the_adapted_model_draws(
    intrinsic: str, generator: Any, adapters: Any, loads: list[str], pics: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = Settings("native", ALL)
    outcome = predict_pictures([pics], adapters(intrinsic), out, settings=settings)
    assert outcome.status == 0 and len(outcome.written) == 3 and loads == [MODEL]
    picture = torch.from_numpy(smooth(64, 64).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad(), attached(generator, adapters(intrinsic)):
        drawn = generator.decode(generator.forward(generator.embed(picture), intrinsic))
    with torch.no_grad():
        plain = generator.decode(generator.forward(generator.embed(picture), intrinsic))
    expected = INTRINSICS[intrinsic].from_picture(drawn)[0].permute(1, 2, 0).numpy()
    found = values(out, f"a.{intrinsic}")
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-4
    assert (drawn - plain).abs().max() > 0.01  # the adapter does something, and was taken off again
    check_files(out / f"a.{intrinsic}", intrinsic, found)
    assert values(out, f"b.{intrinsic}").shape[:2] == (80, 96)


def check_files(stem: Path, intrinsic: str, found: np.ndarray) -> None:
    """Both PNGs hold the same map in the scale that is declared."""
    deep = read_picture(Path(f"{stem}.16bit.png")).values / 65535
    scale = {"normal": (found + 1) / 2, "depth": found / 10}.get(intrinsic, found)
    assert np.abs(deep - np.clip(scale, 0, 1)).max() < 1e-5
    flat = read_picture(Path(f"{stem}.png")).values / 255
    if intrinsic == "depth":
        import matplotlib

        low, high = color_limits(found, ALL)
        share = np.clip((found[..., 0] - low) / (high - low), 0, 1)
        shown = matplotlib.colormaps["viridis_r"](share)[..., :3]
    else:
        shown = np.clip(scale, 0, 1) if intrinsic == "normal" else srgb(found)
    assert np.abs(flat - shown).max() < 0.5 / 255 + (0.02 if intrinsic == "depth" else 1e-6)


def test_how_pictures_are_batched_moves_nothing(
    adapters: Any, loads: list[str], pics: Path, tmp_path: Path
) -> None:
    for batch in (1, 3):
        settings = Settings("tile", Shown(("npy",)), batch=batch)
        predict_pictures([pics], adapters("normal"), tmp_path / str(batch), settings=settings)
    for name in ("a.normal", "b.normal", "more/c.normal"):
        one, three = values(tmp_path / "1", name), values(tmp_path / "3", name)
        assert np.abs(one - three).max() < 1e-3 and np.abs(np.linalg.norm(one, axis=2) - 1).max() < 1e-5


def test_half_precision_is_near(adapters: Any, loads: list[str], pics: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        settings = Settings(shown=Shown(("npy",)), precision=precision)
        predict_pictures([pics / "a.png"], adapters("albedo"), tmp_path / precision, settings=settings)
    full, half = (values(tmp_path / p, "a.albedo") for p in ("float32", "bfloat16"))
    assert 0 < np.abs(full - half).mean() < 0.05


def test_a_model_that_samples_is_asked_as_told(
    pics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter's own way over the model's, `--set` over both."""
    sampler = registry.load("sd-aug.rooms64-random")
    monkeypatch.setattr("benchmarks.predict.run.registry.load", lambda *_: sampler)
    trained = fill_options("lora", {"guidance": 1.0, "steps": 500}, sampler.spec.asks)
    adapter = write_adapter(tmp_path / "adapter", sampler, "normal", options=trained)
    wide = (pics / "b.png", "--adapter", adapter, "--resize", "native", "--format", "npy")
    for steps in (1, 2):
        assert (
            command(*wide, "--out", tmp_path / str(steps), "--set", f"sampler_steps={steps}").exit_code == 0
        )
        said = json.loads((tmp_path / str(steps) / "b.normal.json").read_text())["settings"]["asks"]
        assert said == dict(sampler.spec.asks) | {"sampler_steps": steps, "guidance": 1.0}
    one, two = values(tmp_path / "1", "b.normal"), values(tmp_path / "2", "b.normal")
    assert one.shape == (80, 96, 3) and np.abs(one - two).max() > 0.01


def test_the_sidecar_says_what_a_map_is(adapters: Any, loads: list[str], pics: Path, tmp_path: Path) -> None:
    settings = Settings("keep", Shown(("png8", "png16"), "magma", (1.0, 4.0)))
    predict_pictures([pics], adapters("depth"), tmp_path, settings=settings)
    said = json.loads((tmp_path / "b.depth.json").read_text())
    assert said["settings"]["model"] == MODEL and said["settings"]["weights"] == registry.identity(MODEL)
    assert said["source"]["sha256"] == read_picture(pics / "b.png").sha256
    assert (said["source"]["height"], said["source"]["width"]) == (80, 96)
    assert said["shown_to_the_model"]["size"] == [64, 80]
    assert said["colors_over"] == [1.0, 4.0] and len(said["range"]) == 2
    assert "meters" in said["values"]["unit"] and "65535" in said["values"]["png16"]
    assert set(said["outputs"]) == {"png8", "png16"}


def test_sheets_show_pictures_beside_their_maps(
    adapters: Any, loads: list[str], pics: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outcome = predict_pictures([pics], adapters("normal"), out, settings=Settings("native", sheet=True))
    beside = np.asarray(Image.open(out / "b.normal.sheet.png"))
    assert beside.shape == (80, 196, 3)
    assert np.array_equal(beside[:, :96], smooth(80, 96, 1.0))
    assert np.array_equal(beside[:, 100:], np.asarray(Image.open(out / "b.normal.png")))
    contact = np.asarray(Image.open(outcome.contact[0]))
    assert contact.std() > 20 and contact.shape[1] > 3 * 320  # three pairs side by side


def test_a_picture_whose_sheet_nobody_could_read_gets_a_smaller_one(
    adapters: Any, loads: list[str], pics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)  # Pillow's limit is twice that, a sheet more
    monkeypatch.setattr(sheets, "MOST", 64 * 64)
    out, asked = tmp_path / "out", Settings("native", sheet=True)
    outcome = predict_pictures([pics / "a.png"], adapters("normal"), out, settings=asked)
    beside = np.asarray(Image.open(out / "a.normal.sheet.png"))
    assert beside.shape == (32, 68, 3) and np.array_equal(beside[:, :32], smooth(64, 64)[::2, ::2])
    assert len(outcome.contact) == 1


def test_what_failed_is_listed_before_sheets_are_made(
    adapters: Any, loads: list[str], pics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise UserError("the sheet", "it cannot be read")

    monkeypatch.setattr(sheets, "write_contact_sheets", broken)
    (pics / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match="it cannot be read"):
        predict_pictures([pics], adapters("normal"), tmp_path / "out", settings=Settings(sheet=True))
    assert "b.png" in (tmp_path / "out" / "failed.json").read_text()


# Again.


def test_what_is_finished_is_skipped_and_what_is_missing_is_made(
    adapters: Any, loads: list[str], pics: Path, tmp_path: Path
) -> None:
    out, arguments = tmp_path / "out", ("--adapter", adapters("normal"), "--format", "npy")
    first = command(pics, "--out", out, *arguments)
    assert first.exit_code == 0 and "3 written, 0 were finished" in first.stdout
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.npy")}
    assert "0 written, 3 were finished" in command(pics, "--out", out, *arguments).stdout
    assert len(loads) == 1  # nothing to do: no model is loaded
    (out / "a.normal.npy").unlink()
    (out / "more/c.normal.json").unlink()
    assert "2 written, 1 were finished" in command(pics, "--out", out, *arguments).stdout
    changed = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed == {"a.normal.npy", "c.normal.npy"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("--resize", "square"), "resize: 'keep' then, 'square' now"),
        (("--precision", "bfloat16"), "precision"),
        (("--format", "png16"), "formats: ['png8'] then, ['png16'] now"),
        (("--background", "#ff0000"), "background"),
    ],
)
def test_maps_made_otherwise_are_not_mixed_with_new_ones(
    changes: tuple[str, ...], said: str, adapters: Any, loads: list[str], pics: Path, tmp_path: Path
) -> None:
    asked = (pics / "a.png", "--out", tmp_path / "out", "--adapter", adapters("normal"))
    assert command(*asked).exit_code == 0
    before = (tmp_path / "out/a.normal.png").read_bytes()
    refused = command(*asked, *changes)
    assert refused.exit_code == 2 and said in refused.stderr and "--overwrite" in refused.stderr
    assert (tmp_path / "out/a.normal.png").read_bytes() == before
    assert command(*asked, *changes, "--overwrite").exit_code == 0
    assert (tmp_path / "out/a.normal.png").exists() == (changes[0] != "--format")  # none left of before


def test_a_changed_picture_is_noticed_a_touched_one_is_not(
    adapters: Any, loads: list[str], pics: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict_pictures([pics / "a.png"], adapters("normal"), out)
    os.utime(pics / "a.png", (1, 1))
    assert len(predict_pictures([pics / "a.png"], adapters("normal"), out).skipped) == 1
    Image.fromarray(smooth(64, 64, 0.5)).save(pics / "a.png")
    with pytest.raises(UserError, match="made otherwise"):
        predict_pictures([pics / "a.png"], adapters("normal"), out)


# What goes wrong.


def test_one_bad_picture_stops_no_other(adapters: Any, loads: list[str], pics: Path, tmp_path: Path) -> None:
    whole = (pics / "b.png").read_bytes()
    (pics / "b.png").write_bytes(whole[:300])
    Image.new("RGB", (1, 1)).save(pics / "dot.png")
    out, arguments = tmp_path / "out", ("--adapter", adapters("normal"))
    result = command(pics, "--out", out, *arguments)
    assert result.exit_code == 3 and "2 written, 0 were finished, 2 failed" in result.stdout
    listed = {
        Path(f["picture"]).name: f["reason"] for f in json.loads((out / "failed.json").read_text())["failed"]
    }
    assert "truncated" in listed["b.png"] and "16 x 16" in listed["dot.png"]
    (pics / "b.png").write_bytes(whole)
    (pics / "dot.png").unlink()
    assert command(pics, "--out", out, *arguments).exit_code == 0
    assert not (out / "failed.json").exists() and (out / "b.normal.png").exists()


class Faulty:
    """The generator, raising or spoiling when it is asked for the nth time."""

    def __init__(self, generator: Any, at: int, error: BaseException | None) -> None:
        self.inner, self.at, self.error, self.count = generator, at, error, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def forward(self, code: Any, intrinsic: str) -> torch.Tensor:
        self.count += 1
        output: torch.Tensor = self.inner.forward(code, intrinsic)
        if self.count != self.at:
            return output
        if self.error is not None:
            raise self.error
        return output * float("nan")


@pytest.fixture
def faulty(generator: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Faulty]]:
    def install(at: int, error: BaseException | None = None) -> Faulty:
        made = Faulty(generator, at, error)
        monkeypatch.setattr("benchmarks.predict.run.registry.load", lambda *_: made)
        return made

    yield install


def drawn(pics: Path, adapter: Path, out: Path) -> Outcome:
    return predict_pictures([pics], adapter, out, settings=Settings("native", batch=1))


def test_what_is_not_finite_is_no_map(faulty: Any, adapters: Any, pics: Path, tmp_path: Path) -> None:
    faulty(2)
    outcome = drawn(pics, adapters("depth"), tmp_path / "out")
    assert outcome.status == 3 and "NaN" in outcome.failed[str(pics / "b.png")] and len(outcome.written) == 2
    assert not list((tmp_path / "out").glob("b.*"))


SHORT = "CUDA out of memory. Tried to allocate 80 GiB"


def test_where_memory_runs_out_fewer_pictures_are_drawn_at_once(
    faulty: Any, adapters: Any, pics: Path, tmp_path: Path
) -> None:
    adapter = adapters("normal")
    arguments = (pics, "--adapter", adapter, "--batch", "3", "--sheet", "--resize", "square")
    whole = command(*arguments, "--out", tmp_path / "whole")
    assert whole.exit_code == 0 and "memory" not in whole.stderr
    made = faulty(1, torch.OutOfMemoryError(SHORT))
    result = command(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "memory ran out: draw maps, 2 at a time" in result.stderr
    assert made.count == 3  # three refused, then two and one
    for path in (tmp_path / "whole").glob("*.npy"):
        np.testing.assert_allclose(np.load(tmp_path / "out" / path.name), np.load(path), atol=1e-5)


def test_too_large_for_the_memory_fails_alone(faulty: Any, adapters: Any, pics: Path, tmp_path: Path) -> None:
    faulty(1, torch.OutOfMemoryError(SHORT))
    outcome = drawn(pics, adapters("normal"), tmp_path / "out")
    assert "--resize tile" in outcome.failed[str(pics / "a.png")] and len(outcome.written) == 2


def test_ctrl_c_keeps_what_is_done(faulty: Any, adapters: Any, pics: Path, tmp_path: Path) -> None:
    faulty(3, KeyboardInterrupt())
    arguments = (pics, "--adapter", adapters("normal"), "--out", tmp_path / "out", "--batch", "1")
    result = command(*arguments)
    assert result.exit_code == 130 and "run the same command again" in result.stderr
    assert len(list((tmp_path / "out").rglob("*.json"))) == 2
    assert "1 written, 2 were finished" in command(*arguments).stdout


def test_a_full_disk_stops_all_and_leaves_whole_files(
    adapters: Any, loads: list[str], pics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, opened = files._create, []

    def full(path: Path) -> Any:
        opened.append(path)
        if len(opened) > 2:
            raise OSError(28, "No space left on device", str(path))
        return create(path)

    monkeypatch.setattr(files, "_create", full)
    result = command(pics, "--adapter", adapters("normal"), "--out", tmp_path / "out")
    assert result.exit_code == 2 and "no space left" in result.stderr
    assert not [p for p in (tmp_path / "out").rglob("*") if p.name.startswith(".")]
    monkeypatch.undo()


def test_an_output_that_cannot_be_written_fails_alone(
    adapters: Any, loads: list[str], pics: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/more").write_text("a file where a folder has to be")
    with pytest.raises(UserError, match="cannot be read"):  # seen before anything is computed
        predict_pictures([pics], adapters("normal"), tmp_path / "out")
    outcome = predict_pictures([pics], adapters("normal"), tmp_path / "out", overwrite=True)
    assert len(outcome.written) == 2 and "cannot be written" in outcome.failed[str(pics / "more/c.png")]


# What cannot be asked for.


def refused(result: Result, *facts: str) -> None:
    assert result.exit_code == 2, result.output
    assert all(fact in result.stderr for fact in ("asked:", "wrong:", *facts)), result.stderr
    assert "Traceback" not in result.output


def test_a_model_that_draws_from_seeds_cannot_be_shown_pictures(
    generator: Any, pics: Path, tmp_path: Path
) -> None:
    seeds = next(s.name for s in registry.specs() if s.takes == "seeds")
    adapter = write_adapter(tmp_path / "adapter", generator, "normal", model=seeds, weights="")
    refused(command(pics, "--out", tmp_path / "out", "--adapter", adapter), "from seeds")


def test_questions_that_cannot_be_asked(adapters: Any, loads: list[str], pics: Path, tmp_path: Path) -> None:
    out, own = ("--out", tmp_path / "out"), ("--adapter", adapters("normal"))
    refused(command(pics, *out), "without an adapter", "results/SUITE/adapters/HASH")
    refused(command(pics, *out, *own, "--model", "sd.rooms64-s1"), "trained on another model")
    refused(command(pics, *out, *own, "--model", "sd.rooms"), "did you mean")
    refused(command(pics, *out, *own, "--intrinsic", "depth"), "it was trained for normal")
    refused(command(pics, *out, *own, "--set", "steps=3"), "no such option")
    refused(command(pics, *out, *own, "--set", "steps"), "KEY=VALUE")
    refused(command(pics, *out, *own, "--colormap", "viridi"), "did you mean")
    refused(command(pics, *out, *own, "--range", "4", "1"), "near, then far")
    refused(command(pics, *out, *own, "--background", "nocolor"), "it is no color")
    refused(command(pics, *out, *own, "--device", "tpu"), "there is no device")
    refused(command(pics, *out, *own, "--batch", "0"), "at least 1")
    refused(command(*out, *own), "no picture is named")
    assert loads == [] and not (tmp_path / "out").exists()


def test_other_weights_of_the_same_name_are_refused(generator: Any, pics: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", generator, "normal", weights="0123456789abcdef-t100")
    refused(command(pics, "--out", tmp_path / "out", "--adapter", adapter), "0123456789abcdef", MODEL)


def test_a_missing_prompt_encoder_is_named(
    generator: Any, pics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = Path(str(registry.spec(MODEL).source))
    folder = tmp_path / "weights" / MODEL
    folder.mkdir(parents=True)
    for part in ("unet", "vae", "tokenizer", "scheduler"):
        (folder / part).symlink_to(zoo / part)
    adapter = write_adapter(tmp_path / "adapter", generator, "normal", weights="")
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path / "weights"))
    result = command(pics, "--out", tmp_path / "out", "--adapter", adapter)
    refused(result, "text_encoder", str(folder), "INTRINSIC_BENCH_WEIGHTS is set")
    assert list((tmp_path / "out").iterdir()) == []


def test_help_needs_nothing_heavy() -> None:
    code = "import sys, benchmarks.predict.command; print('torch' in sys.modules, 'PIL' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False", "False"]
    shown = command("--help")
    assert shown.exit_code == 0 and "may differ in scale" in " ".join(shown.output.split())


def test_a_terminal_gets_a_bar_and_reasons_above_it() -> None:
    stream = io.StringIO()
    bar = Bar(stream)
    bar.start(2, 1)
    bar.done("a")
    bar.done("b.png", "it is truncated [red]")
    bar.stop()
    shown = stream.getvalue()
    assert "1 more pictures are finished" in shown and "2/2" in shown
    assert "failed  b.png: it is truncated [red]" in shown
