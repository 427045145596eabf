"""Choosing the next token of every row of a batch at once, on the device: what the rows ask for, and the choice.

How a token is drawn is in `drawing`, what is done to the scores before in `penalties`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import SlotCache
from .choice import Choice
from .drawing import Drawing, draw, drawings_of
from .lanes import Row
from .penalties import History, Penalty, penalties_of
from .selection import BLOCK, SMALL_BLOCK, best_k, best_token, block_maxima
from .transfer import upload

_LOG2_E, _LN_2 = math.log2(math.e), math.log(2)


class BatchwiseChooser:
    """Chooses by operations on all rows of a batch, on whatever device the cache is."""

    def __init__(self, cache: SlotCache) -> None:
        self._cache = cache

    def plan(self, rows: Sequence[Row], slots: slice) -> BatchwisePlan:
        device = self._cache.lengths.device
        drawings = drawings_of(rows, device)
        logprobs = Logprobs.of(rows, device)
        small = logprobs is not None or any(drawing.few for drawing in drawings)
        return BatchwisePlan(
            rows=tuple(rows),
            tokens=self._cache.tokens[slots],
            lengths=self._cache.lengths[slots],
            prompt_lengths=upload([len(row.request.prompt_ids) for row in rows], device),
            penalties=penalties_of(rows, device),
            drawings=drawings,
            greedy=any(row.request.sampling.temperature == 0 for row in rows),
            block=SMALL_BLOCK if small else BLOCK,
            logprobs=logprobs,
        )


@dataclass(frozen=True, slots=True)
class BatchwisePlan:
    """A part that no row asks for is None or empty and costs nothing."""

    rows: tuple[Row, ...]
    tokens: Tensor
    """int64 (B, T)"""
    lengths: Tensor
    """int64 (B,)"""
    prompt_lengths: Tensor
    """int64 (B,)"""
    penalties: tuple[Penalty, ...]
    drawings: tuple[Drawing, ...]
    greedy: bool
    """Some rows are in none of them and take their best token."""
    block: int
    """Size of the blocks of the vocabulary whose maxima these need."""
    logprobs: Logprobs | None

    @property
    def reporting(self) -> tuple[int, ...]:
        return () if self.logprobs is None else self.logprobs.places

    def choose(self, scores: Tensor) -> Choice:
        context = max(row.tokens for row in self.rows)
        return choose(scores, History(self.tokens[:, :context], self.lengths, self.prompt_lengths), self)


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
        return cls(upload(places, device), places, max(rows[i].request.top_logprobs or 0 for i in places))


def choose(scores: Tensor, history: History, plan: BatchwisePlan) -> Choice:
    """The next token of every row. `scores` float32 (B, V) are overwritten."""
    maxima = likelihoods = None
    if plan.logprobs is not None:
        maxima = block_maxima(scores, plan.block)
        likelihoods = Likelihoods.of(scores, maxima, plan.logprobs)
    for penalty in plan.penalties:
        penalty.apply(scores, history)
    if maxima is None or plan.penalties:
        maxima = block_maxima(scores, plan.block)
    best = maxima.amax(-1, keepdim=True)
    chosen = best_token(scores, maxima) if plan.greedy else None
    for drawing in plan.drawings:
        if drawing.rows is None:
            chosen = draw(scores, maxima, best, drawing, history.produced)
        else:
            rows = drawing.rows
            drawn = draw(scores[rows], maxima[rows], best[rows], drawing, history.produced[rows])
            chosen = torch.zeros_like(history.lengths) if chosen is None else chosen
            chosen[rows] = drawn
    assert chosen is not None
    chosen = chosen.masked_fill_(~(best.abs() < torch.inf)[:, 0], -1)
    if likelihoods is None or plan.logprobs is None:
        return Choice(chosen)
    of_chosen = likelihoods.of_ids(chosen[plan.logprobs.rows].clamp(min=0))
    return Choice(chosen, of_chosen, likelihoods.best, likelihoods.best_ids)


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Log-probabilities of R rows, by the scores as they are before penalties."""

    keys: Tensor
    """float32 (R, V): log2 of how much likelier a token is than the best one."""
    total: Tensor
    """(R, 1): log2 of the sum of 2**keys."""
    best: Tensor
    """(R, N): log-probabilities of the best ids, best first."""
    best_ids: Tensor

    @classmethod
    def of(cls, scores: Tensor, maxima: Tensor, wanted: Logprobs) -> Likelihoods:
        if scores.shape[0] > wanted.rows.shape[0]:
            scores, maxima = scores[wanted.rows], maxima[wanted.rows]
        best, ids = best_k(scores, max(wanted.widest, 1), maxima)
        keys = (scores - best[:, :1]).mul_(_LOG2_E)
        # Powers of two are several times as quick as those of e.
        total = keys.exp2().sum(-1, keepdim=True).log2_()
        top = keys.gather(1, ids).sub_(total).mul_(_LN_2)
        return cls(keys, total, top, ids)

    def of_ids(self, ids: Tensor) -> Tensor:
        """(R,): of one token per row, ids int64 (R,)."""
        return self.keys.gather(1, ids[:, None]).sub_(self.total).mul_(_LN_2)[:, 0]
