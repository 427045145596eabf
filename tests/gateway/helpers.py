"""What the tests of the gateway say often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from xlmstream.v1 import inference_pb2 as pb
from xlmstream.v1.common_pb2 import RequestOptions, TextInput
from xlmstream.v1.generation_pb2 import GenerationParameters, StreamEvent
from xlmstream_server import errors

# For a `Read` that begins wherever its stream does.
ANY_EVENT = -1

Detail = TypeVar("Detail", bound=Message)


def stream_request(prompt: str, tokens: int = 10, **options: object) -> pb.GenerateStreamRequest:
    return pb.GenerateStreamRequest(
        options=RequestOptions(**options),
        input=TextInput(text=prompt),
        parameters=GenerationParameters(max_new_tokens=tokens),
    )


def generate_request(*prompts: str, tokens: int = 10, **options: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        options=RequestOptions(**options),
        inputs=[TextInput(text=prompt) for prompt in prompts],
        parameters=GenerationParameters(max_new_tokens=tokens),
    )


@dataclass
class Read:
    """What a stream brought, checked for gaps and repetitions as it came."""

    next_event: int = 0
    ids: list[int] = field(default_factory=list)
    text: str = ""
    resume_token: str = ""
    messages: int = 0
    heartbeats: int = 0
    finished: bool = False

    def take(self, event: StreamEvent) -> None:
        if self.next_event == ANY_EVENT:
            self.next_event = event.first_event
        assert event.first_event == self.next_event, f"event {event.first_event} where {self.next_event} was due"
        self.next_event += event.event_count
        self.messages += 1
        kind = event.WhichOneof("event")
        assert (event.event_count == 0) == (kind == "heartbeat")
        if kind == "started":
            self.resume_token = event.started.resume_token
        elif kind == "delta":
            self.ids += event.delta.token_ids
            self.text += event.delta.text
        elif kind == "heartbeat":
            self.heartbeats += 1
        self.finished = kind == "finished"

    async def all(self, call: grpc.aio.UnaryStreamCall) -> Read:
        """Read to the end. Raises what the call ends with."""
        while (message := await call.read()) is not grpc.aio.EOF:
            self.take(message.event)
        return self

    async def until(self, call: grpc.aio.UnaryStreamCall, tokens: int) -> Read:
        """Read until that many tokens have come."""
        while len(self.ids) < tokens:
            message = await call.read()
            assert message is not grpc.aio.EOF
            self.take(message.event)
        return self


async def status_of(call: grpc.aio.Call) -> Status:
    """The status that a call ends with, which must not be OK and must carry one ErrorInfo."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await (call if isinstance(call, grpc.aio.UnaryUnaryCall) else Read(next_event=ANY_EVENT).all(call))
    return status_in(failed.value)


def status_in(error: grpc.aio.AioRpcError) -> Status:
    """The status that an error carries, which must have one ErrorInfo."""
    status = rpc_status.from_call(_AsCall(error))
    assert status is not None, f"no details: {error.code()} {error.details()}"
    assert errors.error_info(status) is not None
    return status


def reason_in(error: grpc.aio.AioRpcError) -> str | None:
    """The reason that the status carries; None where the client made the status itself."""
    status = rpc_status.from_call(_AsCall(error))
    return errors.reason_of(status) if status else None


class _AsCall:
    """An AioRpcError in the shape that grpc_status reads."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        return self._error.code()

    def details(self) -> str | None:
        return self._error.details()

    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        return list(self._error.trailing_metadata())


def details(status: Status, kind: type[Detail]) -> list[Detail]:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


def fields(status: Status) -> list[str]:
    """The fields that a BadRequest names."""
    return [violation.field for bad in details(status, BadRequest) for violation in bad.field_violations]


def reason(status: Status) -> str:
    return errors.reason_of(status)
