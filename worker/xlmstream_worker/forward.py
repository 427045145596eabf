"""From rows and prompts to the network and back: which ids at which positions, and what comes out per row.

It knows the modes of decoding and how rows lie in slots; it does not choose tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import SlotCache
from .graphs import Compute, GraphedSteps, padded_context, padded_rows, shapes
from .lanes import Chunk, Prompt, Row
from .network import Network, Span
from .sequences import DecodingMode
from .transfer import upload


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one mode that lie side by side, in the order of their slots."""

    rows: tuple[Row, ...]
    slots: slice


class Forward:
    """The network over one cache, for a model that is causal or not.

    With `static` shapes a decode step computes a fixed number of slots and positions, more than its rows need; on a GPU
    it is then launched as one recorded graph.
    """

    def __init__(
        self,
        network: Network,
        cache: SlotCache,
        *,
        causal: bool,
        mask_id: int,
        pad_id: int,
        static: bool,
        max_rows: int,
    ) -> None:
        self.network, self.cache = network, cache
        self._causal, self._static = causal, static and causal
        self._mask_id, self._pad_id = mask_id, pad_id
        self._max_rows = max_rows
        self._compute: Compute = self._decode
        if self._static and network.device.type == "cuda":
            rows, vocabulary = padded_rows(max_rows), network.head.bias.shape[0]
            self._compute = GraphedSteps(self._decode, rows, vocabulary, network.device)

    def batch(self, rows: Sequence[Row]) -> Batch:
        """Describe rows that lie side by side."""
        ordered = tuple(sorted(rows, key=lambda row: row.slot))
        return Batch(ordered, slice(ordered[0].slot, ordered[-1].slot + 1))

    def start(self, prompt: Prompt, row: Row) -> None:
        """Make a complete prompt the beginning of a row."""
        request = row.request
        mask = self._mask_id if request.mask_id is None else request.mask_id
        self.cache.start(prompt.slot, row.slot, self.ids(prompt.ids), self.language(request.language_id), mask)

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
        """Scores float32 (B, V) of the next token of every row. They may be overwritten by the next call."""
        mode, slots = batch.rows[0].request.mode, batch.slots
        # Positions that keys are read from: in MASK_APPEND the mask's own too.
        context = max(row.tokens for row in batch.rows) + (mode is DecodingMode.MASK_APPEND)
        if not self._causal:
            return self._recompute(slots, context)
        if not self._static:
            ragged = mode is DecodingMode.MASK_APPEND or any(row.tokens != context for row in batch.rows)
            return self._decode(mode, slots, context, ragged=ragged)
        B = len(batch.rows)
        padding = padded_rows(B) - B
        context = padded_context(context, self.cache.positions)
        # Padding lies beyond the inner end of the lane: above the rows from the bottom, below those from the top.
        if mode is DecodingMode.NEXT_TOKEN:
            return self._compute(mode, slice(slots.start, slots.stop + padding), context)[:B]
        return self._compute(mode, slice(slots.start - padding, slots.stop), context)[padding:]

    def record(self) -> None:
        """Make all recordings now. Only while no row is in the cache."""
        if not isinstance(self._compute, GraphedSteps):
            return
        top = self.cache.lane_slots
        for rows, context in shapes(self._max_rows, self.cache.positions):
            self._compute(DecodingMode.NEXT_TOKEN, slice(0, rows), context)
            self._compute(DecodingMode.MASK_APPEND, slice(top - rows, top), context)

    def _decode(self, mode: DecodingMode, slots: slice, context: int, *, ragged: bool = True) -> Tensor:
        cache, network = self.cache, self.network
        # Slots without a row may say anything below the limit.
        lengths = cache.lengths[slots, None].clamp(max=cache.positions - 1) if ragged else cache.lengths[slots, None]
        ids = cache.tokens[slots].gather(1, lengths - 1)
        languages = cache.languages[slots]
        if mode is DecodingMode.NEXT_TOKEN:
            return network.decode(ids, lengths - 1, languages, slots, context, cache, ragged=ragged)
        # The mask's keys and values are overwritten by the next step's token.
        positions = torch.cat([lengths - 1, lengths], dim=1)
        ids = torch.cat([ids, cache.masks[slots, None]], dim=1)
        scores = network.decode(ids, positions, languages, slots, context, cache, ragged=True)
        # XLM infers a row's length by counting what is no padding. With a pad id inside, the mask lies beyond that
        # length: its state is zero, and the bias of the head is all that is left of its scores.
        places = torch.arange(context, device=network.device)
        padded = ((cache.tokens[slots, :context] == self._pad_id) & (places < lengths)).any(1, keepdim=True)
        return torch.where(padded, network.head.bias.float(), scores)

    def _recompute(self, slots: slice, context: int) -> Tensor:
        """In a masked model every token sees the mask, so that nothing can be kept from one step to the next."""
        cache = self.cache
        lengths = cache.lengths[slots, None]
        ids = cache.tokens[slots, :context].scatter(1, lengths, cache.masks[slots, None])
        places = torch.arange(context, device=self.network.device)
        real = (ids != self._pad_id) & (places <= lengths)
        visible = places < real.sum(1, keepdim=True)
        return self.network.recompute(ids, cache.languages[slots], visible, lengths[:, 0])

    def language(self, language_id: int | None) -> int:
        """The row of the network's language table."""
        return self.network.no_language if language_id is None else language_id

    def ids(self, values: Sequence[int]) -> Tensor:
        return upload(values, self.network.device, torch.int64)
