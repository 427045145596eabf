"""`AsyncClient.map`: many inputs over one InferStream, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self

import grpc

from xlmstream.asyncio_calls import Calls, raise_if_closed
from xlmstream.errors import Cancelled, XlmstreamError
from xlmstream.failures import from_call
from xlmstream.mapping import Mapped, MapState, Result
from xlmstream.retry import Attempts
from xlmstream.streams import CANCEL_TIMEOUT_S, ended_early
from xlmstream.tasks import Task


class MapStream(Generic[Result]):
    """The results of `AsyncClient.map`, as an iterator. Also a context manager, for leaving it early.

    Inputs are taken by the task that iterates, only as results are handed out, and at most a few times `max_in_flight`
    are remembered at a time.
    """

    def __init__(
        self,
        calls: Calls,
        task: Task,
        inputs: Iterable[Any],
        keywords: Mapping[str, Any],
        timeout_s: float | None,
        *,
        ordered: bool,
        max_in_flight: int,
    ) -> None:
        self._calls = calls
        self._state: MapState[Result] = MapState(
            task, inputs, keywords, calls.policy, ordered=ordered, max_in_flight=max_in_flight
        )
        self._attempts = Attempts(calls.policy, timeout_s)
        self._call: Any = None
        self._reading = asyncio.Lock()
        self._ended = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Mapped[Result]]:
        return self

    async def __anext__(self) -> Mapped[Result]:
        while True:
            if (mapped := self._state.due()) is not None:
                return mapped
            if self._ended:
                raise StopAsyncIteration
            try:
                await self._step()
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """Leave: what is still unfinished is cancelled."""
        self._calls.open_streams.discard(self)
        call, self._call = self._call, None
        self._ended = True
        if call is None:
            return
        if self._state.resumable and not self._state.finished:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
                async with asyncio.timeout(CANCEL_TIMEOUT_S), self._reading:
                    await call.write(self._state.farewell())
                    await call.done_writing()
                    while await call.read() is not grpc.aio.EOF:
                        pass
        call.cancel()
        async with self._reading:  # whoever reads has been woken by the cancel, and is out of the call then
            pass

    async def _step(self) -> None:
        """Send what may be sent, then take in one message."""
        try:
            if self._call is None:
                await self._connect()
            if self._state.pause_s:
                await asyncio.sleep(self._state.pause_s)
                self._state.pause_s = 0.0
            while (message := self._state.next_message()) is not None:
                await self._call.write(message)
            if self._state.has_due:
                return
            if self._state.finished:
                await self._finish()
                return
            if self._state.moving:
                await self._call.done_writing()
            async with self._reading:
                response = await self._call.read()
        except grpc.aio.AioRpcError as failure:
            await self._reconnect(from_call(failure))
            return
        except asyncio.InvalidStateError:  # written to a call that has ended: its status tells why
            await self._reconnect(await self._status())
            return
        except asyncio.CancelledError:
            raise_if_closed("the map was closed while it was read")
            raise
        if response is not grpc.aio.EOF:
            if self._state.accept(response):
                self._attempts.progressed()
        elif self._state.moving:
            self._calls.gateways.leave(self._gateway)
            await self._connect()
        else:
            await self._reconnect(await self._status())

    async def _connect(self) -> None:
        self._calls.open_streams.add(self)
        self._gateway = self._calls.gateway()
        self._call = self._gateway.inference.InferStream(timeout=self._attempts.remaining_s())
        await self._call.write(self._state.opening())

    async def _status(self) -> XlmstreamError:
        """What the call ended with."""
        if self._call is None or await self._call.code() is grpc.StatusCode.OK:
            return ended_early()
        code, details = await self._call.code(), await self._call.details()
        return from_call(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), await self._call.trailing_metadata(), details))

    async def _reconnect(self, error: XlmstreamError) -> None:
        if self._call is None:
            raise Cancelled("the map was closed")
        self._call = None
        await self._calls.wait(self._attempts, self._gateway, error)

    async def _finish(self) -> None:
        """Everything is answered: let the call end by itself."""
        self._ended = True
        self._calls.open_streams.discard(self)
        call, self._call = self._call, None
        if call is not None:
            with suppress(grpc.aio.AioRpcError):
                await call.done_writing()
                while await call.read() is not grpc.aio.EOF:
                    pass
