"""One call in progress: its clock, its name, its writer."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.message import Message

from xlmstream_server import errors
from xlmstream_server.config import Limits
from xlmstream_server.observe.logs import CURRENT_CALL

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

EXECUTION_ID_KEY = "x-execution-id"
# Until credentials exist, every caller is one tenant. Everything is keyed by it already.
TENANT = "default"
# A caller stops waiting at its deadline by itself; to reach it with the reason, the answer leaves this much earlier.
DEADLINE_MARGIN_S = 0.05
DEADLINE_MARGIN_FRACTION = 0.2


class CallMaker:
    """Begins calls, all under the same settings. Once `draining` is true new work is refused."""

    def __init__(self, limits: Limits, write_stall_s: float) -> None:
        self._limits = limits
        self._write_stall_s = write_stall_s
        self.draining = False

    def begin(self, context: Context) -> Call:
        return Call(context, self._limits, self._write_stall_s)

    def begin_work(self, context: Context) -> Call:
        """As `begin`; raises ServiceError DRAINING where new work is refused."""
        if self.draining:
            raise errors.draining()
        return self.begin(context)


class Call:
    """What the services need of a gRPC context.

    Attributes:
        tenant: whose call it is.
        time_left_s: seconds from the call's arrival until it must be answered: its gRPC deadline, less a margin so that
            the answer arrives in time; the default where it has none; never more than the longest allowed.
        answer_at: the same as a time of the event loop's clock.
    """

    def __init__(self, context: Context, limits: Limits, write_stall_s: float) -> None:
        self._context = context
        self._write_stall_s = write_stall_s
        self.tenant = TENANT
        remaining: float | None = context.time_remaining()
        if remaining is None:
            self.time_left_s = float(limits.default_deadline_s)
        else:
            margin_s = min(DEADLINE_MARGIN_S, remaining * DEADLINE_MARGIN_FRACTION)
            self.time_left_s = min(remaining - margin_s, float(limits.max_deadline_s))
        self.answer_at = asyncio.get_running_loop().time() + self.time_left_s

    def lasts(self, seconds: float) -> bool:
        """Whether there is more time than that before the call must be answered."""
        return asyncio.get_running_loop().time() + seconds < self.answer_at

    async def accept_stream(self, execution_id: str) -> None:
        """Tell the caller at once that its request is accepted, and the execution's name."""
        self._name(execution_id)
        await self._context.send_initial_metadata(((EXECUTION_ID_KEY, execution_id),))

    def accept_unary(self, execution_id: str) -> None:
        """Tell the caller the execution's name with the answer.

        Initial metadata would leave in a batch of its own, at a quarter of the call's CPU.
        """
        self._name(execution_id)
        self._context.set_trailing_metadata(((EXECUTION_ID_KEY, execution_id),))

    def _name(self, execution_id: str) -> None:
        if scope := CURRENT_CALL.get():
            scope.execution_id = execution_id

    async def write_bytes(self, message: bytes) -> None:
        """Send one serialized message; a reader that blocks it for too long may come back for the rest."""
        try:
            async with asyncio.timeout(self._write_stall_s):
                await self._context.write(message)
        except TimeoutError:
            raise errors.reader_stalled(self._write_stall_s) from None

    async def write(self, message: Message) -> None:
        """Send one message; a reader that blocks it for too long loses its call (it may have gone without a word)."""
        try:
            async with asyncio.timeout(self._write_stall_s):
                await self._context.write(message)
        except TimeoutError:
            raise errors.cancelled(f"the client read nothing for {self._write_stall_s:g} s") from None
