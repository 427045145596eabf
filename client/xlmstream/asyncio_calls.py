"""How the asyncio client talks to gateways: channels, repeated calls, streams that reconnect. Knows no task.

The twin of blocking_calls, with what grpc.aio needs beside: a call that is closed while it is awaited raises
CancelledError in the waiting task, which would look as if the task itself had been cancelled; and a channel may only be
closed when nobody reads from it any more.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar, cast

import grpc

from xlmstream.channel import ChannelOptions
from xlmstream.errors import Cancelled, Unavailable, XlmstreamError
from xlmstream.failures import from_call
from xlmstream.retry import Attempts, Failover, RetryPolicy
from xlmstream.streams import CANCEL_TIMEOUT_S, ended_early
from xlmstream.v1.inference_pb2 import CancelRequestRequest
from xlmstream.v1.inference_pb2_grpc import InferenceServiceStub
from xlmstream.v1.jobs_pb2_grpc import JobServiceStub
from xlmstream.v1.models_pb2_grpc import ModelServiceStub
from xlmstream.v1.server_pb2_grpc import ServerServiceStub

if TYPE_CHECKING:  # the generated stubs serve both kinds of channel; only their types differ
    from xlmstream.v1.inference_pb2_grpc import InferenceServiceAsyncStub
    from xlmstream.v1.jobs_pb2_grpc import JobServiceAsyncStub
    from xlmstream.v1.models_pb2_grpc import ModelServiceAsyncStub
    from xlmstream.v1.server_pb2_grpc import ServerServiceAsyncStub

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)
Message = TypeVar("Message")
Item = TypeVar("Item")


class Gateway:
    """One address: its channel and the stubs on it. Belongs to the event loop that runs when it is made."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None, options: ChannelOptions) -> None:
        self.channel = (
            grpc.aio.insecure_channel(target, options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options)
        )
        self.inference = cast("InferenceServiceAsyncStub", InferenceServiceStub(self.channel))
        self.jobs = cast("JobServiceAsyncStub", JobServiceStub(self.channel))
        self.models = cast("ModelServiceAsyncStub", ModelServiceStub(self.channel))
        self.server = cast("ServerServiceAsyncStub", ServerServiceStub(self.channel))


class UnaryMethod(Protocol[Request, Response]):
    """A unary rpc of a stub."""

    def __call__(self, request: Request, *, timeout: float | None = ...) -> Awaitable[Response]: ...


class OpenCall(Protocol[Response]):
    """A server stream in progress: read for messages until EOF, cancelled to leave it."""

    async def read(self) -> Response | object: ...
    def cancel(self) -> bool: ...


class OpenStream(Protocol):
    """What is closed with its client."""

    async def close(self) -> None: ...


class Calls:
    """The gateways of one client and the rules for trying them again."""

    def __init__(self, gateways: list[Gateway], policy: RetryPolicy) -> None:
        self.gateways = Failover(gateways)
        self.policy = policy
        self._closed = False
        self.open_streams: set[OpenStream] = set()

    def gateway(self) -> Gateway:
        """The one to call now."""
        if self._closed:
            raise RuntimeError("the client is closed")
        return self.gateways.current()

    async def unary(
        self,
        method: Callable[[Gateway], UnaryMethod[Request, Response]],
        request: Request,
        *,
        timeout_s: float | None,
        request_id: str | None = None,
    ) -> Response:
        attempts = Attempts(self.policy, timeout_s)
        while True:
            gateway = self.gateway()
            try:
                return await method(gateway)(request, timeout=attempts.remaining_s())
            except grpc.aio.AioRpcError as failure:
                error = from_call(failure)
                error.request_id = request_id
            except asyncio.CancelledError:
                raise_if_closed("the client was closed during the call")
                if request_id is not None:  # such a request outlives its call, so that a repeated call can join it
                    await self.abandon(CancelRequestRequest(request_id=request_id))
                raise
            await self.wait(attempts, gateway, error)

    async def wait(self, attempts: Attempts, failed: Gateway, error: XlmstreamError) -> None:
        """Sleep until the next attempt may start, on another gateway where there is one; or raise `error`."""
        wait_s = attempts.wait_s(error)
        if isinstance(error, Unavailable):
            self.gateways.leave(failed)
        await asyncio.sleep(wait_s)

    async def abandon(self, request: CancelRequestRequest) -> None:
        """Tell the service that nobody waits for a request any more."""
        if not self._closed:
            with suppress(XlmstreamError):  # not known yet, gone already, or out of reach: it ends by itself
                await self.unary(lambda gateway: gateway.inference.CancelRequest, request, timeout_s=CANCEL_TIMEOUT_S)

    async def close(self) -> None:
        for stream in list(self.open_streams):
            await stream.close()
        self._closed = True
        for gateway in self.gateways.targets:
            await gateway.channel.close()


