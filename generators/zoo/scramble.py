"""The scrambled control: pictures with all local statistics of rooms, and no scene."""

from __future__ import annotations

import numpy as np

BLOCK = 8  # pixels a side: below it everything is as it was
SEED = 80


def scrambled(rgb: np.ndarray, block: int = BLOCK, seed: int = SEED) -> np.ndarray:
    """Pictures, uint8 (n c h w), each with its blocks in an order of its own.

    The order of picture i depends on the seed and i alone.

    Raises:
        ValueError: a side that is no multiple of `block`.
    """
    n, c, h, w = rgb.shape
    if h % block or w % block:
        raise ValueError(f"pictures of {h} x {w} have no whole blocks of {block}")
    rows, columns = h // block, w // block
    blocks = rgb.reshape(n, c, rows, block, columns, block).transpose(0, 2, 4, 1, 3, 5)
    blocks = blocks.reshape(n, rows * columns, c, block, block)
    order = np.stack([np.random.default_rng((seed, i)).permutation(rows * columns) for i in range(n)])
    mixed = np.take_along_axis(blocks, order[:, :, None, None, None], 1)
    back = mixed.reshape(n, rows, columns, c, block, block).transpose(0, 3, 1, 4, 2, 5)
    return np.ascontiguousarray(back.reshape(n, c, h, w))
