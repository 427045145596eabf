"""The shape of a unary task: repeated inputs in, one output for each out, in order, no input failing its neighbours.

A task says how its request is checked, cut into executions and put together again. How executions are queued, awaited,
cancelled and timed is the same for all and lives in `unary`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import RequestOptions, Task

from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_server.catalogue import ServedModel
from xlmstream_server.config import Limits
from xlmstream_server.errors import ServiceError, relocated

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Output = TypeVar("Output", bound=Message)


@dataclass(frozen=True, slots=True)
class Piece:
    """One execution of a call.

    Attributes:
        inputs: which inputs it answers, by position.
        request: the public message that the worker gets, serialised.
        cost_tokens: estimated tokens of prompts and output, for admission.
    """

    inputs: tuple[int, ...]
    request: bytes
    cost_tokens: int


class UnaryTask(ABC, Generic[Request, Output, Response]):
    """One unary rpc.

    Attributes:
        kind: the task that a model must have.
        request_type: the request's message; it has `options`, `inputs` and fields that hold for all inputs.
    """

    kind: ClassVar[Task.ValueType]
    request_type: ClassVar[type[Message]]

    @abstractmethod
    def options(self, request: Request) -> RequestOptions: ...

    @abstractmethod
    def check(self, request: Request, model: ServedModel, limits: Limits) -> list[ServiceError | None]:
        """What is wrong with each input. Raises ServiceError for what is wrong with the call as a whole."""

    @abstractmethod
    def split(self, request: Request, good: Sequence[int], model: ServedModel) -> list[Piece]:
        """The executions that answer the inputs at the positions `good`."""

    @abstractmethod
    def outputs(self, piece: Piece, events: Sequence[Event]) -> Sequence[Output]:
        """One output for each input of `piece`, whose events these are, the terminal one included."""

    @abstractmethod
    def failed(self, status: Status) -> Output:
        """The output of an input that failed."""

    @abstractmethod
    def response(self, outputs: Sequence[Output], ends: Sequence[Event]) -> Response:
        """The answer, given all outputs in order and the terminal event of each piece that ended well."""


class Fallible(Protocol):
    """An output as every task has it: `oneof outcome { result, google.rpc.Status error }`."""

    @property
    def error(self) -> Status: ...

    def HasField(self, field_name: Literal["error"], /) -> bool: ...  # noqa: N802  # protobuf's name


def relocate_errors(outputs: Iterable[Fallible], inputs: Sequence[int]) -> None:
    """Name fields as the caller knows them: a worker counts only the inputs that it was sent."""
    for sent, (output, position) in enumerate(zip(outputs, inputs, strict=True)):
        if sent != position and output.HasField("error"):
            output.error.CopyFrom(relocated(output.error, f"inputs[{sent}]", f"inputs[{position}]"))
