"""Drawing tokens at random, restricted as requests wish, reproducibly and independently of the rest of the batch.

Every restriction comes down to a floor: the lowest score that may still be drawn. One uniform number per row, a
function of (seed, candidate, index), then picks from the remaining weights in the order of the vocabulary. Three ways
lead there, which differ in cost and not in what they draw:

    LIMITED  a row's top-k tokens are selected, and all else happens among them;
    NUCLEUS  the best few tokens are tried first: they nearly always hold all that top-p or min-p leave;
    WIDE     all restrictions over the whole vocabulary.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .draws import signed_seed, uniforms
from .lanes import Row
from .selection import best_k, share_floor
from .sequences import SamplingParameters
from .transfer import upload

_WIDEST_LIMIT = 1024
_NUCLEUS_TRIES = (64, 512)
_BLOCK = 256


class Way(enum.Enum):
    LIMITED = "limited"
    NUCLEUS = "nucleus"
    WIDE = "wide"

    @classmethod
    def of(cls, wish: SamplingParameters) -> Way:
        if 0 < wish.top_k <= _WIDEST_LIMIT:
            return cls.LIMITED
        narrowed = wish.top_p < 1 or wish.min_p > 0
        return cls.NUCLEUS if narrowed and wish.typical_p == 1 and wish.top_k == 0 else cls.WIDE


@dataclass(frozen=True, slots=True)
class Drawing:
    """Rows that draw their token in the same way; B counts those rows. Restrictions that none of them asks for are
    None."""

    way: Way
    rows: Tensor | None
    """int64 (B,): which rows of the batch; None when all."""
    temperature: Tensor
    """float32 (B, 1)"""
    top_k: Tensor | None
    """int64 (B,), 0 for no limit."""
    widest_k: int
    top_p: Tensor | None
    min_p: Tensor | None
    typical_p: Tensor | None
    seeds: Tensor
    candidates: Tensor


def drawings_of(rows: Sequence[Row], device: torch.device) -> tuple[Drawing, ...]:
    """The rows that draw, by way."""
    groups: dict[Way, list[int]] = {}
    for index, row in enumerate(rows):
        if row.request.sampling.temperature > 0:
            groups.setdefault(Way.of(row.request.sampling), []).append(index)
    return tuple(_drawing(way, indices, rows, device) for way, indices in groups.items())


def _drawing(way: Way, indices: list[int], rows: Sequence[Row], device: torch.device) -> Drawing:
    wishes = [rows[index].request.sampling for index in indices]

    def unless(neutral: float, values: list[float]) -> Tensor | None:
        return None if all(value == neutral for value in values) else upload(values, device)

    return Drawing(
        way=way,
        rows=None if len(indices) == len(rows) else upload(indices, device),
        temperature=upload([[wish.temperature] for wish in wishes], device),
        top_k=unless(0, [wish.top_k for wish in wishes]),
        widest_k=max(wish.top_k for wish in wishes),
        top_p=unless(1.0, [wish.top_p for wish in wishes]),
        min_p=unless(0.0, [wish.min_p for wish in wishes]),
        typical_p=unless(1.0, [wish.typical_p for wish in wishes]),
        seeds=upload([signed_seed(wish.seed) for wish in wishes], device),
        candidates=upload([rows[index].candidate for index in indices], device),
    )


def draw(scores: Tensor, drawing: Drawing, index: Tensor) -> Tensor:
    """Draw token number `index` (B,) of each row from scores float32 (B, V), which are overwritten; minus infinity
    excludes a token."""
    uniform = uniforms(drawing.seeds, drawing.candidates, index)
    if drawing.way is Way.LIMITED:
        values, ids = best_k(scores, min(drawing.widest_k, scores.shape[1]))
        return _pick_among(ids, weights_left(_heated(values, drawing), drawing), uniform)
    heated = _heated(scores, drawing)
    # A device that computes ahead of the host cannot be asked whether the tries were wide enough.
    if drawing.way is Way.NUCLEUS and scores.device.type == "cpu":
        total = _weights(heated).sum(-1)
        for k in _NUCLEUS_TRIES:
            values, ids = best_k(heated, min(k, heated.shape[1]))
            if _holds_nucleus(values, drawing, total):
                return _pick_among(ids, weights_left(values, drawing, total), uniform)
    return pick(weights_left(heated, drawing), uniform)


def weights_left(scores: Tensor, drawing: Drawing, total: Tensor | None = None) -> Tensor:
    """What to draw from: (B, C) in proportion to the probabilities of C tokens, 0 for excluded ones.

    `scores` (B, C) of the C tokens, 0 for the best one; `total` (B,), what all tokens of the vocabulary weigh, if
    these C are not all that the first restriction sees. The restrictions follow one another: each sees what those
    before it left. `scores` may be overwritten.
    """
    ranked = drawing.top_k is not None or drawing.top_p is not None or drawing.typical_p is not None
    weights = _weights(scores) if ranked else _weights_in_place(scores)
    if drawing.top_k is not None:
        floor = _top_k_floor(scores, drawing.top_k, drawing.widest_k)
        weights.masked_fill_(scores < floor[:, None], 0.0)
    if drawing.top_p is not None:
        floor = share_floor(scores, weights, drawing.top_p, weights.sum(-1) if total is None else total)
        weights.masked_fill_(scores < floor[:, None], 0.0)
    if drawing.min_p is not None:
        weights.masked_fill_(weights < drawing.min_p[:, None], 0.0)
    if drawing.typical_p is not None:
        typicality = _typicality(scores, weights)
        floor = share_floor(typicality, weights, drawing.typical_p, weights.sum(-1))
        weights.masked_fill_(typicality < floor[:, None], 0.0)
    return weights


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """The index int64 (B,) where the running sum of weights (B, C) passes uniform (B,) * total.

    Sums are taken over blocks first, so that float32 keeps its precision over a large vocabulary.
    """
    B, C = weights.shape
    blocks = math.ceil(C / _BLOCK)
    if C % _BLOCK:
        weights = F.pad(weights, (0, blocks * _BLOCK - C))
    weights = weights.view(B, blocks, _BLOCK)
    sums = weights.sum(-1)
    target = uniform[:, None] * sums.sum(-1, keepdim=True)
    block, before = _passes(sums, target)
    inside, _ = _passes(weights[torch.arange(B, device=weights.device), block], target - before)
    return block * _BLOCK + inside


def _passes(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Where the running sum of weights (B, N) passes target (B, 1), int64 (B,), and the sum before it (B, 1).

    Always an index of positive weight, also where rounding puts the target beyond the end.
    """
    sums = weights.cumsum(-1)
    found = torch.searchsorted(sums, target, right=True)
    last = (weights > 0).long().mul_(torch.arange(weights.shape[1], device=weights.device)).amax(-1, keepdim=True)
    index = torch.minimum(found, last)
    before = sums.gather(1, index) - weights.gather(1, index)
    return index[:, 0], before


