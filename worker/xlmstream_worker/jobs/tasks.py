"""The tasks of jobs: how their items become requests, and what the answers say of each item.

A job's items run through the very code that answers calls: a part of a chunk is a request of its task with some inputs,
and its terminal event holds an output for each. Generations are requests of one input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xlmstream.status as statuses
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from xlmstream.v1.classification_pb2 import ChooseMultipleRequest, ClassifySequenceRequest, ClassifyTokensRequest
from xlmstream.v1.common_pb2 import (
    TASK_ANSWER_QUESTION,
    TASK_CHOOSE_MULTIPLE,
    TASK_CLASSIFY_SEQUENCE,
    TASK_CLASSIFY_TOKENS,
    TASK_EMBED,
    TASK_FILL_MASK,
    TASK_GENERATE,
    TASK_SCORE,
    TASK_TRANSLATE,
    RequestOptions,
    Task,
)
from xlmstream.v1.embedding_pb2 import EmbedRequest
from xlmstream.v1.fill_mask_pb2 import FillMaskRequest
from xlmstream.v1.inference_pb2 import GenerateStreamRequest
from xlmstream.v1.question_answering_pb2 import AnswerQuestionRequest
from xlmstream.v1.scoring_pb2 import ScoreRequest
from xlmstream.v1.translation_pb2 import TranslateStreamRequest
from xlmstream_server.broker.assembled import assemble
from xlmstream_server.broker.v1.messages_pb2 import Event

# Tokenised in one go: long enough to be worth a turn, short enough not to hold up others.
BATCHED_ITEMS = 32


class JobTask(ABC):
    """One task.

    Attributes:
        kind: its number on the wire.
        items: most items of a part.
    """

    kind: Task.ValueType
    items: int

    def sequences(self, parameters: Any) -> int:
        """Slots of the decoder that an item needs; 0 where it is for the encoder."""
        return 0

    @abstractmethod
    def request(self, options: RequestOptions, parameters: Message, inputs: Sequence[Message]) -> Message:
        """The request that answers these inputs."""

    @abstractmethod
    def outcomes(self, events: Sequence[Event], inputs: int) -> list[Message]:
        """What a part's events, the terminal one included, say of each of its inputs: a result, or a Status as a unary
        call with this input alone would return it."""


@dataclass(frozen=True)
class Batched(JobTask):
    """A task whose requests have any number of inputs, and whose answer comes in one event, in the branch `answer`."""

    kind: Task.ValueType
    request_type: type[Any]
    answer: str
    items: int = BATCHED_ITEMS

    def request(self, options: RequestOptions, parameters: Message, inputs: Sequence[Message]) -> Message:
        request: Message = self.request_type(options=options, inputs=inputs)
        if "parameters" in request.DESCRIPTOR.fields_by_name:
            request.parameters.CopyFrom(parameters)  # type: ignore[attr-defined]
        return request

    def outcomes(self, events: Sequence[Event], inputs: int) -> list[Message]:
        ended = events[-1]
        if ended.HasField("failed"):
            return [ended.failed] * inputs
        outputs = getattr(ended, self.answer).outputs
        return [
            statuses.relocated(output.error, f"inputs[{place}]", "inputs[0]")
            if output.WhichOneof("outcome") == "error"
            else output.result
            for place, output in enumerate(outputs)
        ]


@dataclass(frozen=True)
class Generated(JobTask):
    """A task whose requests have one input, and whose answer grows event by event."""

    kind: Task.ValueType
    request_type: type[Any]
    items: int = 1

    def sequences(self, parameters: Any) -> int:
        wanted: int = max(parameters.num_return_sequences, parameters.num_beams, 1)
        return wanted

    def request(self, options: RequestOptions, parameters: Message, inputs: Sequence[Message]) -> Message:
        request: Message = self.request_type(options=options, input=inputs[0], parameters=parameters)
        return request

    def outcomes(self, events: Sequence[Event], inputs: int) -> list[Message]:
        ended = events[-1]
        if ended.HasField("failed"):
            failed: Status = ended.failed
            return [statuses.relocated(failed, "input", "inputs[0]")]
        return [assemble(events)]


@dataclass(frozen=True)
class Translated(Generated):
    """As `Generated`, where parameters are a TranslateParameters."""

    def sequences(self, parameters: Any) -> int:
        return super().sequences(parameters.parameters)

    def request(self, options: RequestOptions, parameters: Message, inputs: Sequence[Message]) -> Message:
        shared = {field.name: value for field, value in parameters.ListFields()}
        request: Message = self.request_type(options=options, input=inputs[0], **shared)
        return request


JOB_TASKS: Mapping[str, JobTask] = {
    "generate": Generated(TASK_GENERATE, GenerateStreamRequest),
    "embed": Batched(TASK_EMBED, EmbedRequest, "embedded"),
    "fill_mask": Batched(TASK_FILL_MASK, FillMaskRequest, "mask_filled"),
    "classify_sequence": Batched(TASK_CLASSIFY_SEQUENCE, ClassifySequenceRequest, "sequence_classified"),
    "classify_tokens": Batched(TASK_CLASSIFY_TOKENS, ClassifyTokensRequest, "tokens_classified"),
    "answer_question": Batched(TASK_ANSWER_QUESTION, AnswerQuestionRequest, "question_answered"),
    "choose_multiple": Batched(TASK_CHOOSE_MULTIPLE, ChooseMultipleRequest, "choice_made"),
    "score": Batched(TASK_SCORE, ScoreRequest, "scored"),
    "translate": Translated(TASK_TRANSLATE, TranslateStreamRequest),
}
"""By the branch that a task has in JobTask, JobItem and JobResult."""
