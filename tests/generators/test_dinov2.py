"""The DINOv2 adapter: full-size numbers, patches to pixels, folders of old and new releases, broken files."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import make_cell
from generators import dinov2, load, registry, spec
from generators.errors import UserError
from generators.hub import WEIGHTS_VARIABLE
from generators.networks.dinov2 import new_head, patches_to_pixels, resize
from generators.random_init import blend_noise
from generators.testing import check_generator
from probes.lora import target_layers, target_pattern
from tests.generators.small_dinov2 import (
    hub_names,
    lively,
    random_model,
    small_spec,
    with_old_names,
    write_folder,
)

KINDS = [(0, False), (0, True), (4, False), (4, True)]  # registers, gated blocks
HERE = [
    s.name
    for s in dinov2.SPECS
    if s.embedded and ("random_seed" in s.options or Path(str(s.source)).is_dir())
]


def pictures(h: int = 32, w: int = 32, n: int = 2) -> Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0)) * 2 - 1


# Facts.


@pytest.mark.parametrize(
    ("size", "parameters", "lora"),
    [
        ("small", 22_056_576, 221_184),
        ("base", 86_580_480, 442_368),
        ("large", 304_368_640, 1_179_648),
        ("giant", 1_136_480_768, 2_949_120),
    ],
)
def test_full_size_counts_need_no_weights(size: str, parameters: int, lora: int) -> None:
    found, more = (dinov2.count(spec(f"dinov2.{size}{end}")) for end in ("", "-registers"))
    width = dinov2.SIZES[size]["hidden_size"]
    assert (found["parameters"], found["lora_parameters"]) == (parameters, lora)
    assert more == found | {"parameters": parameters + 4 * width}  # four register tokens
    assert found["head_parameters"] == width * 588 + 588
    assert dinov2.count(spec(f"dinov2.{size}"), rank=4)["lora_parameters"] == lora // 2


def test_the_papers_share_of_giant() -> None:
    found = dinov2.count(spec("dinov2.giant"))
    assert round(100 * found["lora_parameters"] / found["parameters"], 2) == 0.26


@pytest.mark.parametrize("registers", [0, 4])
def test_counts_are_those_of_the_network(registers: int) -> None:
    model = random_model(registers)
    sizes = {k: sum(p.numel() for p in getattr(model.network, k).parameters()) for k in ("backbone", "head")}
    found = dinov2.count(model.spec)
    assert (found["parameters"], found["head_parameters"]) == (sizes["backbone"], sizes["head"])


def test_the_head_is_the_same_in_every_cell_and_model() -> None:
    one, two = random_model(), random_model(random_seed=8)
    assert torch.equal(one.network.head.weight, two.network.head.weight)
    assert new_head(384, 14, dinov2.HEAD_SEED).weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not one.network.head.bias.any()


@pytest.mark.parametrize("name", HERE)
def test_embedded_models_keep_the_contract(name: str) -> None:
    assert check_generator(name) == []


# From pictures to tokens to pixels.


def test_patches_to_pixels_by_its_definition() -> None:
    b, rows, columns, p, c = 2, 3, 2, 4, 3
    values = torch.randn(b, rows * columns, p * p * c)
    found = patches_to_pixels(values, (rows, columns), p)
    assert found.shape == (b, c, rows * p, columns * p)
    for y in range(rows * p):
        for x in range(columns * p):
            token = (y // p) * columns + x // p
            within = ((y % p) * p + x % p) * c
            assert torch.equal(found[:, :, y, x], values[:, token, within : within + c])


@pytest.mark.parametrize("side", [14, 16])
def test_resizing_keeps_a_ramp(side: int) -> None:
    """A ramp is moved nowhere, but where its ends are clamped: pixel centers stay (no aligned corners)."""
    ramp = ((torch.arange(512) + 0.5) / 512).expand(1, 3, 512, 512)
    large = -(-512 // side) * side
    back = resize(resize(ramp, (large, large)), (512, 512))
    assert torch.allclose(back[..., 4:-4], ramp[..., 4:-4], atol=0.02 / 512)  # of a pixel's step
    assert resize(ramp, (512, 512)) is ramp


def test_the_input_is_normalized_and_enlarged_to_whole_patches() -> None:
    model = random_model()
    for h, w, expected in (
        (512, 512, (518, 518)),
        (28, 42, (28, 42)),
        (29, 43, (42, 56)),
        (64, 20, (70, 28)),
    ):
        gray = torch.full((1, 3, h, w), 0.2)
        code = model.embed(gray)
        assert tuple(code["pixels"].shape[2:]) == expected and code["size"].tolist() == [[h, w]]
        values = [(0.6 - m) / s for m, s in zip(dinov2.IMAGENET_MEAN, dinov2.IMAGENET_STD, strict=True)]
        assert torch.allclose(code["pixels"][0, :, 0, 0], torch.tensor(values), atol=1e-6)
        assert torch.allclose(code["pixels"].amax((0, 2, 3)), torch.tensor(values), atol=1e-6)


def test_the_zoos_input_is_the_picture_itself() -> None:
    model, seen = load("dinov2.rooms64-random"), pictures(64, 64)
    assert torch.allclose(model.embed(seen)["pixels"], seen, atol=1e-6)


@pytest.mark.parametrize("registers", [0, 4])
def test_forward_is_the_head_on_the_patch_tokens(registers: int) -> None:
    model, seen = random_model(registers), pictures(28, 56)
    lively(model.network.backbone)
    code = model.embed(seen)
    with torch.no_grad():
        tokens = model.network.backbone(pixel_values=code["pixels"]).last_hidden_state
        assert tokens.shape[1] == 1 + registers + 2 * 4
        expected = patches_to_pixels(model.network.head(tokens[:, 1 + registers :]), (2, 4), 14)
        assert torch.equal(model.forward(code, "normal"), expected)
        assert torch.equal(model.forward(code, "depth"), expected)  # it has no prompt


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("size", [(32, 32), (15, 43), (13, 14), (42, 29)])
def test_maps_have_the_size_of_the_picture(registers: int, size: tuple[int, int]) -> None:
    model, seen = random_model(registers), pictures(*size)
    with torch.no_grad():
        assert model.forward(model.embed(seen), "albedo").shape == seen.shape


@pytest.mark.parametrize("registers", [0, 4])
def test_features_are_patch_tokens_in_their_places(registers: int) -> None:
    model = random_model(registers)
    lively(model.network.backbone)
    code = model.embed(pictures(28, 42))
    with torch.no_grad():
        found = model.features(code)
        assert list(found) == ["block0", "block1", "block2", "block3", "norm"]
        assert {tuple(v.shape) for v in found.values()} == {(2, 24, 2, 3)}
        last = found["block3"].flatten(2).transpose(1, 2)
        normed = model.network.backbone.layernorm(last).transpose(1, 2).unflatten(2, (2, 3))
        assert torch.allclose(found["norm"], normed, atol=1e-6)
        tokens = model.network.backbone(pixel_values=code["pixels"]).last_hidden_state
        assert torch.equal(found["norm"][:, :, 1, 2], tokens[:, -1])
        assert torch.equal(found["norm"][:, :, 0, 0], tokens[:, 1 + registers])


def test_the_contract_is_kept_whatever_the_size_of_patch_and_picture() -> None:
    assert check_generator(random_model()) == []
    assert check_generator(random_model(4)) == []


# What is adapted.


def test_target_sets_divide_the_attention_layers() -> None:
    model = random_model()
    sets = {t: set(target_layers(model, target_pattern(model, t))) for t in model.spec.target_sets}
    assert [len(sets[t]) for t in ("all", "qv", "qkvo", "upper")] == [12, 8, 16, 6]
    assert sets["qv"] < sets["all"] < sets["qkvo"] and sets["upper"] < sets["all"]
    assert {name.split(".")[3] for name in sets["upper"]} == {"2", "3"}
    by_suffix = {n for n, _ in model.network.named_modules() if n.endswith(model.spec.lora_targets)}
    assert by_suffix == sets["all"]


@pytest.mark.parametrize("registers", [0, 4])
def test_module_names_of_old_releases_match_as_well(registers: int) -> None:
    new, old = random_model(registers), with_old_names(random_model(registers))
    code = new.embed(pictures())
    with torch.no_grad():
        assert torch.allclose(new.forward(code, "normal"), old.forward(code, "normal"), atol=1e-5)
    assert new.spec.lora_targets == dinov2.LORA_TARGETS[:3]
    assert old.spec.lora_targets == dinov2.LORA_TARGETS[3:]
    for name in old.spec.target_sets:
        found = [len(target_layers(m, target_pattern(m, name))) for m in (new, old)]
        assert found[0] == found[1] > 0
    assert check_generator(old) == []


def test_it_draws_nothing_and_a_plan_says_so() -> None:
    with pytest.raises(UserError, match="to see pictures"):
        random_model().sample([0])
    with pytest.raises(UserError, match="it draws no pictures") as caught:
        make_cell("dinov2.rooms64-random", "none", "frechet")
    assert "sd.rooms64-s5" in caught.value.known and "dinov2" not in caught.value.known
    with pytest.raises(UserError, match="it takes pictures"):
        make_cell("dinov2.rooms64-random", "normal", "lora", data="samples", labels="rooms-network")


# Weights.


def test_the_random_model_is_the_architecture_from_a_seed() -> None:
    a, b = load("dinov2.rooms64-random"), load("dinov2.rooms64-random")
    weights = a.network.state_dict(), b.network.state_dict()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    other = [dinov2.random_backbone(a.spec, seed).embeddings.position_embeddings for seed in (60, 61)]
    assert torch.equal(other[0], weights[0]["backbone.embeddings.position_embeddings"])
    assert not torch.equal(*other)


def test_identities() -> None:
    names = [s.name for s in dinov2.SPECS]
    assert len({registry.identity(n) for n in names}) == len(names) == 14
    zoo = {registry.frozen_identity(s.name) for s in dinov2.SPECS if s.embedded}
    rest = {registry.frozen_identity(s.name) for s in dinov2.SPECS if not s.embedded}
    assert len(zoo) == len(rest) == 1 and zoo != rest
    found = small_spec(random_seed=7)
    assert dinov2.identity(found) != dinov2.identity(small_spec(random_seed=8))
    assert dinov2.identity(found) != dinov2.identity(small_spec(random_seed=7, mean=dinov2.HALF))


def test_noise_leaves_the_head_and_replaces_the_backbone() -> None:
    model, whole = random_model(), random_model()
    lively(model.network.backbone)
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    blend_noise(model.network, 1.0, 7, model.spec.head)
    after = model.network.state_dict()
    assert all(torch.equal(after[k], before[k]) == k.startswith("head.") for k in before)
    fresh = whole.network.state_dict()  # 7 is the seed it was made from
    assert all(torch.allclose(after[k], fresh[k], atol=1e-6) for k in before)


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Writes the folder of a small spec, in the names of the hub unless told otherwise."""
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path))

    def write(registers: int = 0, gated: bool = False, names: str = "hub", place: str = "") -> Path:
        asked = small_spec(registers, gated)
        state = lively(dinov2.random_backbone(asked, 3)).state_dict()
        renamed = hub_names(state) if names == "hub" else state
        return write_folder(tmp_path / (place or asked.name), asked, renamed)

    return write


