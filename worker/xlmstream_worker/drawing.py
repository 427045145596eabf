"""Drawing tokens at random, restricted as requests wish, reproducibly and independently of the rest of the batch.

Weights in proportion to the probabilities, and one uniform number per row, a function of (seed, candidate, index), that
picks from them in the order of the vocabulary. How the restrictions come in differs by cost:

    few   a row's top-k tokens are selected, and all else happens among them, sorted where a share is asked for;
    open  all tokens are weighed, and the edge of a share is found by counting weights in bins, without sorting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .draws import Numbers, signed_seed, streams_of
from .lanes import Row
from .picking import block_sums, pick, pick_among
from .rowwise.constants import MOST_FEW, RANGE, ROUNDING, SHARPEST
from .selection import best_k, mass_floor, share_floor
from .sequences import SamplingParameters
from .transfer import upload


@dataclass(frozen=True, slots=True)
class Drawing:
    """Rows that draw their token in the same way; B counts those rows. Restrictions that none of them asks for are
    None."""

    few: bool
    """Among `widest_k` tokens, rather than in the open."""
    rows: Tensor | None
    """int64 (B,): which rows of the batch; None when all."""
    sharpness: Tensor
    """float32 (B, 1): log2(e) / temperature: what makes of a score a power of two."""
    top_k: Tensor | None
    """int64 (B,)"""
    widest_k: int
    top_p: Tensor | None
    min_p: Tensor | None
    """float32 (B,): its log2, at least -100."""
    typical_p: Tensor | None
    numbers: Numbers


def is_few(wish: SamplingParameters) -> bool:
    return 0 < wish.top_k <= MOST_FEW


def drawings_of(rows: Sequence[Row], device: torch.device) -> tuple[Drawing, ...]:
    """The rows that draw, by way; those with typical-p apart, which takes more work."""
    groups: dict[tuple[bool, bool], list[int]] = {}
    for index, row in enumerate(rows):
        wish = row.request.sampling
        if wish.temperature > 0:
            groups.setdefault((is_few(wish), wish.typical_p < 1), []).append(index)
    return tuple(_drawing(few, indices, rows, device) for (few, _), indices in groups.items())


def _drawing(few: bool, indices: list[int], rows: Sequence[Row], device: torch.device) -> Drawing:
    wishes = [rows[index].request.sampling for index in indices]

    widest_k = max(wish.top_k for wish in wishes)
    sharpness = [min(math.log2(math.e) / wish.temperature, SHARPEST) for wish in wishes]

    def unless(neutral: float, values: list[float]) -> Tensor | None:
        return None if all(value == neutral for value in values) else upload(values, device)

    return Drawing(
        few=few,
        rows=None if len(indices) == len(rows) else upload(indices, device),
        sharpness=upload([[value] for value in sharpness], device),
        # Where all want as many, the choice of the best is all there is to it.
        top_k=unless(widest_k if few else 0, [wish.top_k for wish in wishes]),
        widest_k=widest_k,
        top_p=unless(1.0, [wish.top_p for wish in wishes]),
        min_p=unless(-RANGE, [max(math.log2(wish.min_p), -RANGE) if wish.min_p else -RANGE for wish in wishes]),
        typical_p=unless(1.0, [wish.typical_p for wish in wishes]),
        numbers=Numbers(
            streams_of(
                upload([signed_seed(wish.seed) for wish in wishes], device),
                upload([rows[index].candidate for index in indices], device),
            )
        ),
    )


def draw(scores: Tensor, maxima: Tensor, best: Tensor, drawing: Drawing, index: Tensor) -> Tensor:
    """Draw token number `index` (B,) of each row from scores float32 (B, V), which are overwritten; minus infinity
    excludes a token. `maxima` (B, blocks) are those of blocks of the scores, small ones for few, and `best` (B, 1)
    those of the rows."""
    if drawing.few:
        values, ids = best_k(scores, min(drawing.widest_k, scores.shape[1]), maxima)
        keys = values.sub_(best).mul_(drawing.sharpness)
        return pick_among(ids, weights_left(keys, drawing), drawing.numbers.at(index))
    keys = scores.sub_(best).mul_(drawing.sharpness)
    weights = weights_left(torch.threshold_(keys, -RANGE, -torch.inf), drawing)
    return pick(weights, block_sums(weights), drawing.numbers.at(index))


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
        floor = _floor_of_share(keys, weights, drawing.top_p, drawing)
        weights.masked_fill_(keys < floor[:, None], 0.0)
    if drawing.min_p is not None:
        weights.masked_fill_(keys < (drawing.min_p - ROUNDING)[:, None], 0.0)
    if drawing.typical_p is not None:
        typical = typicality(keys, weights).masked_fill_(weights == 0, -torch.inf)
        floor = _floor_of_share(typical, weights, drawing.typical_p, drawing)
        weights.masked_fill_(typical < floor[:, None], 0.0)
    return weights


def typicality(keys: Tensor, weights: Tensor) -> Tensor:
    """(B, C), at most 0: how near a token's information content is to what the row expects. `keys`, the log2 of the
    weights, are overwritten; tokens without weight get any value.

    Source: Meister et al. 2022 (arXiv:2202.00666).
    """
    keys.clamp_(min=-RANGE)  # minus infinity times a weight of 0 is no number
    expected = (weights * keys).sum(-1, keepdim=True).div_(weights.sum(-1, keepdim=True))
    return keys.sub_(expected).abs_().neg_()


def _floor_of_share(preference: Tensor, weights: Tensor, share: Tensor, drawing: Drawing) -> Tensor:
    """(B,): what the fewest preferred tokens that weigh `share` (B,) of all are preferred by at least."""
    if drawing.few:
        return share_floor(preference, weights, share)
    floor = mass_floor(preference, weights, share * weights.sum(-1))
    return floor.masked_fill_(share == 1, -torch.inf)


def _top_k_floor(keys: Tensor, top_k: Tensor, widest: int) -> Tensor:
    """The k-th best key of each row (B,); minus infinity where k is 0. `widest` is the largest k.

    Tokens exactly as good as the k-th stay in with it.
    """
    best, _ = best_k(keys, min(widest, keys.shape[1]))
    rank = (top_k - 1).clamp(0, best.shape[1] - 1)
    return best.gather(1, rank[:, None])[:, 0].masked_fill(top_k == 0, -torch.inf)
