"""The test kit says nothing about a sound generator, and one true sentence about each broken one."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from generators.base import Generator, Sample
from generators.errors import UserError
from generators.testing import assert_generator, check_generator
from tests.generators.fakes import SPEC, Fake, family

LATENT = torch.zeros(2, 12, 8, 8)


def broken(base: type = Fake, **methods: Any) -> type:
    return type("Broken", (base,), methods)


def refuse(self: Any, *_: Any) -> Any:
    raise UserError("this", "it cannot")


class Headed(Fake):
    """The last layer is new."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**({"head": "out", "lora_targets": ("into",), "target_sets": {}} | changes))


def test_a_head_is_found_by_its_name_alone_and_used() -> None:
    class Namesake(Headed):
        def __init__(self) -> None:
            super().__init__()
            self.network.layout = nn.Linear(2, 2).requires_grad_(False).eval()

    class Unused(Headed):
        def __init__(self) -> None:
            super().__init__(head="unused")
            self.network.unused = nn.Linear(2, 2).requires_grad_(False).eval()

    (sentence,) = check_generator(Namesake())
    assert "'out', 'layout' end in it" in sentence
    (sentence,) = check_generator(Unused())
    assert "forward does not use 'unused'" in sentence
    generator = Headed(target_sets={"last": "out"})
    assert any("'out' is a LoRA target too" in s for s in check_generator(generator))
    assert not any(p.requires_grad or p.grad is not None for p in generator.network.parameters())


def test_sound_generators_pass() -> None:
    assert isinstance(Fake(), Generator)
    assert check_generator(Fake()) == []
    assert check_generator(broken(sample=refuse)(takes="images", draws=False)) == []
    assert check_generator(Headed()) == []
    assert check_generator(broken(embed=refuse)(takes="seeds")) == []


def test_a_check_leaves_no_trace() -> None:
    generator, state = Fake(), torch.get_rng_state()
    check_generator(generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and not p.requires_grad for p in generator.network.parameters())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "nodot"}, "arch.tag"),
        ({"takes": "words"}, "spec.takes is 'words'"),
        ({"space": "sky"}, "spec.space is 'sky'"),
        ({"resolution": 0}, "spec.resolution is 0"),
        ({"licence": ""}, "spec.licence is empty"),
        ({"lora_targets": ()}, "LoRA has nothing to adapt"),
        ({"lora_targets": ("into", "nowhere")}, "called 'nowhere'"),
        ({"lora_targets": ("into", "noise")}, "'noise' is a Dropout"),
        ({"target_sets": {"first": "inn"}}, "'first' ('inn') matches no"),
        ({"takes": "seeds"}, "embed works although"),
        ({"takes": "images", "draws": False}, "sample works although spec.draws is False"),
        ({"draws": False}, "spec.draws is False, but spec.takes is 'both'"),
        ({"head": "hat"}, "spec.head: no module is called so"),
        ({"head": "out"}, "spec.head: 'out' is a LoRA target too"),
        ({"head": "noise"}, "spec.head: 'noise' has no parameters"),
        ({"space": "pixels"}, "not the identity"),
        ({"resolution": 32}, "sample gives pictures of shape (2, 3, 16, 16); expected (2, 3, 32, 32)"),
    ],
)
def test_facts_that_are_wrong(changes: dict[str, Any], said: str) -> None:
    assert any(said in sentence for sentence in check_generator(Fake(**changes)))


def unseeded(self: Any, seeds: Any, captions: Any = None) -> Sample:
    latent = torch.rand(len(seeds), 12, 8, 8)
    return Sample(self.decode(latent), {"latent": latent})


def one_stream(self: Any, seeds: Any, captions: Any = None) -> Sample:
    stream = torch.Generator().manual_seed(seeds[0])
    latent = torch.rand(len(seeds), 12, 8, 8, generator=stream)
    return Sample(self.decode(latent), {"latent": latent})


def same_for_all(self: Any, seeds: Any, captions: Any = None) -> Sample:
    return Sample(torch.zeros(len(seeds), 3, 16, 16), {"latent": torch.zeros(len(seeds), 12, 8, 8)})


def bytes_as_floats(self: Any, seeds: Any, captions: Any = None) -> Sample:
    images, code = Fake.sample(self, seeds)
    return Sample(images * 127 + 128, code)


def from_zero(self: Any, seeds: Any, captions: Any = None) -> Sample:
    images, code = Fake.sample(self, seeds)
    return Sample((images + 1) / 2, code)


def code_without_axis(self: Any, seeds: Any, captions: Any = None) -> Sample:
    images, code = Fake.sample(self, seeds)
    return Sample(images, {"latent": code["latent"], "scale": torch.tensor(1.0)})


def of_the_batch(self: Any, code: Any, intrinsic: str) -> torch.Tensor:
    latent = code["latent"]
    return self.network(latent - latent.mean(0, keepdim=True))


def random_forward(self: Any, code: Any, intrinsic: str) -> torch.Tensor:
    return self.network(code["latent"]) + torch.rand(1)


def detached(self: Any, code: Any, intrinsic: str) -> torch.Tensor:
    return self.network(code["latent"]).detach()


