"""AnswerQuestion: the stretch of a text that answers a question.

A long context is read in overlapping windows, each a sequence of its own with the question before it. The
classification token, the first </s>, stands for "no answer", as checkpoints are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xlmstream.status as statuses
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import TRUNCATION_KEEP_START, TextInput
from xlmstream.v1.question_answering_pb2 import (
    Answer,
    AnswerQuestionInput,
    AnswerQuestionOutput,
    AnswerQuestionParameters,
    AnswerQuestionRequest,
    AnswerQuestionResponse,
    AnswerQuestionResult,
)
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.encoder_inputs import EncoderInput, SpanBeam, Spans, Values
from xlmstream_worker.tasks.answer_spans import Found, best_of_beam, best_of_scores
from xlmstream_worker.tasks.checks import Checks
from xlmstream_worker.tasks.encoding import Cost, EncoderTask, Item
from xlmstream_worker.tasks.frames import Text, pair, read_text
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.tasks.words import Word, words_of
from xlmstream_worker.text_model import TextModel

DEFAULT_MAX_ANSWER_TOKENS, MAX_ANSWER_TOKENS = 15, 512
DEFAULT_MAX_QUESTION_TOKENS = 64
DEFAULT_WINDOW_TOKENS = 384
DEFAULT_STRIDE_TOKENS = 128
MAX_TOP_K = 20
SPECIAL_TOKENS = 3
# Each is held as a sequence of its own.
MAX_WINDOWS = 4096


@dataclass(frozen=True, slots=True)
class _Wish:
    """The parameters in effect."""

    top_k: int
    max_answer_tokens: int
    max_question_tokens: int
    window_tokens: int
    stride_tokens: int | None
    """None: the default, or what a window holds of the context."""
    allow_no_answer: bool


@dataclass(frozen=True, slots=True)
class _Window:
    """Where a window's stretch of the context is."""

    in_sequence: range
    in_context: int
    """Number of its first token among those of the context."""
    no_answer: int
    """Place of the classification token in the sequence."""


@dataclass(frozen=True, slots=True)
class _Question(Item[AnswerQuestionResult]):
    sequences: tuple[EncoderInput, ...]
    windows: tuple[_Window, ...]
    """One for each sequence."""
    context: str
    words: tuple[Word, ...]
    word_of: tuple[int, ...]
    """Of each token of the context: the number of its word."""
    wish: _Wish

    def result(self, model: TextModel, values: Sequence[Values], cost: Cost) -> AnswerQuestionResult:
        scores: dict[tuple[int, int], float] = {}
        no_answer = 1.0
        for window, value in zip(self.windows, values, strict=True):
            found = self._found(window, value)
            no_answer = min(no_answer, found.no_answer)
            for first, last, score in found.spans:
                stretch = self._whole_words(window.in_context + first, window.in_context + last)
                scores[stretch] = max(score, scores.get(stretch, 0.0))
        answers = [
            Answer(text=self.context[start:end], start=start, end=end, score=score)
            for (start, end), score in scores.items()
        ]
        if self.wish.allow_no_answer:
            answers.append(Answer(score=no_answer))
        answers.sort(key=lambda answer: (-answer.score, answer.start, answer.end))
        return AnswerQuestionResult(
            answers=answers[: self.wish.top_k], no_answer_score=no_answer, usage=cost.usage, timing=cost.timing
        )

    def _found(self, window: _Window, value: Values) -> Found:
        longest = self.wish.max_answer_tokens
        if len(value) == 2:
            starts, ends = value
            return best_of_scores(starts, ends, window.in_sequence, window.no_answer, longest, self._spans_wanted)
        return best_of_beam(value, window.in_sequence, longest)

    @property
    def _spans_wanted(self) -> int:
        """Of a window, before several become one whole word."""
        return 4 * self.wish.top_k + 16

    def _whole_words(self, first: int, last: int) -> tuple[int, int]:
        """Code points from the beginning of one token's word to the end of another's."""
        return self.words[self.word_of[first]].start, self.words[self.word_of[last]].end


class AnswerQuestion(EncoderTask[AnswerQuestionResult]):
    def prepare(self, request: bytes, model: TextModel) -> list[Item[AnswerQuestionResult] | Status]:
        asked = AnswerQuestionRequest.FromString(request)
        wish = _wish(asked.parameters, model)
        items: list[Item[AnswerQuestionResult] | Status] = []
        for place, given in enumerate(asked.inputs):
            try:
                items.append(_item(model, given, wish, f"inputs[{place}]"))
            except Refused as refused:
                items.append(refused.status)
        return items

    def event(self, results: Sequence[AnswerQuestionResult | Status]) -> Event:
        return Event(question_answered=AnswerQuestionResponse(outputs=[_output(result) for result in results]))


