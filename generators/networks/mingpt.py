"""The transformer that draws VQGAN's codes: a pre-norm GPT with the names of taming's checkpoints.

Why not transformers' GPT-2: it projects query, key and value by one fused Conv1D with transposed weights
and biased throughout, where the checkpoints have a Linear layer each, so that every name needs a converter;
it has no `n_unmasked`, the prefix whose places see one another, which would have to be brought as a mask
with each call; and it takes either tokens or embeddings, where here embeddings are put before tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def visible(block_size: int, n_unmasked: int) -> Tensor:
    """Who (row) sees whom (column), (block block) of 0 and 1: the past, and the prefix all of itself."""
    mask = torch.ones(block_size, block_size).tril()
    mask[:n_unmasked, :n_unmasked] = 1
    return mask


class Cache:
    """Keys and values of what a GPT has read, in memory allocated once.

    Args:
        layers, batch, heads, capacity, width: sizes; `capacity` is the longest sequence.
        like: tensor of the same type and device.

    Attributes:
        length: places read so far.
    """

    def __init__(self, layers: int, batch: int, heads: int, capacity: int, width: int, like: Tensor) -> None:
        self.memory = like.new_empty(layers, 2, batch, heads, capacity, width)
        self.length = 0

    def add(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values (b heads t d) behind those of the past; all of them (b heads length+t d)."""
        memory, end = self.memory[layer], self.length + keys.shape[2]
        memory[0, :, :, self.length : end] = keys
        memory[1, :, :, self.length : end] = values
        return memory[0, :, :, :end], memory[1, :, :, :end]

    def past(self) -> Tensor:
        """Keys and values (layers 2 b heads length d) of what was read."""
        return self.memory[:, :, :, :, : self.length]


class CausalSelfAttention(nn.Module):
    """Multi-head attention; `mask` (1 1 block block) is stored in checkpoints and says who sees whom."""

    mask: Tensor

    def __init__(self, n_embd: int, n_head: int, block_size: int, n_unmasked: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.key, self.query = nn.Linear(n_embd, n_embd), nn.Linear(n_embd, n_embd)
        self.value, self.proj = nn.Linear(n_embd, n_embd), nn.Linear(n_embd, n_embd)
        self.register_buffer("mask", visible(block_size, n_unmasked)[None, None])
        self.plain = n_unmasked == 0  # only the past is seen, for which the kernel needs no mask

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = (self.query(x), self.key(x), self.value(x))
        q, k, v = (part.unflatten(2, (self.n_head, -1)).transpose(1, 2) for part in parts)
        return q, k, v

    def forward(self, x: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        """Outputs (b t c) of x (b t c), which stands behind what a cache holds of this layer."""
        q, k, v = self._heads(x)
        start, t = (cache.length if cache else 0), x.shape[1]
        if cache:
            k, v = cache.add(layer, k, v)
        if t == 1:  # the last place sees all others
            y = functional.scaled_dot_product_attention(q, k, v)
        elif self.plain and start == 0:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            seen = self.mask[..., start : start + t, : start + t] > 0
            y = functional.scaled_dot_product_attention(q, k, v, seen)
        found: Tensor = self.proj(y.transpose(1, 2).flatten(2))
        return found


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a layer norm and beside a shortcut."""

    def __init__(self, n_embd: int, n_head: int, block_size: int, n_unmasked: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.attn = CausalSelfAttention(n_embd, n_head, block_size, n_unmasked)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))

    def forward(self, x: Tensor, cache: Cache | None = None, layer: int = 0) -> Tensor:
        x = x + self.attn(self.ln1(x), cache, layer)
        found: Tensor = x + self.mlp(self.ln2(x))
        return found


def _initialize(module: nn.Module) -> None:
    """Weights of a normal distribution as narrow as GPT-2's, biases of zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class GPT(nn.Module):
    """Codes to logits of the next code.

    Args:
        vocab_size: number of codes.
        block_size: longest sequence.
        n_unmasked: the first so many places see one another.
    """

    def __init__(
        self, vocab_size: int, block_size: int, n_layer: int, n_head: int, n_embd: int, n_unmasked: int = 0
    ) -> None:
        super().__init__()
        self.vocab_size, self.block_size = vocab_size, block_size
        self.n_head, self.n_embd, self.n_unmasked = n_head, n_embd, n_unmasked
        self.tok_emb = nn.Embedding(vocab_size, n_embd)
        self.pos_emb = nn.Parameter(torch.zeros(1, block_size, n_embd))
        self.blocks = nn.ModuleList(Block(n_embd, n_head, block_size, n_unmasked) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)

    def cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for sequences up to `capacity`."""
        width = self.n_embd // self.n_head
        return Cache(len(self.blocks), batch, self.n_head, capacity, width, self.pos_emb)

    def forward(self, codes: Tensor, embeddings: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Logits (b t v) at every place of codes (b t), after the `embeddings` (b s c) put before them.

        With a cache (and without gradients) the codes stand behind those it holds, and are kept in it.
        Within the first `n_unmasked` places that is not the same as reading all of them at once: there a
        place sees later ones, too, and what was kept before those were read does not know of them.
        """
        x = self.tok_emb(codes)
        if embeddings is not None:
            x = torch.cat([embeddings, x], 1)
        start = cache.length if cache else 0
        x = x + self.pos_emb[:, start : start + x.shape[1]]
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, layer)
        if cache:
            cache.length += x.shape[1]
        found: Tensor = self.head(self.ln_f(x))
        return found


class Stepper:
    """A GPT that reads one more code of every sequence: the numbers of `gpt(codes, cache=cache)`.

    For a small network most of the time of one code goes into calls, so here are fewer of them: query, key
    and value come from one product, whose weights are copies made when this is made.
    """

    def __init__(self, gpt: GPT) -> None:
        self.gpt, self.blocks = gpt, list[Any](gpt.blocks)
        parts = [(b.attn.query, b.attn.key, b.attn.value) for b in self.blocks]
        self.weights = [torch.cat([p.weight for p in three]) for three in parts]
        self.biases = [torch.cat([p.bias for p in three]) for three in parts]

    def __call__(self, codes: Tensor, cache: Cache) -> Tensor:
        """Logits (b v) behind codes (b), which stand behind what the cache holds and are kept in it."""
        gpt, here = self.gpt, cache.length
        x = gpt.tok_emb.weight[codes] + gpt.pos_emb[0, here]
        layers = zip(self.blocks, cache.memory, self.weights, self.biases, strict=True)
        for block, memory, weight, bias in layers:
            parts = functional.linear(_normal(block.ln1, x), weight, bias)
            parts = parts.view(len(x), 3, gpt.n_head, -1)
            memory[:, :, :, here] = parts[:, 1:].transpose(0, 1)
            keys, values = memory[0, :, :, : here + 1], memory[1, :, :, : here + 1]
            y = functional.scaled_dot_product_attention(parts[:, 0, :, None], keys, values)
            x = x + _linear(block.attn.proj, y.flatten(1))
            y = functional.gelu(_linear(block.mlp[0], _normal(block.ln2, x)))
            x = x + _linear(block.mlp[2], y)
        cache.length += 1
        return _linear(gpt.head, _normal(gpt.ln_f, x))


def _linear(layer: Any, x: Tensor) -> Tensor:
    """The layer without what a module's call adds."""
    return functional.linear(x, layer.weight, layer.bias)


def _normal(layer: Any, x: Tensor) -> Tensor:
    return functional.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
