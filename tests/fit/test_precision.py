"""Precision, checkpoints and compilation of training: what changes, what does not, and what is put back."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from benchmarks import make_cell
from generators import load
from generators.errors import UserError
from probes import finetune, lora
from probes.fit import Diverged, descend, loss_of
from probes.intrinsics import INTRINSICS
from probes.methods import fill_options
from probes.precision import Feed, Losses, cast_frozen, prepared
from probes.task import Examples, Task, stream
from tests.probes.tiny import TinyGenerator, examples

SD = "sd.rooms64-s1"


@pytest.fixture(scope="module")
def sd() -> Any:
    return load(SD)


def latents(n: int, seed: int) -> Examples:
    random = torch.Generator().manual_seed(seed)
    z, y = (torch.randn(n, 8, 16, 16, generator=random) for _ in range(2))
    pictures = torch.zeros(n, 3, 64, 64)
    maps = {"normal": torch.ones(n, 3, 64, 64)}
    return Examples(pictures, maps, torch.ones(n, 1, 64, 64, dtype=torch.bool), {"latent": z}, y)


def task(model: Any, seed: int = 0, **options: object) -> Task:
    filled = fill_options("lora", {"steps": 4, "batch": 4} | options)
    return Task(model, INTRINSICS["normal"], latents(8, 0), latents(4, 1), filled, seed)


def losses(model: Any, **options: object) -> list[float]:
    """Of every step, with a fresh adapter that is taken off again."""
    asked = task(model, **options)
    pattern = lora.target_pattern(model, asked.options["targets"])
    torch.manual_seed(1)
    adapted = get_peft_model(model.network, LoraConfig(r=4, lora_alpha=4, target_modules=pattern))
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    try:
        return descend(asked, parameters, loss_of(asked, model.forward))[0]
    finally:
        adapted.unload()
        model.network.requires_grad_(False)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


# Cells: an option at its default is not part of them.


def test_a_default_changes_no_cell_and_another_value_does() -> None:
    plain = make_cell(SD, "normal", "lora")
    told = {"precision": "float32", "checkpointing": False, "compile": False}
    assert make_cell(SD, "normal", "lora", told).hash == plain.hash
    for name, value in (("precision", "bfloat16"), ("checkpointing", True), ("compile", True)):
        cell = make_cell(SD, "normal", "lora", {name: value})
        assert cell.hash != plain.hash and cell.options[name] == value
        assert make_cell(SD, "normal", "finetune", {name: value}).options[name] == value


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "float16"}, "bfloat16"),
        ({"precision": 16}, "type int"),
        ({"checkpointing": 1}, "type int"),
        ({"compile": "yes"}, "type str"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_loaded(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_cell(SD, "normal", "lora", options)


# bfloat16.


def test_bfloat16_learns_what_float32_does(sd: Any) -> None:
    exact, low = losses(sd, steps=10), losses(sd, steps=10, precision="bfloat16")
    assert low != exact  # it did run in another precision
    assert max(abs(a - b) / a for a, b in zip(exact, low, strict=True)) < 0.02


def test_adapters_and_loss_stay_in_float32_and_products_do_not(sd: Any) -> None:
    asked = task(sd, precision="bfloat16")
    seen: dict[str, set[torch.dtype]] = {"to_q": set(), "conv_in": set()}
    handles = [
        module.register_forward_hook(lambda m, i, o, key=key: seen[key].add(o.dtype))
        for name, module in sd.network.named_modules()
        for key in seen
        if name.endswith(key)
    ]
    before = state(sd.network)
    probe = lora.fit(asked)
    for handle in handles:
        handle.remove()
    trained = [p for p in sd.network.parameters() if p.requires_grad]
    assert trained and all(p.dtype == torch.float32 for p in trained)
    assert all(torch.bfloat16 in found for found in seen.values())
    assert all(torch.float32 in found for found in seen.values())  # predictions are in float32
    probe.release()
    assert same(state(sd.network), before)


def test_what_is_kept_for_later_is_exact() -> None:
    """A prompt first embedded while training runs in bfloat16 is not rounded for those that follow."""
    model, other = load(SD), load(SD)
    losses(model, steps=1, precision="bfloat16")  # type: ignore[arg-type]
    assert torch.equal(model.text("surface normal"), other.text("surface normal"))  # type: ignore[attr-defined]


def test_finetuning_in_bfloat16_trains_float32_weights() -> None:
    held = examples(4, 1, "albedo")
    options = fill_options("finetune", {"steps": 3, "batch": 4, "precision": "bfloat16"})
    asked = Task(TinyGenerator(), INTRINSICS["albedo"], examples(8, 0, "albedo"), held, options, 0)
    probe = finetune.fit(asked)
    assert all(p.dtype == torch.float32 for p in asked.model.network.parameters())
    assert torch.isfinite(probe.predict(held)).all()


class Broken(Exception):
    """Something else went wrong."""


@pytest.mark.parametrize("channels_last", [False, True])
def test_frozen_weights_are_cast_and_put_back_to_the_bit(channels_last: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5), nn.Conv2d(5, 4, 1), nn.Linear(2, 2))
    network.requires_grad_(False)
    network[2].requires_grad_(True)
    before = state(network)
    with pytest.raises(Broken), cast_frozen(network, torch.bfloat16, channels_last):
        assert network[0].weight.dtype == network[3].bias.dtype == torch.bfloat16
        assert network[0].weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert network[1].weight.dtype == network[2].weight.dtype == torch.float32
        raise Broken
    assert same(state(network), before) and network[0].weight.is_contiguous()


@pytest.mark.parametrize(
    "model", ["vqgan.rooms64", "stylegan2.rooms64", "stylegan-xl.rooms64", "dinov2.rooms64"]
)
def test_every_family_trains_in_bfloat16(model: str) -> None:
    from generators import registry

    name = next(spec.name for spec in registry.specs() if spec.name.startswith(model))
    found = load(name)
    pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = found.sample(range(4)) if found.spec.takes == "seeds" else None
    code = dict(drawn.code) if drawn else dict(found.embed(pictures))
    maps = {"albedo": (pictures + 1) / 2}
    shown = Examples(pictures, maps, torch.ones(4, 1, 64, 64, dtype=torch.bool), code, pictures)
    options = fill_options("lora", {"steps": 2, "batch": 2, "rank": 2, "precision": "bfloat16"})
    probe = lora.fit(Task(found, INTRINSICS["albedo"], shown, shown, options, 0))
    exact = fill_options("lora", {"steps": 2, "batch": 2, "rank": 2})
    probe.release()
    other = lora.fit(Task(found, INTRINSICS["albedo"], shown, shown, exact, 0))
    other.release()
    first = probe.details["loss_first"], other.details["loss_first"]
    assert first[0] != first[1] and first[0] == pytest.approx(first[1], rel=0.05)


# Gradients and attention.


def test_nothing_is_recorded_before_the_first_adapter(sd: Any) -> None:
    """With adapters in the decoder alone, autograd keeps no tensor of the encoder."""
    inside: list[str] = []
    kept = {"down": 0, "up": 0}

    def enter(key: str) -> Any:
        return lambda *_: inside.append(key)

    def leave(*_: Any) -> None:
        inside.pop()

    handles = []
    parts = {"down": [sd.network.conv_in, *sd.network.down_blocks], "up": list(sd.network.up_blocks)}
    for key, modules in parts.items():
        for module in modules:
            handles += [module.register_forward_pre_hook(enter(key)), module.register_forward_hook(leave)]

    def keep(value: Tensor) -> Tensor:
        if inside:
            kept[inside[-1]] += 1
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        losses(sd, steps=1, targets="up")
        assert kept["down"] == 0 and kept["up"] > 0
        losses(sd, steps=1, targets="down")
    assert kept["down"] > 0
    for handle in handles:
        handle.remove()


def test_attention_is_the_fused_one_by_default_with_adapters_too(sd: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    calls: list[int] = []
    fused = torch.nn.functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.nn.functional,
            "scaled_dot_product_attention",
            lambda *inputs, **named: calls.append(1) or fused(*inputs, **named),  # type: ignore[func-returns-value]
        )
        losses(sd, steps=1)
    processors = list(sd.network.attn_processors.values())
    assert all(isinstance(p, AttnProcessor2_0) for p in processors) and len(calls) == len(processors)


# Checkpoints.


def test_checkpoints_change_no_loss_and_compute_blocks_again(sd: Any) -> None:
    calls: list[int] = []
    handle = sd.network.up_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    plain = losses(sd)
    once = len(calls)
    again = losses(sd, checkpointing=True)
    handle.remove()
    assert once == 4 and len(calls) == once + 8
    assert again == pytest.approx(plain, rel=1e-6)
    assert not sd.network.is_gradient_checkpointing


def test_a_network_without_checkpoints_says_so() -> None:
    with pytest.raises(UserError, match="cannot compute its blocks again"):
        losses(TinyGenerator(), checkpointing=True)


# Compilation.


def test_no_compiler_is_an_error_in_four_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def nothing() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", nothing)
    with pytest.raises(UserError, match="install g"):
        losses_of_tiny(compile=True)


def losses_of_tiny(**options: object) -> list[float]:
    model = TinyGenerator()
    asked = Task(
        model,
        INTRINSICS["albedo"],
        examples(8, 0, "albedo"),
        examples(4, 1, "albedo"),
        fill_options("lora", {"steps": 3, "batch": 4, "rank": 4} | options),
        0,
    )
    model.network.requires_grad_(True)
    parameters = list(model.network.parameters())
    found = descend(asked, parameters, loss_of(asked, model.forward))[0]
    assert model.network._compiled_call_impl is None
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler about itself
def test_a_compiled_network_learns_the_same() -> None:
    assert losses_of_tiny(compile=True) == pytest.approx(losses_of_tiny(), rel=1e-4)


def test_a_network_that_is_never_called_whole_is_not_compiled_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UserError, match="never the whole"), prepared(network, {"compile": True}):
        network[0](torch.zeros(1, 2))
    assert network._compiled_call_impl is None


# Losses and batches.


def refuse(step: int, loss: float) -> None:
    raise Diverged(f"{loss} at {step}")


def test_losses_are_looked_at_now_and_then_and_the_first_bad_step_is_named() -> None:
    kept = Losses(3, refuse)
    for value in (3.0, 2.0):
        kept.add(torch.tensor(value))
    assert kept.seen == []
    kept.add(torch.tensor(1.0))
    assert kept.seen == [3.0, 2.0, 1.0]
    for value in (1.0, float("nan")):
        kept.add(torch.tensor(value))
    with pytest.raises(Diverged, match="nan at 4"):
        kept.add(torch.tensor(float("inf")))


def test_what_waits_at_the_end_is_looked_at() -> None:
    kept = Losses(50, refuse)
    kept.add(torch.tensor(1.0))
    assert kept.look() == [1.0]
    kept.add(torch.tensor(float("inf")))
    with pytest.raises(Diverged, match="inf at 1"):
        kept.look()


def test_training_names_the_step_that_diverges(sd: Any) -> None:
    asked = task(sd)
    assert asked.train.output is not None
    asked.train.output[:] = float("nan")
    with pytest.raises(Diverged, match="the loss is nan at step 0 of 4: lower the rate"):
        lora.fit(asked)


def test_a_feed_gives_rows() -> None:
    code, target = {"a": torch.arange(6), "target.x": torch.arange(6) * 2}, torch.arange(6) * 3
    found, wanted = Feed(code, target, torch.device("cpu"))(torch.tensor([4, 1]))
    assert found["a"].tolist() == [4, 1] and found["target.x"].tolist() == [8, 2]
    assert wanted.tolist() == [12, 3]


@pytest.fixture
def cuda_sd() -> Iterator[Any]:
    yield load(SD, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_learns_what_a_cpu_does(cuda_sd: Any, sd: Any, precision: str) -> None:
    before = state(cuda_sd.network)
    found = losses(cuda_sd, steps=10, precision=precision)
    assert found == pytest.approx(losses(sd, steps=10), rel=0.02)
    assert same(state(cuda_sd.network), before)


@pytest.mark.gpu
@pytest.mark.parametrize("free", [0, 2**40])
def test_batches_on_a_gpu_are_the_same_kept_there_or_copied(
    monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    code = {"x": torch.randn(9, 3, generator=stream(0, "x"))}
    feed = Feed(code, torch.arange(9), torch.device("cuda"))
    found, wanted = feed(torch.tensor([8, 0]))
    assert feed.kept == bool(free) and found["x"].is_cuda and wanted.tolist() == [8, 0]
    assert torch.equal(found["x"].cpu(), code["x"][[8, 0]])
