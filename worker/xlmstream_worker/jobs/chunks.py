"""The chunks in this worker's hands, and how many more it may take.

A worker holds enough of them that neither engine waits for the next one, and no more: what it holds runs again if it
dies, and nobody else can take it. What is held waits for everything else that comes, row by row and batch by batch.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

from xlmstream_server.broker import ItemResult, TakenChunk, is_terminal

from xlmstream_worker.bulk_rows import own_slots
from xlmstream_worker.jobs.chunk import Chunk, refused
from xlmstream_worker.observe import fields
from xlmstream_worker.rows import Row, RowEvents
from xlmstream_worker.text_model import TextRate

log = logging.getLogger(__name__)

# Sequences in hand for each slot, and batches of the encoder, below which the next chunk is taken.
SEQUENCES_A_SLOT = 2
BATCHES_IN_HAND = 3
MOST_AT_ONCE = 8
# Of the mean size, how much the newest chunk counts.
_NEWEST = 0.2


class Chunks:
    """The chunks of one served model. For one thread, the publisher."""

    def __init__(self, slots: int, batch_tokens: int, text_rate: TextRate, any_in_hand: Callable[[bool], None]) -> None:
        """
        Args:
            slots: generations that can run at once, 0 for a model that cannot generate.
            batch_tokens: most tokens of a batch of the encoder.
            text_rate: estimates the tokens of items.
            any_in_hand: told whether there are chunks, whenever one has come or gone.
        """
        self._any_in_hand = any_in_hand
        self._slots = slots
        self._batch_tokens = batch_tokens
        self._text_rate = text_rate
        self._chunks: dict[str, Chunk] = {}
        self._chunk_of: dict[Row, Chunk] = {}
        self._loads: dict[str, float] = {}  # of an item of each chunk
        self._mean_load = 1.0

    def __len__(self) -> int:
        return len(self._chunks)

    def __contains__(self, chunk_id: str) -> bool:
        return chunk_id in self._chunks

    def names(self) -> tuple[str, ...]:
        """The ids of all chunks."""
        return tuple(self._chunks)

    @property
    def room(self) -> int:
        """How many more chunks to take."""
        load = sum(chunk.items_left * self._loads[name] for name, chunk in self._chunks.items())
        return 0 if load >= 1 else min(math.ceil((1 - load) / self._mean_load), MOST_AT_ONCE)

    @property
    def own_slots(self) -> int:
        """Slots that are left to the generations among them."""
        generating = any(chunk.sequences for chunk in self._chunks.values())
        return own_slots(self._slots) if generating else 0

    def took(self, taken: TakenChunk) -> tuple[Sequence[Row], list[ItemResult]]:
        """A chunk is in hand: the rows to run, or the results where it cannot be run."""
        try:
            chunk = Chunk(taken)
        except KeyError:
            return (), refused(taken)
        self._chunks[taken.chunk_id] = chunk
        self._loads[taken.chunk_id] = load = self._load(chunk)
        self._mean_load += _NEWEST * (load * chunk.items_left - self._mean_load)
        for row in chunk.rows:
            self._chunk_of[row] = chunk
        self._any_in_hand(True)
        taking = fields(chunk_id=taken.chunk_id, items=len(taken.items), deaths=taken.deaths, alone=taken.alone)
        log.info("chunk taken", extra=taking)
        return chunk.rows, []

    def push(self, new: RowEvents) -> tuple[Sequence[Row], list[ItemResult]]:
        """Take new events of a part; with its end come the results of its items, or further rows to run."""
        if new.row.ended:
            return (), []
        chunk = self._chunk_of[new.row]
        ended = is_terminal(new.events[-1])
        rows, results = chunk.push(new.row, new.events, ended)
        if ended:
            del self._chunk_of[new.row]
        for row in rows:
            self._chunk_of[row] = chunk
        if not chunk.rows:
            self._forget(chunk)
            _log_end(chunk)
        return rows, results

    def drop(self, chunk_id: str) -> tuple[Row, ...]:
        """A chunk is not wanted any more: the rows to end."""
        chunk = self._chunks[chunk_id]
        rows = chunk.rows
        for row in rows:
            row.ended = True
            del self._chunk_of[row]
        self._forget(chunk)
        return rows

    def _forget(self, chunk: Chunk) -> None:
        del self._chunks[chunk.chunk_id], self._loads[chunk.chunk_id]
        self._any_in_hand(bool(self._chunks))

    def _load(self, chunk: Chunk) -> float:
        """Of an item: 1 is as much as there should be in hand."""
        if chunk.sequences:
            return chunk.sequences / (SEQUENCES_A_SLOT * max(self._slots, 1))
        tokens = chunk.input_bytes / self._text_rate.bytes_per_token / chunk.items_left
        return max(tokens, 1.0) / (BATCHES_IN_HAND * self._batch_tokens)


def _log_end(chunk: Chunk) -> None:
    figures = fields(
        chunk_id=chunk.chunk_id,
        items=len(chunk.taken.items),
        failed=chunk.failed_items,
        attempt=chunk.taken.deaths + 1,
        held_ms=round((time.monotonic() - chunk.began) * 1000),
    )
    log.info("chunk ended", extra=figures)
