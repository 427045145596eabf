"""From rows and prompts to the network and back: which ids at which positions, and what comes out per row.

It knows the modes of decoding and how rows lie in slots; it does not choose tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import SlotCache
from .graphs import GraphedSteps, padded_context, padded_rows, shapes
from .lanes import Chunk, Prompt, Row
from .network import Network, Run, Span, Tokens, closed_bias
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
        self._causal, self._static, self._padded = causal, static and causal, static
        self._mask_id, self._pad_id = mask_id, pad_id
        self._max_rows = max_rows
        self._graphs: GraphedSteps | None = None
        if self._static and network.device.type == "cuda":
            self._graphs = GraphedSteps(padded_rows(max_rows), network.head.bias.shape[0], network.device)

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
        places: list[int] = []
        for chunk in chunks:
            ids += chunk.prompt.ids[chunk.start : chunk.stop]
            positions += range(chunk.start, chunk.stop)
            languages += [self.language(chunk.prompt.request.language_id)] * (chunk.stop - chunk.start)
            first = chunk.prompt.slot * self.cache.positions
            places += range(first + chunk.start, first + chunk.stop)
        spans = [Span(chunk.prompt.slot, chunk.start, chunk.stop) for chunk in chunks]
        values = (self.ids(ids), self.ids(positions), self.ids(languages), self.ids(places))
        self.network.prefill(*values, spans, self.cache)

    def scores(self, batch: Batch) -> Tensor:
        """Scores float32 (B, V) of the next token of every row. They may be overwritten by the next call."""
        mode, slots = batch.rows[0].request.mode, batch.slots
        # Positions that keys are read from: in MASK_APPEND the mask's own too.
        context = max(row.tokens for row in batch.rows) + (mode is DecodingMode.MASK_APPEND)
        if not self._causal:
            return self._recompute(batch, context)
        source_context = 0 if self.cache.sources is None else max(row.source_tokens for row in batch.rows)
        if not self._static:
            sizes = {(row.tokens, row.source_tokens) for row in batch.rows}
            ragged = mode is DecodingMode.MASK_APPEND or sizes != {(context, source_context)}
            return self._decode(mode, slots, context, source_context, ragged=ragged).float()
        B = len(batch.rows)
        padding = padded_rows(B) - B
        context = padded_context(context, self.cache.positions)
        if self.cache.sources is not None:
            source_context = padded_context(source_context, self.cache.sources.positions)
        # Padding lies beyond the inner end of the lane: above the rows from the bottom, below those from the top.
        if mode is DecodingMode.NEXT_TOKEN:
            return self._launch(mode, slice(slots.start, slots.stop + padding), context, source_context)[:B]
        return self._launch(mode, slice(slots.start - padding, slots.stop), context, source_context)[padding:]

    def record(self) -> None:
        """Make all recordings now. Only while no row is in the cache."""
        if self._graphs is None:
            return
        top, sources = self.cache.lane_slots, self.cache.sources
        longest_source = 0 if sources is None else sources.positions
        for rows, context, source_context in shapes(self._max_rows, self.cache.positions, longest_source):
            self._graphs.record(self._decode, DecodingMode.NEXT_TOKEN, slice(0, rows), context, source_context)
            if sources is None:
                self._graphs.record(self._decode, DecodingMode.MASK_APPEND, slice(top - rows, top), context, 0)

    def _launch(self, mode: DecodingMode, slots: slice, context: int, source_context: int) -> Tensor:
        """A step of fixed shape, whole where it has been recorded; float32 (B, V)."""
        recorded = None if self._graphs is None else self._graphs.replay(mode, slots, context, source_context)
        return self._decode(mode, slots, context, source_context).float() if recorded is None else recorded

    def _decode(
        self, mode: DecodingMode, slots: slice, context: int, source_context: int, *, ragged: bool = True
    ) -> Tensor:
        """Scores (B, V) of a range of slots, in the network's dtype."""
        cache, network = self.cache, self.network
        # Slots without a row may say anything below the limit.
        lengths = cache.lengths[slots, None].clamp(max=cache.positions - 1) if ragged else cache.lengths[slots, None]
        ids = cache.tokens[slots].gather(1, lengths - 1)
        languages = cache.languages[slots]
        if mode is DecodingMode.NEXT_TOKEN:
            states = network.decode(ids, lengths - 1, languages, slots, context, cache, ragged, source_context)
            return network.scores(states)
        # The mask's keys and values are overwritten by the next step's token.
        positions = torch.cat([lengths - 1, lengths], dim=1)
        ids = torch.cat([ids, cache.masks[slots, None]], dim=1)
        states = network.decode(ids, positions, languages, slots, context, cache, ragged=True)
        # XLM infers a row's length by counting what is no padding. With a pad id inside, or as the mask, the mask lies
        # beyond that length: its state is zero, and the bias of the head is all that is left of its scores.
        places = torch.arange(context, device=network.device)
        padded = ((cache.tokens[slots, :context] == self._pad_id) & (places < lengths)).any(1, keepdim=True)
        padded |= cache.masks[slots, None] == self._pad_id
        return network.scores(states.mul_(~padded))

    def _recompute(self, batch: Batch, context: int) -> Tensor:
        """In a masked model every token sees the mask, so that nothing can be kept from one step to the next.

        Rows of equal length are computed together and nothing is for padding; with fixed shapes, all rows as they lie:
        a GPU gains nothing from small pieces.
        """
        cache, rows = self.cache, batch.rows
        packed = not self._padded
        order = sorted(range(len(rows)), key=lambda place: rows[place].tokens if packed else place)
        slots = self.ids([rows[place].slot for place in order])
        lengths = cache.lengths[slots, None]
        ids = cache.tokens[:, :context].index_select(0, slots).scatter_(1, lengths, cache.masks[slots, None])
        places = torch.arange(context, device=self.network.device).expand_as(ids)
        held = places <= lengths
        # XLM infers a row's length by counting what is no padding, and sees no further.
        seen = ((ids != self._pad_id) & held).sum(1, keepdim=True)
        visible, languages = places < seen, cache.languages[slots, None].expand_as(ids)
        if packed:
            tokens = Tokens(ids[held], places[held], languages[held])
            counts = Counter(rows[place].tokens + 1 for place in order)
            runs = self._runs(counts, None if bool((seen > lengths).all()) else visible)
            last = (lengths[:, 0] + 1).cumsum(0) - 1
        else:
            tokens = Tokens(ids.flatten(), places.flatten(), languages.flatten())
            runs = self._runs({context: len(rows)}, visible)
            last = torch.arange(0, ids.numel(), context, device=ids.device) + lengths[:, 0]
        states = self.network.recompute(tokens, runs, last)
        # The state of a mask beyond the inferred length is zero: the bias of the head is all that is left.
        states = states.mul_(seen > lengths)
        return self.network.scores(states[self.ids(sorted(range(len(rows)), key=order.__getitem__))]).float()

    def _runs(self, counts: Mapping[int, int], visible: Tensor | None) -> list[Run]:
        """`counts`: how many rows of each length, in order; `visible` bool (B, T): where not all that is there is."""
        runs, start = [], 0
        for length, count in counts.items():
            bias = None
            if visible is not None:
                bias = closed_bias(visible[start : start + count, None, None, :length], self.network.dtype)
            runs.append(Run(count, length, bias))
            start += count
        return runs

    def language(self, language_id: int | None) -> int:
        """The row of the network's language table."""
        return self.network.no_language if language_id is None else language_id

    def ids(self, values: Sequence[int]) -> Tensor:
        return upload(values, self.network.device, torch.int64)
