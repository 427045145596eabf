"""Drawing tokens at random, restricted as requests wish, reproducibly and independently of the rest of the batch.

Weights in proportion to the probabilities, and one uniform number per row, a function of (seed, candidate, index), that
picks from them in the order of the vocabulary. How the restrictions come in differs by cost:

    few   a row's top-k tokens are selected, and all else happens among them;
    open  min-p drops weights, and so does a large top-k; top-p and typical-p draw from all that is left and try again
          outside their share.
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
from .scratch import Scratch
from .selection import BLOCK, ROUNDING, best_k, drop_below, share_floor
from .sequences import SamplingParameters
from .settling import draw_looking
from .share import Preferred, Typical, draw_ahead, typicality
from .transfer import upload

_MOST_FEW = 1024
# Weights below 2**-100 of the best one are left out: numbers too small for float32 would slow the exponential.
_RANGE = 100.0
# From this temperature on no score lies so far below the best.
_WARM = 0.5
# The largest factor of a score, so that 0 times it is 0.
_SHARPEST = 1e30


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
    common: float | None
    """The sharpness where it is the same in all rows and none is sharp enough for rounding to matter."""
    warm: bool
    """No temperature is low."""
    top_k: Tensor | None
    """int64 (B,)"""
    widest_k: int
    top_p: Tensor | None
    min_p: Tensor | None
    """float32 (B,): its log2, at least -100."""
    typical_p: Tensor | None
    smallest_top_p: float
    loosest_top_p: float
    smallest_typical_p: float
    numbers: Numbers
    scratch: Scratch


def is_few(wish: SamplingParameters) -> bool:
    return 0 < wish.top_k <= _MOST_FEW


def drawings_of(rows: Sequence[Row], device: torch.device, scratch: Scratch) -> tuple[Drawing, ...]:
    """The rows that draw, by way; those with typical-p apart, which takes more work."""
    groups: dict[tuple[bool, bool], list[int]] = {}
    for index, row in enumerate(rows):
        wish = row.request.sampling
        if wish.temperature > 0:
            groups.setdefault((is_few(wish), wish.typical_p < 1), []).append(index)
    return tuple(_drawing(few, indices, rows, device, scratch) for (few, _), indices in groups.items())


def _drawing(few: bool, indices: list[int], rows: Sequence[Row], device: torch.device, scratch: Scratch) -> Drawing:
    wishes = [rows[index].request.sampling for index in indices]

    widest_k = max(wish.top_k for wish in wishes)
    sharpness = [min(math.log2(math.e) / wish.temperature, _SHARPEST) for wish in wishes]
    warm = min(wish.temperature for wish in wishes) >= _WARM
    # The key of the best token is then not exactly 0, which min-p counts on.
    sums_up = warm and len(set(sharpness)) == 1 and all(wish.min_p == 0 for wish in wishes)

    def unless(neutral: float, values: list[float]) -> Tensor | None:
        return None if all(value == neutral for value in values) else upload(values, device)

    return Drawing(
        few=few,
        rows=None if len(indices) == len(rows) else upload(indices, device),
        sharpness=upload([[value] for value in sharpness], device),
        common=sharpness[0] if sums_up else None,
        warm=warm,
        # Where all want as many, the choice of the best is all there is to it.
        top_k=unless(widest_k if few else 0, [wish.top_k for wish in wishes]),
        widest_k=widest_k,
        top_p=unless(1.0, [wish.top_p for wish in wishes]),
        min_p=unless(-_RANGE, [max(math.log2(wish.min_p), -_RANGE) if wish.min_p else -_RANGE for wish in wishes]),
        typical_p=unless(1.0, [wish.typical_p for wish in wishes]),
        smallest_top_p=min(wish.top_p for wish in wishes),
        loosest_top_p=max(wish.top_p for wish in wishes),
        smallest_typical_p=min(wish.typical_p for wish in wishes),
        numbers=Numbers(
            streams_of(
                upload([signed_seed(wish.seed) for wish in wishes], device),
                upload([rows[index].candidate for index in indices], device),
            )
        ),
        scratch=scratch,
    )


def draw(scores: Tensor, maxima: Tensor, best: Tensor, drawing: Drawing, index: Tensor) -> Tensor:
    """Draw token number `index` (B,) of each row from scores float32 (B, V), which are overwritten; minus infinity
    excludes a token. `maxima` (B, blocks) are those of blocks of the scores, small ones for few, and `best` (B, 1)
    those of the rows."""
    if drawing.few:
        values, ids = best_k(scores, min(drawing.widest_k, scores.shape[1]), maxima)
        keys = values.sub_(best).mul_(drawing.sharpness)
        return pick_among(ids, weights_left(keys, drawing), drawing.numbers.at(index))
    keys = _keys(scores, best, drawing)
    if not drawing.warm:
        torch.threshold_(keys, -_RANGE, -torch.inf)
    if drawing.top_k is not None:
        floors = _top_k_floor(keys, drawing.top_k, drawing.widest_k)
        keys.masked_fill_(keys < floors[:, None], -torch.inf)
    if drawing.top_p is None and drawing.typical_p is None:
        if drawing.min_p is not None:
            drop_below(keys, drawing.min_p)
        weights = keys.exp2_()
        return pick(weights, block_sums(weights), drawing.numbers.at(index))
    preferred = _likeliest(keys, _highest(maxima, best, drawing, keys), drawing)
    return draw_preferred(preferred, drawing.numbers, index, (drawing.smallest_top_p, drawing.smallest_typical_p))


def draw_preferred(given: Preferred, numbers: Numbers, index: Tensor, smallest_shares: tuple[float, float]) -> Tensor:
    """Draw token number `index` (B,) of each row. `smallest_shares` are those of any row's top-p and typical-p."""
    if given.weights.device.type == "cpu":
        return draw_looking(given, numbers, index)
    return draw_ahead(given, numbers, index, smallest_shares)


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
        weights.masked_fill_(keys < (drawing.min_p - ROUNDING)[:, None], 0.0)
    if drawing.typical_p is not None:
        typical = typicality(keys, weights, weights.sum(-1), torch.empty_like(keys))
        floor = share_floor(typical.masked_fill_(weights == 0, -torch.inf), weights, drawing.typical_p)
        weights.masked_fill_(typical < floor[:, None], 0.0)
    return weights


