"""The model card and the upload: true numbers or none, code that runs, the base model's licence."""

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from benchmarks import make_cell
from benchmarks.card import LICENCES, NOT_MEASURED, card
from benchmarks.card_code import diffusers_usage, reproduction, usage
from benchmarks.cell import Record
from benchmarks.cli import main
from benchmarks.execute import execute
from benchmarks.metrics.statistics import bootstrap_interval
from benchmarks.predict.settings import depth_unit
from benchmarks.store import Store
from generators import registry
from generators.stable_diffusion import ZOO as ZOO_FOLDER
from probes.adapters import CONFIG, FACTS, LORA, attached, read_facts, write_facts
from probes.intrinsics import DEPTH_METERS, INTRINSICS
from tests.adapters.small import ZOO, facts, zoo_adapter

ROOT = Path(__file__).parents[2]
REPO = "ada/room-normals"
LAST = "sd.rooms64-s5"


def typed(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def header(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A store with one short training, and its record."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.prepare()
    options = {"steps": 2, "batch": 4, "rank": 2, "rate": 1e-2}
    cell = make_cell(LAST, "normal", "lora", options, train=8, validation=4, test=6)
    record = execute(cell, store, lambda share, phase: None)
    store.write(record)
    return store.folder, record


@pytest.fixture
def pushed(tmp_path: Path, trained: tuple[Path, Record]) -> Path:
    """The folder of a dry run."""
    folder = trained[0] / str(trained[1].adapter)
    result = typed("push", folder, REPO, "--dry-run", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    return tmp_path / "out"


# The card.


def test_the_card_has_the_records_numbers_with_intervals(pushed: Path, trained: tuple[Path, Record]) -> None:
    text, record = (pushed / "README.md").read_text(), trained[1]
    assert sorted(p.name for p in pushed.iterdir()) == sorted(
        ["README.md", LORA, CONFIG, FACTS, "pytorch_lora_weights.safetensors"]
    )
    for name, value in record.scores.items():
        interval = bootstrap_interval(record.per_image[name])
        assert f"| {value:.4f} | {interval.low:.4f} to {interval.high:.4f} |" in text
    said = header(text)
    assert said["license"] == "apache-2.0" and said["library_name"] == "peft" and "base_model" not in said
    listed = {m["type"]: m["value"] for m in said["model-index"][0]["results"][0]["metrics"]}
    assert listed == {name: round(value, 6) for name, value in record.scores.items()}
    for part in (record.cell.hash, record.cell.world, "8 to train", "arXiv:2311.17137", LAST):
        assert part in text
    assert f"{record.parameters['trainable']:,}" in text and NOT_MEASURED not in text


def test_nothing_of_this_machine_is_published(pushed: Path, trained: tuple[Path, Record]) -> None:
    for path in pushed.iterdir():
        content = path.read_bytes()
        for place in (ROOT, trained[0], pushed):
            assert str(place).encode() not in content, path.name


def without_a_record(folder: Path, trained: tuple[Path, Record], store: Path) -> str:
    result = typed(
        "push", trained[0] / str(trained[1].adapter), REPO, "--dry-run", "--out", folder, "--store", store
    )
    assert result.exit_code == 0, result.output
    return (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", ["none", "failed"])
def test_what_was_not_measured_is_not_made_up(
    tmp_path: Path, trained: tuple[Path, Record], kind: str
) -> None:
    store = Store(tmp_path / "other")
    store.prepare()
    if kind == "failed":
        store.write(Record(trained[1].cell, "failed", "Diverged: the loss is nan"))
    text = without_a_record(tmp_path / "out", trained, tmp_path / "other")
    assert NOT_MEASURED in text and "model-index" not in header(text)
    assert "95 %" not in text and not any(f"{v:.4f}" in text for v in trained[1].scores.values())


def test_an_imported_adapter_says_that_its_training_is_not_known(tmp_path: Path) -> None:
    folder, _ = zoo_adapter(tmp_path / "a", registry.load(ZOO))
    source = "intrinsic_lora_sd15_normal.safetensors sha256:0"
    options = {"rank": 4, "variant": "lora", "timestep": 999}
    write_facts(folder, facts("sd.v1-5", weights="", source=source, options=options))
    assert typed("push", folder, REPO, "--dry-run", "--out", tmp_path / "out").exit_code == 0
    text = (tmp_path / "out" / "README.md").read_text()
    said = header(text)
    assert said["license"] == "creativeml-openrail-m"
    assert said["base_model"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert NOT_MEASURED in text and "Its training is not known here." in text and source in text
    assert "With diffusers alone" in text and ", 999, encoder_hidden_states" in text
    assert (
        '"base_model_name_or_path": "stable-diffusion-v1-5/stable-diffusion-v1-5"'
        in (tmp_path / "out" / CONFIG).read_text()
    )


@pytest.mark.parametrize("spec", registry.specs(), ids=lambda spec: spec.name)
def test_every_base_models_licence_is_inherited(spec: Any) -> None:
    known = facts(spec.name, weights="x", cell=None)
    text = card(known, spec, REPO, None, frozenset({LORA}))
    said = header(text)
    if spec.licence in LICENCES:
        assert said["license"] == LICENCES[spec.licence] and "license_name" not in said
    else:
        assert said["license"] == "other" and said["license_name"]
    assert spec.licence in text and ("base_model" in said) <= (not spec.embedded)


def test_rail_and_other_licences_have_the_hubs_names() -> None:
    assert LICENCES[registry.spec("sd.v1-5").licence] == "creativeml-openrail-m"
    assert LICENCES[registry.spec("sd.v2-1").licence] == "openrail++"
    assert registry.spec("stylegan2.ffhq1024").licence not in LICENCES


def test_finetuned_weights_have_a_card_as_well(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "a").mkdir()
    save_file({"x": torch.ones(2)}, tmp_path / "a" / "network.safetensors")
    write_facts(tmp_path / "a", facts(method="finetune"))
    assert typed("push", tmp_path / "a", REPO, "--dry-run", "--out", tmp_path / "out").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        ["README.md", FACTS, "network.safetensors"]
    )
    assert "library_name" not in header((tmp_path / "out" / "README.md").read_text())


# Its code.


def ran(code: str, folder: Path) -> str:
    """What a program prints in a folder with a picture."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_code_on_the_card_draws_what_the_adapter_draws(tmp_path: Path, pushed: Path) -> None:
    text, known, spec = (pushed / "README.md").read_text(), read_facts(pushed), registry.spec(LAST)
    pixels = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "picture.png")
    generator = registry.load(LAST)
    with torch.no_grad(), attached(generator, pushed):
        code = generator.embed(pixels.permute(2, 0, 1)[None] / 127.5 - 1)
        drawn = generator.decode(generator.forward(code, "normal"))

    first = usage(spec, REPO)
    assert first in text
    local = first.replace(f'Path(snapshot_download("{REPO}"))', f'Path("{pushed}")')
    assert local != first
    ran(f'{local}\ntorch.save(found, "ours.pt")', tmp_path)
    ours = torch.load(tmp_path / "ours.pt", weights_only=True)
    torch.testing.assert_close(ours, INTRINSICS["normal"].from_picture(drawn), rtol=1e-5, atol=1e-5)

    alone = diffusers_usage(known, spec, str(ZOO_FOLDER), str(pushed))
    ran(f'{alone}\ntorch.save(drawn, "theirs.pt")', tmp_path)
    theirs = torch.load(tmp_path / "theirs.pt", weights_only=True)
    torch.testing.assert_close(theirs, drawn, rtol=1e-4, atol=1e-4)


def test_a_model_of_seeds_is_asked_about_its_own_pictures(tmp_path: Path) -> None:
    code = usage(registry.spec("stylegan2.rooms64-s1"), REPO)
    assert "generator.sample([0])" in code and "picture.png" not in code
    ran(f"import ast\nast.parse({code!r})", tmp_path)


def test_the_code_that_repeats_it_makes_the_same_cell(pushed: Path, trained: tuple[Path, Record]) -> None:
    code = reproduction(trained[1].cell)
    assert code in (pushed / "README.md").read_text()
    assert ran(code.partition("record = run(")[0], pushed).strip() == trained[1].cell.hash


ELSEWHERE = {"data": "objects", "train_data": "rooms", "train_labels": "rooms-network", "test_size": 128}


def test_what_it_was_trained_on_is_told_and_repeated(tmp_path: Path) -> None:
    cell = make_cell(LAST, "normal", "lora", {"steps": 2}, train=8, validation=4, test=6, **ELSEWHERE)
    text = card(facts(LAST, cell=asdict(cell)), registry.spec(LAST), REPO, None, frozenset({LORA}))
    training = text.partition("## Training")[2].partition("## Results")[0]
    for row in ("| data | rooms |", "| label source | rooms-network |", "| size | 64 x 64 |"):
        assert row in training
    assert ran(reproduction(cell).partition("record = run(")[0], tmp_path).strip() == cell.hash
    in_meters = facts(LAST, intrinsic="depth", cell=asdict(cell))
    assert depth_unit(in_meters).endswith("in the data set rooms it was trained on")


@pytest.mark.parametrize("model", [LAST, "stylegan2.rooms64-s1"])
def test_the_code_reads_depth_as_the_cell_asked_for_it(model: str, tmp_path: Path) -> None:
    code = f"""import torch
from benchmarks.adapter_maps import intrinsic_of
from tests.adapters import small
drawn = torch.ones(1, 3, 4, 4)
for alignment in ("unit", "none"):
    facts = small.facts(intrinsic="depth", cell={{"alignment": alignment}})
    {usage(registry.spec(model), REPO).splitlines()[-1]}
    print(float(found.mean()))"""
    assert ran(code, tmp_path).split() == ["1.0", str(DEPTH_METERS)]


def test_intervals_draw_groups_together(trained: tuple[Path, Record]) -> None:
    record, groups = trained[1], ["a", "a", "a", "b", "b", "c"]
    grouped = replace(record, details={**record.details, "groups": groups})
    known = facts(LAST, cell=asdict(record.cell))
    text = card(known, registry.spec(LAST), REPO, grouped, frozenset({LORA}))
    for name, values in record.per_image.items():
        interval = bootstrap_interval(values, clusters=groups)
        assert f"| {record.scores[name]:.4f} | {interval.low:.4f} to {interval.high:.4f} |" in text
    assert "bootstrap over groups of pictures" in text


# The upload.


class Hub:
    """The hub's client, without the hub."""

    def __init__(self, exists: bool = False, error: Exception | None = None) -> None:
        self.exists, self.error, self.calls, self.files = exists, error, [], {}  # type: ignore[var-annotated]

    def repo_exists(self, repo_id: str) -> bool:
        return self.exists

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        self.calls.append(("create", repo_id, private))
        return f"https://hub.test/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(("upload", repo_id, commit_message))
        self.files = {p.name: p.read_bytes() for p in Path(folder_path).iterdir()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    return made


@pytest.mark.parametrize("public", [False, True])
def test_an_upload_is_private_unless_told(
    hub: Hub, pushed: Path, trained: tuple[Path, Record], public: bool
) -> None:
    result = typed("push", trained[0] / str(trained[1].adapter), REPO, *(["--public"] * public))
    assert result.exit_code == 0 and f"https://hub.test/{REPO}" in result.output
    assert hub.calls[0] == ("create", REPO, not public) and hub.calls[1][:2] == ("upload", REPO)
    assert hub.files == {p.name: p.read_bytes() for p in pushed.iterdir()}


def test_a_repository_that_exists_is_left_alone_unless_told(hub: Hub, trained: tuple[Path, Record]) -> None:
    hub.exists, folder = True, trained[0] / str(trained[1].adapter)
    result = typed("push", folder, REPO)
    assert result.exit_code == 2 and "it exists" in result.output and hub.calls == []
    assert typed("push", folder, REPO, "--overwrite").exit_code == 0 and len(hub.calls) == 2


@pytest.mark.parametrize("error", [ConnectionError("no route"), PermissionError("401"), ValueError("odd")])
def test_what_the_hub_says_reaches_the_user(hub: Hub, trained: tuple[Path, Record], error: Exception) -> None:
    hub.error = error
    result = typed("push", trained[0] / str(trained[1].adapter), REPO)
    assert result.exit_code == 2 and f"{type(error).__name__}: {error}" in result.output
    assert "--dry-run" in result.output


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["no-owner"], "it has no owner"),
        (["a b/c"], "the repository 'a b/c'"),
        ([REPO, "--dry-run"], "--dry-run writes to --out"),
        ([REPO, "--out", "x"], "--out belongs to --dry-run"),
        ([REPO, "--store", "nowhere"], "it has no records"),
    ],
)
def test_wrong_questions_are_answered(
    hub: Hub, trained: tuple[Path, Record], words: list[str], wrong: str
) -> None:
    result = typed("push", trained[0] / str(trained[1].adapter), *words)
    assert result.exit_code == 2 and wrong in result.output and hub.calls == []


def test_a_dry_run_replaces_nothing_unasked(pushed: Path, trained: tuple[Path, Record]) -> None:
    words = ("push", trained[0] / str(trained[1].adapter), REPO, "--dry-run", "--out", pushed)
    assert "it exists" in typed(*words).output
    assert typed(*words, "--overwrite").exit_code == 0


@pytest.mark.parametrize("kind", ["noise", "another method"])
def test_what_nobody_could_use_is_not_pushed(tmp_path: Path, hub: Hub, kind: str) -> None:
    folder, _ = zoo_adapter(tmp_path / "a", registry.load(ZOO))
    if kind == "noise":
        write_facts(folder, facts(options={"noise": 0.5}))
    else:
        (folder / LORA).rename(folder / "linear.safetensors")
    result = typed("push", folder, REPO)
    assert result.exit_code == 2 and hub.calls == []
    assert ("noise = 0.5" if kind == "noise" else "linear.safetensors cannot be put on") in result.output


def test_a_cell_that_is_not_whole_is_said_so(tmp_path: Path, trained: tuple[Path, Record]) -> None:
    folder, _ = zoo_adapter(tmp_path / "a", registry.load(ZOO))
    cell = asdict(trained[1].cell)
    del cell["world"]
    write_facts(folder, facts(cell=cell))
    result = typed("push", folder, REPO, "--dry-run", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "it is not whole" in result.output
