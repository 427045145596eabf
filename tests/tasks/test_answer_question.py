"""AnswerQuestion: both heads against the library, the simple one against transformers' pipeline."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks.conftest import Zoo
from tasks.oracle import pipeline_of
from tasks.zoo import answer
from xlmstream.v1.common_pb2 import TASK_ANSWER_QUESTION, TextInput, TokenIds
from xlmstream.v1.question_answering_pb2 import (
    AnswerQuestionInput,
    AnswerQuestionOutput,
    AnswerQuestionParameters,
    AnswerQuestionRequest,
    AnswerQuestionResult,
)
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.tasks.answer_question import window_starts
from xlmstream_worker.tasks.answer_spans import best_of_beam, best_of_scores
from xlmstream_worker.tasks.inputs import Refused

QUESTION = "who lives in the city"
# Without punctuation every word gives the same tokens alone, as the pipeline cuts them, and in the text.
CONTEXT = "the big one of paris and the nice city of france is the one that the king saw"


def ask(model: LoadedModel, *contexts: str, **parameters: object) -> list[AnswerQuestionResult]:
    outputs = outputs_of(model, *(inputs(context) for context in contexts), **parameters)
    assert not any(output.HasField("error") for output in outputs), outputs
    return [output.result for output in outputs]


def inputs(context: str, question: str = QUESTION) -> AnswerQuestionInput:
    return AnswerQuestionInput(question=TextInput(text=question), context=TextInput(text=context))


def outputs_of(model: LoadedModel, *given: AnswerQuestionInput, **parameters: object) -> list[AnswerQuestionOutput]:
    request = AnswerQuestionRequest(inputs=given, parameters=AnswerQuestionParameters(**parameters))
    return list(answer(model, TASK_ANSWER_QUESTION, request).outputs)


def long_context(words: int) -> str:
    generator = random.Random(words)
    return " ".join(generator.choice(CONTEXT.split()) for _ in range(words))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers with NumPy 2
@pytest.mark.parametrize("context", [CONTEXT, long_context(150)])
@pytest.mark.parametrize(("window", "stride"), [(128, 64), (60, 20), (52, 7)])
def test_the_best_answer_equals_the_pipeline(
    zoo: Zoo, directory_of: Callable[[str], Path], context: str, window: int, stride: int
) -> None:
    """The pipeline gives one answer a window, repeats stretches found twice and answers in words between spaces, so
    its best answer is compared: same score, same words."""
    pipeline = pipeline_of("question-answering", directory_of("answer"))
    expected = pipeline(
        question=QUESTION, context=context, max_seq_len=window, doc_stride=stride, max_answer_len=5, top_k=1
    )
    (result,) = ask(zoo("answer"), context, window_tokens=window, stride_tokens=stride, max_answer_tokens=5)
    (best,) = result.answers
    assert best.score == pytest.approx(expected["score"], abs=1e-5)
    assert best.text == expected["answer"] == context[best.start : best.end]


def spans_by_hand(model: LoadedModel, context: str, longest: int) -> tuple[list[tuple[int, int, float]], float]:
    """All spans of a context that fits, as (start, end, score), straight from the library's forward."""
    encoding = model.tokenizer(QUESTION, context, return_tensors="pt", return_offsets_mapping=True)
    ids = encoding["input_ids"]
    offsets = encoding["offset_mapping"].reshape(-1, 2).tolist()
    cls = ids[0].tolist().index(1)
    allowed = torch.zeros(ids.shape[1], dtype=torch.bool)
    allowed[cls + 1 : -1] = True
    allowed[cls] = True
    with torch.inference_mode():
        if model.card.answers_by_beam:
            out = model.network(
                ids,
                token_type_ids=encoding["token_type_ids"],
                p_mask=(~allowed).float()[None],
                cls_index=torch.tensor([cls]),
            )
            n = out.start_top_index.shape[1]
            pairs = [
                (start, end, float(p) * float(q))
                for rank, (start, p) in enumerate(
                    zip(out.start_top_index[0].tolist(), out.start_top_log_probs[0], strict=True)
                )
                for end, q in zip(
                    out.end_top_index[0, rank::n].tolist(), out.end_top_log_probs[0, rank::n], strict=True
                )
            ]
            no_answer = out.cls_logits.sigmoid().item()
        else:
            out = model.network(ids, token_type_ids=encoding["token_type_ids"])
            start = out.start_logits[0].masked_fill(~allowed, -torch.inf).softmax(0)
            end = out.end_logits[0].masked_fill(~allowed, -torch.inf).softmax(0)
            pairs = [
                (i, j, float(start[i] * end[j])) for i, j in itertools.product(range(len(start)), range(len(start)))
            ]
            no_answer = float(start[cls] * end[cls])
    pieces = model.tokenizer.convert_ids_to_tokens(ids[0].tolist())
    best: dict[tuple[int, int], float] = {}
    for i, j, score in pairs:
        if not (cls < i <= j < len(pieces) - 1 and j < i + longest):
            continue
        while not pieces[i - 1].endswith("</w>") and i - 1 > cls:
            i -= 1
        while not pieces[j].endswith("</w>"):
            j += 1
        place = (offsets[i][0], offsets[j][1])
        best[place] = max(score, best.get(place, 0.0))
    return sorted(((a, b, score) for (a, b), score in best.items()), key=lambda span: -span[2]), no_answer


