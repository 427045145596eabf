"""How the blocking client talks to gateways: channels, repeated calls, streams that reconnect. Knows no task."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar, cast

import grpc

from xlmstream.channel import ChannelOptions
from xlmstream.errors import Cancelled, Unavailable, XlmstreamError
from xlmstream.failures import FailedCall, from_call
from xlmstream.retry import Attempts, Failover, RetryPolicy
from xlmstream.streams import CANCEL_TIMEOUT_S, ended_early
from xlmstream.v1.inference_pb2 import CancelRequestRequest
from xlmstream.v1.inference_pb2_grpc import InferenceServiceStub
from xlmstream.v1.jobs_pb2_grpc import JobServiceStub
from xlmstream.v1.models_pb2_grpc import ModelServiceStub
from xlmstream.v1.server_pb2_grpc import ServerServiceStub

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)
Message = TypeVar("Message")
Item = TypeVar("Item")


class Gateway:
    """One address: its channel and the stubs on it. Connects on first use."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None, options: ChannelOptions) -> None:
        self.channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        self.inference = InferenceServiceStub(self.channel)
        self.jobs = JobServiceStub(self.channel)
        self.models = ModelServiceStub(self.channel)
        self.server = ServerServiceStub(self.channel)


class UnaryMethod(Protocol[Request, Response]):
    """A unary rpc of a stub."""

    def __call__(self, request: Request, timeout: float | None = ...) -> Response: ...


class OpenCall(Protocol[Response]):
    """A server stream in progress: iterated for messages, cancelled to leave it."""

    def __iter__(self) -> Iterator[Response]: ...
    def __next__(self) -> Response: ...
    def cancel(self) -> object: ...


class OpenStream(Protocol):
    """What is closed with its client."""

    def close(self) -> None: ...


class Calls:
    """The gateways of one client and the rules for trying them again."""

    def __init__(self, gateways: list[Gateway], policy: RetryPolicy) -> None:
        self.gateways = Failover(gateways)
        self.policy = policy
        self.open_streams: set[OpenStream] = set()
        self._closed = False

    def gateway(self) -> Gateway:
        """The one to call now."""
        if self._closed:
            raise RuntimeError("the client is closed")
        return self.gateways.current()

    def unary(
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
                return method(gateway)(request, timeout=attempts.remaining_s())
            except grpc.RpcError as failure:
                error = from_call(cast(FailedCall, failure))
                error.request_id = request_id
            except (KeyboardInterrupt, SystemExit):
                if request_id is not None:  # such a request outlives its call, so that a repeated call can join it
                    self.abandon(CancelRequestRequest(request_id=request_id))
                raise
            self.wait(attempts, gateway, error)

    def wait(self, attempts: Attempts, failed: Gateway, error: XlmstreamError) -> None:
        """Sleep until the next attempt may start, on another gateway where there is one; or raise `error`."""
        wait_s = attempts.wait_s(error)
        if isinstance(error, Unavailable):
            self.gateways.leave(failed)
        time.sleep(wait_s)

    def abandon(self, request: CancelRequestRequest) -> None:
        """Tell the service that nobody waits for a request any more."""
        if not self._closed:
            with suppress(XlmstreamError):  # not known yet, gone already, or out of reach: it ends by itself
                self.unary(lambda gateway: gateway.inference.CancelRequest, request, timeout_s=CANCEL_TIMEOUT_S)

    def close(self) -> None:
        for stream in list(self.open_streams):
            stream.close()
        self._closed = True
        for gateway in self.gateways.targets:
            gateway.channel.close()


class Stream(ABC, Generic[Message, Item]):
    """A server stream as an iterator in a `with` block: reconnects when it breaks, cancelled when the block is left."""

    def __init__(self, calls: Calls, timeout_s: float | None) -> None:
        self._calls = calls
        self._timeout_s = timeout_s
        self._call: OpenCall[Message] | None = None
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

    def _abandon(self) -> None:
        """Tell the service that nobody will read the rest."""

    def __enter__(self) -> Self:
        self._entered = True
        self._attempts = Attempts(self._calls.policy, self._timeout_s)
        self._connect()
        self._calls.open_streams.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        while not self._ended:
            item = self._read()
            if item is not None:
                return item
        self._complete()
        raise StopIteration

    def _complete(self) -> None:
        """Let the call end by itself after its last message: cancelled, it would look broken off to the service."""
        if self._call is not None:
            with suppress(grpc.RpcError):
                next(self._call, None)

    def close(self) -> None:
        """Leave the stream: what is still running for it stops. Called by the end of the `with` block."""
        self._calls.open_streams.discard(self)
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
            if not self._ended:
                self._abandon()

    def _connect(self) -> None:
        self._gateway = self._calls.gateway()
        self._call = self._open(self._gateway, self._attempts.remaining_s())

    def _read(self) -> Item | None:
        if self._call is None:
            if self._entered:
                raise Cancelled("the stream was closed")
            raise RuntimeError("a stream is read inside its with block: `with ... as stream:`")
        try:
            for message in self._call:
                self._attempts.progressed()
                return self._take(message)
            error = ended_early()
        except grpc.RpcError as failure:
            error = from_call(cast(FailedCall, failure))
        error.request_id = self.request_id
        try:
            self._calls.wait(self._attempts, self._gateway, error)
            if self._call is None:
                raise Cancelled("the stream was closed while it was read")
            self._connect()
        except XlmstreamError:
            self._ended = True
            raise
        return None
