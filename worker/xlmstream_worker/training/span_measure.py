"""Quality of extractive question answering: exact match and F1 over words, as SQuAD counts them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xlmstream_worker.xlm import XLMForQuestionAnsweringSimple

from .answers import SPECIAL_TOKENS, Reading, answered_words
from .batches import EOS

MAX_ANSWER_TOKENS = 15
# Contexts too long for one sequence are read in windows that overlap by half.
OVERLAP = 2


@dataclass(frozen=True)
class SpanQuality:
    """Means over the questions. exact: the same words; f1: of the words of the answer and of the guess."""

    exact: float
    f1: float
    count: int


def answer_quality(model: XLMForQuestionAnsweringSimple, readings: Sequence[Reading]) -> SpanQuality:
    """Of the model's best spans; see `best_span`."""
    guesses = [answered_words(reading.pieces, *best_span(model, reading)) for reading in readings]
    return span_quality([reading.answer for reading in readings], guesses)


def span_quality(answers: Sequence[tuple[str, ...]], guesses: Sequence[tuple[str, ...]]) -> SpanQuality:
    """Of given guesses."""
    exact = f1 = 0.0
    for answer, guess in zip(answers, guesses, strict=True):
        common = (Counter(answer) & Counter(guess)).total()
        exact += answer == guess
        f1 += 2 * common / max(len(answer) + len(guess), 1)
    return SpanQuality(exact / len(answers), f1 / len(answers), len(answers))


@torch.no_grad()
def best_span(model: XLMForQuestionAnsweringSimple, reading: Reading) -> tuple[int, int]:
    """First and last token, counted in the context, of the most probable span of at most 15 tokens."""
    room = model.config.max_position_embeddings - len(reading.question) - SPECIAL_TOKENS
    best = (-1.0, 0, 0)
    for begin in range(0, max(1, len(reading.context) - room // OVERLAP), max(1, room // OVERLAP)):
        part = reading.context[begin : begin + room]
        ids = torch.tensor([[EOS, *reading.question, EOS, *part, EOS]])
        output = model(ids, langs=torch.full_like(ids, reading.lang_id), return_dict=True)
        assert isinstance(output.start_logits, Tensor)
        assert isinstance(output.end_logits, Tensor)
        # The first token stands for "no answer": it takes part in the probabilities, as when questions are served.
        inside = [0, *range(len(reading.question) + 2, len(reading.question) + 2 + len(part))]
        starts, ends = output.start_logits[0, inside].softmax(0)[1:], output.end_logits[0, inside].softmax(0)[1:]
        scores = (starts[:, None] * ends).triu().tril(MAX_ANSWER_TOKENS - 1)
        place = int(scores.argmax())
        best = max(best, (float(scores.flatten()[place]), begin + place // len(part), begin + place % len(part)))
    return best[1], best[2]
