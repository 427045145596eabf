"""Choosing the next token of every row of a batch, one row after the other, in compiled code."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .compiling import Scalar, compiled
from .drawing import Memory, draw
from .penalising import penalise
from .vectors import (
    BLOCK,
    LEAST_KEY,
    Floats,
    block_maxima,
    collect_best,
    first_of,
    highest,
    sort_descending,
    weigh,
)
from .wishes import Ids, Wish, wish_at

_LOG2_E = np.float32(math.log2(math.e))


@compiled
def choose_rows(
    scores: Floats,
    tokens: Ids,
    lengths: Ids,
    floats: Floats,
    ints: Ids,
    biased: Ids,
    biases: Floats,
    words: Ids,
    ends: Ids,
    chosen: Ids,
    logprobs: Floats,
    best_ids: Ids,
    spare: Floats,
    spare_ids: npt.NDArray[np.int32],
) -> None:
    """Write the ids to `chosen` (B,), -1 where a row's scores leave none; and for the R rows that report
    log-probabilities, by the scores before penalties, to `logprobs` (R, 1 + N) those of the id and of the best ids, and
    to `best_ids` (R, N) the latter, best first.

    `scores` float32 (B, V) are overwritten; of `tokens` int64 (B, T) the first `lengths` (B,) count; `floats` to `ends`
    are `Wishes`; `spare` float32 (4, V or T, whichever is more) and `spare_ids` int32 (V,) are memory.
    """
    V = scores.shape[1]
    memory = Memory(spare[0, : V // BLOCK], spare[1, : V // BLOCK], spare[2, :V], spare_ids)
    before = spare[3]
    wish = wish_at(floats[0], ints[0])
    for row in range(scores.shape[0]):
        own, unchanged, log_total = scores[row], scores[row], 0.0
        following = wish_at(floats[min(row + 1, scores.shape[0] - 1)], ints[row + 1])
        penalised = _is_penalised(wish, following)
        if wish.report >= 0:
            log_total = _report(own, memory, logprobs[wish.report, 1:], best_ids[wish.report])
            if penalised:
                unchanged = before
                for i in range(own.shape[0]):
                    before[i] = own[i]
        if penalised:
            held = tokens[row, : lengths[row]]
            penalise(own, held, wish, following, biased, biases, words, ends, spare[2])
        chosen[row] = _choose(own, lengths[row] - wish.prompt_length, wish, memory)
        if wish.report >= 0:
            logprobs[wish.report, 0] = unchanged[max(chosen[row], 0)] - log_total
        wish = following


@compiled
def _is_penalised(wish: Wish, following: Wish) -> Scalar:
    return (
        wish.repetition_penalty != 1
        or wish.presence_penalty != 0
        or wish.frequency_penalty != 0
        or wish.no_repeat_ngram_size > 0
        or wish.min_new_tokens > 0
        or wish.biases < following.biases
        or wish.words < following.words
    )


@compiled
def _choose(scores: Floats, index: Scalar, wish: Wish, memory: Memory) -> Scalar:
    maxima = memory.maxima
    if not block_maxima(scores, maxima):
        return -1
    best = highest(maxima)
    if wish.sharpness == 0:
        block = first_of(maxima, best)
        return block * BLOCK + first_of(scores[block * BLOCK : (block + 1) * BLOCK], best)
    return draw(scores, best, index, wish, memory)


@compiled
def _report(scores: Floats, memory: Memory, values: Floats, ids: Ids) -> Scalar:
    """Write the best ids and their log-probabilities; the log of what the scores' exponentials sum to. All is no number
    where the scores leave no token."""
    if not block_maxima(scores, memory.maxima):
        for i in range(values.shape[0]):
            ids[i], values[i] = 0, np.nan
        return np.nan
    best = highest(memory.maxima)
    log_total = best + math.log(weigh(scores, best, _LOG2_E, LEAST_KEY, memory.sums))
    count = collect_best(scores, memory.maxima, values.shape[0], memory.ids, memory.weights)
    places = np.empty(count, np.int64)
    sort_descending(memory.weights[:count], places)
    for i in range(values.shape[0]):
        ids[i] = memory.ids[places[i]]
        values[i] = memory.weights[places[i]] - log_total
    return log_total