def elsewhere(self: Any, code: Any, intrinsic: str) -> torch.Tensor:
    return self.network(code["latent"]) * 0.0


def smaller(self: Any, code: Any, intrinsic: str) -> torch.Tensor:
    return self.network(code["latent"])[:, :4]


def not_a_number(self: Any, code: Any, intrinsic: str) -> torch.Tensor:
    return self.network(code["latent"]) / 0.0 * 0.0


def flat_features(self: Any, code: Any) -> Any:
    return {"into": self.network.into(code["latent"]).flatten(1)}


def counted_features(self: Any, code: Any) -> Any:
    self.calls = getattr(self, "calls", 0) + 1
    return {f"into-{self.calls}": self.network.into(code["latent"])}


def meddling_features(self: Any, code: Any) -> Any:
    self.network.out.weight.mul_(2)
    return {"into": self.network.into(code["latent"])}


def no_features(self: Any, code: Any) -> Any:
    return {}


def half_size(self: Any, output: torch.Tensor) -> torch.Tensor:
    return Fake.decode(self, output)[:, :, ::2, ::2]


@pytest.mark.parametrize(
    ("method", "replacement", "said"),
    [
        ("sample", unseeded, "must depend on the seeds alone"),
        ("sample", one_stream, "sample: the picture of a seed depends on the batch"),
        ("sample", same_for_all, "the same picture for the seeds"),
        ("sample", bytes_as_floats, "pictures lie in [-1, 1]"),
        ("sample", from_zero, "no value below 0 in any picture"),
        ("sample", code_without_axis, "the first axis of code 'scale' ()"),
        ("sample", refuse, "sample refuses although spec.draws is True"),
        ("embed", refuse, "embed raises UserError"),
        ("forward", of_the_batch, "forward: the output of a code depends on the batch"),
        ("forward", random_forward, "it must be deterministic"),
        ("forward", detached, "not differentiable"),
        ("forward", elsewhere, "no gradient reaches any of the 2 modules"),
        ("forward", smaller, "gives shape (2, 4, 8, 8); encode, the same space, gives (2, 12, 8, 8)"),
        ("forward", not_a_number, "NaN or infinity"),
        ("decode", half_size, "has shape (2, 3, 8, 8); expected (2, 3, 16, 16)"),
        ("features", flat_features, "expected floats (2, c, h, w)"),
        ("features", counted_features, "names its layers differently"),
        ("features", meddling_features, "features changes what forward gives"),
        ("features", no_features, "gives no layer"),
    ],
)
def test_methods_that_are_wrong(method: str, replacement: Callable[..., Any], said: str) -> None:
    sentences = check_generator(broken(**{method: replacement})())
    assert any(said in sentence for sentence in sentences), sentences


def test_a_seed_fed_model_must_say_why_it_does_not_embed() -> None:
    def silent(self: Any, images: torch.Tensor) -> Any:
        raise UserError("embed", "")

    assert any("without saying why" in s for s in check_generator(broken(embed=silent)(takes="seeds")))


def test_networks_that_are_not_frozen() -> None:
    generator = Fake()
    generator.network.out.weight.requires_grad_(True)
    generator.network.noise.train()
    unfrozen, training = check_generator(generator)
    assert "1 parameters require gradients, first 'out.weight'" in unfrozen
    assert "first 'noise'" in training


def test_what_is_missing_is_named() -> None:
    class Nothing:
        spec, network = SPEC, nn.Identity()

    (sentence,) = check_generator(Nothing())  # type: ignore[arg-type]
    assert sentence.startswith("has no sample, embed, forward, encode, decode, features")


def test_assertion_holds_every_sentence() -> None:
    assert_generator(Fake())
    with pytest.raises(AssertionError, match="'nowhere'"):
        assert_generator(Fake(lora_targets=("into", "nowhere")))


def test_a_module_is_checked_spec_by_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    module = family("fake_module", [SPEC, replace(SPEC, name="fake.bad", space="pixels")])
    monkeypatch.setitem(sys.modules, "fake_module", module)
    (sentence,) = check_generator("fake_module")
    assert sentence.startswith("fake.bad: ") and "identity" in sentence


LAZY = """
SPECS = ["lazy"]

def load(spec, device):
    import beside_lazy_family

    raise ValueError(beside_lazy_family.WORDS)
"""


def test_a_module_in_the_folder_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_written_family.py").write_text("SPECS = []\n")
    (tmp_path / "failing_family.py").write_text("import a_package_nobody_has\n")
    (tmp_path / "lazy_family.py").write_text(LAZY)
    (tmp_path / "beside_lazy_family.py").write_text("WORDS = 'it is imported late'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", before := [path for path in sys.path if path])
    paths = [*before]
    assert "a family needs SPECS" in check_generator("half_written_family")[0]
    assert "No module named 'a_package_nobody_has'" in check_generator("failing_family")[0]
    assert "it is imported late" in check_generator("lazy_family")[0]
    with pytest.raises(UserError):
        check_generator("no_family")
    assert sys.path == paths, "the folder is searched while the module is checked, and no longer"


def test_a_name_nobody_knows() -> None:
    with pytest.raises(UserError, match="there is no model of this name"):
        check_generator("sd.rooms65-s5")
