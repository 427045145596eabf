"""Drawing tokens at random, restricted as requests wish, reproducibly and independently of the rest of the batch.

Weights in proportion to the probabilities, and one uniform number per row, a function of (seed, candidate, index), that
picks from them in the order of the vocabulary. How the restrictions come in differs by cost:

    FEW    a row's top-k tokens are selected, and all else happens among them;
    OPEN   min-p drops weights; top-p or typical-p draw from all that is left and try again outside their share;
    WIDE   what neither does: the restrictions one after the other over the whole vocabulary.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .draws import signed_seed, streams_of, uniforms
from .lanes import Row
from .picking import block_sums, pick, pick_among
from .selection import BLOCK, best_k, share_floor
from .sequences import SamplingParameters
from .share import Preferred, draw_preferred
from .transfer import upload

_MOST_FEW = 1024
# Weights below 2**-100 of the best one are left out: numbers too small for float32 would slow the exponential.
_RANGE = 100.0
# From this temperature on no score lies so far below the best.
_WARM = 0.5
# The largest factor of a score, so that 0 times it is 0.
_SHARPEST = 1e30
# In powers of two: what rounding may take off a score at the edge of min-p.
_ROUNDING = 2.0**-20


class Way(enum.Enum):
    FEW = "few"
    OPEN = "open"
    WIDE = "wide"

    @classmethod
    def of(cls, wish: SamplingParameters) -> Way:
        if wish.top_k > 0:
            return cls.FEW if wish.top_k <= _MOST_FEW else cls.WIDE
        return cls.WIDE if wish.top_p < 1 and wish.typical_p < 1 else cls.OPEN


@dataclass(frozen=True, slots=True)
class Drawing:
    """Rows that draw their token in the same way; B counts those rows. Restrictions that none of them asks for are
    None."""

    way: Way
    rows: Tensor | None
    """int64 (B,): which rows of the batch; None when all."""
    sharpness: Tensor
    """float32 (B, 1): log2(e) / temperature: what makes of a score a power of two."""
    warm: bool
    """No temperature is low."""
    top_k: Tensor | None
    """int64 (B,)"""
    widest_k: int
    top_p: Tensor | None
    min_p: Tensor | None
    """float32 (B,): its log2, at least -100."""
    typical_p: Tensor | None
    smallest_share: float
    """Of top_p and typical_p."""
    streams: Tensor
    """int64 (B,), see `draws`."""


def drawings_of(rows: Sequence[Row], device: torch.device) -> tuple[Drawing, ...]:
    """The rows that draw, by way; those of top-p and those of typical-p apart."""
    groups: dict[tuple[Way, bool], list[int]] = {}
    for index, row in enumerate(rows):
        wish = row.request.sampling
        if wish.temperature > 0:
            groups.setdefault((Way.of(wish), wish.typical_p < 1), []).append(index)
    return tuple(_drawing(way, indices, rows, device) for (way, _), indices in groups.items())


def _drawing(way: Way, indices: list[int], rows: Sequence[Row], device: torch.device) -> Drawing:
    wishes = [rows[index].request.sampling for index in indices]

    widest_k = max(wish.top_k for wish in wishes)

    def unless(neutral: float, values: list[float]) -> Tensor | None:
        return None if all(value == neutral for value in values) else upload(values, device)

    return Drawing(
        way=way,
        rows=None if len(indices) == len(rows) else upload(indices, device),
        sharpness=upload([[min(math.log2(math.e) / wish.temperature, _SHARPEST)] for wish in wishes], device),
        warm=min(wish.temperature for wish in wishes) >= _WARM,
        # Where all want as many, the choice of the best is all there is to it.
        top_k=unless(widest_k if way is Way.FEW else 0, [wish.top_k for wish in wishes]),
        widest_k=widest_k,
        top_p=unless(1.0, [wish.top_p for wish in wishes]),
        min_p=unless(-_RANGE, [max(math.log2(wish.min_p), -_RANGE) if wish.min_p else -_RANGE for wish in wishes]),
        typical_p=unless(1.0, [wish.typical_p for wish in wishes]),
        smallest_share=min(min(wish.top_p, wish.typical_p) for wish in wishes),
        streams=streams_of(
            upload([signed_seed(wish.seed) for wish in wishes], device),
            upload([rows[index].candidate for index in indices], device),
        ),
    )


def draw(scores: Tensor, maxima: Tensor, drawing: Drawing, index: Tensor) -> Tensor:
    """Draw token number `index` (B,) of each row from scores float32 (B, V), which are overwritten; minus infinity
    excludes a token. `maxima` (B, blocks) are those of blocks of the scores, small ones for the way FEW."""
    best = maxima.amax(-1, keepdim=True)
    if drawing.way is Way.FEW:
        values, ids = best_k(scores, min(drawing.widest_k, scores.shape[1]), maxima)
        keys = values.sub_(best).mul_(drawing.sharpness)
        return pick_among(ids, weights_left(keys, drawing), uniforms(drawing.streams, index))
    keys = scores.sub_(best).mul_(drawing.sharpness)
    if not drawing.warm:
        torch.threshold_(keys, -_RANGE, -torch.inf)
    if drawing.way is Way.WIDE:
        weights = weights_left(keys, drawing)
        return pick(weights, block_sums(weights), uniforms(drawing.streams, index))
    if drawing.top_p is not None:
        preferred = _nucleus(keys, _highest(maxima, best, drawing, keys), drawing.top_p, drawing.min_p)
    else:
        if drawing.min_p is not None:
            _drop_below(keys, drawing.min_p)
        if drawing.typical_p is None:
            weights = keys.exp2_()
            return pick(weights, block_sums(weights), uniforms(drawing.streams, index))
        preferred = _typical(keys, drawing.typical_p)
    return draw_preferred(preferred, drawing.streams, index, drawing.smallest_share)


def weights_left(keys: Tensor, drawing: Drawing) -> Tensor:
    """What to draw from: (B, C) in proportion to the probabilities of C tokens, 0 for excluded ones.

    `keys` (B, C) are the log2 of the weights before any restriction, 0 for the best token. The restrictions follow one
    another: each sees what those before it left. `keys` may be overwritten.
    """
    weights = keys.exp2()
    if drawing.top_k is not None:
        floor = _top_k_floor(keys, drawing.top_k, drawing.widest_k)
        weights.masked_fill_(keys < floor[:, None], 0.0)
    if drawing.top_p is not None:
        floor = share_floor(keys, weights, drawing.top_p)
        weights.masked_fill_(keys < floor[:, None], 0.0)
    if drawing.min_p is not None:
        weights.masked_fill_(keys < (drawing.min_p - _ROUNDING)[:, None], 0.0)
    if drawing.typical_p is not None:
        typicality = _typicality(keys, weights, weights.sum(-1))
        floor = share_floor(typicality.masked_fill_(weights == 0, -torch.inf), weights, drawing.typical_p)
        weights.masked_fill_(typicality < floor[:, None], 0.0)
    return weights


def _highest(maxima: Tensor, best: Tensor, drawing: Drawing, keys: Tensor) -> Tensor | None:
    """(B, blocks): the highest keys of whole blocks, if there are such."""
    B, V = keys.shape
    if V % BLOCK:
        return None
    return maxima.view(B, V // BLOCK, -1).amax(-1).sub_(best).mul_(drawing.sharpness)


def _nucleus(keys: Tensor, highest: Tensor | None, top_p: Tensor, min_p: Tensor | None) -> Preferred:
    """The likeliest tokens first; `highest` (B, blocks) are the highest keys (B, V) of blocks. All are overwritten."""
    weights = keys.exp2()
    sums = block_sums(weights)
    wanted = _wanted(top_p, sums.sum(-1))
    if min_p is not None:  # which weights are in the share, those that min-p drops have a say in
        _drop_below(keys, min_p)
        highest = None if highest is None else highest.sub_(min_p[:, None])
        wanted.mul_(min_p.neg().exp2_())
        weights = torch.exp2(keys, out=weights)
        sums = block_sums(weights)
    return Preferred(weights, sums, keys, wanted, highest)


def _typical(keys: Tensor, typical_p: Tensor) -> Preferred:
    """The most typical tokens first. `keys` are overwritten."""
    weights = keys.exp2()
    sums = block_sums(weights)
    total = sums.sum(-1)
    return Preferred(weights, sums, _typicality(keys, weights, total), _wanted(typical_p, total), None)


def _wanted(share: Tensor, total: Tensor) -> Tensor:
    return (share * total).masked_fill_(share == 1, torch.inf)


def _drop_below(keys: Tensor, floors: Tensor) -> None:
    """Make keys (B, V) below floors (B,) minus infinity, in place; the others change by a constant."""
    torch.threshold_(keys.sub_(floors[:, None]), -_ROUNDING, -torch.inf)


def _top_k_floor(keys: Tensor, top_k: Tensor, widest: int) -> Tensor:
    """The k-th best key of each row (B,); minus infinity where k is 0. `widest` is the largest k.

    Tokens exactly as good as the k-th stay in with it.
    """
    best, _ = best_k(keys, min(widest, keys.shape[1]))
    rank = (top_k - 1).clamp(0, best.shape[1] - 1)
    return best.gather(1, rank[:, None])[:, 0].masked_fill(top_k == 0, -torch.inf)


def _typicality(keys: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """(B, C), at most 0: how near a token's information content is to what the row expects. `keys` are overwritten;
    tokens without weight get any value. Source: Meister et al. 2022 (arXiv:2202.00666)."""
    keys.clamp_(min=-10 * _RANGE)  # minus infinity times a weight of 0 is no number
    expected = (weights * keys).sum(-1, keepdim=True).div_(total[:, None])
    return keys.sub_(expected).abs_().neg_()
