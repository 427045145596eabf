"""From rows and prompts to the network and back: which ids at which positions, and what comes out per row.

It knows the modes of decoding and how rows lie in slots; it does not choose tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import SlotCache
from .network import Network, Span
from .scheduler import Chunk, Row
from .sequences import DecodingMode


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one mode that lie side by side, in the order of their slots."""

    rows: tuple[Row, ...]
    slots: slice
    masks: Tensor | None
    """int64 (B, 1): in MASK_APPEND, the mask token of each row."""


class Forward:
    """The network over one cache, for a model that is causal or not."""

    def __init__(self, network: Network, cache: SlotCache, *, causal: bool, mask_id: int, pad_id: int) -> None:
        self.network, self.cache = network, cache
        self._causal = causal
        self._mask_id, self._pad_id = mask_id, pad_id

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Describe rows that lie side by side."""
        ordered = tuple(sorted(rows, key=lambda row: row.slot))
        masks = None
        if ordered[0].request.mode is DecodingMode.MASK_APPEND:
            ids = [self._mask_id if row.request.mask_id is None else row.request.mask_id for row in ordered]
            masks = self.ids(ids)[:, None]
        return Batch(ordered, slice(ordered[0].slot, ordered[-1].slot + 1), masks)

    def prefill(self, chunks: Sequence[Chunk]) -> None:
        """Compute the keys and values of some prompt tokens in staging slots."""
        ids: list[int] = []
        positions: list[int] = []
        languages: list[int] = []
        for chunk in chunks:
            ids += chunk.prompt.ids[chunk.start : chunk.stop]
            positions += range(chunk.start, chunk.stop)
            languages += [self.language(chunk.prompt.request.language_id)] * (chunk.stop - chunk.start)
        spans = [Span(chunk.prompt.slot, chunk.start, chunk.stop) for chunk in chunks]
        self.network.prefill(self.ids(ids), self.ids(positions), self.ids(languages), spans, self.cache)

    def scores(self, batch: Batch) -> Tensor:
        """Scores float32 (B, V) of the next token of every row."""
        context = max(row.tokens for row in batch.rows)
        if batch.masks is None:
            return self._next_token(batch, context)
        return self._masked_cached(batch, context) if self._causal else self._masked_anew(batch, context)

    def _next_token(self, batch: Batch, context: int) -> Tensor:
        cache, slots = self.cache, batch.slots
        positions = cache.lengths[slots, None] - 1
        ids = cache.tokens[slots].gather(1, positions)
        ragged = any(row.tokens != context for row in batch.rows)
        return self.network.decode(ids, positions, cache.languages[slots], slots, context, cache, ragged=ragged)

    def _masked_cached(self, batch: Batch, context: int) -> Tensor:
        """The newest token and the mask go in together; the mask's keys and values are overwritten by the next step."""
        assert batch.masks is not None
        cache, slots = self.cache, batch.slots
        lengths = cache.lengths[slots, None]
        positions = torch.cat([lengths - 1, lengths], dim=1)
        ids = torch.cat([cache.tokens[slots].gather(1, positions[:, :1]), batch.masks], dim=1)
        scores = self.network.decode(ids, positions, cache.languages[slots], slots, context + 1, cache, ragged=True)
        # XLM infers a row's length by counting what is no padding. With a pad id inside, the mask lies beyond that
        # length: its state is zero, and the bias of the head is all that is left of its scores.
        places = torch.arange(context, device=self.network.device)
        padded = ((cache.tokens[slots, :context] == self._pad_id) & (places < lengths)).any(1, keepdim=True)
        return torch.where(padded, self.network.head.bias.float(), scores)

    def _masked_anew(self, batch: Batch, context: int) -> Tensor:
        """Every token sees the mask, so that nothing can be kept from one step to the next."""
        assert batch.masks is not None
        cache, slots = self.cache, batch.slots
        lengths = cache.lengths[slots, None]
        ids = cache.tokens[slots, : context + 1].scatter(1, lengths, batch.masks)
        places = torch.arange(context + 1, device=self.network.device)
        real = (ids != self._pad_id) & (places <= lengths)
        visible = places < real.sum(1, keepdim=True)
        return self.network.recompute(ids, cache.languages[slots], visible, lengths[:, 0])

    def language(self, language_id: int | None) -> int:
        """The row of the network's language table."""
        return self.network.no_language if language_id is None else language_id

    def ids(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.network.device)
