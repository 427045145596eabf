"""Beam search of one request, among rows that decode in the same batch as everyone else's.

Everything stays on the device: which beginnings live on, where their keys and values move, which sequences have
finished. The algorithm is the vectorised one of transformers 4.56.2 (`GenerationMixin._beam_search`), number for
number, so that ids are the same; it is not the classic one that stores every end it meets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .cache import SlotCache
from .lanes import Row
from .penalties import History, penalties_of
from .sequences import BeamParameters, EarlyStopping
from .transfer import upload

# What stands for minus infinity in scores that are added up: finite, as ranks among such scores matter.
_NEVER = -1e9


class BeamSearch:
    """The state of one search over N beams, which occupy `rows` in order. C counts the candidates of a step.

    What other rules of beam search may do otherwise is in `_store_finished` and `_update_done`.
    """

    def __init__(self, rows: Sequence[Row], parameters: BeamParameters, device: torch.device) -> None:
        request = rows[0].request
        self.rows = tuple(rows)
        self.parameters = parameters
        self.count = 0
        """Tokens generated so far."""
        self._limit = rows[0].limit
        self._prompt_length = len(request.prompt_ids)
        self._penalties = penalties_of(rows, device)
        self._ends = upload(request.end_ids, device, torch.int64)
        N = len(rows)
        self._width = N * max(2, 1 + len(request.end_ids))
        self._running = torch.full((N,), _NEVER, device=device)
        self._running[0].fill_(0.0)  # the beams begin equal: only the first one's continuations count
        self._scores = torch.full((N,), _NEVER, device=device)
        self._full = torch.zeros(N, dtype=torch.bool, device=device)
        self._ids = torch.zeros(N, self._limit, dtype=torch.int64, device=device)
        self._lengths = torch.zeros(N, dtype=torch.int64, device=device)
        self._fed: dict[Row, Tensor] = {}
        self._open = torch.ones((), dtype=torch.bool, device=device)
        self.done = torch.zeros((), dtype=torch.bool, device=device)
        """bool (): nothing changes any more. Read it when it suits; a step too many is harmless."""
        self.failed = torch.zeros((), dtype=torch.bool, device=device)
        """bool (): some step had no usable score before the search was done."""

    def feed(self, row: Row, scores: Tensor) -> None:
        """Take the model's scores float32 (V,) of one of the rows, for good: they must not change any more."""
        self._fed[row] = scores

    @property
    def fed(self) -> bool:
        """All rows have given their scores: `advance` may be called."""
        return len(self._fed) == len(self.rows)

    def advance(self, cache: SlotCache) -> None:
        """Extend the beams by one token.

        The caller has appended some token to each row, as to all rows of the batch; it is replaced by the right one.
        """
        scores = torch.stack([self._fed.pop(row) for row in self.rows])
        N, V = scores.shape
        slots = upload([row.slot for row in self.rows], scores.device)
        length = self._prompt_length + self.count
        total = self._log_probabilities(scores, slots, length, cache) + self._running[:, None]
        best = total.flatten().topk(min(self._width, N * V))
        parents, tokens = best.indices // V, best.indices % V
        ends = (tokens[:, None] == self._ends).any(1)  # `isin` sorts many, and waits for a GPU then
        hit = torch.ones_like(ends) if self.count + 1 == self._limit else ends
        ids = cache.tokens[slots, self._prompt_length : length][parents]
        self._store_finished(best.values, hit, ends, torch.cat([ids, tokens[:, None]], dim=1))
        self.failed |= ~(best.values[0].isfinite() | self.done)
        survivors = (best.values + hit.float() * _NEVER).topk(N)
        self._running = survivors.values
        self.count += 1
        self._update_done(hit)
        cache.reorder(slots, parents[survivors.indices], self._prompt_length, length)
        cache.tokens[slots, length] = tokens[survivors.indices]

    def results(self) -> list[tuple[list[int], float]]:
        """The finished sequences and their scores, best first. Waits for the device."""
        found = zip(self._ids.tolist(), self._lengths.tolist(), self._scores.tolist(), strict=True)
        return [(ids[:length], score) for ids, length, score in found]

    def _log_probabilities(self, scores: Tensor, slots: Tensor, length: int, cache: SlotCache) -> Tensor:
        logprobs = scores.log_softmax(-1)
        if self._penalties:
            lengths = torch.full_like(slots, length)
            history = History(cache.tokens[slots, :length], lengths, torch.full_like(slots, self._prompt_length))
            for penalty in self._penalties:
                penalty.apply(logprobs, history)
        return logprobs

    def _store_finished(self, values: Tensor, hit: Tensor, ends: Tensor, ids: Tensor) -> None:
        """Keep the best N of the finished sequences and those that just ended.

        Of the C candidates, `values` (C,) are sums, `ids` int64 (C, count + 1); `hit` bool (C,): the sequence ends
        here, by an end token (`ends`) or as it has reached its limit.
        """
        N = self._running.shape[0]
        full = self._full.all() & (self.parameters.early_stopping is EarlyStopping.WHEN_FULL)
        eligible = hit & (torch.arange(hit.shape[0], device=hit.device) < N)
        values = values / (self.count + 1) ** self.parameters.length_penalty
        values = values + full.float() * _NEVER + (~self._open).float() * _NEVER + (~eligible).float() * _NEVER
        self._merge(values, ids, torch.full_like(values, ids.shape[1], dtype=torch.int64), eligible)

    def _merge(self, scores: Tensor, ids: Tensor, lengths: Tensor, eligible: Tensor) -> None:
        """Keep the best N of the finished sequences and C further ones, unless the search is done."""
        merged = torch.cat([self._scores, scores]).topk(self._running.shape[0])

        def keep(old: Tensor, new: Tensor) -> Tensor:
            return torch.where(self.done, old, torch.cat([old, new])[merged.indices])

        width = self._ids.shape[1] - ids.shape[1]
        self._ids = keep(self._ids, torch.nn.functional.pad(ids, (0, width)))
        self._lengths = keep(self._lengths, lengths)
        self._full = keep(self._full, eligible)
        self._scores = torch.where(self.done, self._scores, merged.values)

    def _update_done(self, hit: Tensor) -> None:
        """Whether a running beam can still beat a finished one, or has to."""
        wish = self.parameters
        length = self.count
        if wish.early_stopping is EarlyStopping.NEVER and wish.length_penalty > 0:
            length = self._limit
        best_possible = self._running[0] / length**wish.length_penalty
        worst = torch.where(self._full, self._scores.amin(), _NEVER)
        self._open = self._open & (best_possible > worst).any()
        satisfied = self._full.all() & (wish.early_stopping is EarlyStopping.WHEN_FULL)
        self.done = self.done | ~self._open | satisfied | hit.all()
