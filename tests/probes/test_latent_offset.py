"""The latent offset, in W+ and in StyleSpace, on a generator of three affine layers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks import limits
from benchmarks.suite import make_cell
from generators.base import Sample
from generators.errors import UserError
from probes import latent_offset
from probes.fit import Diverged
from probes.intrinsics import INTRINSICS
from probes.methods import fill_options, method
from probes.task import Examples, Task
from tests.probes import tiny

NUM_WS, W_DIM, WIDTH = 3, 6, 8
PARAMETERS = {"w+": NUM_WS * W_DIM, "style": WIDTH + WIDTH + 3}


class _Synthesis(nn.Module):
    """w (b 3 6) to pictures (b 3 8 8): two styles scale channels, the third scales colors."""

    def __init__(self) -> None:
        super().__init__()
        self.const = nn.Parameter(torch.randn(WIDTH, 8, 8))
        self.affine0, self.affine1 = nn.Linear(W_DIM, WIDTH), nn.Linear(W_DIM, WIDTH)
        self.affine2 = nn.Linear(W_DIM, 3)
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.rgb = nn.Conv2d(WIDTH, 3, 1)

    def forward(self, ws: Tensor) -> Tensor:
        s0, s1, s2 = (f(w)[:, :, None, None] for f, w in zip(self.affines(), ws.unbind(1), strict=True))
        h = torch.tanh(self.conv(self.const * (1 + s0)))
        found: Tensor = self.rgb(h * (1 + s1)) * (1 + s2)
        return found

    def affines(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.affine0, self.affine1, self.affine2


class StyleTiny(tiny.TinyGenerator):
    """A seed-fed generator whose code is w."""

    def __init__(self, targets: tuple[str, ...] = ("affine0", "affine1", "affine2")) -> None:
        super().__init__()
        self.spec = replace(self.spec, name="tiny.style", takes="seeds", lora_targets=targets)
        torch.manual_seed(11)
        self.network: _Synthesis = _Synthesis().eval().requires_grad_(False)  # type: ignore[assignment]

    def sample(self, seeds: Sequence[int], captions: Sequence[str] | None = None) -> Sample:
        draws = [torch.randn(1, W_DIM, generator=torch.Generator().manual_seed(s)) for s in seeds]
        code = {"w": torch.stack(draws).repeat(1, NUM_WS, 1)}
        return Sample(self.forward(code, "albedo"), code)

    def forward(self, code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
        found: Tensor = self.network(code["w"])
        return found


TRUE_OFFSET = torch.randn(1, NUM_WS, W_DIM, generator=torch.Generator().manual_seed(3)) * 0.7


def examples(n: int, first: int, code: Mapping[str, Tensor] | None = None) -> Examples:
    """Pictures of seeds whose albedo is what the generator draws at w + TRUE_OFFSET."""
    generator, intrinsic = StyleTiny(), INTRINSICS["albedo"]
    made = generator.sample(range(first, first + n))
    output = generator.forward({"w": made.code["w"] + TRUE_OFFSET}, "albedo")
    maps = {"albedo": intrinsic.from_picture(output)}
    mask = torch.ones(n, 1, 8, 8, dtype=torch.bool)
    return Examples(made.images, maps, mask, made.code if code is None else code, output)


def task(generator: tiny.TinyGenerator | None = None, **options: object) -> Task:
    filled = fill_options("latent_offset", {"steps": 20, **options})
    return Task(
        generator or StyleTiny(), INTRINSICS["albedo"], examples(48, 0), examples(16, 1000), filled, 0
    )


def state(generator: tiny.TinyGenerator) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in generator.network.state_dict().items()}


def hooks(generator: tiny.TinyGenerator) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in generator.network.modules())


@pytest.mark.parametrize("space", latent_offset.SPACES)
def test_a_known_offset_is_found(space: str) -> None:
    asked, held = task(space=space, steps=150), examples(16, 500)
    truth = held.maps["albedo"]
    before = asked.intrinsic.error(asked.intrinsic.from_picture(held.pictures), truth, held.mask)
    probe = latent_offset.fit(asked)
    error = asked.intrinsic.error(probe.predict(held), truth, held.mask)
    assert error < 0.05 * before
    assert probe.details["loss_last"] < 0.01 * probe.details["loss_first"]


@pytest.mark.parametrize("space", latent_offset.SPACES)
def test_the_offset_itself_is_found(space: str) -> None:
    """As far as the affine layers can tell: the third maps six numbers to three."""
    asked = task(space=space, steps=200, rate=0.2)
    probe = latent_offset.fit(asked)
    network = asked.model.network
    assert isinstance(network, _Synthesis)
    for index, layer in enumerate(network.affines()):
        wanted = layer.weight @ TRUE_OFFSET[0, index]
        found = probe.offset(f"affine{index}" if space == "style" else "w").detach()[0]
        shift = found if space == "style" else layer.weight @ found[index]
        assert (shift - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("space", latent_offset.SPACES)
def test_only_the_offset_is_trained_and_counted(space: str) -> None:
    asked = task(space=space)
    before, codes = state(asked.model), asked.train.code["w"].clone()
    probe = latent_offset.fit(asked)
    assert probe.parameters == PARAMETERS[space]
    after = asked.model.network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)
    assert not any(p.requires_grad or p.grad is not None for p in asked.model.network.parameters())
    assert torch.equal(asked.train.code["w"], codes)


@pytest.mark.parametrize("space", latent_offset.SPACES)
def test_the_generator_is_given_back_to_the_bit(space: str) -> None:
    asked, held = task(space=space), examples(5, 700)
    before = asked.model.forward(held.code, "albedo")
    probe = latent_offset.fit(asked)
    assert not torch.equal(probe.forward(held.code, "albedo"), before)
    assert (hooks(asked.model) > 0) == (space == "style")
    probe.release()
    assert torch.equal(asked.model.forward(held.code, "albedo"), before) and hooks(asked.model) == 0


@pytest.mark.parametrize("space", latent_offset.SPACES)
def test_an_offset_of_zero_changes_no_bit(space: str) -> None:
    asked, held = task(space=space, steps=1, rate=1e-12), examples(5, 700)
    before = asked.model.forward(held.code, "albedo")
    probe = latent_offset.fit(asked)
    for part in probe.parts.values():
        part.data.zero_()
    assert torch.equal(probe.forward(held.code, "albedo"), before)


@pytest.mark.parametrize("space", latent_offset.SPACES)
def test_a_failed_training_leaves_nothing_behind(space: str) -> None:
    asked, held = task(space=space, steps=40, rate=1e20), examples(5, 700)
    before = asked.model.forward(held.code, "albedo")
    with pytest.raises(Diverged, match="lower the rate"):
        latent_offset.fit(asked)
    assert hooks(asked.model) == 0
    assert torch.equal(asked.model.forward(held.code, "albedo"), before)


@pytest.mark.parametrize("space", latent_offset.SPACES)
def test_the_same_cell_gives_the_same_bits(space: str) -> None:
    first, second = (latent_offset.fit(task(space=space, steps=20)) for _ in range(2))
    other = latent_offset.fit(replace(task(space=space, steps=20), seed=1))
    held = examples(5, 700)
    assert torch.equal(first.predict(held), second.predict(held)) and first.details == second.details
    assert not torch.equal(first.predict(held), other.predict(held))


def test_shuffled_labels_are_learned_worse() -> None:
    true, wrong = (latent_offset.fit(task(labels=labels, steps=60)) for labels in ("true", "shuffled"))
    assert wrong.details["loss_last"] > 5 * true.details["loss_last"]
    assert wrong.details["validation_error"] > 2 * true.details["validation_error"]


@pytest.mark.parametrize("space", latent_offset.SPACES)
def test_what_is_saved_is_what_is_added(space: str, tmp_path: Path) -> None:
    asked, held = task(space=space), examples(5, 700)
    probe = latent_offset.fit(asked)
    expected = probe.predict(held)
    probe.save(tmp_path)
    probe.release()
    with safe_open(tmp_path / "offset.safetensors", "pt") as file:
        assert file.metadata() == {"space": space, "model": "tiny.style"}
    saved = load_file(tmp_path / "offset.safetensors")
    fresh = StyleTiny()
    code = dict(held.code)
    if space == "w+":
        assert {name: tuple(v.shape) for name, v in saved.items()} == {"w": (1, NUM_WS, W_DIM)}
        code["w"] = code["w"] + saved["w"]
    else:
        assert [tuple(v.shape) for v in saved.values()] == [(1, WIDTH), (1, WIDTH), (1, 3)]
        for name, value in saved.items():
            fresh.network.get_submodule(name).bias.data += value[0]  # type: ignore[operator,union-attr]
    found = asked.intrinsic.from_picture(fresh.forward(code, "albedo"))
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_norm_is_told_beside_that_of_the_codes() -> None:
    asked = task()
    probe = latent_offset.fit(asked)
    norm = float(probe.offset("w").detach().norm())
    codes = asked.train.code["w"][: latent_offset.BATCH].flatten(1).norm(dim=1).mean()
    assert probe.details["offset_norm"] == pytest.approx(norm)
    assert probe.details["offset_relative"] == pytest.approx(norm / float(codes))


def test_the_rate_means_the_same_at_every_scale_of_w() -> None:
    """A generator whose w is 100 times larger, and weights as much smaller, learns the same pictures."""
    wide, held = StyleTiny(), examples(8, 500)
    for layer in wide.network.affines():
        layer.weight.data /= 100
    plain, scaled = task(steps=40), task(wide, steps=40)
    scaled.train = replace(scaled.train, code={"w": 100 * scaled.train.code["w"]})
    scaled.validation = replace(scaled.validation, code={"w": 100 * scaled.validation.code["w"]})
    found = latent_offset.fit(scaled).predict(replace(held, code={"w": 100 * held.code["w"]}))
    assert torch.allclose(found, latent_offset.fit(plain).predict(held), atol=1e-3)


@pytest.mark.parametrize("space", latent_offset.SPACES)
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ({"x": torch.zeros(48, 3, 8, 8)}, r"holds x float32 \(48|holds x float32 \(32"),
        ({"w": torch.zeros(48, 4, 6, dtype=torch.long)}, "holds w int64"),
        ({"w": torch.zeros(48, 6)}, r"w float32 \(32, 6\)"),
        ({}, "holds nothing"),
    ],
)
def test_a_code_without_latents_is_refused(code: dict[str, Tensor], words: str, space: str) -> None:
    asked = task(space=space)
    asked.train = replace(asked.train, code=code)
    with pytest.raises(UserError, match=words) as caught:
        latent_offset.fit(asked)
    assert "no latents" in caught.value.wrong and "draw from seeds" in caught.value.known


def test_an_unknown_space_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'style'"):
        latent_offset.fit(task(space="styles"))


@pytest.mark.parametrize(
    ("targets", "words"),
    [(("affine0", "conv"), "not linear: conv"), (("affine9",), "no layer at all")],
)
def test_layers_that_make_no_styles_are_refused(targets: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        latent_offset.fit(task(StyleTiny(targets), space="style"))


def test_a_layer_the_pictures_go_around_is_refused() -> None:
    generator = StyleTiny(("affine0", "affine1", "affine2", "spare"))
    generator.network.spare = nn.Linear(2, 2)
    with pytest.raises(UserError, match="without calling spare"):
        latent_offset.fit(task(generator, space="style"))
    assert hooks(generator) == 0


def test_a_layer_of_zeros_can_be_moved() -> None:
    generator = StyleTiny()
    for value in generator.network.affine0.parameters():
        value.data.zero_()
    probe = latent_offset.fit(task(generator, space="style"))
    assert probe.offset("affine0").abs().max() > 0.05


@pytest.mark.parametrize("space", latent_offset.SPACES)
def test_half_precision_codes_keep_their_type(space: str) -> None:
    seen: list[torch.dtype] = []

    class Half(StyleTiny):
        def forward(self, code: Mapping[str, Tensor], intrinsic: str) -> Tensor:
            seen.append(code["w"].dtype)
            found: Tensor = self.network(code["w"].float())
            return found

    asked = task(Half(), space=space, steps=3)
    for name in ("train", "validation"):
        old = getattr(asked, name)
        setattr(asked, name, replace(old, code={"w": old.code["w"].half()}))
    assert latent_offset.fit(asked).details["loss_last"] > 0
    assert set(seen) == {torch.float16}


# What can be told before anything is loaded.


def test_spaces_are_the_ones_a_cell_may_name() -> None:
    assert limits.CHOICES["space"] == latent_offset.SPACES
    assert method("latent_offset").options["space"] == "w+"


def test_a_model_that_takes_pictures_is_refused_before_it_is_loaded() -> None:
    with pytest.raises(UserError, match="no latents") as caught:
        make_cell("sd.rooms64-s1", "normal", "latent_offset")
    assert "sd.rooms64-s1" in caught.value.asked and "sd.rooms64-s1" not in caught.value.known


def test_an_unknown_space_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UserError, match="value of option space of method latent_offset 'w'"):
        make_cell("sd.rooms64-s1", "normal", "latent_offset", {"space": "w"})
