"""Finding the best, the best k, and the edge of a share, among the scores of a whole vocabulary, without sorting it.

A maximum over blocks runs at memory speed where an argmax or a selection over everything does not, so whatever looks
for few tokens looks for their blocks first. Rows of V scores, V a multiple of 256 where it matters for speed.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

BLOCK = 256
# What `best_k` narrows its choice to: blocks, and every eighth element of those.
_LOG_SMALL_BLOCK, _LOG_STRIDE = 6, 3
SMALL_BLOCK, _STRIDE = 2**_LOG_SMALL_BLOCK, 2**_LOG_STRIDE
# Weights below 2**-44 of the best one are beyond float32 sums.
_WEIGHT_RANGE = 44.0
_BINS = 4096


@functools.lru_cache(maxsize=64)
def row_starts(rows: int, columns: int, device: torch.device) -> Tensor:
    """int64 (rows,): where the rows of a matrix begin. Not to be changed: it is kept."""
    return torch.arange(0, rows * columns, columns, device=device)


def block_maxima(scores: Tensor, size: int = BLOCK) -> Tensor:
    """(B, V / size): the highest score of each block of `size`; the scores themselves where V is no multiple of it."""
    B, V = scores.shape
    return scores.view(B, V // size, size).amax(-1) if V % size == 0 else scores


def best_token(scores: Tensor, maxima: Tensor) -> Tensor:
    """The index int64 (B,) of the highest score of each row (B, V), the first among equals; `maxima` are those of its
    blocks, of any size."""
    B, blocks = maxima.shape
    block = maxima.argmax(-1)
    size = scores.shape[1] // blocks
    if size == 1:
        return block
    places = block + row_starts(B, blocks, scores.device)
    return scores.view(B * blocks, size).index_select(0, places).argmax(-1).add_(block, alpha=size)


def best_k(scores: Tensor, k: int, maxima: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values and indices (B, k) of the k highest scores of each row (B, V), best first; k at most V. `maxima`: those of
    blocks of `SMALL_BLOCK`, where they are known already."""
    B, V = scores.shape
    if V % SMALL_BLOCK or 2 * k >= V // SMALL_BLOCK:
        best = scores.topk(k)
        return best.values, best.indices
    # The k best lie in the k blocks with the highest maxima.
    maxima = block_maxima(scores, SMALL_BLOCK) if maxima is None else maxima
    starts = maxima.topk(k, sorted=False).indices * SMALL_BLOCK
    rows = torch.arange(0, B * V, V, device=scores.device)[:, None]
    places = (starts + rows).view(-1, 1) >> _LOG_SMALL_BLOCK
    # And in the k best of the sets of every eighth element of these. Halving is the quick way to their maxima.
    sets = scores.view(-1, SMALL_BLOCK).index_select(0, places[:, 0])
    while sets.shape[1] > _STRIDE:
        sets = torch.maximum(*sets.chunk(2, -1))
    chosen = sets.view(B, k * _STRIDE).topk(k, sorted=False).indices
    first = starts.gather(1, chosen >> _LOG_STRIDE).add_(chosen & (_STRIDE - 1))
    ids = first[:, :, None] + torch.arange(0, SMALL_BLOCK, _STRIDE, device=scores.device)
    ids = ids.view(B, -1)
    best = scores.gather(1, ids).topk(k)
    return best.values, ids.gather(1, best.indices)


def share_floor(keys: Tensor, weights: Tensor, share: Tensor) -> Tensor:
    """The lowest key (B,) of the smallest set of highest keys that weighs share (B,) of all, found by sorting.

    `weights` (B, C) are 0 for excluded tokens. A share of 1 keeps everything: minus infinity.
    """
    best = keys.sort(-1, descending=True)
    sums = weights.gather(1, best.indices).cumsum_(-1)
    place = torch.searchsorted(sums, share[:, None] * sums[:, -1:]).clamp_(max=best.values.shape[1] - 1)
    floor = best.values.gather(1, place)[:, 0]
    return floor.masked_fill(share == 1, -torch.inf)


def mass_floor(keys: Tensor, weights: Tensor, wanted: Tensor) -> Tensor:
    """A key (B,) such that the tokens at or above it weigh `wanted` (B,), found without sorting.

    `weights` (B, V) are 0 for excluded tokens. Two rounds, the second looking closer into the bin of the first that
    holds the edge: tokens within 44 / 4096**2 of the edge count as equals. 44 below the best, where all above weigh too
    little.
    """
    high = keys.amax(-1, keepdim=True)
    counted = torch.zeros_like(high)
    width = _WEIGHT_RANGE
    for _ in range(2):
        width /= _BINS
        # Column 0 takes what lies above `high` and is counted already, the last one what lies below the bins.
        bins = (high - keys).div_(width).add_(1.0).long().clamp_(0, _BINS + 1)  # whatever is no number counts too
        sums = weights.new_zeros(keys.shape[0], _BINS + 2).scatter_add_(1, bins, weights)[:, 1:-1]
        running = sums.cumsum(-1).add_(counted)
        edge = torch.searchsorted(running, wanted[:, None]).clamp_(max=_BINS - 1)
        counted = (running - sums).gather(1, edge)
        high = high - edge * width
    return (high - width)[:, 0]
