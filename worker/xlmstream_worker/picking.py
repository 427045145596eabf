"""Where a uniform number falls among weights: the inverse of their running sum, in the order of the vocabulary.

Sums are taken over blocks first, so that a search looks at one block only. Running sums are float64: some devices add
up in an order in which a float32 sum can grow by rounding at a weight of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .selection import BLOCK, row_starts

# A share this large of a float32 sum is still less than the sum.
_LARGEST = 1.0 - 2.0**-22


def block_sums(weights: Tensor) -> Tensor:
    """(B, blocks): what each block of `BLOCK` weights (B, V) weighs; the last one may be shorter."""
    return _blocks(weights).sum(-1)


def pick(weights: Tensor, sums: Tensor, uniform: Tensor) -> Tensor:
    """The index int64 (B,) where the running sum of weights (B, V) passes uniform (B,) * total.

    `sums` are the `block_sums` of the weights; `uniform` at most 1 - 2**-22. Never an index of weight 0, unless all
    weights are 0.
    """
    B, blocks = sums.shape
    last = weights.shape[1] - 1
    running = sums.cumsum(-1, dtype=torch.float64)
    target = uniform[:, None] * running[:, -1:]
    block = torch.searchsorted(running, target, right=True).clamp_(max=blocks - 1)
    size = sums.gather(1, block)
    # How far into the block, as a share of it.
    share = target.sub_(running.gather(1, block)).add_(size).div_(size).clamp_(0.0, _LARGEST)
    block = block[:, 0]
    places = block + row_starts(B, blocks, weights.device)
    inside = _blocks(weights).flatten(0, 1).index_select(0, places).cumsum(-1, dtype=torch.float64)
    place = torch.searchsorted(inside, share.mul_(inside[:, -1:]), right=True)[:, 0]
    return place.add_(block, alpha=BLOCK).clamp_(max=last)


def pick_among(ids: Tensor, weights: Tensor, uniform: Tensor) -> Tensor:
    """As `pick` over the vocabulary, where only `ids` int64 (B, C) have the weights (B, C)."""
    ordered = ids.sort(-1)
    running = weights.gather(1, ordered.indices).cumsum(-1)
    place = torch.searchsorted(running, uniform[:, None] * running[:, -1:], right=True)
    return ordered.values.gather(1, place.clamp_(max=ids.shape[1] - 1))[:, 0]


def _blocks(weights: Tensor) -> Tensor:
    """(B, blocks, BLOCK)"""
    B, V = weights.shape
    missing = -V % BLOCK
    return (F.pad(weights, (0, missing)) if missing else weights).view(B, -1, BLOCK)
