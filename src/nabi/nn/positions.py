"""Positions as sines and cosines, which are computed, never learnt (Vaswani et al. 2017, section 3.5).

Unusual: no table is kept, so there is no longest row, nothing to build on a device that holds no numbers, and nothing to save.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoids(positions: Tensor, size: int, *, interleaved: bool) -> Tensor:
    """The sine and the cosine of each position at size / 2 rates, from 1 down to nearly 1 / 10000.

    Args:
        positions: (T,) int64.
        size: W; if it is odd, the last rate has no cosine.
        interleaved: sines at even places and cosines at odd ones, as in the paper; else all sines first, as in Marian.

    Returns:
        (T, W) float64: a float32 angle of a late position would be wrong in the fifth digit.
    """
    rates = 10000.0 ** (torch.arange(0, size, 2, dtype=torch.float64, device=positions.device) / size)
    angles = positions.double()[:, None] / rates
    pair = (angles.sin(), angles.cos())
    return torch.stack(pair, -1).flatten(1)[:, :size] if interleaved else torch.cat(pair, -1)[:, :size]
