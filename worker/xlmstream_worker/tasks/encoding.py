"""What all encoder tasks share: from a request to inputs of the engine, and from its values to the terminal event.

A task is an `EncoderTask`. It turns a request into `Item`s, one for each of its inputs, and each item turns the values
that the engine gives for it into a result. What cannot be served has its status in the item's place.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import xlmstream.status as statuses
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import Timing, Usage
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.encoder_inputs import EncoderInput, EncoderOutput, EncoderRequest, Values
from xlmstream_worker.rows import Row
from xlmstream_worker.sequences import Failure, FailureKind
from xlmstream_worker.tasks.timing import timing
from xlmstream_worker.text_model import TextModel


@dataclass(frozen=True, slots=True)
class Cost:
    """What an item took."""

    usage: Usage
    timing: Timing


Result = TypeVar("Result", bound=Message)


class Item(ABC, Generic[Result]):
    """One input of a request, prepared. Plain values only: it may have been made in another process."""

    __slots__ = ()
    sequences: tuple[EncoderInput, ...]
    """What the engine shall compute, at least one."""

    @abstractmethod
    def result(self, model: TextModel, values: Sequence[Values], cost: Cost) -> Result:
        """The task's result message, given the values of each sequence."""


class EncoderTask(ABC, Generic[Result]):
    """One task."""

    @abstractmethod
    def prepare(self, request: bytes, model: TextModel) -> list[Item[Result] | Status]:
        """One item for each input. Raises Refused for what is wrong with the request as a whole."""

    @abstractmethod
    def event(self, results: Sequence[Result | Status]) -> Event:
        """The terminal event, given a result or a Status for each input."""


class Encoding(Generic[Result]):
    """One execution of an encoder task on this worker."""

    def __init__(
        self,
        row: Row,
        task: EncoderTask[Result],
        items: Sequence[Item[Result] | Status],
        model: TextModel,
        worker_id: str,
        tokenize_s: float,
    ) -> None:
        self._row = row
        self._task = task
        self._items = items
        self._model = model
        self._worker_id = worker_id
        self._tokenize_s = tokenize_s
        self._sequences = [given for item in items if isinstance(item, Item) for given in item.sequences]
        self._outputs: list[Values | Failure | None] = [None] * len(self._sequences)
        self._missing = len(self._sequences)
        self._batch_size = 0
        self._began = self._ended = time.monotonic()

    @property
    def complete(self) -> bool:
        """Whether every sequence has been computed."""
        return self._missing == 0

    def begin(self) -> EncoderRequest:
        """What the engine shall compute, from now on."""
        self._began = self._ended = time.monotonic()
        return EncoderRequest(self._row.key, tuple(self._sequences), alone=self._row.apart, bulk=self._row.bulk)

    def push(self, output: EncoderOutput, batch_size: int) -> None:
        """Take what came of one sequence, computed together with `batch_size` - 1 others."""
        self._outputs[output.index] = output.failure or output.values
        self._missing -= 1
        self._batch_size = max(self._batch_size, batch_size)
        self._ended = time.monotonic()

    def event(self) -> Event:
        """The terminal event of a complete execution."""
        took = timing(
            self._row,
            self._worker_id,
            tokenize_s=self._tokenize_s,
            compute_s=self._ended - self._began,
            batch_size=self._batch_size,
        )
        results: list[Result | Status] = []
        outputs = iter(self._outputs)
        for item in self._items:
            if isinstance(item, Status):
                results.append(item)
                continue
            values = [next(outputs) for _ in item.sequences]
            results.append(self._result(item, values, took))
        return self._task.event(results)

    def _result(self, item: Item[Result], values: Sequence[Values | Failure | None], took: Timing) -> Result | Status:
        computed: list[Values] = []
        for value in values:
            if isinstance(value, Failure):
                starved = value.kind is FailureKind.OUT_OF_MEMORY
                failed: Status = statuses.device_oom() if starved else statuses.internal()
                return failed
            assert value is not None, "asked for the event of an execution that is not complete"
            computed.append(value)
        usage = Usage(prompt_tokens=sum(len(given.ids) for given in item.sequences))
        return item.result(self._model, computed, Cost(usage, took))
