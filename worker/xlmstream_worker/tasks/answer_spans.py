"""From the values of an answer head to spans of one window, best first. Plain arrays in, plain values out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xlmstream_worker.encoder_inputs import Values
from xlmstream_worker.tasks.probabilities import softmax


@dataclass(frozen=True, slots=True)
class Found:
    """Attributes:
    spans: (first token, last token, score), counted from the first token of the context in the window.
    no_answer: score of there being none.
    """

    spans: tuple[tuple[int, int, float], ...]
    no_answer: float


def best_of_scores(
    starts: NDArray[Any],
    ends: NDArray[Any],
    context: range,
    no_answer: int,
    longest: int,
    most: int,
) -> Found:
    """Of independent scores (T,) of starts and of ends: the `most` best spans of at most `longest` tokens.

    Probabilities are those among the tokens of the context and the one that stands for no answer.
    """
    allowed = [no_answer, *context]
    start, end = (softmax(scores[allowed].astype(np.float32, copy=False)) for scores in (starts, ends))
    tokens = len(context)
    width = min(longest, tokens)
    # (tokens, width): the span from each token on to the one 0, 1, ... behind it; 0 beyond the last.
    padded = np.concatenate([end[1:], np.zeros(width - 1, dtype=end.dtype)])
    scores = start[1:, None] * np.lib.stride_tricks.sliding_window_view(padded, width)
    flat = scores.ravel()
    best = np.argpartition(-flat, min(most, flat.size) - 1)[:most]
    best = best[np.argsort(-flat[best], kind="stable")]
    spans = ((int(place) // width, int(place) // width + int(place) % width, float(flat[place])) for place in best)
    inside = tuple(span for span in spans if span[1] < tokens)
    return Found(inside, float(start[0] * end[0]))


def best_of_beam(values: Values, context: range, longest: int) -> Found:
    """Of a beam's starts and, for each of them, ends: those that are spans of the context, of at most `longest`
    tokens."""
    start_scores, start_places, end_scores, end_places, no_answer = values
    spans = []
    for rank, start in enumerate(start_places.tolist()):
        for end, end_score in zip(end_places[:, rank].tolist(), end_scores[:, rank].tolist(), strict=True):
            if start in context and end in context and start <= end < start + longest:
                spans.append((start - context.start, end - context.start, float(start_scores[rank]) * end_score))
    spans.sort(key=lambda span: (-span[2], span[0], span[1]))
    return Found(tuple(spans), _sigmoid(float(no_answer[0])))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
