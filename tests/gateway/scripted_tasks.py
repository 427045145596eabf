"""What the scripted worker answers for the tasks that do not generate: a result that shows which input it is for.

A text may say how it is to be treated: "bad" fails by itself, "poison" fails everything in its execution, "wait" holds
its execution back until it is released.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xlmstream.v1 import classification_pb2 as classification
from xlmstream.v1 import embedding_pb2, fill_mask_pb2, question_answering_pb2, scoring_pb2
from xlmstream.v1.common_pb2 import Task, TextInput, Timing, Usage
from xlmstream.v1.tensor_pb2 import DATA_TYPE_FLOAT32, Tensor
from xlmstream_server import errors
from xlmstream_server.broker import failures
from xlmstream_server.broker.v1.messages_pb2 import Event

LABELS = ["no", "yes", "B-PER", "I-PER", "O"]
EMBEDDING_SIZE = 4

ENCODER_TASKS = (
    Task.TASK_EMBED,
    Task.TASK_FILL_MASK,
    Task.TASK_CLASSIFY_SEQUENCE,
    Task.TASK_CLASSIFY_TOKENS,
    Task.TASK_ANSWER_QUESTION,
    Task.TASK_CHOOSE_MULTIPLE,
    Task.TASK_SCORE,
)


def embed(given: TextInput) -> dict[str, Any]:
    data = len(given.text).to_bytes(4, "little") * EMBEDDING_SIZE
    return {"embedding": Tensor(dtype=DATA_TYPE_FLOAT32, shape=[EMBEDDING_SIZE], data=data)}


def fill_mask(given: TextInput) -> dict[str, Any]:
    return {"text": f"filled {given.text}"}


def classify_sequence(given: classification.ClassifySequenceInput) -> dict[str, Any]:
    return {"labels": [classification.LabelScore(label=f"{given.text.text}/{given.text_pair.text}", score=1)]}


def classify_tokens(given: TextInput) -> dict[str, Any]:
    return {"entities": [classification.Entity(text=given.text, end=len(given.text), label="PER", score=0.5)]}


def answer_question(given: question_answering_pb2.AnswerQuestionInput) -> dict[str, Any]:
    return {"answers": [question_answering_pb2.Answer(text=f"{given.question.text}/{given.context.text}")]}


def choose_multiple(given: classification.ChooseMultipleInput) -> dict[str, Any]:
    return {"choices": [classification.ChoiceScore(index=len(given.choices) - 1, logit=len(given.prompt.text))]}


def score(given: TextInput) -> dict[str, Any]:
    return {"scored_tokens": len(given.text)}


# Task: request, result, output, response, branch of Event, result of an input.
SCRIPT: dict[int, tuple[Any, Any, Any, Any, str, Callable[[Any], dict[str, Any]]]] = {
    Task.TASK_EMBED: (
        embedding_pb2.EmbedRequest,
        embedding_pb2.EmbedResult,
        embedding_pb2.EmbedOutput,
        embedding_pb2.EmbedResponse,
        "embedded",
        embed,
    ),
    Task.TASK_FILL_MASK: (
        fill_mask_pb2.FillMaskRequest,
        fill_mask_pb2.FillMaskResult,
        fill_mask_pb2.FillMaskOutput,
        fill_mask_pb2.FillMaskResponse,
        "mask_filled",
        fill_mask,
    ),
    Task.TASK_CLASSIFY_SEQUENCE: (
        classification.ClassifySequenceRequest,
        classification.ClassifySequenceResult,
        classification.ClassifySequenceOutput,
        classification.ClassifySequenceResponse,
        "sequence_classified",
        classify_sequence,
    ),
    Task.TASK_CLASSIFY_TOKENS: (
        classification.ClassifyTokensRequest,
        classification.ClassifyTokensResult,
        classification.ClassifyTokensOutput,
        classification.ClassifyTokensResponse,
        "tokens_classified",
        classify_tokens,
    ),
    Task.TASK_ANSWER_QUESTION: (
        question_answering_pb2.AnswerQuestionRequest,
        question_answering_pb2.AnswerQuestionResult,
        question_answering_pb2.AnswerQuestionOutput,
        question_answering_pb2.AnswerQuestionResponse,
        "question_answered",
        answer_question,
    ),
    Task.TASK_CHOOSE_MULTIPLE: (
        classification.ChooseMultipleRequest,
        classification.ChooseMultipleResult,
        classification.ChooseMultipleOutput,
        classification.ChooseMultipleResponse,
        "choice_made",
        choose_multiple,
    ),
    Task.TASK_SCORE: (
        scoring_pb2.ScoreRequest,
        scoring_pb2.ScoreResult,
        scoring_pb2.ScoreOutput,
        scoring_pb2.ScoreResponse,
        "scored",
        score,
    ),
}


def text_of_input(given: Any) -> str:
    """The text that tells how an input is to be treated."""
    for name in ("question", "prompt"):
        if name in given.DESCRIPTOR.fields_by_name:
            return str(getattr(given, name).text)
    inner = given.text
    return inner if isinstance(inner, str) else str(inner.text)


def perform(task: int, serialized: bytes) -> tuple[Event, list[str]]:
    """The terminal event of an execution, and the texts of its inputs."""
    request_type, result_type, output_type, response_type, branch, result_of = SCRIPT[task]
    request = request_type.FromString(serialized)
    texts = [text_of_input(given) for given in request.inputs]
    if any(text.startswith("poison") for text in texts):
        return failures.poisoned(), texts
    outputs = []
    for index, (given, text) in enumerate(zip(request.inputs, texts, strict=True)):
        if text.startswith("bad"):
            wrong = errors.invalid_input([(f"inputs[{index}].text", "is bad")])
            outputs.append(output_type(error=wrong.status))
        else:
            result = result_type(
                usage=Usage(prompt_tokens=len(text)), timing=Timing(worker_id="w1"), **result_of(given)
            )
            outputs.append(output_type(result=result))
    return Event(**{branch: response_type(outputs=outputs)}), texts
