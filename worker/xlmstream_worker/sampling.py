"""Choosing the next token of every row of a batch at once, on the device: what the rows ask for, and the choice.

How a token is drawn is in `drawing`, what is done to the scores before in `penalties`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .drawing import Drawing, draw, drawings_of
from .lanes import Row
from .penalties import History, Penalty, penalties_of
from .selection import best_token
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
    """Rows in none of them take their best token."""
    logprobs: Logprobs | None

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> SamplingPlan:
        lengths = [len(row.request.prompt_ids) for row in rows]
        return cls(
            prompt_lengths=upload(lengths, device),
            penalties=penalties_of(rows, device),
            drawings=drawings_of(rows, device),
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
    own = None
    if plan.logprobs is not None:
        own = scores[plan.logprobs.rows].log_softmax(-1)
    for penalty in plan.penalties:
        penalty.apply(scores, history)
    chosen, best = best_token(scores)
    for drawing in plan.drawings:
        if drawing.rows is None:
            chosen = draw(scores, drawing, history.produced)
        else:
            chosen[drawing.rows] = draw(scores[drawing.rows], drawing, history.produced[drawing.rows])
    chosen = chosen.masked_fill(~best.isfinite(), -1)
    if own is None or plan.logprobs is None:
        return Choice(chosen)
    top = own.topk(plan.logprobs.widest)
    logprobs = own.gather(1, chosen[plan.logprobs.rows].clamp(min=0)[:, None])[:, 0]
    return Choice(chosen, logprobs, top.values, top.indices)
