"""Finding the best, the best k, and the edge of a share, among the scores of a whole vocabulary, without sorting it.

A maximum over blocks runs at memory speed where an argmax or a selection over everything does not, so whatever looks
for few tokens looks for their blocks first. Rows of V scores, V a multiple of 256 where it matters for speed.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 256
# Blocks that `best_k` narrows its choice to, one after the other; what the second saves, measured on CPUs, is the
# selection among the elements of the first.
_SMALL_BLOCKS = (64, 8)
# Up to this many keys are sorted.
_FEW = 1024
# Weights below e^-30 of the best one are beyond float32 sums.
_WEIGHT_RANGE = 30.0
_BINS = 256


def best_token(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The index int64 (B,) and value float32 (B,) of the highest score of each row (B, V); the first among equals."""
    B, V = scores.shape
    if V % _BLOCK or V == _BLOCK:
        best = scores.max(-1)
        return best.indices, best.values
    blocks = scores.view(B, V // _BLOCK, _BLOCK)
    highest = blocks.amax(-1).max(-1)
    block = highest.indices
    inside = blocks.gather(1, block[:, None, None].expand(B, 1, _BLOCK)).argmax(-1)[:, 0]
    return block * _BLOCK + inside, highest.values


def best_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices (B, k) of the k highest scores of each row (B, V), best first; k at most V."""
    B = scores.shape[0]
    sizes = _SMALL_BLOCKS if scores.device.type == "cpu" else _SMALL_BLOCKS[:1]
    kept, steps = scores, list[tuple[int, Tensor]]()
    for size in sizes:
        blocks = kept.shape[1] // size
        if kept.shape[1] % size or 2 * k >= blocks:
            continue
        # The k best lie in the k blocks with the highest maxima.
        chosen = kept.view(B, blocks, size).amax(-1).topk(k, sorted=False).indices
        places = chosen + torch.arange(0, B * blocks, blocks, device=scores.device)[:, None]
        kept = kept.view(B * blocks, size).index_select(0, places.view(-1)).view(B, k * size)
        steps.append((size, chosen))
    best = kept.topk(k)
    indices = best.indices
    for size, chosen in reversed(steps):
        indices = chosen.gather(1, indices // size) * size + indices % size
    return best.values, indices


def share_floor(keys: Tensor, weights: Tensor, share: Tensor, total: Tensor) -> Tensor:
    """The lowest key (B,) of the smallest set of highest keys that weighs share (B,) * total (B,).

    `keys` (B, V) are at most 0; `weights` (B, V) are 0 for excluded tokens. A share of 1 keeps everything: minus
    infinity.
    """
    wanted = share * total
    if keys.shape[1] > _FEW:
        floor = mass_floor(keys, weights, wanted)
    else:
        best = keys.sort(-1, descending=True)
        sums = weights.gather(1, best.indices).cumsum_(-1)
        place = torch.searchsorted(sums, wanted[:, None]).clamp_(max=best.values.shape[1] - 1)
        floor = best.values.gather(1, place)[:, 0]
    return floor.masked_fill(share == 1, -torch.inf)


def mass_floor(keys: Tensor, weights: Tensor, wanted: Tensor) -> Tensor:
    """A key (B,) such that the tokens at or above it weigh `wanted` (B,), found without sorting.

    `keys` (B, V) are at most 0. Three rounds, each looking closer into the bin of the last that holds the edge: tokens
    within 30 / 256**3 of the edge count as equals. Minus infinity where all keys above -30 together weigh too little.
    """
    high = keys.new_zeros(keys.shape[0], 1)
    counted = torch.zeros_like(high)
    width = _WEIGHT_RANGE
    short = torch.zeros(keys.shape[0], 1, dtype=torch.bool, device=keys.device)
    for number in range(3):
        width /= _BINS
        # Column 0 takes what lies above `high` and is counted already, the last one what lies below the bins.
        bins = ((high - keys) / width).floor_().clamp_(-1, _BINS).long().add_(1)
        sums = weights.new_zeros(keys.shape[0], _BINS + 2).scatter_add_(1, bins, weights)[:, 1:-1]
        running = sums.cumsum(-1).add_(counted)
        edge = torch.searchsorted(running, wanted[:, None])
        if number == 0:
            short = edge == _BINS
        edge = edge.clamp_(max=_BINS - 1)
        counted = (running - sums).gather(1, edge)
        high = high - edge * width
    return (high - width).masked_fill(short, -torch.inf)[:, 0]