@pytest.mark.parametrize("name", ["answer", "beam"])
@pytest.mark.parametrize("context", [CONTEXT, "Paris, of France, \u201cthe big, nice city\u201d, is the one!", "nice"])
@pytest.mark.parametrize("longest", [1, 4, 15])
def test_n_best_answers_are_whole_words_of_the_text_as_given(zoo: Zoo, name: str, context: str, longest: int) -> None:
    expected, no_answer = spans_by_hand(zoo(name), context, longest)
    (result,) = ask(zoo(name), context, top_k=20, max_answer_tokens=longest)
    assert len(result.answers) == min(20, len(expected))
    assert bool(result.answers) or name == "beam"
    for given, (_, _, score) in zip(result.answers, expected, strict=False):
        assert given.score == pytest.approx(score, abs=1e-5)
        assert given.text == context[given.start : given.end]
    assert {(one.start, one.end) for one in result.answers} <= {(start, end) for start, end, _ in expected}
    assert result.no_answer_score == pytest.approx(no_answer, abs=1e-5)


@pytest.mark.parametrize("name", ["answer", "beam"])
def test_a_long_context_gives_the_best_over_its_windows(zoo: Zoo, name: str) -> None:
    model, context = zoo(name), long_context(200)
    tokens = len(model.tokenizer(context, add_special_tokens=False)["input_ids"])
    question = len(model.tokenizer(QUESTION, add_special_tokens=False)["input_ids"])
    (result,) = ask(model, context, top_k=20, window_tokens=50, stride_tokens=11)
    room = 50 - 3 - question
    windows = list(window_starts(tokens, room, 11))
    assert len(windows) > 10
    lengths = [min(room, tokens - first) + question + 3 for first in windows]
    assert result.usage.prompt_tokens == sum(lengths)
    assert len({(one.start, one.end) for one in result.answers}) == len(result.answers)
    scores = [one.score for one in result.answers]
    assert scores == sorted(scores, reverse=True)
    assert all(one.text == context[one.start : one.end] for one in result.answers)


@pytest.mark.parametrize(("tokens", "room", "stride"), [(1, 5, 5), (5, 5, 1), (6, 5, 5), (100, 10, 3), (23, 7, 7)])
def test_windows_cover_every_token_and_overlap_as_asked(tokens: int, room: int, stride: int) -> None:
    starts = list(window_starts(tokens, room, stride))
    assert starts == [stride * number for number in range(len(starts))]
    assert {place for first in starts for place in range(first, min(first + room, tokens))} == set(range(tokens))
    assert len(starts) == 1 or starts[-2] + room < tokens


def test_no_answer_competes_where_it_may(zoo: Zoo) -> None:
    (without,) = ask(zoo("beam"), CONTEXT, top_k=3)
    (with_,) = ask(zoo("beam"), CONTEXT, top_k=20, allow_no_answer=True)
    (empty,) = [one for one in with_.answers if not one.text]
    assert (empty.start, empty.end) == (0, 0)
    assert empty.score == with_.no_answer_score == pytest.approx(without.no_answer_score, abs=1e-6)
    assert all(one.text for one in without.answers)


