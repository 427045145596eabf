"""One upload of items to a job, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, cast

import grpc

from xlmstream.asyncio_calls import Calls, raise_if_closed
from xlmstream.errors import (
    ChecksumMismatch,
    InternalError,
    MessageTooLarge,
    ProtocolError,
    Unavailable,
    UploadGap,
    XlmstreamError,
)
from xlmstream.failures import from_call
from xlmstream.jobs.uploading import UploadState
from xlmstream.retry import Attempts
from xlmstream.v1.jobs_pb2 import GetJobRequest, UploadJobItemsResponse

# How many items that are at hand are read before other tasks have their turn.
ITEMS_A_TURN = 64


class Upload:
    """As blocking_upload.Upload; reads also what is iterated asynchronously."""

    def __init__(
        self,
        calls: Calls,
        state: UploadState,
        items: Iterable[Any] | AsyncIterable[Any],
        on_commit: Callable[[int], None],
        timeout_s: float | None,
    ) -> None:
        self._calls = calls
        self._state = state
        self._items = items
        self._given = _iterator(items)
        self._on_commit = on_commit
        self._attempts = Attempts(calls.policy, timeout_s)
        self._known = -1

    async def run(self) -> None:
        """Until every item is stored. Raises what `AsyncJob.upload` documents."""
        self._learn(await self._count())
        while await self._read():
            gateway = self._calls.gateway()
            messages = self._state.next_call()
            call = gateway.jobs.UploadJobItems(iter(messages), timeout=self._attempts.remaining_s())
            try:
                await self._read_ahead(call)
                outcome = await _outcome(call)
            finally:
                call.cancel()
            match outcome:
                case UploadJobItemsResponse(items_committed=count):
                    if count <= self._known:
                        raise ProtocolError(f"the service took items and has {count}, as before")
                    self._learn(count)
                case MessageTooLarge():
                    self._state.shrink(outcome)
                case XlmstreamError():
                    await self._calls.wait(self._attempts, gateway, outcome)
                    self._learn(await self._count())

    async def _read(self) -> bool:
        """Read until there is enough for a call; whether there is anything."""
        while not self._state.ready and await self._add_next():
            pass
        return not self._state.idle

    async def _read_ahead(self, call: Any) -> None:
        while not self._state.full and not call.done() and await self._add_next():
            pass

    async def _add_next(self) -> bool:
        """Read one item; whether there was one."""
        if isinstance(self._given, AsyncIterator):
            async for item in self._given:
                self._state.add(item)
                return True
            return False
        for item in self._given:
            self._state.add(item)
            if self._state.next_index % ITEMS_A_TURN == 0:
                await asyncio.sleep(0)
            return True
        return False

    async def _count(self) -> int:
        request, timeout_s = GetJobRequest(job_id=self._state.job_id), self._attempts.remaining_s()
        response = await self._calls.unary(lambda gateway: gateway.jobs.GetJob, request, timeout_s=timeout_s)
        return response.job.items_committed

    def _learn(self, count: int) -> None:
        """Take in how many items are stored; go back to the first item where some were lost."""
        if not self._state.committed(count):
            if self._given is self._items:  # it can be read only once
                raise self._state.lost(count)
            self._given = _iterator(self._items)
            self._state.restart()
            if not self._state.committed(count):
                raise self._state.lost(count)
        if count > self._known:
            self._attempts.progressed()
        if count != self._known:
            self._known = count
            self._on_commit(count)


def _iterator(items: Iterable[Any] | AsyncIterable[Any]) -> Iterator[Any] | AsyncIterator[Any]:
    return aiter(items) if isinstance(items, AsyncIterable) else iter(items)


async def _outcome(call: Any) -> UploadJobItemsResponse | XlmstreamError:
    """What a call answered, or failed with; what may be mended by sending again from what is stored is retryable."""
    try:
        return cast(UploadJobItemsResponse, await call)
    except grpc.aio.AioRpcError as failure:
        error = from_call(failure)
    except asyncio.CancelledError:
        raise_if_closed("the client was closed during the upload")
        raise
    if isinstance(error, UploadGap | ChecksumMismatch):
        error.retry_after_s = error.retry_after_s or 0.0
    if isinstance(error, InternalError) and error.retryable:
        return Unavailable(f"the call ended while items were sent: {error.message}")  # grpc.aio lost why (grpc#36066)
    return error
