"""Choosing the next token of every row of a batch at once, on the device, without sorting the vocabulary.

All restrictions on a draw come down to one threshold per row: the lowest score that may still be drawn. One uniform
number per row, a function of (seed, candidate, index), then picks from the remaining weights in the order of the
vocabulary. A row therefore draws the same whatever its batch-mates ask for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .draws import signed_seed, uniforms
from .scheduler import Row

# Nearly all nuclei are smaller than this, so that a partial selection finds their edge.
_LIKELY_NUCLEUS = 1024
# Weights below e^-30 of the best one are beyond float32 sums.
_WEIGHT_RANGE = 30.0
_BINS = 256
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """What the rows of one batch ask for, as tensors (B,), valid as long as the batch has these rows.

    A part that no row asks for is None and costs nothing.
    """

    prompt_lengths: Tensor
    """int64: a row's tokens in its slot minus this is the index of the token to choose."""
    minimum: MinimumLength | None
    drawing: Drawing | None
    """None: all rows take their best token."""

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> SamplingPlan:
        lengths = [len(row.request.prompt_ids) for row in rows]
        return cls(
            prompt_lengths=torch.tensor(lengths, device=device),
            minimum=MinimumLength.of(rows, device),
            drawing=Drawing.of(rows, device),
        )


@dataclass(frozen=True, slots=True)
class MinimumLength:
    """Rows that must not end before `least` tokens."""

    least: Tensor
    ends: Tensor
    """int64 (B, N): the ids that end a row, repeated to equal width; rows without any have `least` 0."""

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> MinimumLength | None:
        if all(row.request.min_new_tokens == 0 or row.request.eos_id is None for row in rows):
            return None
        ends = [row.request.eos_id for row in rows]
        least = [row.request.min_new_tokens if row.request.eos_id is not None else 0 for row in rows]
        return cls(
            least=torch.tensor(least, device=device),
            ends=torch.tensor([[end or 0] for end in ends], device=device),
        )

    def apply(self, scores: Tensor, index: Tensor) -> None:
        early = (index < self.least)[:, None]
        scores.scatter_(1, self.ends, scores.gather(1, self.ends).masked_fill_(early, -torch.inf))


@dataclass(frozen=True, slots=True)
class Drawing:
    """Rows that draw their token; B here counts those rows only."""

    rows: Tensor | None
    """int64 (B,): which rows of the batch; None when all draw."""
    temperature: Tensor
    top_k: Tensor
    """int64, 0 for no limit."""
    widest_k: int
    top_p: Tensor | None
    """None when every row has 1."""
    seeds: Tensor
    candidates: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Drawing | None:
        drawing = [index for index, row in enumerate(rows) if row.request.sampling.temperature > 0]
        if not drawing:
            return None
        wishes = [rows[index].request.sampling for index in drawing]
        limited = any(wish.top_p < 1 for wish in wishes)
        return cls(
            rows=None if len(drawing) == len(rows) else torch.tensor(drawing, device=device),
            temperature=torch.tensor([wish.temperature for wish in wishes], device=device),
            top_k=torch.tensor([wish.top_k for wish in wishes], device=device),
            widest_k=max(wish.top_k for wish in wishes),
            top_p=torch.tensor([wish.top_p for wish in wishes], device=device) if limited else None,
            seeds=torch.tensor([signed_seed(wish.seed) for wish in wishes], device=device),
            candidates=torch.tensor([rows[index].candidate for index in drawing], device=device),
        )


def choose(scores: Tensor, lengths: Tensor, plan: SamplingPlan) -> Tensor:
    """The next token int64 (B,) of every row, -1 where its scores leave no token (not a number, or all excluded).

    `scores` float32 (B, V), overwritten; `lengths` int64 (B,): tokens in each row so far.
    """
    index = lengths - plan.prompt_lengths
    if plan.minimum is not None:
        plan.minimum.apply(scores, index)
    best = scores.max(-1)
    chosen = best.indices
    drawing = plan.drawing
    if drawing is not None and drawing.rows is None:
        chosen = draw(scores, drawing, index)
    elif drawing is not None:
        chosen[drawing.rows] = draw(scores[drawing.rows], drawing, index[drawing.rows])
    return chosen.masked_fill_(~best.values.isfinite(), -1)


def draw(scores: Tensor, drawing: Drawing, index: Tensor) -> Tensor:
    """Draw token number `index` (B,) of each row from scores float32 (B, V); minus infinity excludes a token."""
    scores = scores / drawing.temperature[:, None]
    scores -= scores.amax(-1, keepdim=True)
    floor = scores.new_full((scores.shape[0],), -torch.inf)
    if drawing.widest_k > 0:
        floor = top_k_floor(scores, drawing.top_k, drawing.widest_k)
    if drawing.top_p is not None:
        floor = torch.maximum(floor, top_p_floor(scores, floor, drawing.top_p))
    weights = scores.exp().masked_fill_(scores < floor[:, None], 0.0)
    return pick(weights, uniforms(drawing.seeds, drawing.candidates, index))


def pick(weights: Tensor, uniform: Tensor) -> Tensor:
    """The index int64 (B,) where the running sum of weights (B, V) passes uniform * total.

    Sums are taken over blocks first, so that float32 keeps its precision over a large vocabulary.
    """
    B, V = weights.shape
    blocks = math.ceil(V / _BLOCK)
    if V % _BLOCK:
        weights = F.pad(weights, (0, blocks * _BLOCK - V))
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


def top_k_floor(scores: Tensor, top_k: Tensor, widest: int) -> Tensor:
    """The k-th best score of each row (B,); minus infinity where k is 0. `widest` is the largest k.

    Tokens exactly as good as the k-th stay in with it.
    """
    best = scores.topk(min(widest, scores.shape[1])).values
    rank = (top_k - 1).clamp(0, best.shape[1] - 1)
    return best.gather(1, rank[:, None])[:, 0].masked_fill(top_k == 0, -torch.inf)


def top_p_floor(scores: Tensor, floor: Tensor, top_p: Tensor) -> Tensor:
    """The lowest score (B,) of the smallest set of best tokens whose share of the weight at or above `floor` is top_p.

    `scores` are at most 0.
    """
    weights = scores.exp().masked_fill_(scores < floor[:, None], 0.0)
    wanted = top_p * weights.sum(-1)
    best = scores.topk(min(_LIKELY_NUCLEUS, scores.shape[1])).values
    sums = best.exp().cumsum(-1)
    place = torch.searchsorted(sums, wanted[:, None]).clamp_(max=best.shape[1] - 1)
    result = best.gather(1, place)[:, 0]
    reached = sums[:, -1] >= wanted
    if scores.device.type == "cpu" and bool(reached.all()):
        return result
    return torch.where(reached, result, mass_floor(scores, weights, wanted))


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
