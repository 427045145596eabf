"""Items of jobs, task by task: the requests that chunks become, and what is made of the answers."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from tasks.conftest import Zoo
from tasks.zoo import answer, assert_close
from worker.chunks import chunk
from xlmstream.v1.classification_pb2 import (
    ChooseMultipleInput,
    ClassifySequenceInput,
    ClassifySequenceParameters,
    ClassifyTokensParameters,
)
from xlmstream.v1.common_pb2 import TRUNCATION_KEEP_START, TextInput
from xlmstream.v1.embedding_pb2 import POOLING_NONE, EmbedParameters
from xlmstream.v1.fill_mask_pb2 import FillMaskParameters
from xlmstream.v1.job_pb2 import JobItem, JobResult, JobTask
from xlmstream.v1.question_answering_pb2 import AnswerQuestionInput, AnswerQuestionParameters
from xlmstream.v1.scoring_pb2 import ScoreParameters
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_worker.jobs.chunk import Chunk
from xlmstream_worker.jobs.tasks import BATCHED_ITEMS, JOB_TASKS
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.tasks.encoder_tasks import ENCODER_TASKS

TEXTS = ["Paris is a big city of France.", "Who lives in the city?", "nice", "the an and is of " * 60]
COUNT = BATCHED_ITEMS + 3


def text(number: int) -> TextInput:
    return TextInput(text=TEXTS[number % len(TEXTS)])


def masked(number: int) -> TextInput:
    return TextInput(text=f"the <special1> is {TEXTS[number % 3]}")


def question(number: int) -> AnswerQuestionInput:
    return AnswerQuestionInput(question=text(1), context=text(number))


CASES: list[tuple[str, str, list[Message], Message | None]] = [
    ("masked", "embed", [text(number) for number in range(COUNT)], EmbedParameters(pooling=POOLING_NONE)),
    ("masked", "fill_mask", [masked(number) for number in range(COUNT)], FillMaskParameters(top_k=2)),
    ("single", "classify_sequence", [ClassifySequenceInput(text=text(number)) for number in range(COUNT)],
     ClassifySequenceParameters(top_k=1)),
    ("tags", "classify_tokens", [text(number) for number in range(COUNT)], ClassifyTokensParameters()),
    ("answer", "answer_question", [question(number) for number in range(COUNT)], AnswerQuestionParameters(top_k=2)),
    ("choice", "choose_multiple",
     [ChooseMultipleInput(prompt=text(2), choices=[text(0), text(number)]) for number in range(COUNT)], None),
    ("causal", "score", [text(number) for number in range(COUNT)], ScoreParameters()),
]  # fmt: skip


def run(model: LoadedModel, given: Chunk) -> list[JobResult]:
    """The results of a chunk of an encoder task, by index."""
    task = JOB_TASKS[given.taken.spec.task.WhichOneof("parameters")]
    found = []
    for row in given.rows:
        request = task.request_type.FromString(row.taken.envelope.request)
        response = answer(model, row.taken.envelope.task, request)
        further, results = given.push(row, [Event(**{task.answer: response})], ended=True)
        assert not further
        found += results
    assert given.rows == ()
    assert given.items_left == 0
    return [one.result for one in sorted(found, key=lambda one: one.result.index)]


@pytest.mark.parametrize(("name", "branch", "inputs", "parameters"), CASES, ids=[case[1] for case in CASES])
def test_each_item_gives_what_a_call_with_it_alone_gives(
    zoo: Zoo, name: str, branch: str, inputs: list[Message], parameters: Message | None
) -> None:
    model = zoo(name)
    given = Chunk(chunk(branch, inputs, parameters, first_index=7, truncation=TRUNCATION_KEEP_START))
    assert [row.taken.envelope.execution_id for row in given.rows] == ["00job.1.0/7+32", "00job.1.0/39+3"]
    results = run(model, given)
    assert [result.index for result in results] == list(range(7, 7 + COUNT))
    for item, result in zip(given.taken.items, results, strict=True):
        alone = JOB_TASKS[branch].request_type(inputs=[getattr(item.item, branch)])
        alone.options.truncation = TRUNCATION_KEEP_START
        if parameters is not None:
            alone.parameters.CopyFrom(parameters)
        (expected,) = answer(model, JOB_TASKS[branch].kind, alone).outputs
        assert result.WhichOneof("outcome") == branch
        assert_close(getattr(result, branch), expected.result)


def test_the_status_of_an_item_is_that_of_a_call_with_it_alone(zoo: Zoo) -> None:
    model = zoo("masked")
    given = Chunk(chunk("embed", [text(0)] * 4 + [TextInput(text="a", language="xx")]))
    *_, bad = run(model, given)
    alone = JOB_TASKS["embed"].request_type(inputs=[TextInput(text="a", language="xx")])
    (expected,) = answer(model, JOB_TASKS["embed"].kind, alone).outputs
    assert bad.error == expected.error
    assert bad.error.message.startswith("inputs[0].language")


def test_every_task_of_a_job_has_its_row_and_every_encoder_task_is_one() -> None:
    branches = [set(message.DESCRIPTOR.oneofs[0].fields) for message in (JobTask, JobItem)]
    assert [{field.name for field in fields} for fields in branches] == [set(JOB_TASKS)] * 2
    assert set(ENCODER_TASKS) <= {task.kind for task in JOB_TASKS.values()}
