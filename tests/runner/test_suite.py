"""Suites: what expands to what, and every mistake named with its file and key."""

from pathlib import Path

import pytest

from benchmarks import load_suite, make_cell
from benchmarks.plan import default_store
from benchmarks.suite import shipped
from generators import registry
from generators.base import GeneratorSpec
from generators.errors import UserError

HEAD = 'name = "mine"\ntitle = "Mine"\nquestion = "Why?"\n'
GRID = '[[grid]]\nmodels = ["sd.rooms64-s1"]\nintrinsics = ["normal"]\nmethods = ["linear"]\n'


def suite(folder: Path, text: str):
    path = folder / "mine.toml"
    path.write_text(text)
    return load_suite(path)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_suites_load(name: str) -> None:
    loaded = load_suite(name)
    assert loaded.name == name
    assert len({cell.hash for cell in loaded.cells}) == len(loaded.cells)
    assert load_suite(shipped()[name]) == loaded


ROOMS = {s.name for s in registry.specs() if s.embedded and s.domain == "rooms" and ".rooms64" in s.name}
SHOWN = {m for m in ROOMS if m.startswith(("sd.", "vqgan.", "dinov2."))}  # renders
OWN = {m for m in ROOMS if m.startswith(("sd.", "vqgan.", "stylegan2.", "stylegan-xl."))}
INTRINSICS = {"normal", "depth", "albedo", "shading"}


@pytest.mark.parametrize("name", ["rooms", "rooms-quick"])
def test_every_model_is_asked_and_measured(name: str) -> None:
    cells = load_suite(name).cells
    plain = [c for c in cells if c.options.get("labels", "true") == "true" and not c.options.get("noise")]
    for data, labels, models in (("rooms", "exact", SHOWN), ("samples", "rooms-network", OWN)):
        found = [c for c in plain if (c.data, c.labels) == (data, labels)]
        lora = {c.model for c in found if c.method == "lora" and c.intrinsic == "normal"}
        assert lora - {m for m in lora if m.startswith("sd-aug")} == models
        for intrinsic in INTRINSICS:
            asked = [c for c in found if c.method == "linear" and c.intrinsic == intrinsic]
            assert {c.model for c in asked} == models
        ranks = {c.options["rank"] for c in found if c.method == "lora" and c.model != "sd.rooms64-s5"}
        assert ranks == {8}
    assert {c.model for c in cells if c.method == "frechet" and c.data == "rooms"} == OWN
    assert {c.options["second"] for c in cells if c.method == "frechet"} == {"dinov2-rooms"}
    controls = {c.model for c in cells if c.model.endswith("scrambled")}
    assert {m.split(".")[0] for m in controls} == {m.split(".")[0] for m in SHOWN | OWN}
    for control in ("constant", "pixels", "supervised", "ceiling"):
        asked = [c for c in cells if c.method == control and c.data == "rooms"]
        assert {c.intrinsic for c in asked} == INTRINSICS
    worlds = {(c.data, c.labels) for c in cells if "objects" in c.model}
    assert {("objects", "exact"), ("samples", "objects-network")} <= worlds


def test_the_quick_suite_has_one_seed_and_250_pictures() -> None:
    cells = load_suite("rooms-quick").cells
    assert {c.seed for c in cells} == {0} and {c.train for c in cells} == {250}
    assert {c.model for c in cells if c.model.startswith("sd-aug")} == {
        "sd-aug.rooms64-random",
        "sd-aug.rooms64-s5",
    }
    assert [c.model for c in cells if c.options.get("labels") == "shuffled"] == ["sd.rooms64-s5"]


def test_the_full_suite_has_its_seeds_and_its_curves() -> None:
    cells = load_suite("rooms").cells
    probes = [c for c in cells if (c.model, c.intrinsic, c.data) == ("sd.rooms64-s5", "normal", "rooms")]
    lora = [c for c in probes if c.method == "lora"]
    assert {c.options["rank"] for c in lora} == {2, 4, 8, 16, 32}
    assert {c.options["targets"] for c in lora} == {"all", "self", "cross", "up", "mid", "down"}
    assert {c.train for c in lora} == {16, 64, 250, 1000}
    assert {c.options["noise"] for c in lora} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert {c.options["noise"] for c in probes if c.method == "linear"} == {0.0, 0.25, 0.5, 0.75, 1.0}
    for method in ("lora", "linear", "finetune"):
        for data, models in (("rooms", SHOWN), ("samples", OWN)):
            found = {(c.model, c.intrinsic, c.seed) for c in cells if (c.method, c.data) == (method, data)}
            assert {(m, i, s) for m in models for i in INTRINSICS for s in (0, 1, 2)} <= found, method
    assert {c.options["samples"] for c in cells if c.method == "frechet"} == {5000}