class Stream(ABC, Generic[Message, Item]):
    """A server stream as an iterator in an `async with` block: reconnects when it breaks, cancelled at the end."""

    def __init__(self, calls: Calls, timeout_s: float | None) -> None:
        self._calls = calls
        self._timeout_s = timeout_s
        self._call: OpenCall[Message] | None = None
        self._reading = asyncio.Lock()
        self._entered = False
        self._ended = False

    @property
    def request_id(self) -> str | None:
        """The key of the request that the stream belongs to, where there is one."""
        return None

    @abstractmethod
    def _open(self, gateway: Gateway, timeout_s: float | None) -> OpenCall[Message]:
        """Start the call that continues the stream."""

    @abstractmethod
    def _take(self, message: Message) -> Item | None:
        """What users get for a message; None for nothing. Sets `_ended` after the last one."""

    async def _abandon(self) -> None:
        """Tell the service that nobody will read the rest."""

    async def __aenter__(self) -> Self:
        self._entered = True
        self._attempts = Attempts(self._calls.policy, self._timeout_s)
        self._connect()
        self._calls.open_streams.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        while not self._ended:
            item = await self._read()
            if item is not None:
                return item
        await self._complete()
        raise StopAsyncIteration

    async def _complete(self) -> None:
        """Let the call end by itself after its last message: cancelled, it would look broken off to the service."""
        if self._call is not None:
            async with self._reading:
                with suppress(grpc.aio.AioRpcError):
                    await self._call.read()

    async def close(self) -> None:
        """Leave the stream: what is still running for it stops. Called by the end of the `async with` block."""
        self._calls.open_streams.discard(self)
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
            async with self._reading:  # whoever reads has been woken by the cancel, and is out of the call then
                pass
            if not self._ended:
                await self._abandon()

    def _connect(self) -> None:
        self._gateway = self._calls.gateway()
        self._call = self._open(self._gateway, self._attempts.remaining_s())

    async def _read(self) -> Item | None:
        if self._call is None:
            if self._entered:
                raise Cancelled("the stream was closed")
            raise RuntimeError("a stream is read inside its block: `async with ... as stream:`")
        try:
            async with self._reading:
                message = await self._call.read()
            if message is not grpc.aio.EOF:
                self._attempts.progressed()
                return self._take(cast(Message, message))
            error = ended_early()
        except grpc.aio.AioRpcError as failure:
            error = from_call(failure)
        except asyncio.CancelledError:
            raise_if_closed("the stream was closed while it was read")
            raise
        error.request_id = self.request_id
        try:
            await self._calls.wait(self._attempts, self._gateway, error)
            if self._call is None:
                raise Cancelled("the stream was closed while it was read")
            self._connect()
        except XlmstreamError:
            self._ended = True
            raise
        return None


def raise_if_closed(message: str) -> None:
    """Raise Cancelled unless it is the running task itself that is being cancelled."""
    task = asyncio.current_task()
    if task is not None and task.cancelling() == 0:
        raise Cancelled(message) from None
