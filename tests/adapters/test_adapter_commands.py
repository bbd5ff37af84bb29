"""`intrinsic-bench adapter import | export | show` as a user types them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from benchmarks.adapters import DIFFUSERS_FILE, LAYOUTS
from benchmarks.cli import main
from generators import registry
from generators.base import Generator
from probes import adapter_layouts
from probes.adapter_layouts import read_file
from probes.adapters import CONFIG, FACTS, LORA, attached, read_facts
from tests.adapters.small import ZOO, attention, zoo_adapter


def typed(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def fails(*words: Any) -> str:
    result = typed(*words)
    assert result.exit_code == 2, result.output
    return result.output


@pytest.fixture(scope="module")
def zoo() -> Generator:
    return registry.load(ZOO)


@pytest.fixture
def folder(tmp_path: Path, zoo: Generator) -> Path:
    return zoo_adapter(tmp_path / "adapter", zoo)[0]


def authors(path: Path, generator: Generator, prefix: str = "") -> Path:
    """A file as the paper's authors published them, for a small model."""
    random, state = torch.Generator().manual_seed(4), {}
    for module, (wide, narrow) in attention(generator.network).items():
        block, which = module.split(".to_")
        stem = f"{prefix}{block}.processor.to_{which.removesuffix('.0')}_lora"
        state[f"{stem}.down.weight"] = 0.1 * torch.randn(3, narrow, generator=random)
        state[f"{stem}.up.weight"] = 0.1 * torch.randn(wide, 3, generator=random)
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file(state, path)
    return path


@pytest.mark.parametrize("name", ["intrinsic_lora_sd15_depth.safetensors", "authors-depth.bin"])
@pytest.mark.parametrize("prefix", ["", "unet."])
def test_an_authors_file_comes_in_draws_and_goes_out_the_same(
    tmp_path: Path, zoo: Generator, name: str, prefix: str
) -> None:
    file = authors(tmp_path / name, zoo, prefix)
    result = typed("adapter", "import", file, "--model", ZOO, "--out", tmp_path / "in" / "depth")
    assert result.exit_code == 0, result.output
    assert "56 layers of rank 3, scale 1; depth on sd.rooms64-s1" in result.output
    known = read_facts(tmp_path / "in" / "depth")
    assert (known.model, known.weights, known.intrinsic, known.method) == (ZOO, "", "depth", "lora")
    assert known.options == {"rank": 3, "variant": "lora", "timestep": 100}
    assert known.source == f"{name} sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    x = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        plain = zoo.forward(zoo.embed(x), "depth")
        with attached(zoo, tmp_path / "in" / "depth"):
            assert not torch.equal(zoo.forward(zoo.embed(x), "depth"), plain)
    for ending in (".bin", ".safetensors"):
        out = tmp_path / f"out{ending}"
        assert (
            typed(
                "adapter", "export", tmp_path / "in" / "depth", "--layout", "processor", "--out", out
            ).exit_code
            == 0
        )
        before, after = read_file(file), read_file(out)
        assert {k.removeprefix(prefix) for k in before} == set(after)
        assert all(torch.equal(after[k.removeprefix(prefix)], v) for k, v in before.items())


def test_the_authors_protocol_is_the_last_timestep(tmp_path: Path, zoo: Generator) -> None:
    file = authors(tmp_path / "intrinsic_lora_sd15_normal.safetensors", zoo)
    assert typed("adapter", "import", file, "--model", "sd.v1-5", "--out", tmp_path / "a").exit_code == 0
    assert read_facts(tmp_path / "a").options["timestep"] == 999
    more = ("--timestep", 300, "--intrinsic", "albedo")
    assert (
        typed("adapter", "import", file, "--model", "sd.v1-5", "--out", tmp_path / "b", *more).exit_code == 0
    )
    known = read_facts(tmp_path / "b")
    assert (known.options["timestep"], known.intrinsic) == (300, "albedo")


@pytest.mark.parametrize("kind", [{}, {"dora": True}, {"rank_stabilized": True}, {"alphas": {}}])
def test_each_layout_comes_back_as_it_went(tmp_path: Path, zoo: Generator, kind: dict[str, Any]) -> None:
    more = {"alphas": dict.fromkeys(list(attention(zoo.network))[:5], 3.0)} if "alphas" in kind else kind
    folder, _ = zoo_adapter(tmp_path / "adapter", zoo, **more)
    config = json.loads((folder / CONFIG).read_text())
    for layout, place in (("peft", folder), ("diffusers", tmp_path / "d")):
        if layout == "diffusers":
            assert typed("adapter", "export", folder, "--layout", "diffusers", "--out", place).exit_code == 0
            place = place / DIFFUSERS_FILE
        else:
            (folder / FACTS).unlink()
        words = ("--model", ZOO, "--intrinsic", "normal", "--out", tmp_path / layout)
        result = typed("adapter", "import", place, *words)
        assert result.exit_code == 0, result.output
        assert (tmp_path / layout / LORA).read_bytes() == (folder / LORA).read_bytes()
        again = json.loads((tmp_path / layout / CONFIG).read_text())
        for key in ("r", "lora_alpha", "alpha_pattern", "use_dora", "use_rslora", "target_modules"):
            assert again[key] == config[key], key
        if layout == "peft":
            (folder / FACTS).write_bytes((tmp_path / layout / FACTS).read_bytes())


