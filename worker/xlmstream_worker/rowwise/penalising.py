"""What requests ask to be done to the scores of a row before a token is chosen: bias, penalties, bans, minimum length.

The same arithmetic as in `penalties`, where its sources are.
"""

from __future__ import annotations

import numpy as np

from .compiling import Scalar, compiled
from .vectors import Floats
from .wishes import Ids, Wish

_MINUS_INFINITY = np.float32(-np.inf)


@compiled
def penalise(
    scores: Floats,
    tokens: Ids,
    wish: Wish,
    following: Wish,
    biased: Ids,
    biases: Floats,
    words: Ids,
    ends: Ids,
    spare: Floats,
) -> None:
    """Change scores (V,) of a row as its `wish` and its part of the lists say; the part ends where that of the
    `following` row begins. `tokens` (n,) are those of the row so far; `spare` is memory for as many numbers."""
    generated = tokens[wish.prompt_length :]
    for i in range(wish.biases, following.biases):
        scores[biased[i]] += biases[i]
    if wish.repetition_penalty != 1:
        _divide(scores, tokens[wish.penalties_from :], wish.repetition_penalty, spare)
    if wish.presence_penalty != 0 or wish.frequency_penalty != 0:
        _subtract(scores, generated, wish.presence_penalty, wish.frequency_penalty, spare)
    if wish.no_repeat_ngram_size > 0:
        _ban_repetitions(scores, tokens, wish.no_repeat_ngram_size)
    _ban_words(scores, tokens, words[wish.words : following.words])
    if generated.shape[0] < wish.min_new_tokens:
        for i in range(wish.ends, following.ends):
            scores[ends[i]] = _MINUS_INFINITY


@compiled
def _divide(scores: Floats, tokens: Ids, penalty: Scalar, before: Floats) -> None:
    """The repetition penalty; who occurs twice is written the same twice."""
    for i in range(tokens.shape[0]):
        before[i] = scores[tokens[i]]
    for i in range(tokens.shape[0]):
        scores[tokens[i]] = before[i] * penalty if before[i] < 0 else before[i] / penalty


@compiled
def _subtract(scores: Floats, tokens: Ids, presence: Scalar, frequency: Scalar, before: Floats) -> None:
    """The penalty of presence once, that of frequency at each occurrence."""
    for i in range(tokens.shape[0]):
        before[i] = scores[tokens[i]]
    for i in range(tokens.shape[0]):
        scores[tokens[i]] = before[i] - presence
    for i in range(tokens.shape[0]):
        scores[tokens[i]] -= frequency


@compiled
def _ban_repetitions(scores: Floats, tokens: Ids, size: Scalar) -> None:
    """What would complete an n-gram that occurs."""
    newest = tokens[tokens.shape[0] - (size - 1) :]
    for place in range(size - 1, tokens.shape[0]):
        if _equal(tokens[place - (size - 1) : place], newest):
            scores[tokens[place]] = _MINUS_INFINITY


@compiled
def _ban_words(scores: Floats, tokens: Ids, words: Ids) -> None:
    """What would complete a word; of each, `words` holds its length, then its ids."""
    start = 0
    while start < words.shape[0]:
        last = start + words[start]
        before = words[start + 1 : last]
        if before.shape[0] <= tokens.shape[0] and _equal(before, tokens[tokens.shape[0] - before.shape[0] :]):
            scores[words[last]] = _MINUS_INFINITY
        start = last + 1


@compiled
def _equal(some: Ids, others: Ids) -> Scalar:
    for i in range(some.shape[0]):  # noqa: SIM110 - compiled code has no generators
        if some[i] != others[i]:
            return False
    return True