def _output(result: AnswerQuestionResult | Status) -> AnswerQuestionOutput:
    return AnswerQuestionOutput(error=result) if isinstance(result, Status) else AnswerQuestionOutput(result=result)


def _item(model: TextModel, given: AnswerQuestionInput, wish: _Wish, field: str) -> _Question:
    question = _read(model, given.question, f"{field}.question", with_spans=False)
    excess = len(question.ids) - wish.max_question_tokens
    question = question.cut(max(excess, 0), TRUNCATION_KEEP_START)
    context = _read(model, given.context, f"{field}.context", with_spans=True)
    room = wish.window_tokens - len(question.ids) - SPECIAL_TOKENS
    if room < 1:
        least = len(question.ids) + SPECIAL_TOKENS + 1
        raise Refused(statuses.invalid_input([("parameters.window_tokens", f"this question needs at least {least}")]))
    stride = min(wish.stride_tokens or DEFAULT_STRIDE_TOKENS, room)
    starts = window_starts(len(context.ids), room, stride)
    if len(starts) > MAX_WINDOWS:
        asked = (
            f"{len(context.ids)} tokens, a window every {stride}: {len(starts)} windows; at most {MAX_WINDOWS} are read"
        )
        raise Refused(statuses.invalid_input([(f"{field}.context.text", f"{asked}; choose larger stride_tokens")]))
    sequences, windows = [], []
    for first in starts:
        part = Text(context.ids[first : first + room], (), context.language, raw=False)
        frame = pair(model, question, part)
        no_answer = frame.ids.index(model.end_id)
        windows.append(_Window(frame.second, first, no_answer))
        if model.card.answers_by_beam:
            sequences.append(frame.input(SpanBeam(), [no_answer, *frame.second], [no_answer]))
        else:
            sequences.append(frame.input(Spans()))
    words = words_of(model, given.context, context)
    return _Question(
        sequences=tuple(sequences),
        windows=tuple(windows),
        context=given.context.text,
        words=words,
        word_of=tuple(number for number, word in enumerate(words) for _ in range(word.first, word.last + 1)),
        wish=wish,
    )


def _read(model: TextModel, given: TextInput, field: str, *, with_spans: bool) -> Text:
    if given.WhichOneof("source") != "text":
        raise Refused(statuses.invalid_input([(f"{field}.text", "must be set: this task takes text only")]))
    # Neither is ever too long: the question is cut, the context read in windows.
    return read_text(model, given, field, TRUNCATION_KEEP_START, with_spans=with_spans)


def window_starts(tokens: int, room: int, stride: int) -> range:
    """The first tokens of the windows that cover a context, each window holding `room` tokens of it."""
    return range(0, max(tokens - room, 0) + stride, stride)


def _wish(asked: AnswerQuestionParameters, model: TextModel) -> _Wish:
    longest = model.card.max_input_tokens
    half = max(longest // 2, 1)
    wish = _Wish(
        top_k=asked.top_k if asked.HasField("top_k") else 1,
        max_answer_tokens=asked.max_answer_tokens if asked.HasField("max_answer_tokens") else DEFAULT_MAX_ANSWER_TOKENS,
        max_question_tokens=asked.max_question_tokens
        if asked.HasField("max_question_tokens")
        else min(DEFAULT_MAX_QUESTION_TOKENS, half),
        window_tokens=asked.window_tokens if asked.HasField("window_tokens") else min(DEFAULT_WINDOW_TOKENS, longest),
        stride_tokens=asked.stride_tokens if asked.HasField("stride_tokens") else None,
        allow_no_answer=asked.allow_no_answer,
    )
    checks = Checks()
    checks.within("parameters.top_k", wish.top_k, 1, MAX_TOP_K)
    checks.within("parameters.max_answer_tokens", wish.max_answer_tokens, 1, MAX_ANSWER_TOKENS)
    checks.within("parameters.max_question_tokens", wish.max_question_tokens, 1, half)
    checks.within("parameters.window_tokens", wish.window_tokens, SPECIAL_TOKENS + 2, longest)
    if wish.stride_tokens is not None:
        checks.within("parameters.stride_tokens", wish.stride_tokens, 1, longest)
    checks.refuse()
    return wish
