"""The outermost layer of every rpc: whatever happens inside, the caller gets a typed status and the operator a count.

gRPC's own answers would be UNKNOWN with the name of a Python class for a request that does not parse, UNKNOWN with the
text of the exception for a defect, and none at all, ever, for a CancelledError that the caller did not cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from xlmstream_server import errors
from xlmstream_server.call import Context
from xlmstream_server.observe.logs import CURRENT_CALL, CallScope
from xlmstream_server.observe.metrics import Metrics

LOG = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Any, Context], Awaitable[Any]]

_HANDLER_MAKERS: Mapping[str, Callable[..., grpc.RpcMethodHandler[Any, Any]]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}
# How long a caller that is still sending is listened to before it is told of an error.
DRAIN_S = 2.0
# Codes that are the service's fault or its operator's concern; the others are logged for debugging only.
NOTABLE_CODES = frozenset({Code.INTERNAL, Code.UNKNOWN, Code.ABORTED, Code.DATA_LOSS})


class GuardedHandlers(grpc.GenericRpcHandler):
    """All handlers of a server, wrapped once. The generated `add_..._to_server` functions take it for a server.

    One table for all methods is also what keeps the server's accept loop short: it waits on one future for each
    registered method and every call.
    """

    def __init__(self, metrics: Metrics, max_message_bytes: int) -> None:
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def as_server(self) -> grpc.aio.Server:
        return cast(grpc.aio.Server, self)

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        for name, handler in handlers.items():
            self._handlers[f"/{service}/{name}"] = self._wrap(f"{service}/{name}", handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same methods again, unwrapped: not wanted."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return self._handlers.get(handler_call_details.method)

    def _wrap(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        parse = _tolerant(handler.request_deserializer, self._max_message_bytes)
        for shape, make in _HANDLER_MAKERS.items():
            if serve := getattr(handler, shape):
                if handler.request_streaming:
                    serve = _checked(serve, drains=not handler.response_streaming)
                return make(self._guard(method, serve), parse, _passing_bytes(handler.response_serializer))
        raise AssertionError(f"{method} has no behaviour")

    def _guard(self, method: str, serve: Handler) -> Handler:
        metrics, short = self._metrics, method.rpartition("/")[2]
        serve = _written(serve)
        open_calls, seconds = metrics.open_calls.labels(short), metrics.call_seconds.labels(short)
        ended_ok = metrics.calls.labels(short, "OK")

        async def guarded(request: Any, context: Context) -> Any:  # noqa: RET503  # _abort does not return
            CURRENT_CALL.set(CallScope(short))
            began = time.perf_counter()
            status = Status(code=Code.CANCELLED)
            open_calls.inc()
            try:
                if isinstance(request, errors.ServiceError):
                    raise request
                answer = await serve(request, context)
                status.code = Code.OK
                return answer
            except errors.ServiceError as error:
                status = error.status
            except asyncio.CancelledError:
                if caller_has_cancelled():
                    raise
                LOG.error("a handler was cancelled although its caller was not", exc_info=True)
                status = errors.aborted().status
            except grpc.aio.AbortError:
                raise
            except grpc.aio.InternalError:
                raise  # the transport refused a batch: the peer is gone, there is nobody to answer
            except Exception:
                LOG.exception("a defect ended a call")
                status = errors.internal().status
            finally:
                took_s = time.perf_counter() - began
                open_calls.dec()
                seconds.observe(took_s)
                if status.code == Code.OK:
                    ended_ok.inc()
                else:
                    self._record(short, status, took_s)
            await _abort(context, status)

        return guarded

    def _record(self, method: str, status: Status, took_s: float) -> None:
        code = Code.Name(status.code)
        self._metrics.calls.labels(method, code).inc()
        level = logging.WARNING if status.code in NOTABLE_CODES else logging.DEBUG
        LOG.log(level, "call ended", extra={"method": method, "code": code, "duration_ms": round(took_s * 1000, 1)})


def caller_has_cancelled() -> bool:
    """Whether this task was told to stop, as gRPC does when the caller cancels, goes away or is past its deadline.

    A CancelledError may as well come out of something awaited here; `context.cancelled()` does not tell (grpc#36193).
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _abort(context: Context, status: Status) -> NoReturn:
    scope = CURRENT_CALL.get()
    if scope is not None and scope.execution_id:
        status = errors.with_execution_id(status, scope.execution_id)
    await context.abort_with_status(rpc_status.to_status(errors.fitting(status)))
    raise AssertionError("abort returned")


def _written(serve: Handler) -> Handler:
    """`serve` as a coroutine that writes its messages, also where it is a generator of them (as reflection is)."""
    if not inspect.isasyncgenfunction(serve):
        return serve

    async def written(request: Any, context: Context) -> None:
        async for message in serve(request, context):
            await context.write(message)

    return written


def _checked(serve: Handler, *, drains: bool) -> Handler:
    """`serve` for a stream of requests, ending at the first that could not be parsed.

    `drains`: what the caller still sends is read before it is told of an error. One that writes when the call ends may
    lose the status (grpc#36066), and one that only writes would look for it last.
    """

    async def requests(received: AsyncIterable[Any]) -> AsyncIterator[Any]:
        async for request in received:
            if isinstance(request, errors.ServiceError):
                raise request
            yield request

    written = _written(serve)

    async def checked(received: AsyncIterable[Any], context: Context) -> Any:
        return await written(requests(received), context)

    async def drained(received: AsyncIterable[Any], context: Context) -> Any:
        try:
            return await checked(received, context)
        except errors.ServiceError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    async for _ in received:
                        pass
            raise

    return drained if drains else checked


def _passing_bytes(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """A serialiser that leaves a message that is serialized already as it is."""
    assert serialize is not None
    return lambda message: message if type(message) is bytes else serialize(message)


def _tolerant(parse: Callable[[bytes], Any] | None, max_bytes: int) -> Callable[[bytes], Any]:
    """A deserialiser that returns what is wrong with the bytes instead of raising it."""
    assert parse is not None

    def tolerant(data: bytes) -> Any:
        if len(data) > max_bytes:
            return errors.message_too_large(len(data), max_bytes)
        try:
            return parse(data)
        except DecodeError:
            return errors.invalid_input([("request", "not a valid message: malformed, or a string that is not UTF-8")])

    return tolerant
