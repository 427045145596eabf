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

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device, scratch: Scratch) -> SamplingPlan:
        lengths = [len(row.request.prompt_ids) for row in rows]
        drawings = drawings_of(rows, device, scratch)
        few = any(drawing.few for drawing in drawings)
        return cls(
            prompt_lengths=upload(lengths, device),
            penalties=penalties_of(rows, device),
            drawings=drawings,
            greedy=any(row.request.sampling.temperature == 0 for row in rows),
            block=SMALL_BLOCK if few else BLOCK,
            logprobs=Logprobs.of(rows, device),
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
    own = None if plan.logprobs is None else scores[plan.logprobs.rows]  # a copy
    for penalty in plan.penalties:
        penalty.apply(scores, history)
    maxima = block_maxima(scores, plan.block)
    usable = maxima.amax(-1).abs_() < torch.inf
    chosen = best_token(scores, maxima) if plan.greedy else None
    for drawing in plan.drawings:
        if drawing.rows is None:
            chosen = draw(scores, maxima, drawing, history.produced)
        else:
            rows = drawing.rows
            own_scores = drawing.scratch.take("scores", scores, rows.shape[0])
            torch.index_select(scores, 0, rows, out=own_scores)
            drawn = draw(own_scores, maxima[rows], drawing, history.produced[rows])
            chosen = torch.zeros_like(history.lengths) if chosen is None else chosen
            chosen[rows] = drawn
    assert chosen is not None
    chosen = chosen.masked_fill_(~usable, -1)
    if own is None or plan.logprobs is None:
        return Choice(chosen)
    best, ids = best_k(own, max(plan.logprobs.widest, 1))
    of_chosen = own.gather(1, chosen[plan.logprobs.rows].clamp(min=0)[:, None])
    total = log_total(own, best[:, :1])
    return Choice(chosen, (of_chosen - total)[:, 0], best - total, ids)


def log_total(scores: Tensor, best: Tensor) -> Tensor:
    """log of the sum of exp(scores) (B, 1); `best` (B, 1) are the highest. Powers of two are quicker than those of e.
    `scores` (B, V) are overwritten."""
    return scores.sub_(best).mul_(math.log2(math.e)).exp2_().sum(-1, keepdim=True).log_().add_(best)
