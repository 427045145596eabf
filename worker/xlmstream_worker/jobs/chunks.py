"""The chunks in this worker's hands: which of their items run now, and how many more chunks it may take.

What a worker computes of jobs, and what it has computed and the broker has not, runs again if the worker dies. So of
all items that have begun never more than `MOST_UNSAVED` are without a saved result: a crash repeats no more than that,
one chunk's worth, however many chunks are in hand. The next chunk is taken when some of it can begin at once, so none
waits here untouched; and what is in hand waits for everything else that comes, row by row and batch by batch.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable

from xlmstream_server.broker import ItemResult, TakenChunk, is_terminal

from xlmstream_worker.bulk_rows import own_slots
from xlmstream_worker.jobs.chunk import Chunk, refused
from xlmstream_worker.jobs.tasks import BATCHED_ITEMS
from xlmstream_worker.observe import fields
from xlmstream_worker.rows import Row, RowEvents
from xlmstream_worker.text_model import TextRate

log = logging.getLogger(__name__)

# Most items that have begun and whose results the broker has not: what a crash repeats at most. As many as a chunk has.
MOST_UNSAVED = 256
# Sequences in hand for each slot, and batches of the encoder, below which the next chunk is taken.
SEQUENCES_A_SLOT = 2
BATCHES_IN_HAND = 3
# Most chunks of a take: those of a retry have few items each.
MOST_AT_ONCE = 32
# Of the mean load of an item, how much the newest chunk counts.
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
        self._waiting: deque[Row] = deque()  # the oldest first
        self._begun: dict[Row, int] = {}  # items of each row that runs
        self._loads: dict[str, float] = {}  # of an item of each chunk
        self._mean_load = 1.0

    def __len__(self) -> int:
        return len(self._chunks)

    def __contains__(self, chunk_id: str) -> bool:
        return chunk_id in self._chunks

    def names(self) -> tuple[str, ...]:
        """The ids of all chunks."""
        return tuple(self._chunks)

    def room(self, unsaved: int) -> int:
        """Items of further chunks to take: so many that some of each chunk can begin at once.

        Args:
            unsaved: results that were given here and that the broker has not.
        """
        load = sum(chunk.items_left * self._loads[name] for name, chunk in self._chunks.items())
        if self._waiting or load >= 1:
            return 0
        return min(math.ceil((1 - load) / self._mean_load), max(self._left(unsaved) - BATCHED_ITEMS + 1, 0))

    def begin(self, unsaved: int) -> list[Row]:
        """The rows to run from now on, in the order of the items. `unsaved` as for `room`."""
        rows, left = [], self._left(unsaved)
        while self._waiting:
            items = self._chunk_of[self._waiting[0]].items_of(self._waiting[0])
            if items > left:
                break
            row = self._waiting.popleft()
            self._begun[row] = items
            rows.append(row)
            left -= items
        return rows

    def _left(self, unsaved: int) -> int:
        """How many more items may begin."""
        return MOST_UNSAVED - unsaved - sum(self._begun.values())

    @property
    def own_slots(self) -> int:
        """Slots that are left to the generations among them."""
        generating = any(chunk.sequences for chunk in self._chunks.values())
        return own_slots(self._slots) if generating else 0

    def took(self, taken: TakenChunk) -> list[ItemResult]:
        """A chunk is in hand: its rows are to begin, or it has its results already where it cannot be run."""
        try:
            chunk = Chunk(taken)
        except KeyError:
            return refused(taken)
        self._chunks[taken.chunk_id] = chunk
        self._loads[taken.chunk_id] = load = self._load(chunk)
        self._mean_load += _NEWEST * (load - self._mean_load)
        for row in chunk.rows:
            self._chunk_of[row] = chunk
        self._waiting.extend(chunk.rows)
        self._any_in_hand(True)
        taking = fields(chunk_id=taken.chunk_id, items=len(taken.items), deaths=taken.deaths, alone=taken.alone)
        log.info("chunk taken", extra=taking)
        return []

    def push(self, new: RowEvents) -> list[ItemResult]:
        """Take new events of a row; with its end come the results of its items, or further rows that are to begin."""
        if new.row.ended:
            return []
        chunk = self._chunk_of[new.row]
        ended = is_terminal(new.events[-1])
        rows, results = chunk.push(new.row, new.events, ended)
        if ended:
            del self._chunk_of[new.row], self._begun[new.row]
        for row in rows:
            self._chunk_of[row] = chunk
        self._waiting.extendleft(reversed(rows))
        if not chunk.rows:
            self._forget(chunk)
            _log_end(chunk)
        return results

    def drop(self, chunk_id: str) -> tuple[Row, ...]:
        """A chunk is not wanted any more: the rows to end."""
        chunk = self._chunks[chunk_id]
        rows = chunk.rows
        for row in rows:
            row.ended = True
            del self._chunk_of[row]
            self._begun.pop(row, None)
        self._waiting = deque(row for row in self._waiting if not row.ended)
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