def _pick_among(ids: Tensor, weights: Tensor, uniform: Tensor) -> Tensor:
    """As `pick` over the vocabulary, where only `ids` int64 (B, C) have the weights (B, C)."""
    ordered = ids.sort(-1)
    place = pick(weights.gather(1, ordered.indices), uniform)
    return ordered.values.gather(1, place[:, None])[:, 0]


def _heated(scores: Tensor, drawing: Drawing) -> Tensor:
    """The scores divided, in place, by the temperature; 0 for the best one."""
    return scores.sub_(scores.amax(-1, keepdim=True)).div_(drawing.temperature)


def _weights(heated: Tensor) -> Tensor:
    """exp, and exactly 0 from about e^-85 down. Numbers too small for float32 would slow the exponential ten times."""
    return _weights_in_place(heated.clone())


def _weights_in_place(heated: Tensor) -> Tensor:
    return heated.clamp_(min=-86.0).exp_().sub_(1e-37).clamp_(min=0.0)


def _holds_nucleus(values: Tensor, drawing: Drawing, total: Tensor) -> bool:
    """Whether the best tokens, of scores `values` (B, k), hold all that top-p or min-p leave of every row."""
    weights = _weights(values)
    held = torch.zeros_like(total, dtype=torch.bool)
    if drawing.top_p is not None:
        held |= (drawing.top_p < 1) & (weights.sum(-1) >= drawing.top_p * total)
    if drawing.min_p is not None:
        held |= weights[:, -1] < drawing.min_p
    return bool(held.all())


def _top_k_floor(scores: Tensor, top_k: Tensor, widest: int) -> Tensor:
    """The k-th best score of each row (B,); minus infinity where k is 0. `widest` is the largest k.

    Tokens exactly as good as the k-th stay in with it.
    """
    best, _ = best_k(scores, min(widest, scores.shape[1]))
    rank = (top_k - 1).clamp(0, best.shape[1] - 1)
    return best.gather(1, rank[:, None])[:, 0].masked_fill(top_k == 0, -torch.inf)


def _typicality(scores: Tensor, weights: Tensor) -> Tensor:
    """(B, C), at most 0: how near a token's information content is to what the row expects; minus infinity for excluded
    tokens. Source: Meister et al. 2022 (arXiv:2202.00666)."""
    total = weights.sum(-1, keepdim=True)
    surprisal = total.log() - scores
    expected = (weights * surprisal).masked_fill_(weights == 0, 0.0).sum(-1, keepdim=True) / total
    return (surprisal - expected).abs_().neg_().masked_fill_(weights == 0, -torch.inf)