def test_best_spans_of_random_scores_are_those_of_a_search_over_all() -> None:
    generator = np.random.default_rng(0)
    for tokens, longest, most in [(1, 1, 4), (9, 3, 5), (30, 15, 40), (12, 40, 400)]:
        starts, ends = generator.normal(size=(2, tokens + 6)).astype(np.float32) * 3
        context = range(5, 5 + tokens)
        found = best_of_scores(starts, ends, context, 2, longest, most)
        allowed = [2, *context]
        p = np.exp(starts[allowed]) / np.exp(starts[allowed]).sum()
        q = np.exp(ends[allowed]) / np.exp(ends[allowed]).sum()
        every = sorted(
            ((i, j, p[i + 1] * q[j + 1]) for i in range(tokens) for j in range(i, min(i + longest, tokens))),
            key=lambda span: -span[2],
        )[:most]
        assert [span[:2] for span in found.spans] == [span[:2] for span in every]
        np.testing.assert_allclose([span[2] for span in found.spans], [span[2] for span in every], rtol=1e-4)
        assert found.no_answer == pytest.approx(p[0] * q[0], rel=1e-4)


def test_the_spans_of_a_beam_lie_in_the_context_the_right_way_round() -> None:
    values = (
        np.array([0.6, 0.3, 0.1], np.float32),
        np.array([4, 0, 6]),
        np.array([[0.5, 0.9, 0.7], [0.4, 0.1, 0.2]], np.float32),
        np.array([[5, 4, 4], [2, 5, 7]]),
        np.array([0.0], np.float32),
    )
    found = best_of_beam(values, range(3, 8), longest=2)
    assert [(first, last) for first, last, _ in found.spans] == [(1, 2), (3, 4)]
    np.testing.assert_allclose([score for _, _, score in found.spans], [0.3, 0.02], rtol=1e-6)
    assert found.no_answer == 0.5


def test_a_long_question_is_cut(zoo: Zoo) -> None:
    (result,) = ask_with(zoo("answer"), "the big one " * 30, max_question_tokens=4)
    context = zoo("answer").tokenizer(CONTEXT, add_special_tokens=False)["input_ids"]
    assert result.usage.prompt_tokens == len(context) + 4 + 3


def ask_with(model: LoadedModel, question: str, **parameters: object) -> list[AnswerQuestionResult]:
    return [output.result for output in outputs_of(model, inputs(CONTEXT, question), **parameters)]


def test_inputs_that_cannot_be_answered_fail_alone(zoo: Zoo) -> None:
    ids = TextInput(token_ids=TokenIds(ids=[20]))
    good, no_question, no_context, raw = outputs_of(
        zoo("answer"),
        inputs(CONTEXT),
        inputs(CONTEXT, question="\u200b"),
        AnswerQuestionInput(question=TextInput(text="who")),
        AnswerQuestionInput(question=ids, context=TextInput(text="the")),
    )
    assert good.result.answers
    assert no_question.error.message.startswith("inputs[1].question.text: nothing but spaces")
    assert no_context.error.message.startswith("inputs[2].context.text: must be set")
    assert raw.error.message.startswith("inputs[3].question.text: must be set: this task takes text only")


def test_more_windows_than_can_be_held_are_refused(zoo: Zoo) -> None:
    """A megabyte of text with a window at each token would be a gigabyte of ids."""
    good, long = outputs_of(
        zoo("answer"), inputs(CONTEXT), inputs(long_context(5000)), window_tokens=50, stride_tokens=1
    )
    assert good.result.answers
    assert long.error.message.startswith("inputs[1].context.text: ")
    assert "at most 4096 are read" in long.error.message


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"top_k": 21}, "parameters.top_k"),
        ({"max_answer_tokens": 0}, "parameters.max_answer_tokens"),
        ({"window_tokens": 129}, "parameters.window_tokens"),
        ({"max_question_tokens": 65}, "parameters.max_question_tokens"),
        ({"stride_tokens": 0}, "parameters.stride_tokens"),
    ],
)
def test_parameters_out_of_range_are_refused(zoo: Zoo, parameters: dict[str, int], message: str) -> None:
    with pytest.raises(Refused, match=message):
        ask(zoo("answer"), CONTEXT, **parameters)
