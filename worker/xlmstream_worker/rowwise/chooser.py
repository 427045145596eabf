"""The compiled choice of tokens as the engine calls it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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

Spare = tuple[Floats, npt.NDArray[np.int32]]
"""Memory for the compiled code."""


# Scores that are worth a thread of their own: it takes some 20 us to begin, as do these.
_THREAD_SCORES = 2**17


class RowwiseChooser:
    """Chooses row by row, for a vocabulary of V ids, a multiple of 256, and a cache in the memory of the CPU.

    On as many threads as PyTorch computes with.
    """

    def __init__(self, cache: SlotCache, vocabulary: int) -> None:
        self._tokens, self._lengths, self._vocabulary = cache.tokens.numpy(), cache.lengths.numpy(), vocabulary
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(max(self._threads - 1, 1), "choosing")
        self._spares: list[Spare] = []

    def plan(self, rows: Sequence[Row], slots: slice) -> RowwisePlan:
        wanted = {place: row.request.top_logprobs for place, row in enumerate(rows)}
        counts = {place: count for place, count in wanted.items() if count is not None}
        # None would do, but a best id is always looked for.
        widest = max(1, *counts.values()) if counts else 1
        number = max(1, min(self._threads, len(rows) * self._vocabulary // _THREAD_SCORES))
        edges = [len(rows) * part // number for part in range(number + 1)]
        while len(self._spares) < number:
            spare = np.empty((4, self._vocabulary), np.float32), np.empty(self._vocabulary, np.int32)
            self._spares.append(spare)
        tokens, lengths = self._tokens[slots], self._lengths[slots]
        wishes = Wishes.of(rows)
        parts = tuple(
            Part(slice(start, stop), tokens[start:stop], lengths[start:stop], wishes.part(start, stop), spare)
            for start, stop, spare in zip(edges, edges[1:], self._spares, strict=False)
        )
        return RowwisePlan(parts, tuple(counts), widest, self._pool)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a batch, for one thread."""

    rows: slice
    tokens: Ids
    """(B, T)"""
    lengths: Ids
    """(B,): how many of the tokens count."""
    wishes: Wishes
    spare: Spare

    def choose(self, scores: Floats, ids: Ids, logprobs: Floats, best_ids: Ids) -> None:
        own, chosen, spare = scores[self.rows], ids[self.rows], self.spare
        choose_rows(own, self.tokens, self.lengths, *self.wishes, chosen, logprobs, best_ids, *spare)


@dataclass(frozen=True, slots=True)
class RowwisePlan:
    parts: tuple[Part, ...]
    reporting: tuple[int, ...]
    widest: int
    """Most best ids that a row reports, at least 1."""
    pool: ThreadPoolExecutor

    def choose(self, scores: Tensor) -> Choice:
        R = len(self.reporting)
        ids, best_ids = np.empty(scores.shape[0], np.int64), np.empty((R, self.widest), np.int64)
        logprobs = np.empty((R, 1 + self.widest), np.float32)
        given = scores.numpy(), ids, logprobs, best_ids
        others = [self.pool.submit(part.choose, *given) for part in self.parts[1:]]
        self.parts[0].choose(*given)
        for other in others:
            other.result()
        if not R:
            return Choice(torch.from_numpy(ids))
        found = torch.from_numpy(logprobs)
        return Choice(torch.from_numpy(ids), found[:, 0], found[:, 1:], torch.from_numpy(best_ids))
