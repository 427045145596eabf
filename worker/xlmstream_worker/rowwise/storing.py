"""Storing what a step computes for each row in the slots of the cache."""

from __future__ import annotations

from .compiling import Scalar, compiled
from .vectors import Floats
from .wishes import Ids


@compiled
def store_newest(layer: Floats, lengths: Ids, first: Scalar, projected: Floats) -> None:
    """Store the last W columns of projected (B * Q, P) in a layer (S, T, W): Q rows for each of the B slots from the
    first on, at the position of its newest token and the one behind it. A slot of `lengths` (B,) tokens at most."""
    slots, width = lengths.shape[0], layer.shape[2]
    count, begin = projected.shape[0] // slots, projected.shape[1] - layer.shape[2]
    for slot in range(slots):
        newest = min(lengths[slot], layer.shape[1] - 1) - 1  # a slot without a row may say more
        for number in range(count):
            place, row = layer[first + slot, newest + number], projected[slot * count + number]
            for i in range(width):
                place[i] = row[begin + i]


@compiled
def append_tokens(tokens: Ids, counts: Ids, first: Scalar, ids: Ids) -> None:
    """Add one of the ids (B,) to each slot from the first on, of tokens (S, T). Of `counts` (2, S) the first are how
    many a slot has; both grow by 1."""
    for row in range(ids.shape[0]):
        slot = first + row
        tokens[slot, counts[0, slot]] = ids[row]
        counts[0, slot] += 1
        counts[1, slot] += 1
