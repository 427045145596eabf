"""One upload of items to a job, blocking."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import grpc

from xlmstream.blocking_calls import Calls
from xlmstream.errors import Cancelled, ChecksumMismatch, MessageTooLarge, ProtocolError, UploadGap, XlmstreamError
from xlmstream.failures import FailedCall, from_call
from xlmstream.jobs.uploading import UploadState
from xlmstream.retry import Attempts
from xlmstream.v1.jobs_pb2 import GetJobRequest, UploadJobItemsResponse

_END = object()


class Upload:
    """Reads items, sends them call by call, and goes on from what the service has whenever a call breaks.

    While one call is on its way the items of the next are read, in the thread that runs this.
    """

    def __init__(
        self,
        calls: Calls,
        state: UploadState,
        items: Iterable[Any],
        on_commit: Callable[[int], None],
        timeout_s: float | None,
    ) -> None:
        self._calls = calls
        self._state = state
        self._items = items
        self._given = iter(items)
        self._on_commit = on_commit
        self._attempts = Attempts(calls.policy, timeout_s)
        self._known = -1

    def run(self) -> None:
        """Until every item is stored. Raises what `Job.upload` documents."""
        self._learn(self._count())
        while self._read():
            gateway = self._calls.gateway()
            messages = iter(self._state.next_call())
            call = gateway.jobs.UploadJobItems.future(messages, timeout=self._attempts.remaining_s())
            try:
                self._read_ahead(call)
                outcome = _outcome(call)
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
                    self._calls.wait(self._attempts, gateway, outcome)
                    self._learn(self._count())

    def _read(self) -> bool:
        """Read until there is enough for a call; whether there is anything."""
        while not self._state.ready and (item := next(self._given, _END)) is not _END:
            self._state.add(item)
        return not self._state.idle

    def _read_ahead(self, call: Any) -> None:
        while not self._state.full and not call.done() and (item := next(self._given, _END)) is not _END:
            self._state.add(item)

    def _count(self) -> int:
        request, timeout_s = GetJobRequest(job_id=self._state.job_id), self._attempts.remaining_s()
        return self._calls.unary(lambda gateway: gateway.jobs.GetJob, request, timeout_s=timeout_s).job.items_committed

    def _learn(self, count: int) -> None:
        """Take in how many items are stored; go back to the first item where some were lost."""
        if not self._state.committed(count):
            if self._given is self._items:  # it can be read only once
                raise self._state.lost(count)
            self._given = iter(self._items)
            self._state.restart()
            if not self._state.committed(count):
                raise self._state.lost(count)
        if count > self._known:
            self._attempts.progressed()
        if count != self._known:
            self._known = count
            self._on_commit(count)


def _outcome(call: Any) -> UploadJobItemsResponse | XlmstreamError:
    """What a call answered, or failed with; what may be mended by sending again from what is stored is retryable."""
    try:
        return cast(UploadJobItemsResponse, call.result())
    except grpc.RpcError as failure:
        error = from_call(cast(FailedCall, failure))
    except grpc.FutureCancelledError:
        return Cancelled("the client was closed during the upload")
    if isinstance(error, UploadGap | ChecksumMismatch):
        error.retry_after_s = error.retry_after_s or 0.0
    return error
