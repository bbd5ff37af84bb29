"""Table 3 from a command to its report, on small files in the true formats, with no step left out.

A DIODE tree with its list, Stable Diffusion v1-5 as a folder of diffusers', Omnidata's Lightning checkpoint,
ZoeDepth as a folder of transformers': each is found where its user puts it. Only sizes and counts of the
shipped suite are changed; DINOv2 giant and AUG, which have no small twins in these formats, are left out.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.cell import Cell, Record
from benchmarks.plan import plan
from benchmarks.predictors import omnidata
from benchmarks.predictors.labeling import forget
from benchmarks.report import write_report
from benchmarks.report.paper import write_paper
from benchmarks.runner import run_suite
from benchmarks.suite import SUITES, Suite, load_suite
from generators.errors import UserError
from generators.stable_diffusion import ZOO
from tests.data.diode_tree import write_tree
from tests.predictors.dpt_reference import SMALL, checkpoint, config, reference
from tests.predictors.folders import write_zoedepth

HERE = Path(__file__).parents[2]
TEST, TRAIN = 6, 5  # pictures of the small tree's list, and of its training scans


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own: nothing is on it yet."""
    for name, folder in (("DATA", "data"), ("WEIGHTS", "weights"), ("CACHE", "cache")):
        monkeypatch.setenv(f"INTRINSIC_BENCH_{name}", str(tmp_path / folder))
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    read = omnidata.read_network
    monkeypatch.setattr(omnidata, "read_network", lambda path: read(path, config(SMALL)))
    yield tmp_path
    forget()


def small_suite(folder: Path) -> Path:
    """The shipped suite with other sizes and counts."""
    text = (SUITES / "table3.toml").read_text(encoding="utf-8")
    numbers = {"size = 512": "size = 64", "train = 4000": f"train = {TRAIN}", "test = 612": f"test = {TEST}"}
    numbers |= {"validation = 50": "validation = 2", "steps = 15000": "steps = 3"}
    for old, new in numbers.items():
        assert old in text
        text = text.replace(old, new)
    blocks = re.split(r"\n(?=\[\[grid\]\])", text)
    kept = [block for block in blocks if "dinov2.giant" not in block and "sd-aug" not in block]
    assert len(kept) == len(blocks) - 4
    path = folder / "table3.toml"
    path.write_text("\n".join(kept), encoding="utf-8")
    return path


def bring_data(machine: Path) -> None:
    (machine / "data" / "diode").mkdir()
    write_tree(machine / "data" / "diode", each=3)


def bring_weights(machine: Path) -> None:
    place = machine / "weights"
    (place / "sd.v1-5").mkdir()
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.copytree(ZOO / part, place / "sd.v1-5" / part)
    checkpoint(reference(SMALL)).write(place / "omnidata-v2.ckpt")
    write_zoedepth(place / "zoedepth")


def row(record: Record) -> tuple[str, str]:
    return record.cell.intrinsic, record.cell.method


def run_here(suite: Suite, store: Path, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Record]:
    """As `run` does, in this process: the small Omnidata is a patch of it."""
    from benchmarks import runner
    from benchmarks.execute import execute
    from benchmarks.store import Store

    def compute(cells: list[Cell], place: Store, **options: object) -> runner.Outcome:
        runner.refuse_missing(cells)
        for cell in cells:
            place.write(execute(cell, place, lambda share, phase: None))
        return runner.Outcome([place.read(cell) for cell in cells], len(cells), {})  # type: ignore[list-item]

    monkeypatch.setattr(runner, "compute", compute)
    return {row(record): record for record in run_suite(suite, store).records}


@pytest.mark.slow
def test_table_3(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, store = small_suite(machine), machine / "results" / "table3"
    absent = plan(path, store)
    assert {need.kind for need in absent.needs if not need.here} == {"data", "model", "predictor"}
    assert not store.exists()
    with pytest.raises(UserError, match="not on this machine") as refused:
        run_suite(load_suite(path), store)
    assert "intrinsic-bench fetch diode.val" in refused.value.todo and not store.exists()

    bring_data(machine)
    bring_weights(machine)
    suite = load_suite(path)
    assert all(need.here for need in plan(suite, store).needs)
    records = run_here(suite, store, monkeypatch)
    assert set(records) == {(i, m) for i in ("normal", "depth") for m in ("lora", "predictor")}
    for record in records.values():
        assert record.status == "done"
        groups = record.details["groups"]
        assert len(groups) == TEST and len(set(groups)) == 3, "two pictures of each scan"
        assert record.scores["rms" if record.cell.intrinsic == "depth" else "mean_angular_error"] > 0
    assert records["depth", "lora"].scores["rms"] < 1, "relative depth has no meters"

    out = machine / "paper"
    shutil.copytree(HERE / "results" / "published", machine / "results" / "published")
    write_paper(machine / "results", out)
    table = (out / "table-3.md").read_text(encoding="utf-8")
    measured = records["normal", "lora"].scores["mean_angular_error"]
    assert f"{measured:.2f}" in table and f"{measured - 20.31:+.2f}" in table
    omnidata_row = records["normal", "predictor"].scores["mean_angular_error"]
    assert f"{omnidata_row:.2f}" in table and f"{omnidata_row - 18.90:+.2f}" in table
    assert json.loads((store / "suite.json").read_text())["name"] == "table3"
    assert any(file.name == "index.html" for file in write_report(store, store / "report"))
