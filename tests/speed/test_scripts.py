"""Every script of benchmarks.speed starts, and those that no other test runs do so on very little."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import benchmarks.speed
from benchmarks.speed import cache, checksum, cluster, predict, scale, status
from benchmarks.speed.scale import LIMITED, Spent, target, within

SCRIPTS = [
    p.stem for p in Path(benchmarks.speed.__file__).parent.glob("*.py") if "\ndef main(" in p.read_text()
]


def run(script: Any, *arguments: str) -> str:
    """What a script prints; it ended with 0."""
    found = CliRunner().invoke(script.main, list(arguments), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_every_script_says_what_it_takes(name: str) -> None:
    assert "Usage" in run(importlib.import_module(f"benchmarks.speed.{name}"), "--help")


def test_no_script_is_left_out() -> None:
    named = {"cache", "checksum", "cluster", "frechet", "linear", "predict", "sampling", "scale", "status"}
    assert named < set(SCRIPTS)


def test_cache() -> None:
    few = ("--model", "sd.rooms64-s1", "--batch", "1", "--steps", "1", "--rounds", "1", "--scenes", "2")
    text = run(cache, *few)
    assert "upstream" in text and "1.00" in text and "scenes/s" in text


def test_the_upstream_protocol_embeds_the_prompt_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from generators import load
    from generators.stable_diffusion import SingleStep

    model = load("sd.rooms64-s1")
    assert isinstance(model, SingleStep)
    asked: list[str] = []
    real = model._embed_text
    monkeypatch.setattr(model, "_embed_text", lambda prompts: asked.extend(prompts) or real(prompts))
    first, again = model.text("albedo"), model.text("albedo")
    assert first is again and asked == ["albedo"]
    model.forget_texts()
    assert torch.equal(model.text("albedo"), first) and asked == ["albedo"] * 2
    monkeypatch.setattr("generators.load", lambda name: model)
    asked.clear()
    cache.measure("sd.rooms64-s1", batch=1, steps=2, rounds=1)
    assert len(asked) == 4  # 2 steps that warm up and 2 that count; ours finds the last one's


def test_checksum(tmp_path: Path) -> None:
    text = run(checksum, "--megabytes", "1", "--rounds", "2", "--out", str(tmp_path / "t.txt"))
    assert text == (tmp_path / "t.txt").read_text() and len(text.splitlines()) == 6
    median, _, rest = text.splitlines()[1].rpartition(" (")[0].rpartition(" ")[2], "", text.splitlines()[1]
    least, most = rest.rpartition("(")[2].rstrip(")").split("-")
    assert float(least) <= float(median) <= float(most)


def test_status(tmp_path: Path) -> None:
    text = run(status, "--records", "30", "--out", str(tmp_path / "t.txt"))
    assert text.splitlines() == (tmp_path / "t.txt").read_text().splitlines()[1:] and "first look" in text


def test_predict() -> None:
    text = run(predict, "--model", "sd.rooms64-s1", "--count", "2", "--batch", "1", "--format", "png8")
    assert "network, all" in text and "pictures/s" in text


def test_cluster_says_whether_the_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"local": 1, "ray": 1}
    monkeypatch.setattr(
        cluster, "timed", lambda cells, name: cluster.Run(1.0, 3.0, 6, 1, [{"a": told[name]}])
    )
    assert "the same in all: yes" in run(cluster, "--repeats", "1")
    told["ray"] = 2
    assert "the same in all: NO" in run(cluster, "--repeats", "1")


# The limits of plan and report.


def test_limits() -> None:
    good, slow, large = Spent(9.0, 9.0, 700.0), Spent(11.0, 5.0, 700.0), Spent(9.0, 9.0, 1100.0)
    assert within("plan", [good, good]) and within("report", [good, large]) and within("plan", []) is None
    assert within("plan", [good, slow]) is within("plan", [large]) is False
    assert within("report", [Spent(1.0, 1.0, 1.0, over=True)]) is False
    assert target("plan", True) == "Target: plan of 100,000 cells in at most 10 s and 1024 MiB: met."
    assert target("report", None).endswith("in at most 60 s: not measured.")


@pytest.mark.parametrize(("cells", "wall", "code"), [(LIMITED, 9.0, 0), (LIMITED, 99.0, 1), (1000, 99.0, 0)])
@pytest.mark.parametrize("command", ["plan", "report"])
def test_a_missed_limit_is_an_exit_status(
    command: str, cells: int, wall: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(scale, "RESULTS", tmp_path)
    monkeypatch.setattr(scale, "_store", lambda *given: nullcontext((tmp_path / "s.toml", tmp_path / "s")))
    monkeypatch.setattr(scale, "spent", lambda *given: Spent(wall if wall < 60 else 99.0, 1.0, 100.0))
    found = CliRunner().invoke(scale.main, [command, "--cells", str(cells)], catch_exceptions=False)
    assert found.exit_code == code
    word = {0: "met" if cells == LIMITED else "not measured", 1: "missed"}[code]
    assert f": {word}." in (tmp_path / f"scale-{command}.txt").read_text()


def test_another_checkout_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(scale, "RESULTS", tmp_path)
    monkeypatch.setattr(scale, "_store", lambda *given: nullcontext((tmp_path / "s.toml", tmp_path / "s")))
    here = Path(scale.__file__).parents[2]
    monkeypatch.setattr(scale, "spent", lambda a, root, limit: Spent(1.0 if root == here else 99.0, 1.0, 1.0))
    asked = ["report", "--cells", str(LIMITED), "--against", str(tmp_path)]
    assert CliRunner().invoke(scale.main, asked, catch_exceptions=False).exit_code == 0
