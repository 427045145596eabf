"""Storing what a step computes for each row in the slots of the cache."""

from __future__ import annotations

from .compiling import LANES, Scalar, compiled, fetch
from .vectors import Floats
from .wishes import Ids

# Slots whose memory is fetched meanwhile.
_AHEAD = 2


@compiled
def store_newest(layer: Floats, lengths: Ids, first: Scalar, projected: Floats) -> None:
    """Store the last W columns of projected (B * Q, P) in a layer (S, T, W): Q rows for each of the B slots from the
    first on, at the position of its newest token and the one behind it. A slot of `lengths` (B,) tokens at most."""
    slots, width, limit = lengths.shape[0], layer.shape[2], layer.shape[1] - 1
    count, begin = projected.shape[0] // slots, projected.shape[1] - width
    for slot in range(slots):
        ahead = min(slot + _AHEAD, slots - 1)
        coming = layer[first + ahead, min(lengths[ahead], limit) - 1]
        for line in range(0, width, LANES):
            fetch(coming, line)
        newest = min(lengths[slot], limit) - 1  # a slot without a row may say more
        for number in range(count):
            place, row = layer[first + slot, newest + number], projected[slot * count + number]
            for i in range(width):
                place[i] = row[begin + i]


@compiled
def append_tokens(tokens: Ids, counts: Ids, first: Scalar, ids: Ids) -> None:
    """Add one of the ids (B,), 0 for those below, to each slot from the first on, of tokens (S, T). The first row of
    `counts` (2, S) says how many a slot has; both grow by 1."""
    for row in range(ids.shape[0]):
        slot = first + row
        tokens[slot, counts[0, slot]] = max(ids[row], 0)
        counts[0, slot] += 1
        counts[1, slot] += 1
