"""What the speed benchmark measures with, and that its loops train."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from benchmarks.speed import diffusion, meters
from benchmarks.speed.curves import parts
from benchmarks.speed.diffusion import (
    Bench,
    attention,
    encoding,
    flops,
    ladder,
    measure,
    one_step,
    optimizer_of,
)
from generators import load
from probes.lora import target_pattern


@pytest.fixture(scope="module")
def bench() -> Bench:
    """The zoo's model in the place of the full-size one."""
    model: Any = load("sd.rooms64-s1")
    config = LoraConfig(r=4, lora_alpha=4, target_modules=target_pattern(model, "all"))
    adapted = get_peft_model(model.network, config)
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    with torch.no_grad():
        return Bench(model, parameters, pictures, -pictures, model.embed(pictures), model.encode(-pictures))


def test_every_rung_is_measured_and_leaves_the_network_as_it_was(bench: Bench) -> None:
    network = bench.model.network
    before = {n: p.clone() for n, p in network.named_parameters() if not p.requires_grad}
    found = measure(bench, ladder("cpu", False), rounds=1, steps=1)
    assert all(len(m.seconds) == 1 and m.seconds[0] > 0 and m.memory > 0 for m in found.values())
    after = dict(network.named_parameters())
    assert all(torch.equal(after[n], p) and after[n].dtype == p.dtype for n, p in before.items())
    assert all(p.abs().max() > 0 for n, p in after.items() if "lora_B" in n)  # it did train


def test_the_ladder_leads_from_the_naive_protocol_to_ours() -> None:
    cpu, gpu = ladder("cpu", False), ladder("cuda", True)
    assert cpu[0].encodes and cpu[0].plain and not any(r.encodes for r in cpu[1:])
    assert not any(r.fused for r in cpu) and any(r.fused for r in gpu)
    assert gpu[-1].ours == {"precision": "bfloat16", "compile": True}


def test_encoding_in_every_step_costs_flops(bench: Bench) -> None:
    assert flops(bench, encodes=True) > flops(bench, encodes=False) > 0


def test_the_naive_protocol_embeds_the_prompt_of_every_picture_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():
        output, target = encoding(bench)
        torch.testing.assert_close(output, bench.model.forward(bench.code, "normal"))
    assert torch.equal(target, bench.target)
    asked: list[list[str]] = []
    real = bench.model._embed_text
    monkeypatch.setattr(
        bench.model, "_embed_text", lambda prompts: asked.append(list(prompts)) or real(prompts)
    )
    naive, cached = ladder("cpu", False)[:2]
    for _ in range(2):
        one_step(bench, naive, optimizer_of(bench, naive))
    assert asked == [["surface normal"] * 2] * 2
    one_step(bench, cached, optimizer_of(bench, cached))
    assert len(asked) == 2


def test_the_ladder_tells_the_spread_of_its_rounds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rungs = ladder("cpu", False)[:2]
    took = {rung.name: diffusion.Measured([0.5, 0.25, 0.4], 2**30) for rung in rungs}
    monkeypatch.setattr(diffusion, "measure", lambda *given: took)
    monkeypatch.setattr(diffusion, "matmul_peak", lambda device, dtype: 1e12)
    monkeypatch.setattr(diffusion, "flops", lambda bench, encodes: 10**12)
    columns = {c.header: list(c.cells) for c in diffusion.table(bench, rungs, 3, 4).columns}
    assert columns["steps/s"] == ["2.5"] * 2 and columns["least-most"] == ["2-4"] * 2


def test_attention_is_put_back(bench: Bench) -> None:
    before = dict(bench.model.network.attn_processors)
    with attention(bench.model.network, plain=True):
        plain = {type(p).__name__ for p in bench.model.network.attn_processors.values()}
    assert plain == {"AttnProcessor"} and bench.model.network.attn_processors == before
    bench.model.network.set_attn_processor(next(iter(before.values())))


def test_plain_adamw_is_not_fused(bench: Bench) -> None:
    assert not optimizer_of(bench, ladder("cpu", False)[0]).defaults["fused"]


def test_a_peak_of_memory_is_seen_and_forgotten() -> None:
    with meters.peak_memory("cpu") as small:
        torch.ones(1)
    with meters.peak_memory("cpu") as large:
        torch.ones(64 * 2**20)  # 256 MiB, every page touched
    with meters.peak_memory("cpu") as again:
        torch.ones(1)
    assert large.bytes - small.bytes > 200 * 2**20
    assert again.bytes < large.bytes - 200 * 2**20


def test_the_peak_of_products_is_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "SIDES", {"cpu": (64, 128)})
    assert 1e7 < meters.matmul_peak("cpu", torch.float32) < 1e14


def test_parts_of_a_curve() -> None:
    assert parts([float(v) for v in range(20)], 10) == [0.5 + 2 * k for k in range(10)]