def test_expansion_is_a_product_in_stable_order(tmp_path: Path) -> None:
    loaded = suite(
        tmp_path,
        HEAD + "seeds = [1, 0]\ntrain = 30\n" + '[[grid]]\nmodels = ["sd.rooms64-s[12]"]\n'
        'intrinsics = ["depth", "normal"]\nmethods = ["lora"]\noptions = { steps = 10.0 }\n'
        "sweep = { rank = [4, 2] }\ntrain = [20, 10]\n",
    )
    found = [(c.model[-2:], c.intrinsic, c.options["rank"], c.train, c.seed) for c in loaded.cells]
    wanted = [
        (model, intrinsic, rank, train, seed)
        for model in ("s1", "s2")
        for intrinsic in ("depth", "normal")
        for rank in (4, 2)
        for train in (20, 10)
        for seed in (1, 0)
    ]
    assert found == wanted
    same = make_cell("sd.rooms64-s1", "depth", "lora", {"steps": 10, "rank": 4}, train=20, seed=1)
    assert loaded.cells[0] == same and loaded.cells[0].hash == same.hash
    assert loaded.cells[0].options["batch"] == 16  # defaults are filled in
    assert loaded.cells[0].weights == registry.identity("sd.rooms64-s1")


def test_what_is_asked_twice_is_there_once(tmp_path: Path) -> None:
    both = GRID + GRID.replace('"linear"', '"linear", "ceiling"')
    assert [c.method for c in suite(tmp_path, HEAD + both).cells] == ["linear", "ceiling"]


