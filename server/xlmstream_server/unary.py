"""Runs a unary call of any task: check, split into executions, wait for all of them, put the outputs in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from xlmstream.v1.errors_pb2 import ErrorReason

from xlmstream_server import errors
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_server.call import Call
from xlmstream_server.catalogue import Catalogue
from xlmstream_server.coalesce import failure
from xlmstream_server.config import Limits
from xlmstream_server.executions import Executions, Order
from xlmstream_server.listener import Listener
from xlmstream_server.relay import Relay
from xlmstream_server.tasks.base import Output, Piece, Request, Response, UnaryTask

REUSED = ErrorReason.ERROR_REASON_REQUEST_ID_REUSED
FULL = ErrorReason.ERROR_REASON_QUEUE_FULL
POISONED = ErrorReason.ERROR_REASON_POISONED_INPUT

# What came of an execution: all its events, or what it failed with.
Outcome: TypeAlias = list[Event] | errors.ServiceError


class UnaryCalls:
    """The unary calls in progress, at most `limits.max_unary_calls` at once."""

    def __init__(self, catalogue: Catalogue, executions: Executions, relay: Relay, limits: Limits) -> None:
        self._catalogue = catalogue
        self._executions = executions
        self._relay = relay
        self._limits = limits
        self.outstanding = 0

    async def run(self, task: UnaryTask[Request, Output, Response], request: Request, call: Call) -> Response:
        """The response of one call. Raises ServiceError where the call as a whole fails."""
        if self.outstanding >= self._limits.max_unary_calls:
            most = self._limits.max_unary_calls
            raise errors.queue_full(errors.RETRY_UNARY_FULL_S, "gateway", f"{most} unary calls are in progress")
        self.outstanding += 1
        try:
            return await self._run(task, request, call)
        finally:
            self.outstanding -= 1

    async def _run(self, task: UnaryTask[Request, Output, Response], request: Request, call: Call) -> Response:
        options = task.options(request)
        model = self._catalogue.serving(options.model, task.kind)
        wrong = task.check(request, model, self._limits)
        outputs: dict[int, Output] = {
            position: task.failed(each.status) for position, each in enumerate(wrong) if each is not None
        }
        good = [position for position, each in enumerate(wrong) if each is None]
        ends: list[Event] = []
        if good:
            pieces = task.split(request, good, model)
            order = Order(call, model, task.kind, options, streams=False, parts=len(pieces))
            outcomes = list(zip(pieces, await self._execute_all(order, pieces), strict=True))
            if suspects := [piece for piece, outcome in outcomes if poisoned(piece, outcome)]:
                outcomes = [each for each in outcomes if each[0] not in suspects]
                alone = [task.split(request, [position], model)[0] for piece in suspects for position in piece.inputs]
                outcomes += zip(alone, await self._execute_each(order, alone, len(pieces)), strict=True)
            for piece, outcome in outcomes:
                if isinstance(outcome, errors.ServiceError):
                    outputs |= {position: task.failed(_at(position, outcome.status)) for position in piece.inputs}
                else:
                    outputs |= zip(piece.inputs, task.outputs(piece, outcome), strict=True)
                    ends.append(outcome[-1])
        return task.response([outputs[position] for position in range(len(wrong))], ends)

    async def _execute_all(self, order: Order, pieces: Sequence[Piece]) -> list[Outcome]:
        """The outcome of each piece.

        The first is queued before the others: where it is refused the call fails as a whole, nothing was accepted,
        and a retry is safe. The call fails as well where nothing else than its deadline came of it.
        """
        first, _ = await self._executions.start(order, pieces[0])
        order.call.accept_unary(first.execution_id)
        if len(pieces) == 1:
            outcomes = [await self._outcome(first, order.call)]
        else:
            async with asyncio.TaskGroup() as group:
                ahead = group.create_task(self._outcome(first, order.call))
                rest = group.create_task(self._execute_each(order, pieces[1:], 1))
            outcomes = [ahead.result(), *rest.result()]
        failures = [outcome for outcome in outcomes if isinstance(outcome, errors.ServiceError)]
        for failed in failures:
            if errors.has_reason(failed, REUSED) or errors.names(failed.status, "parameters"):
                raise failed
        if len(failures) == len(outcomes) and all(each.status.code == Code.DEADLINE_EXCEEDED for each in failures):
            raise failures[0]
        return outcomes

    async def _execute_each(self, order: Order, pieces: Sequence[Piece], first_part: int) -> list[Outcome]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._execute(order, each, part)) for part, each in enumerate(pieces, first_part)
            ]
        return [task.result() for task in tasks]

    async def _execute(self, order: Order, piece: Piece, part: int) -> Outcome:
        """The outcome of a further piece. The call has been accepted: where the queue is full, it waits for room."""
        while True:
            try:
                listener, _ = await self._executions.start(order, piece, part)
                return await self._outcome(listener, order.call)
            except errors.ServiceError as refused:
                wait_s = errors.retry_after_s(refused.status)
                if not errors.has_reason(refused, FULL) or wait_s is None or not order.call.lasts(wait_s):
                    return refused
            await asyncio.sleep(wait_s)

    async def _outcome(self, listener: Listener, call: Call) -> Outcome:
        """All events of an execution, or what it failed with."""
        events: list[Event] = []
        try:
            async with asyncio.timeout_at(call.answer_at):
                while not listener.ended:
                    events += await self._relay.events(listener)
        except TimeoutError:
            return _named(await self._executions.expire(listener), listener)
        except errors.ServiceError as lost:
            return _named(lost, listener)
        finally:
            self._relay.leave(listener)
        failed = failure(events)
        return _named(failed, listener) if failed else events


def _named(failed: errors.ServiceError, listener: Listener) -> errors.ServiceError:
    return errors.ServiceError(errors.with_execution_id(failed.status, listener.execution_id))


def _at(position: int, status: Status) -> Status:
    """A worker sees one input where the caller sees a list: name the field as the caller knows it."""
    return errors.relocated(status, "input", f"inputs[{position}]")


def poisoned(piece: Piece, outcome: Outcome) -> bool:
    """Whether one of several inputs brought workers down: then each has to be tried by itself, to find which."""
    several = len(piece.inputs) > 1
    return several and isinstance(outcome, errors.ServiceError) and errors.has_reason(outcome, POISONED)