@pytest.mark.parametrize(("registers", "gated"), KINDS)
@pytest.mark.parametrize("names", ["hub", "new"])
def test_folders_of_every_release_load_to_the_same_tensors(
    folder: Folder, registers: int, gated: bool, names: str
) -> None:
    folder(registers, gated, names)
    asked = small_spec(registers, gated)
    expected = lively(dinov2.random_backbone(asked, 3)).state_dict()
    model = dinov2.load(asked)
    found = model.network.backbone.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)
    assert {v.dtype for v in found.values()} == {torch.float32}
    assert check_generator(model) == []


@pytest.mark.parametrize(("registers", "gated"), KINDS)
def test_this_release_writes_the_names_every_release_reads(
    tmp_path: Path, registers: int, gated: bool
) -> None:
    """The zoo's files are written by save_pretrained; old releases must find their own names in them."""
    from safetensors.torch import load_file

    backbone = dinov2.random_backbone(small_spec(registers, gated), 3)
    backbone.save_pretrained(str(tmp_path), safe_serialization=True)
    assert load_file(tmp_path / "model.safetensors").keys() == hub_names(backbone.state_dict()).keys()


def test_half_precision_weights_are_read_as_float32(folder: Folder) -> None:
    asked = small_spec()
    half = {k: v.half() for k, v in hub_names(dinov2.random_backbone(asked, 3).state_dict()).items()}
    write_folder(folder(), asked, half)
    assert {p.dtype for p in dinov2.load(asked).network.parameters()} == {torch.float32}


