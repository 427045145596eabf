"""Where transformers' pipelines are wrong for XLM: what `tasks/README.md` says of them is so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks.conftest import Zoo
from tasks.oracle import pipeline_of
from tasks.zoo import answer
from transformers.pipelines.question_answering import select_starts_ends
from xlmstream.v1.common_pb2 import TASK_ANSWER_QUESTION, TextInput
from xlmstream.v1.question_answering_pb2 import AnswerQuestionInput, AnswerQuestionParameters, AnswerQuestionRequest

DirectoryOf = Callable[[str], Path]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # transformers with NumPy 2
def test_no_answer_fails_or_scores_nothing_in_the_pipeline(zoo: Zoo, directory_of: DirectoryOf) -> None:
    pipeline = pipeline_of("question-answering", directory_of("answer"))
    with pytest.raises(KeyError):
        pipeline(question="who is big", context="the city", handle_impossible_answer=True, top_k=9)
    # <s> who is big </s> the city </s>: only the first </s> and the context may answer, and <s> is asked for its score.
    forbidden = np.array([[1, 1, 1, 1, 0, 0, 0, 1]])
    *_, no_answer = select_starts_ends(np.ones((1, 8)), np.ones((1, 8)), forbidden, None, 1.0, 1, True)
    assert no_answer == 0.0
    request = AnswerQuestionRequest(
        inputs=[AnswerQuestionInput(question=TextInput(text="who is big"), context=TextInput(text="the city"))],
        parameters=AnswerQuestionParameters(allow_no_answer=True, top_k=9),
    )
    (output,) = answer(zoo("answer"), TASK_ANSWER_QUESTION, request).outputs
    (empty,) = [one for one in output.result.answers if not one.text]
    assert empty.score == output.result.no_answer_score > 0


def test_a_target_that_also_begins_words_is_another_token_in_the_pipeline(directory_of: DirectoryOf) -> None:
    pipeline = pipeline_of("fill-mask", directory_of("masked"))
    (ids,) = [pipeline.get_target_ids(["an"])]
    assert pipeline.tokenizer.convert_ids_to_tokens(ids.tolist()) == ["an"]
    assert pipeline.tokenizer.tokenize("an") != ["an"]


def test_words_are_not_available_in_the_pipeline(directory_of: DirectoryOf) -> None:
    with pytest.raises(ValueError, match="Slow tokenizers cannot handle subwords"):
        pipeline_of("token-classification", directory_of("tags"), aggregation_strategy="first")


def test_the_beam_head_does_not_run_in_the_pipeline(directory_of: DirectoryOf) -> None:
    pipeline = pipeline_of("question-answering", directory_of("beam"))
    with torch.inference_mode(), pytest.raises((KeyError, TypeError, ValueError)):
        pipeline(question="who is big", context="the city")
