"""Relays one execution to one streaming call: numbered events, joined where the reader is slower than the worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from google.protobuf.message import Message
from xlmstream.v1.generation_pb2 import StreamEvent

from xlmstream_server import errors
from xlmstream_server.call import Call
from xlmstream_server.coalesce import coalesce, failure, heartbeat
from xlmstream_server.executions import Executions
from xlmstream_server.listener import Listener
from xlmstream_server.observe.metrics import Metrics
from xlmstream_server.relay import Relay

Wrap: TypeAlias = Callable[[StreamEvent], Message]


class StreamCalls:
    """Serves streams once they have been accepted."""

    def __init__(self, executions: Executions, relay: Relay, metrics: Metrics) -> None:
        self._executions = executions
        self._relay = relay
        self._metrics = metrics

    async def relay(self, listener: Listener, token: str, call: Call, wrap: Wrap, *, expires: bool) -> None:
        """Write the events of `listener` until the last one.

        `expires` says whether the call's deadline is the execution's: a resumed one has a deadline of its own.

        Raises ServiceError with what the execution failed with.
        """
        try:
            await call.accept_stream(listener.execution_id)
            async with asyncio.timeout_at(call.answer_at):
                await self._write_all(listener, token, call, wrap)
        except TimeoutError:
            late = await self._executions.expire(listener) if expires else errors.deadline_compute()
            raise late from None
        finally:
            self._relay.leave(listener)

    async def _write_all(self, listener: Listener, token: str, call: Call, wrap: Wrap) -> None:
        while not listener.ended:
            number = listener.position
            events = await self._relay.events(listener)
            messages = coalesce(number, events, token) if events else [heartbeat(number)]
            for message in messages:
                await call.write(wrap(message))
            self._metrics.messages_sent.inc(len(messages))
            listener.sent_at = asyncio.get_running_loop().time()
            if failed := failure(events):
                raise failed
