"""Which weights a name stands for: the commit of the hub's cache, or the files of a plugin."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import make_cell
from benchmarks.needs import model_need
from generators import dinov2, hub, registry
from generators.base import GeneratorSpec
from generators.errors import UserError
from generators.testing import check_generator
from probes.adapters import AdapterFacts, check_base
from tests.generators.fakes import SPEC, family
from tests.generators.small_dinov2 import hub_names, small_spec, write_folder

OLD, NEW = "a" * 40, "b" * 40
Fetched = Callable[..., Path]


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetched:
    """Puts a commit of a repository into an empty cache of the hub, and gives its folder."""
    monkeypatch.delenv(hub.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(source: str, commit: str, branch: str = "main") -> Path:
        place = tmp_path / f"models--{source.replace('/', '--')}"
        folder, ref = place / "snapshots" / commit, place / "refs" / branch
        folder.mkdir(parents=True, exist_ok=True)
        ref.parent.mkdir(exist_ok=True)
        ref.write_text(commit)
        return folder

    return put


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("dinov2.small", "facebook/dinov2-small"),
        ("sd.v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("sd.v1-random", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("sd-aug.v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5"),
        ("sd-aug.v1-5", "timbrooks/instruct-pix2pix"),
    ],
)
def test_another_commit_of_the_hub_is_another_identity(fetched: Fetched, name: str, source: str) -> None:
    assert f"{source}@main" in registry.identity(name)
    fetched(source, OLD)
    first = registry.identity(name)
    fetched(source, NEW)
    assert f"{source}@{OLD}" in first and f"{source}@{NEW}" in registry.identity(name)
    assert registry.identity(name) == first.replace(OLD, NEW)


def test_cached_codes_are_of_one_commit(fetched: Fetched) -> None:
    source = str(registry.spec("sd.v1-5").source)
    fetched(source, OLD)
    first = registry.frozen_identity("sd.v1-5")
    fetched(source, NEW)
    assert first != registry.frozen_identity("sd.v1-5")


def test_a_cell_planned_before_its_weights_are_fetched_is_planned_anew(fetched: Fetched) -> None:
    before, need = make_cell("dinov2.small", "normal", "linear"), model_need("dinov2.small")
    assert need is not None and not need.here, "a run refuses to begin"
    folder = fetched("facebook/dinov2-small", OLD)
    (folder / "model.safetensors").touch()
    after, need = make_cell("dinov2.small", "normal", "linear"), model_need("dinov2.small")
    assert need is not None and need.here
    assert after.hash != before.hash and after.weights == before.weights.replace("@main", f"@{OLD}")


def test_a_revision_of_ones_own_is_the_one_that_counts(fetched: Fetched) -> None:
    asked = small_spec()
    fetched(str(asked.source), OLD)
    fetched(str(asked.source), NEW, "v2")
    assert f"@{NEW}-" in dinov2.identity(replace(asked, revision="v2"))
    assert f"@{'c' * 40}-" in dinov2.identity(replace(asked, revision="c" * 40))
    assert "@v3-" in dinov2.identity(replace(asked, revision="v3"))


def test_the_weights_that_are_loaded_are_those_of_the_identity(
    fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked, loaded, revisions = small_spec(), [], []
    for seed, commit in enumerate((OLD, NEW)):
        state = hub_names(dinov2.random_backbone(asked, seed).state_dict())
        write_folder(fetched(str(asked.source), commit), asked, state)
        loaded.append(next(dinov2.load(asked).network.parameters()))
    assert not torch.equal(*loaded)
    download = huggingface_hub.snapshot_download

    def asked_for(*names: str, revision: str, **rest: object) -> str:
        revisions.append(revision)
        return str(download(*names, revision=revision, **rest))  # type: ignore[call-overload]

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked_for)
    dinov2.load(asked)
    assert revisions == [NEW], "however the hub goes on"


def test_the_first_use_on_another_machine_fetches_and_then_compares(
    fetched: Fetched, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, name, seen = "facebook/dinov2-small", "dinov2.small", []

    def download(source: str, **_: object) -> str:
        seen.append(source)
        folder = fetched(source, NEW)
        (folder / "model.safetensors").touch()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    weights = registry.identity(name).replace("@main", f"@{NEW}")
    known = AdapterFacts(name, weights, "normal", "lora", {})
    check_base(known, name)
    assert seen == [source]
    with pytest.raises(UserError, match=f"the weights of {name} are {source}@{NEW}"):
        check_base(replace(known, weights=weights.replace(NEW, OLD)), name)
    assert seen == [source], "what is here stays as it is"


# What the hub refuses.


def refused(name: str, cause: str = "") -> Exception:
    """An error of the hub's client, or one that it causes."""
    from huggingface_hub import errors

    if name == "ConnectionError":
        return ConnectionError("no route to host")
    kind = getattr(errors, name)
    error: Exception = kind.__new__(kind, "401")  # its __init__ takes the answer of a client that changes
    if not cause:
        return error
    outer = errors.LocalEntryNotFoundError("a part of it is here")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "wrong", "todo"),
    [
        (("GatedRepoError",), "the repository is gated", "accept the licence on the hub's page of facebook/"),
        (("GatedRepoError", "yes"), "the repository is gated", "accept the licence on the hub's page of"),
        (("RepositoryNotFoundError",), "removed or renamed, or is private", "log in if you have access"),
        (("ConnectionError",), "ConnectionError: no route to host", "connect to the network, or set"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(
    fetched: Fetched, monkeypatch: pytest.MonkeyPatch, error: tuple[str, ...], wrong: str, todo: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise refused(*error)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(UserError) as caught:
        hub.find_folder(registry.spec("dinov2.small"), ["*.json"], "transformers")
    told = caught.value
    assert wrong in told.wrong and told.todo.startswith(todo)
    assert ("hf auth login" in told.todo) == (error[0] != "ConnectionError")
    assert ("the network" in told.todo) == (error[0] == "ConnectionError")
    own = f"set {hub.WEIGHTS_VARIABLE} to a folder that holds a copy as dinov2.small/ in the layout of"
    assert f"{own} transformers" in told.todo


@pytest.mark.parametrize("cause", ["", "yes"])
def test_a_commit_that_the_hub_lost_has_a_cure_of_its_own(
    fetched: Fetched, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise refused("RevisionNotFoundError", cause)

    def told(**changes: str) -> UserError:
        with pytest.raises(UserError) as caught:
            hub.find_folder(replace(asked, **changes), ["*.json"], "transformers")
        return caught.value

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    asked = registry.spec("dinov2.small")
    ref = fetched(str(asked.source), OLD).parents[1] / "refs" / "main"
    met = told()
    assert f"it no longer has the commit {OLD}, which main was" in met.wrong
    assert met.todo.startswith(
        f"delete {ref} to fetch the commit that main is now, which is another identity"
    )
    assert "network" not in met.todo and f"or set {hub.WEIGHTS_VARIABLE}" in met.todo
    ref.unlink()
    assert hub.address(asked) == f"{asked.source}@main", "what the cure leads to"
    other = told(revision="refs/pr/9")
    assert "it has no revision refs/pr/9" in other.wrong and other.todo.startswith("name a branch, a tag or")


# Plugins.


def plugin(monkeypatch: pytest.MonkeyPatch, **facts: str | None) -> GeneratorSpec:
    """A registered spec of a module without `identity`."""
    found = replace(SPEC, name="mine.x", **facts)
    monkeypatch.setitem(sys.modules, "mine_module", family("mine_module", [found]))
    monkeypatch.setattr(registry, "_plugins", lambda: ({"mine.x": (found, "mine_module")}, {}))
    return found


def test_a_package_is_known_by_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(monkeypatch, source=None)
    package = tmp_path / "mine_package"
    (package / "__pycache__").mkdir(parents=True)
    for name in ("__init__.py", "net.py", "weights.pt"):
        (package / name).write_text(name)
    monkeypatch.setattr(sys.modules["mine_module"], "__file__", str(package / "__init__.py"), raising=False)
    first = registry.identity("mine.x")
    (package / "__pycache__" / "net.pyc").write_text("compiled")
    (tmp_path / "beside.py").touch()
    assert registry.identity("mine.x") == first
    for name in ("net.py", "weights.pt"):
        (package / name).write_text("changed")
        assert registry.identity("mine.x") != first
        (package / name).write_text(name)


@pytest.mark.parametrize("source", ["/nope/w.pt", "~/nope", "./nope", "w.safetensors"])
def test_a_plugins_weights_that_are_not_there_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    plugin(monkeypatch, source=source)
    with pytest.raises(UserError, match=f"not there: {source}"):
        registry.identity("mine.x")


@pytest.mark.parametrize("source", ["someone/model", "https://somewhere/w.pt"])
def test_an_address_is_no_path(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    plugin(monkeypatch, source=source)
    assert registry.identity("mine.x").startswith(f"{source}@")


def test_a_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pt").write_bytes(b"abc")
    plugin(monkeypatch, source="~/w.pt")
    by_home = registry.identity("mine.x")
    plugin(monkeypatch, source=str(tmp_path / "w.pt"))
    assert by_home == registry.identity("mine.x")


def test_two_models_of_one_module_share_nothing_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained model and its random control: one identity, two encoders."""
    two = [replace(SPEC, name=name, source=None) for name in ("mine.x", "mine.random")]
    module = family("mine_module", two)
    monkeypatch.setattr(module, "__file__", __file__, raising=False)
    monkeypatch.setitem(sys.modules, "mine_module", module)
    monkeypatch.setattr(registry, "_plugins", lambda: ({s.name: (s, "mine_module") for s in two}, {}))
    assert registry.identity("mine.x") == registry.identity("mine.random")
    assert registry.frozen_identity("mine.x") != registry.frozen_identity("mine.random")


def test_a_plugins_one_file_of_weights_is_its_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"abc")
    plugin(monkeypatch, source=str(file))
    first = registry.identity("mine.x")
    (tmp_path / "beside").touch()
    assert registry.identity("mine.x") == first and registry.frozen_identity("mine.x") == f"mine.x {first}"
    file.write_bytes(b"abd")
    assert registry.identity("mine.x") != first


def test_a_plugin_may_fetch_without_saying_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(monkeypatch, source="someone/model", revision=OLD)
    module, seen = sys.modules["mine_module"], []
    monkeypatch.setattr(module, "hub_folder", seen.append, raising=False)
    need = model_need("mine.x")
    assert need is not None and need.here
    registry.fetch("mine.x")
    assert not seen, "without `on_machine` it is taken to be here"
    monkeypatch.setattr(module, "on_machine", lambda spec: bool(seen), raising=False)
    registry.fetch("mine.x")
    registry.fetch("mine.x")
    assert seen == [registry.spec("mine.x")]


@pytest.mark.parametrize("asked", ["mine.x", "mine_module"])
def test_a_hub_id_alone_names_no_weights(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    plugin(monkeypatch, source="someone/model")
    (sentence,) = check_generator(asked)
    assert sentence.startswith("mine.x: spec.source is the hub id 'someone/model' without spec.revision")
    plugin(monkeypatch, source="someone/model", revision=OLD)
    assert check_generator(asked) == []
    plugin(monkeypatch, source="someone/model")
    monkeypatch.setattr(sys.modules["mine_module"], "identity", lambda spec: "mine", raising=False)
    assert check_generator(asked) == []
