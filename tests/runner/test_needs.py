"""What a plan says has to be fetched, and what it costs on a GPU."""

from dataclasses import replace

import pytest

from benchmarks.cell import NO_MODEL
from benchmarks.costs import gpu_text, tflop
from benchmarks.needs import PARAMETERS, Need, all_needs, model_need, size_text
from benchmarks.plan import plan, shared_training
from benchmarks.suite import load_suite, make_cell, shipped
from generators import registry
from generators.sources import SOURCES

PAPER = [name for name in shipped() if not name.startswith("rooms")]
SMALL = {"train": 12, "validation": 4, "test": 6}


@pytest.mark.parametrize("name", PAPER)
def test_every_suite_of_the_paper_says_what_it_needs_and_costs(name: str) -> None:
    made = plan(name)
    assert made.rows and made.needs
    for need in made.needs:
        assert need.licence and need.command.startswith("intrinsic-bench ")
    text = str(made)
    missing = [need for need in made.needs if not need.here]
    assert all(need.command in text for need in missing) and bool(missing) == ("to fetch:" in text)
    assert "PFLOP" in text and "of memory" in text
    suite, known = load_suite(name), shipped()
    assert suite.twins and all(twin in known for twin in suite.twins)


def test_embedded_models_need_nothing() -> None:
    for spec in registry.specs():
        if spec.embedded:
            assert model_need(spec.name) is None
    assert all_needs([make_cell("sd.rooms64-s1", "normal", "lora", **SMALL)]) == ()


def test_a_model_is_here_once_its_folder_is(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("INTRINSIC_BENCH_WEIGHTS", str(tmp_path))
    for name in ("sd.v1-5", "dinov2.giant", "stylegan2.ffhq256"):
        need = model_need(name)
        assert need is not None and not need.here
        (tmp_path / name).mkdir()
        if name.startswith("stylegan2"):
            (tmp_path / f"{name}.pkl").write_bytes(b"weights")
        need = model_need(name)
        assert need is not None and need.here


@pytest.mark.parametrize("name", [spec.name for spec in registry.specs() if spec.name in SOURCES])
def test_the_command_accepts_the_licence_that_fetch_asks_for(name: str) -> None:
    need, demanded = model_need(name), SOURCES[name].non_commercial
    assert need is not None and need.command.endswith(" --accept-licence") == demanded
    assert name != "stylegan2.ffhq256" or demanded


def test_a_plugin_says_itself_whether_its_licence_must_be_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = replace(registry.spec("stylegan2.ffhq256"), name="mine.x", options={"non_commercial": True})
    monkeypatch.setattr(registry, "spec", lambda name: found)
    monkeypatch.setattr("benchmarks.needs._here", lambda spec: False)
    need = model_need("mine.x")
    assert need is not None and need.command == "intrinsic-bench fetch mine.x --accept-licence"


def test_sizes_of_hub_models_are_their_parameters() -> None:
    """Counted on the meta device, as the published configurations say; the text encoder apart."""
    for name in ("sd.v1-5", "sd.v2-1", "dinov2.small", "dinov2.giant"):
        spec = registry.spec(name)
        counted = registry.family_module(name).count(spec)["parameters"]
        text = {"sd.v1-5": 123_060_480, "sd.v2-1": 340_387_840}.get(name, 0)
        assert PARAMETERS[str(spec.source)] == counted + text


def test_sizes_are_said_in_powers_of_ten() -> None:
    assert [size_text(v) for v in (None, 1_947_430_960, 346_000_000)] == ["?", "1.9 GB", "346.0 MB"]
    assert str(Need("a", "data", None, "MIT", True, "x")).split() == ["here", "data", "a", "?", "MIT"]


def test_arithmetic_grows_with_steps_and_pixels() -> None:
    def cell(**more):  # type: ignore[no-untyped-def]
        options = {"steps": more.pop("steps", 100), "batch": 4}
        return make_cell("sd.v1-5", "normal", "lora", options, size=512, **SMALL, **more)

    once, twice, large = tflop(cell()), tflop(cell(steps=200)), tflop(cell(test_size=1024))
    assert once is not None and twice is not None and large is not None
    assert twice[0] - once[0] == pytest.approx(100 * 4 * 2 * 0.8033) and twice[1] == once[1]
    assert large[0] == once[0] and large[1] > once[1]
    assert tflop(make_cell(NO_MODEL, "normal", "constant", **SMALL)) is None
    assert gpu_text([make_cell("sd.rooms64-s1", "normal", "lora", **SMALL)], shared_training) == ""


def test_one_training_of_a_sampler_is_counted_once() -> None:
    def cells(*steps: int):  # type: ignore[no-untyped-def]
        asked = [{"steps": 1000, "batch": 4, "sampler_steps": n} for n in steps]
        return [make_cell("sd-aug.v1-5", "normal", "lora", options, size=512, **SMALL) for options in asked]

    fitting, _ = tflop(cells(1)[0]) or (0.0, 0.0)
    work = [
        float(gpu_text(part, shared_training).split()[3].replace(",", "")) for part in (cells(1), cells(1, 2))
    ]
    assert work[1] - work[0] < fitting / 1000 / 2
