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
from .penalties import History, Penalty, penalties_of
from .scheduler import Row

# Nearly all nuclei are smaller than this, so that a partial selection finds their edge.
_LIKELY_NUCLEUS = 1024
# Weights below e^-30 of the best one are beyond float32 sums.
_WEIGHT_RANGE = 30.0
_BINS = 256
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """What the rows of one batch ask for, as tensors, valid as long as the batch has these rows.

    A part that no row asks for is None and costs nothing.
    """

    prompt_lengths: Tensor
    """int64 (B,)"""
    penalties: tuple[Penalty, ...]
    drawing: Drawing | None
    """None: all rows take their best token."""
    logprobs: Logprobs | None

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> SamplingPlan:
        lengths = [len(row.request.prompt_ids) for row in rows]
        return cls(
            prompt_lengths=torch.tensor(lengths, device=device),
            penalties=penalties_of(rows, device),
            drawing=Drawing.of(rows, device),
            logprobs=Logprobs.of(rows, device),
        )


@dataclass(frozen=True, slots=True)
class Drawing:
    """Rows that draw their token; B here counts those rows only. None where no row asks for it."""

    rows: Tensor | None
    """int64 (B,): which rows of the batch; None when all draw."""
    temperature: Tensor
    top_k: Tensor
    """int64, 0 for no limit."""
    widest_k: int
    top_p: Tensor | None
    min_p: Tensor | None
    typical_p: Tensor | None
    seeds: Tensor
    candidates: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Drawing | None:
        drawing = [index for index, row in enumerate(rows) if row.request.sampling.temperature > 0]
        if not drawing:
            return None
        wishes = [rows[index].request.sampling for index in drawing]

        def unless(neutral: float, values: list[float]) -> Tensor | None:
            return None if all(value == neutral for value in values) else torch.tensor(values, device=device)

        return cls(
            rows=None if len(drawing) == len(rows) else torch.tensor(drawing, device=device),
            temperature=torch.tensor([wish.temperature for wish in wishes], device=device),
            top_k=torch.tensor([wish.top_k for wish in wishes], device=device),
            widest_k=max(wish.top_k for wish in wishes),
            top_p=unless(1.0, [wish.top_p for wish in wishes]),
            min_p=unless(0.0, [wish.min_p for wish in wishes]),
            typical_p=unless(1.0, [wish.typical_p for wish in wishes]),
            seeds=torch.tensor([signed_seed(wish.seed) for wish in wishes], device=device),
            candidates=torch.tensor([rows[index].candidate for index in drawing], device=device),
        )


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Rows that report log-probabilities; R counts those rows."""

    rows: Tensor
    """int64 (R,): which rows of the batch."""
    places: tuple[int, ...]
    """The same on the host."""
    widest: int
    """Most best ids that a row asks for."""

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Logprobs | None:
        places = tuple(index for index, row in enumerate(rows) if row.request.top_logprobs is not None)
        if not places:
            return None
        return cls(torch.tensor(places, device=device), places, max(rows[i].request.top_logprobs or 0 for i in places))


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen ids int64 (B,), -1 where a row's scores left none (not a number, or all excluded); and, for the R
    rows of `Logprobs`, the log-probabilities float32 (R,) of their ids and (R, N) of the best ids int64 (R, N)."""

    ids: Tensor
    logprobs: Tensor | None = None
    top_logprobs: Tensor | None = None
    top_ids: Tensor | None = None


def choose(scores: Tensor, history: History, plan: SamplingPlan) -> Choice:
    """The next token of every row. `scores` float32 (B, V) are overwritten."""
    own = None
    if plan.logprobs is not None:
        own = scores[plan.logprobs.rows].log_softmax(-1)
    for penalty in plan.penalties:
        penalty.apply(scores, history)
    best = scores.max(-1)
    chosen = best.indices
    drawing = plan.drawing
    if drawing is not None and drawing.rows is None:
        chosen = draw(scores, drawing, history.produced)
    elif drawing is not None:
        chosen[drawing.rows] = draw(scores[drawing.rows], drawing, history.produced[drawing.rows])
    choosable = best.values.isfinite()
    if own is None or plan.logprobs is None:
        return Choice(chosen.masked_fill(~choosable, -1))
    top = own.topk(plan.logprobs.widest)
    logprobs = own.gather(1, chosen[plan.logprobs.rows][:, None])[:, 0]
    return Choice(chosen.masked_fill(~choosable, -1), logprobs, top.values, top.indices)


def draw(scores: Tensor, drawing: Drawing, index: Tensor) -> Tensor:
    """Draw token number `index` (B,) of each row from scores float32 (B, V); minus infinity excludes a token."""
    return pick(weights_left(scores, drawing), uniforms(drawing.seeds, drawing.candidates, index))


def weights_left(scores: Tensor, drawing: Drawing) -> Tensor:
    """What to draw from: (B, V), in proportion to the probabilities, 0 for excluded tokens.

    The restrictions follow one another: each sees what the ones before it left.
    """
    scores = scores / drawing.temperature[:, None]
    scores -= scores.amax(-1, keepdim=True)
    weights = scores.exp()
    if drawing.widest_k > 0:
        floor = top_k_floor(scores, drawing.top_k, drawing.widest_k)
        weights.masked_fill_(scores < floor[:, None], 0.0)
    if drawing.top_p is not None:
        floor = share_floor(scores, weights, drawing.top_p)
        weights.masked_fill_(scores < floor[:, None], 0.0)
    if drawing.min_p is not None:
        weights.masked_fill_(weights < drawing.min_p[:, None], 0.0)
    if drawing.typical_p is not None:
        typicality = _typicality(scores, weights)
        floor = share_floor(typicality, weights, drawing.typical_p)
        weights.masked_fill_(typicality < floor[:, None], 0.0)
    return weights


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


def share_floor(keys: Tensor, weights: Tensor, share: Tensor) -> Tensor:
    """The lowest key (B,) of the smallest set of highest keys that holds `share` (B,) of the row's weight.

    `keys` (B, V) are at most 0; `weights` (B, V), 0 for excluded tokens. A share of 1 keeps everything.
    """
    wanted = share * weights.sum(-1)
    best = keys.topk(min(_LIKELY_NUCLEUS, keys.shape[1]))
    sums = weights.gather(1, best.indices).cumsum_(-1)
    place = torch.searchsorted(sums, wanted[:, None]).clamp_(max=best.values.shape[1] - 1)
    floor = best.values.gather(1, place)[:, 0]
    reached = (sums[:, -1] >= wanted) & (share < 1)
    if keys.device.type != "cpu" or not bool((reached | (share == 1)).all()):
        floor = torch.where(reached, floor, mass_floor(keys, weights, wanted))
    return floor.masked_fill(share == 1, -torch.inf)


def _typicality(scores: Tensor, weights: Tensor) -> Tensor:
    """(B, V), at most 0: how near a token's information content is to what the row expects; minus infinity for excluded
    tokens. Source: Meister et al. 2022 (arXiv:2202.00666)."""
    total = weights.sum(-1, keepdim=True)
    surprisal = total.log() - scores
    expected = (weights * surprisal).masked_fill_(weights == 0, 0.0).sum(-1, keepdim=True) / total
    return (surprisal - expected).abs_().neg_().masked_fill_(weights == 0, -torch.inf)


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
