"""Choosing the next token of every row of a batch at once, on the device: what the rows ask for, and the choice.

How a token is drawn is in `drawing`, what is done to the scores before in `penalties`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .drawing import Drawing, draw, drawings_of
from .lanes import Row
from .penalties import History, Penalty, penalties_of
from .scratch import Scratch
from .selection import BLOCK, SMALL_BLOCK, best_k, best_token, block_maxima
from .transfer import upload

_LOG2_E, _LN_2 = math.log2(math.e), math.log(2)


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """What the rows of one batch ask for, as tensors, valid as long as the batch has these rows.

    A part that no row asks for is None and costs nothing.
    """

    prompt_lengths: Tensor
    """int64 (B,)"""
    penalties: tuple[Penalty, ...]
    drawings: tuple[Drawing, ...]
    greedy: bool
    """Some rows are in none of them and take their best token."""
    block: int
    """Size of the blocks of the vocabulary whose maxima these need."""
    logprobs: Logprobs | None
    scratch: Scratch

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device, scratch: Scratch) -> SamplingPlan:
        lengths = [len(row.request.prompt_ids) for row in rows]
        drawings = drawings_of(rows, device, scratch)
        logprobs = Logprobs.of(rows, device)
        small = logprobs is not None or any(drawing.few for drawing in drawings)
        return cls(
            prompt_lengths=upload(lengths, device),
            penalties=penalties_of(rows, device),
            drawings=drawings,
            greedy=any(row.request.sampling.temperature == 0 for row in rows),
            block=SMALL_BLOCK if small else BLOCK,
            logprobs=logprobs,
            scratch=scratch,
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
        return cls(upload(places, device), places, max(rows[i].request.top_logprobs or 0 for i in places))


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
    maxima = likelihoods = None
    if plan.logprobs is not None:
        maxima = block_maxima(scores, plan.block)
        likelihoods = Likelihoods.of(scores, maxima, plan.logprobs, plan.scratch)
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
            own = plan.scratch.take("scores", scores, rows.shape[0])
            torch.index_select(scores, 0, rows, out=own)
            drawn = draw(own, maxima[rows], best[rows], drawing, history.produced[rows])
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
    def of(cls, scores: Tensor, maxima: Tensor, wanted: Logprobs, scratch: Scratch) -> Likelihoods:
        R = wanted.rows.shape[0]
        keys = scratch.take("likelihoods", scores, R)
        if scores.shape[0] > R:
            scores, maxima = torch.index_select(scores, 0, wanted.rows, out=keys), maxima[wanted.rows]
        best, ids = best_k(scores, max(wanted.widest, 1), maxima)
        torch.sub(scores, best[:, :1], out=keys).mul_(_LOG2_E)
        # Powers of two are several times as quick as those of e.
        total = torch.exp2(keys, out=scratch.take("spare", keys, R)).sum(-1, keepdim=True).log2_()
        top = keys.gather(1, ids).sub_(total).mul_(_LN_2)
        return cls(keys, total, top, ids)

    def of_ids(self, ids: Tensor) -> Tensor:
        """(R,): of one token per row, ids int64 (R,)."""
        return self.keys.gather(1, ids[:, None]).sub_(self.total).mul_(_LN_2)[:, 0]
