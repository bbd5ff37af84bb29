"""VQGAN's parts by their own laws: sampling with a cache, noise, top-k, conditions, a second opinion."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.networks import net2net
from generators.networks.mingpt import GPT
from generators.networks.net2net import ClassLabel, CoordStage, Net2NetTransformer
from generators.networks.sampling import choose, draw, gumbel, keep_top
from generators.networks.vqgan import VectorQuantizer, VQModel


def gpt_of(seed: int, **shape: int) -> GPT:
    torch.manual_seed(seed)
    found = GPT(**shape).eval().requires_grad_(False)
    found.pos_emb.normal_()
    found.head.weight.mul_(6)  # logits that differ
    return found


# Sampling.


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    width=st.integers(1, 5),
    vocab=st.integers(2, 30),
    start=st.integers(1, 9),
    steps=st.integers(1, 9),
    unmasked=st.integers(0, 12),
    greedy=st.booleans(),
    top_k=st.none() | st.integers(1, 40),
    temperature=st.floats(0.3, 2.0),
)
def test_the_cache_changes_no_code(
    seed: int,
    layers: int,
    heads: int,
    width: int,
    vocab: int,
    start: int,
    steps: int,
    unmasked: int,
    greedy: bool,
    top_k: int | None,
    temperature: float,
) -> None:
    """Whatever the shape, inside an unmasked prefix and behind it."""
    shape = {"vocab_size": vocab, "block_size": start + steps - 1, "n_layer": layers, "n_head": heads}
    gpt = gpt_of(seed, **shape, n_embd=heads * width, n_unmasked=unmasked)
    codes = torch.randint(vocab, (2, start), generator=torch.Generator().manual_seed(seed))
    noise = None if greedy else gumbel([seed, seed + 1], steps, vocab)
    found = [draw(gpt, codes, steps, noise, temperature, top_k, cached) for cached in (True, False)]
    assert found[0].shape == (2, steps) and torch.equal(*found)


def test_what_a_block_cannot_hold_is_refused() -> None:
    gpt = gpt_of(0, vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4)
    assert draw(gpt, torch.zeros(1, 2, dtype=torch.long), 3).shape == (1, 3)
    for start, steps in [(2, 4), (0, 1)]:
        with pytest.raises(ValueError, match="for a block of 4"):
            draw(gpt, torch.zeros(1, start, dtype=torch.long), steps)


def test_noise_draws_from_the_softmax() -> None:
    """Frequencies of 20,000 draws lie within five standard deviations of the probabilities."""
    logits, n = torch.tensor([[1.0, 0.0, -1.0, 2.0]]), 20_000
    drawn = choose(logits.expand(n, -1), gumbel([3], n, 4)[0], 0.8, 3)
    expected = keep_top(logits / 0.8, 3).softmax(1)[0]
    found = torch.bincount(drawn, minlength=4) / n
    assert (found - expected).abs().max() < 5 * (0.25 / n) ** 0.5 and found[2] == 0


def test_a_row_of_noise_is_its_seeds_alone() -> None:
    assert torch.equal(gumbel([1, 2], 3, 4)[1:], gumbel([2], 3, 4))
    assert not torch.equal(gumbel([1], 3, 4), gumbel([2], 3, 4))
    assert torch.equal(gumbel([1], 2, 4)[0], gumbel([1], 3, 4)[0, :2])


def test_rounding_hardly_ever_decides() -> None:
    """Errors of a thousand logits, made large to be seen, change fewer codes than with cumulative sums."""
    draws, n = torch.Generator().manual_seed(0), 1_000
    logits = torch.randn(n, 1024, generator=draws, dtype=torch.float64)
    wrong = logits + 3e-3 * torch.randn(logits.shape, generator=draws, dtype=torch.float64)
    noise = gumbel([4], n, 1024)[0]
    changed = int((choose(logits, noise, 1.0, None) != choose(wrong, noise, 1.0, None)).sum())
    u = torch.rand(n, 1, generator=draws, dtype=torch.float64)
    sums = [torch.searchsorted(x.softmax(1).cumsum(1), u) for x in (logits, wrong)]
    assert 0 < 3 * changed < int((sums[0] != sums[1]).sum())


def test_ties_of_the_kth_stay() -> None:
    logits = torch.tensor([[3.0, 1.0, 1.0, 0.0]])
    assert keep_top(logits, 2).isfinite().tolist() == [[True, True, True, False]]
    assert torch.equal(keep_top(logits, None), logits) and torch.equal(keep_top(logits, 9), logits)


# Conditions.


def test_coordinates_are_means_of_squares_rounded_half_to_even() -> None:
    stage = CoordStage(n_embed=10, down_factor=2)
    given_ = torch.tensor([0.25, 0.05, 0.15, 1.0]).repeat_interleave(2).expand(2, -1)[None, None]
    assert stage.codes(given_).tolist() == [[[2, 0, 2, 10]]]
    for wrong in (given_ * 2, given_[0]):
        with pytest.raises(ValueError, match="coordinates"):
            stage.codes(wrong)


def test_a_class_is_its_own_code() -> None:
    assert ClassLabel().codes(torch.tensor([3, 5])).tolist() == [[3], [5]]


DDCONFIG: dict[str, Any] = {"z_channels": 4, "resolution": 8, "in_channels": 3, "out_ch": 3, "ch": 32}
DDCONFIG |= {"ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "double_z": False}


@pytest.mark.parametrize("inner", ["first", "another"])
def test_a_picture_as_condition(inner: str) -> None:
    """The first stage itself, whose weights a file has twice, or another one."""
    stage = {"params": {"ddconfig": DDCONFIG, "n_embed": 12, "embed_dim": 4}}
    params = {
        "transformer_config": {
            "params": {
                "vocab_size": 12,
                "block_size": 31,
                "n_layer": 1,
                "n_head": 1,
                "n_embd": 8,
                "n_unmasked": 16,
            }
        },
        "first_stage_config": stage,
        "cond_stage_config": "__is_first_stage__" if inner == "first" else {"target": "x.VQModel"} | stage,
        "downsample_cond_size": 8,
        "pkeep": 0.5,
    }
    made = net2net.initialized("Net2NetTransformer", params, 3)
    tensors = made.state_dict()
    assert any(name.startswith("cond_stage_model.decoder") for name in tensors)
    found = net2net.build("Net2NetTransformer", params, tensors)
    assert isinstance(found, Net2NetTransformer)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    condition = found.condition(x)
    used = found.first_stage_model if inner == "first" else found.cond_stage_model
    assert isinstance(used, VQModel)
    assert torch.equal(condition, used.codes(x[:, :, ::2, ::2]).flatten(1))
    codes = found.first_stage_model.codes(x[:, :, :8, :8]).flatten(1)
    assert torch.equal(*(found.draw(codes[:, :1], condition, 15, cached=c) for c in (True, False)))


# The first stage.


def test_the_first_of_equally_near_codes() -> None:
    quantizer = VectorQuantizer(3, 2)
    quantizer.embedding.weight.data = torch.tensor([[5.0, 5.0], [1.0, 0.0], [1.0, 0.0]])
    assert quantizer.indices(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)).item() == 1


def test_a_gumbel_codebook_takes_the_likeliest_code() -> None:
    params = {"ddconfig": DDCONFIG, "n_embed": 12, "embed_dim": 4, "kl_weight": 1e-8}
    made = net2net.initialized("GumbelVQ", params, 0)
    assert {"quantize.proj.weight", "quantize.proj.bias", "quantize.embed.weight"} <= set(made.state_dict())
    found = net2net.build("GumbelVQ", params, made.state_dict())
    assert isinstance(found, VQModel)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.conv2d(
        found.encode(x),
        found.quantize.proj.weight,
        found.quantize.proj.bias,  # type: ignore[union-attr]
    )
    assert torch.equal(found.codes(x), logits.argmax(1))
    assert found.decode_codes(found.codes(x)).shape == x.shape


@pytest.mark.parametrize("with_conv", [True, False])
def test_activations_end_where_the_picture_begins(with_conv: bool) -> None:
    config = DDCONFIG | {"resamp_with_conv": with_conv, "num_res_blocks": 2}
    torch.manual_seed(0)
    decoder = VQModel(config, 8, 4).eval().decoder
    z = torch.randn(1, 4, 4, 4)
    layers = dict(decoder.activations(z))
    assert list(layers) == ["mid.block_1", "mid.block_2"] + [
        f"up.{u}.block.{b}" for u in (1, 0) for b in range(3)
    ]
    last = decoder.conv_out(torch.nn.functional.silu(decoder.norm_out(layers["up.0.block.2"])))
    torch.testing.assert_close(decoder(z), last)


def _library_name(name: str, levels: int) -> str:
    """A name of taming's in diffusers' VQModel."""
    parts = name.split(".")
    if parts[0] not in ("encoder", "decoder"):
        return name
    side, *rest = parts
    if rest[0] == "mid":
        place, rest = f"{side}.mid_block", rest[1:]
        kind, number = rest[0].split("_")
        head = f"{place}.{'resnets' if kind == 'block' else 'attentions'}.{int(number) - 1}"
        rest = rest[1:]
    elif rest[0] in ("down", "up"):
        level = int(rest[1]) if rest[0] == "down" else levels - 1 - int(rest[1])
        place, kind = f"{side}.{rest[0]}_blocks.{level}", rest[2]
        if kind in ("downsample", "upsample"):
            return f"{place}.{kind}rs.0.{'.'.join(rest[3:])}"
        head, rest = f"{place}.{'resnets' if kind == 'block' else 'attentions'}.{rest[3]}", rest[4:]
    else:
        return name.replace("norm_out", "conv_norm_out")
    if ".attentions." in head:
        within = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
        return f"{head}.{within[rest[0]]}.{rest[1]}"
    return f"{head}.{'.'.join(rest)}".replace("nin_shortcut", "conv_shortcut")


def test_the_library_computes_the_same() -> None:
    """diffusers' VQModel with renamed weights, attention flattened from convolutions to Linear layers."""
    from diffusers import VQModel as LibraryModel

    config = DDCONFIG | {"num_res_blocks": 1, "attn_resolutions": [4]}
    made = net2net.initialized("VQModel", {"ddconfig": config, "n_embed": 12, "embed_dim": 4}, 5)
    assert isinstance(made, VQModel)
    library = LibraryModel(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(32, 64),
        latent_channels=4,
        num_vq_embeddings=12,
        vq_embed_dim=4,
        norm_num_groups=32,
        sample_size=8,
    ).eval()
    wanted = library.state_dict()
    state = {_library_name(name, 2): value for name, value in made.state_dict().items()}
    library.load_state_dict({n: v.reshape(wanted[n].shape) for n, v in state.items()})
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(library.encode(x).latents, made.encode(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(library(x).sample, made(x)[0], rtol=1e-4, atol=1e-5)
    assert not any(n.endswith(("to_q.weight", "to_out.0.weight")) and v.ndim == 4 for n, v in wanted.items())