def _keys(scores: Tensor, best: Tensor, drawing: Drawing) -> Tensor:
    """The log2 of how much likelier a token is than the best one, in place of scores (B, N)."""
    if drawing.common is None:
        return scores.sub_(best).mul_(drawing.sharpness)
    return torch.add(best * -drawing.common, scores, alpha=drawing.common, out=scores)  # one pass, not two


def _highest(maxima: Tensor, best: Tensor, drawing: Drawing, keys: Tensor) -> Tensor | None:
    """(B, blocks): the highest keys of whole blocks, if there are such."""
    B, V = keys.shape
    if V % BLOCK:
        return None
    return _keys(maxima.view(B, V // BLOCK, -1).amax(-1), best, drawing)


def _likeliest(keys: Tensor, highest: Tensor | None, drawing: Drawing) -> Preferred:
    """The likeliest tokens first; `highest` (B, blocks) are the highest keys (B, V) of blocks. All are overwritten."""
    weights = torch.exp2(keys, out=drawing.scratch.take("weights", keys, keys.shape[0]))
    sums = block_sums(weights)
    total = sums.sum(-1)
    wanted = torch.full_like(total, torch.inf) if drawing.top_p is None else drawing.top_p * total
    if drawing.top_p is not None and drawing.loosest_top_p == 1:
        wanted.masked_fill_(drawing.top_p == 1, torch.inf)
    if drawing.min_p is not None:  # which weights are in the share, those that min-p drops have a say in
        drop_below(keys, drawing.min_p)
        highest = None if highest is None else highest.sub_(drawing.min_p[:, None])
        wanted.mul_(drawing.min_p.neg().exp2_())
        weights = torch.exp2(keys, out=weights)
        sums = block_sums(weights)
        total = sums.sum(-1)
    typical = None
    if drawing.typical_p is not None:
        typical = Typical(drawing.typical_p, torch.minimum(wanted, total))
    spare = drawing.scratch.take("spare", keys, keys.shape[0])
    return Preferred(weights, sums, keys, wanted, spare, highest, typical)


def _top_k_floor(keys: Tensor, top_k: Tensor, widest: int) -> Tensor:
    """The k-th best key of each row (B,); minus infinity where k is 0. `widest` is the largest k.

    Tokens exactly as good as the k-th stay in with it.
    """
    best, _ = best_k(keys, min(widest, keys.shape[1]))
    rank = (top_k - 1).clamp(0, best.shape[1] - 1)
    return best.gather(1, rank[:, None])[:, 0].masked_fill(top_k == 0, -torch.inf)