def test_the_identity_follows_the_files(folder: Folder) -> None:
    asked = small_spec()
    assert "@" in dinov2.identity(asked)
    place = folder()
    first = dinov2.identity(asked)
    assert "@" not in first and dinov2.frozen_identity(asked) == registry.frozen_identity("dinov2.small")
    (place / "README.md").write_text("nothing is read from here")
    assert dinov2.identity(asked) == first
    raw = bytearray((place / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (place / "model.safetensors").write_bytes(raw)
    assert dinov2.identity(asked) != first


def rewritten(place: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    asked = small_spec()
    state = hub_names(dinov2.random_backbone(asked, 3).state_dict())
    change(state)
    write_folder(place, asked, state)


def changed_config(place: Path, **changes: object) -> None:
    path = place / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class Poison:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.path), "w"))


def only_pickles(place: Path) -> None:
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").write_bytes(pickle.dumps(Poison(place / "poisoned")))


def truncated(place: Path) -> None:
    path = place / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


QUERY = "encoder.layer.1.attention.attention.query.weight"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing tensor": (lambda p: rewritten(p, lambda s: s.pop("layernorm.bias")), "'layernorm.bias'"),
    "missing query": (lambda p: rewritten(p, lambda s: s.pop(QUERY)), "lacks 1 tensors"),
    "unknown tensor": (
        lambda p: rewritten(p, lambda s: s.update({"classifier.weight": torch.zeros(2)})),
        "holds unknown 1 tensors, first 'classifier.weight'",
    ),
    "shape": (lambda p: rewritten(p, lambda s: s.update({QUERY: torch.zeros(3, 3)})), "cannot be read"),
    "nan": (lambda p: rewritten(p, lambda s: s[QUERY].fill_(float("nan"))), "NaN or infinity"),
    "truncated": (truncated, "cannot be read"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "cannot be read"),
    "no config": (lambda p: (p / "config.json").unlink(), "FileNotFoundError"),
    "config is no json": (lambda p: (p / "config.json").write_text("{"), "JSONDecodeError"),
    "pickles only": (only_pickles, "model.safetensors"),
    "other size": (lambda p: changed_config(p, hidden_size=48), "hidden_size is 48"),
    "other heads": (lambda p: changed_config(p, num_attention_heads=6), "num_attention_heads is 6"),
    "other kind": (lambda p: changed_config(p, model_type="dinov2_with_registers"), "dinov2_with_registers"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_named(folder: Folder, case: str) -> None:
    place = folder()
    damage, said = BROKEN[case]
    damage(place)
    with pytest.raises(UserError) as caught:
        dinov2.load(small_spec())
    assert said in caught.value.wrong and str(place) in caught.value.known and caught.value.todo
    assert not (place / "poisoned").exists()


def test_a_model_with_registers_is_not_one_without(folder: Folder, tmp_path: Path) -> None:
    folder(registers=4, place="dinov2.small")
    with pytest.raises(UserError, match="model_type is 'dinov2_with_registers'"):
        dinov2.load(small_spec())
    assert dinov2.load(replace(small_spec(4), name="dinov2.small")).network.first_patch == 5


def test_weights_that_cannot_be_had_are_an_error_in_four_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def snapshot(*_: object, **__: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError, match=f"{WEIGHTS_VARIABLE}.*layout of transformers") as caught:
        load("dinov2.giant-registers")
    assert "facebook/dinov2-with-registers-giant" in caught.value.known and "Apache-2.0" in caught.value.known
    lost = replace(spec("dinov2.rooms64-s1"), source="zoo/weights/dinov2.rooms64/s9")
    with pytest.raises(UserError, match=r"weights/dinov2\.rooms64/s9"):
        dinov2.load(lost)


def test_fetch_asks_the_hub_for_configuration_and_safe_files_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub
    from click.testing import CliRunner

    from benchmarks.fetch import fetch

    asked: list[tuple[str, list[str]]] = []

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    result = CliRunner().invoke(fetch, ["dinov2.giant"], catch_exceptions=False)
    assert result.exit_code == 0 and f"{tmp_path}\n" in result.stdout
    assert asked == [("facebook/dinov2-giant", list(dinov2.FILES))]
    assert all(name.endswith((".json", ".safetensors")) for name in dinov2.FILES)
