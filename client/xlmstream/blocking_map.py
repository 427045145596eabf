"""`Client.map`: many inputs over one InferStream, blocking."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, cast

import grpc

from xlmstream.blocking_calls import Calls
from xlmstream.errors import Cancelled, XlmstreamError
from xlmstream.failures import FailedCall, from_call
from xlmstream.mapping import Mapped, MapState, Result, messages_of
from xlmstream.retry import Attempts
from xlmstream.streams import CANCEL_TIMEOUT_S, ended_early
from xlmstream.tasks import Task
from xlmstream.v1.inference_pb2 import InferStreamRequest


class MapStream(Generic[Result]):
    """The results of `Client.map`, as an iterator. Also a context manager, for leaving it early.

    Inputs are taken in the thread that iterates, only as results are handed out, and at most a few times
    `max_in_flight` are remembered at a time.
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
        self._outgoing: queue.SimpleQueue[InferStreamRequest | None] = queue.SimpleQueue()
        self._call: Any = None
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Mapped[Result]]:
        return self

    def __next__(self) -> Mapped[Result]:
        while True:
            if (mapped := self._state.due()) is not None:
                return mapped
            if self._ended:
                raise StopIteration
            try:
                self._step()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Leave: what is still unfinished is cancelled."""
        self._calls.open_streams.discard(self)
        call, self._call = self._call, None
        self._ended = True
        if call is None:
            return
        if self._state.resumable and not self._state.finished:
            self._outgoing.put(self._state.farewell())
            self._outgoing.put(None)
            timer = threading.Timer(CANCEL_TIMEOUT_S, call.cancel)
            timer.start()
            with suppress(grpc.RpcError):
                for _ in call:
                    pass
            timer.cancel()
        self._outgoing.put(None)
        call.cancel()

    def _step(self) -> None:
        """Send what may be sent, then take in one message."""
        if self._call is None:
            self._connect()
        if self._state.pause_s:
            time.sleep(self._state.pause_s)
            self._state.pause_s = 0.0
        while (message := self._state.next_message()) is not None:
            self._outgoing.put(message)
        if self._state.has_due:
            return
        if self._state.finished:
            self._finish()
            return
        if self._state.moving:
            self._outgoing.put(None)
        try:
            response = next(self._call, None)
        except grpc.RpcError as failure:
            self._reconnect(from_call(cast(FailedCall, failure)))
            return
        if response is not None:
            if self._state.accept(response):
                self._attempts.progressed()
        elif self._state.moving:
            self._calls.gateways.leave(self._gateway)
            self._connect()
        else:
            self._reconnect(ended_early())

    def _connect(self) -> None:
        self._calls.open_streams.add(self)
        self._outgoing.put(None)  # lets the thread that sends for the last call end
        self._outgoing = queue.SimpleQueue()
        self._outgoing.put(self._state.opening())
        self._gateway = self._calls.gateway()
        self._call = self._gateway.inference.InferStream(
            messages_of(self._outgoing), timeout=self._attempts.remaining_s()
        )

    def _reconnect(self, error: XlmstreamError) -> None:
        if self._call is None:
            raise Cancelled("the map was closed")
        self._call = None
        self._calls.wait(self._attempts, self._gateway, error)

    def _finish(self) -> None:
        """Everything is answered: let the call end by itself."""
        self._ended = True
        self._calls.open_streams.discard(self)
        call, self._call = self._call, None
        self._outgoing.put(None)
        if call is not None:
            with suppress(grpc.RpcError):
                for _ in call:
                    pass