def test_peft_export_is_the_same_files_without_what_is_not_the_adapters(tmp_path: Path, folder: Path) -> None:
    (folder / "README.md").write_text("made by peft, names a folder of this machine")
    out = tmp_path / "out"
    assert typed("adapter", "export", folder, "--layout", "peft", "--out", out).exit_code == 0
    assert sorted(p.name for p in out.iterdir()) == sorted([LORA, CONFIG, FACTS])
    assert all((out / p.name).read_bytes() == (folder / p.name).read_bytes() for p in out.iterdir())


def test_diffusers_export_is_a_file_or_a_folder(tmp_path: Path, folder: Path) -> None:
    for out, made in ((tmp_path / "d", tmp_path / "d" / DIFFUSERS_FILE), (tmp_path / "x.safetensors",) * 2):
        result = typed("adapter", "export", folder, "--layout", "diffusers", "--out", out)
        assert result.exit_code == 0 and str(made) in result.output
        assert len(load_file(made)) == 112


def test_show_says_what_it_is_and_how_it_can_leave(tmp_path: Path, folder: Path, zoo: Generator) -> None:
    result = typed("adapter", "show", folder)
    assert result.exit_code == 0, result.output
    for text in (
        ZOO,
        "normal",
        "lora",
        "56 layers of rank 4",
        registry.identity(ZOO),
        "peft; diffusers; processor",
    ):
        assert text in result.output
    dora, _ = zoo_adapter(tmp_path / "dora", zoo, dora=True)
    assert "processor (no: it is DoRA" in typed("adapter", "show", dora).output


def test_the_command_line_offers_every_layout() -> None:
    assert LAYOUTS == adapter_layouts.LAYOUTS == tuple(adapter_layouts.PATTERNS)[::-1]


# Nothing is replaced unasked.


@pytest.mark.parametrize("layout", ["peft", "diffusers", "processor"])
def test_what_is_there_stays_unless_told(tmp_path: Path, folder: Path, layout: str) -> None:
    out = tmp_path / {"peft": "out", "diffusers": "x.safetensors", "processor": "x.bin"}[layout]
    words = ("adapter", "export", folder, "--layout", layout, "--out", out)
    assert typed(*words).exit_code == 0
    assert "it exists" in fails(*words)
    assert typed(*words, "--overwrite").exit_code == 0


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path, folder: Path, zoo: Generator) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    words = ("--out", tmp_path / "home", "--overwrite")
    assert "more than an adapter" in fails("adapter", "export", folder, "--layout", "peft", *words)
    file = authors(tmp_path / "x_normal.bin", zoo)
    assert "more than an adapter" in fails("adapter", "import", file, "--model", ZOO, *words)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "mine"


def test_a_failed_import_leaves_nothing(tmp_path: Path, zoo: Generator) -> None:
    file = authors(tmp_path / "x_normal.bin", zoo)
    file.write_bytes(file.read_bytes()[:-100])
    fails("adapter", "import", file, "--model", ZOO, "--out", tmp_path / "out" / "a")
    assert not (tmp_path / "out").exists()


# Refused.


def test_what_cannot_be_known_is_asked_for(tmp_path: Path, folder: Path, zoo: Generator) -> None:
    file, out = authors(tmp_path / "x.bin", zoo), ("--out", tmp_path / "o")
    assert "does not say what it draws" in fails("adapter", "import", file, "--model", ZOO, *out)
    assert "no intrinsic" in fails("adapter", "import", file, "--model", ZOO, "--intrinsic", "colour", *out)
    assert "did you mean 'sd.v1-5'" in fails("adapter", "import", file, "--model", "sd.v15", *out)
    assert "already" in fails("adapter", "import", folder, "--model", ZOO, *out)
    gone = tmp_path / "gone_normal.bin"
    assert "No such file" in fails("adapter", "import", gone, "--model", ZOO, *out)
    assert "file .bin or .safetensors" in fails("adapter", "export", folder, "--layout", "processor", *out)
    assert "no such folder" in fails("adapter", "show", tmp_path / "gone")
    assert not (tmp_path / "o").exists()


def test_a_file_of_peft_without_its_config_is_refused(tmp_path: Path, folder: Path) -> None:
    tensors = load_file(folder / LORA)
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / LORA
    save_file(tensors, alone)
    words = ("--model", ZOO, "--intrinsic", "normal", "--out", tmp_path / "o")
    told = fails("adapter", "import", alone, *words)
    assert "nothing says how strongly" in told and f"copy {CONFIG} into {alone.parent}" in told
    assert "nothing says how strongly" in fails("adapter", "import", alone.parent, *words)
    names = {key.removesuffix(".lora_A.weight") for key in tensors if key.endswith("lora_A.weight")}
    save_file(tensors | {f"{name}.alpha": torch.tensor(2.0) for name in names}, alone)
    assert "scale 0.5" in typed("adapter", "import", alone, *words).output


def test_a_head_and_other_methods_leave_in_their_own_layout_only(tmp_path: Path, folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"modules_to_save": ["head"]}))
    for layout in ("diffusers", "processor"):
        words = ("--layout", layout, "--out", tmp_path / "x.safetensors")
        assert "it has a trained head (head)" in fails("adapter", "export", folder, *words)
    (folder / LORA).rename(folder / "network.safetensors")
    for layout in ("peft", "diffusers", "processor"):
        words = ("--layout", layout, "--out", tmp_path / "x.safetensors")
        assert "it is no low-rank adapter" in fails("adapter", "export", folder, *words)