WRONG = {
    "key": (HEAD + "trian = 5\n" + GRID, "key 'trian'", "did you mean 'train'"),
    "grid key": (HEAD + GRID + "sweeps = {}\n", "grid 1: key 'sweeps'", "did you mean 'sweep'"),
    "second grid": (HEAD + GRID + GRID + "modles = []\n", "grid 2: key 'modles'", "'models'"),
    "missing": (GRID, "key 'name'", "missing"),
    "no grid": (HEAD, "key 'grid'", "missing"),
    "empty title": (HEAD.replace("Mine", " ") + GRID, "title", "not empty"),
    "folder": (HEAD.replace('"mine"', '"../mine"') + GRID, "name", "letters"),
    "toml": (HEAD + "grid = [", "suite", "it is no TOML"),
    "model": (HEAD + GRID.replace("-s1", "-s9"), "model 'sd.rooms64-s9'", "did you mean 'sd.rooms64-s"),
    "pattern": (HEAD + GRID.replace("-s1", "-x*"), "model 'sd.rooms64-x*'", "known:"),
    "intrinsic": (HEAD + GRID.replace('"normal"', '"normals"'), "'normals'", "did you mean 'normal'"),
    "method": (HEAD + GRID.replace('"linear"', '"linaer"'), "'linaer'", "did you mean 'linear'"),
    "option": (HEAD + GRID + "options = { ranks = 8 }\n", "option of method 'linear' 'ranks'", "known"),
    "of another method": (HEAD + GRID + "options = { rank = 8 }\n", "'rank'", "no option of method"),
    "option type": (HEAD + GRID + 'options = { noise = "all" }\n', "noise = 'all'", "type str"),
    "noise": (HEAD + GRID + "options = { noise = 1.5 }\n", "noise", "from 0 to 1"),
    "nan": (HEAD + GRID + "options = { noise = nan }\n", "noise", "to do"),
    "labels": (HEAD + GRID + 'options = { labels = "shufled" }\n', "'shufled'", "did you mean 'shuffled'"),
    "no model": (HEAD + GRID.replace("sd.rooms64-s1", "none"), "model 'none'", "needs a model"),
    "models left out": (HEAD + GRID.replace('models = ["sd.rooms64-s1"]\n', ""), "key 'models'", "need it"),
    "control": (HEAD + GRID.replace('"linear"', '"constant"'), "method 'constant'", "asks no model"),
    "samples": (HEAD + GRID.replace('"linear"', '"frechet"'), "method 'frechet'", "leave out intrinsics"),
    "no intrinsic": (HEAD + GRID.replace('"normal"', '"none"'), "'none'", "needs an intrinsic"),
    "twice": (HEAD + GRID.replace('"normal"', '"normal", "normal"'), "intrinsics", "there twice"),
    "seeds twice": (HEAD + "seeds = [1, 1]\n" + GRID, "seeds", "there twice"),
    "sweep twice": (HEAD + GRID + "sweep = { noise = [1, 1.0] }\n", "sweep.noise", "there twice"),
    "sweep and option": (
        HEAD + GRID + "options = { noise = 0.5 }\nsweep = { noise = [1.0] }\n",
        "sweep.noise",
        "options.noise is given too",
    ),
    "sweep empty": (HEAD + GRID + "sweep = { noise = [] }\n", "sweep.noise", "not empty"),
    "sweep scalar": (HEAD + GRID + "sweep = { noise = 1.0 }\n", "sweep.noise", "a list"),
    "options list": (HEAD + GRID + "options = [1]\n", "options", "a table"),
    "empty list": (HEAD + GRID + "train = []\n", "train", "not empty"),
    "zero": (HEAD + "train = 0\n" + GRID, "train = 0", "at least 1"),
    "negative": (HEAD + "seeds = [-1]\n" + GRID, "seed = -1", "at least 0"),
    "half": (HEAD + "test = 1.5\n" + GRID, "test = 1.5", "a whole number"),
    "truth": (HEAD + "test = true\n" + GRID, "test = True", "a whole number"),
    "list above": (HEAD + "train = [1, 2]\n" + GRID, "train", "lists of train go into a grid"),
    "size": (HEAD + "size = 65\n" + GRID, "size = 65", "multiple of 8"),
    "data": (HEAD + 'data = "room"\n' + GRID, "data set 'room'", "did you mean 'rooms'"),
    "label source": (HEAD + 'labels = "exakt"\n' + GRID, "'exakt'", "did you mean 'exact'"),
    "alignment": (HEAD + 'alignment = "scales"\n' + GRID, "'scales'", "did you mean 'scale'"),
    "text": (HEAD + GRID.replace('["normal"]', '"normal"'), "intrinsics", "a list"),
    "number": (HEAD + GRID.replace('["normal"]', "[1]"), "intrinsics = 1", "a text"),
    "targets": (
        HEAD + GRID.replace('"linear"', '"lora"') + 'options = { targets = "sefl" }\n',
        "'sefl'",
        "did you mean 'self'",
    ),
    "variant": (
        HEAD + GRID.replace('"linear"', '"lora"') + 'options = { variant = "dota" }\n',
        "'dota'",
        "did you mean",
    ),
    "patch": (
        HEAD + '[[grid]]\nintrinsics = ["normal"]\nmethods = ["pixels"]\noptions = { patch = 4 }\n',
        "patch = 4",
        "odd sides",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_named(case: str, tmp_path: Path) -> None:
    text, asked, fact = WRONG[case]
    with pytest.raises(UserError) as raised:
        suite(tmp_path, text)
    error = raised.value
    assert str(tmp_path / "mine.toml") in error.asked
    assert asked in error.asked
    assert fact in str(error)
    assert error.wrong and error.todo


def test_a_suite_of_ones_own_has_a_name_of_its_own(tmp_path: Path) -> None:
    """A part of a shipped suite under its name would take the place of the shipped one's plan and report."""
    whole = shipped()["rooms-timestep"].read_text()
    (tmp_path / "copied.toml").write_text(whole)
    assert load_suite(tmp_path / "copied.toml") == load_suite("rooms-timestep")
    assert default_store(load_suite(tmp_path / "copied.toml")) == default_store(load_suite("rooms-timestep"))
    part = suite(tmp_path, HEAD.replace("mine", "rooms-timestep") + GRID)  # it may have a store of its own
    with pytest.raises(UserError, match="comes with the package is called 'rooms-timestep'"):
        default_store(part)


def test_an_unknown_suite_has_near_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'rooms-quick'"):
        load_suite("rooms-quik")
    with pytest.raises(UserError, match="no such file"):
        load_suite(tmp_path / "none.toml")


def test_a_seed_fed_model_is_refused_where_pictures_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = GeneratorSpec("gan.x", "GAN", "GAN", "seeds", "pixels", 64, "rooms", "MIT", source="nowhere")
    monkeypatch.setattr(registry, "_plugins", lambda: ({"gan.x": (spec, "json")}, {}))
    with pytest.raises(UserError, match="cannot be shown any"):
        make_cell("gan.x", "normal", "linear")
    assert make_cell("gan.x", "none", "frechet").weights == "nowhere@None"
    with pytest.raises(UserError, match="models that take pictures: sd"):
        make_cell("gan.x", "normal", "lora")


def test_identity_follows_the_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = GeneratorSpec("my.x", "Mine", "M", "images", "pixels", 64, "rooms", "MIT", source=str(tmp_path))
    monkeypatch.setattr(registry, "_plugins", lambda: ({"my.x": (spec, "json")}, {}))
    (tmp_path / "weights").write_bytes(b"abc")
    first = registry.identity("my.x")
    assert registry.identity("my.x") == first
    (tmp_path / ".cache").write_bytes(b"ignored")
    assert registry.identity("my.x") == first
    (tmp_path / "weights").write_bytes(b"abd")
    assert registry.identity("my.x") != first
