"""The compiled choice of tokens as the engine calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xlmstream_worker.choice import Choice
from xlmstream_worker.lanes import Row

from .choosing import choose_rows
from .vectors import Floats
from .wishes import Ids, Wishes

if TYPE_CHECKING:
    from xlmstream_worker.cache import SlotCache


class RowwiseChooser:
    """Chooses row by row, for a vocabulary of V ids, a multiple of 256, and a cache in the memory of the CPU."""

    def __init__(self, cache: SlotCache, vocabulary: int) -> None:
        self._tokens, self._lengths = cache.tokens.numpy(), cache.lengths.numpy()
        longest = max(vocabulary, cache.positions)
        self._spare = np.empty((4, longest), np.float32), np.empty(vocabulary, np.int32)

    def plan(self, rows: Sequence[Row], slots: slice) -> RowwisePlan:
        wanted = {place: row.request.top_logprobs for place, row in enumerate(rows)}
        counts = {place: count for place, count in wanted.items() if count is not None}
        held = self._tokens[slots], self._lengths[slots]
        widest = max(1, *counts.values()) if counts else 1  # who asks for none has one all the same, which is not sent
        return RowwisePlan(held, Wishes.of(rows), self._spare, tuple(counts), widest)


@dataclass(frozen=True, slots=True)
class RowwisePlan:
    held: tuple[Ids, Ids]
    """Tokens (B, T) and how many of them count (B,)."""
    wishes: Wishes
    spare: tuple[Floats, npt.NDArray[np.int32]]
    reporting: tuple[int, ...]
    widest: int
    """Most best ids that a row reports, at least 1."""

    def choose(self, scores: Tensor) -> Choice:
        R = len(self.reporting)
        ids, best_ids = np.empty(scores.shape[0], np.int64), np.empty((R, self.widest), np.int64)
        logprobs = np.empty((R, 1 + self.widest), np.float32)
        choose_rows(scores.numpy(), *self.held, *self.wishes, ids, logprobs, best_ids, *self.spare)  # type: ignore[arg-type]  # mypy joins their kinds
        if not R:
            return Choice(torch.from_numpy(ids))
        found = torch.from_numpy(logprobs)
        return Choice(torch.from_numpy(ids), found[:, 0], found[:, 1:], torch.from_numpy(best_ids))
