"""The executions of one InferStream call: submitted, listened to, ended at their deadline.

An execution costs a task only while it is being submitted or repaired; what comes of all others is taken by the one
task that writes to the caller.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status

from xlmstream_server import errors
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_server.coalesce import failure
from xlmstream_server.executions import Executions, Order
from xlmstream_server.infer.batch import Batch, Item
from xlmstream_server.infer.outbox import Outbox
from xlmstream_server.listener import Listener
from xlmstream_server.relay import Relay
from xlmstream_server.tasks.base import Piece
from xlmstream_server.unary import poisoned

# How often the deadlines of a stream's items are looked at.
EXPIRY_TICK_S = 0.5


@dataclass(slots=True, eq=False)
class Run:
    """One execution for some items of a stream.

    Attributes:
        order, piece: what was submitted.
        items: item i belongs to output i of the execution.
        listener: None until it has been accepted.
        lasting: how many items still want their output.
        told: tokens told of each candidate, where deltas are wanted.
    """

    batch: Batch
    order: Order
    piece: Piece
    items: list[Item]
    listener: Listener | None = None
    lasting: int = 0
    mending: bool = False
    events: list[Event] = field(default_factory=list)
    told: dict[int, int] = field(default_factory=dict)


class Settle(Protocol):
    """Tells what came of an item, once: its result, or its Status as the branch "error"."""

    def __call__(self, item: Item, branch: str, outcome: Message) -> None: ...


class Runs:
    """The executions that one stream waits for.

    Attributes:
        woken: set whenever something may be told.
    """

    def __init__(self, executions: Executions, relay: Relay, outbox: Outbox, settle: Settle) -> None:
        self._executions = executions
        self._relay = relay
        self._outbox = outbox
        self._settle = settle
        self._runs: dict[Listener, Run] = {}
        self._run_of: dict[Item, Run] = {}
        self._news: deque[Listener] = deque()
        self._errands: set[asyncio.Task[None]] = set()
        self._withdrawals: set[asyncio.Task[None]] = set()
        self._defect: BaseException | None = None
        self.woken = asyncio.Event()

    def start(self) -> None:
        """Keep an eye on deadlines from now on. Pair with `close`."""
        self._spawn(self._expire())

    async def close(self) -> None:
        """Leave everything that is not over; what was cancelled is withdrawn first."""
        errands = list(self._errands)
        for errand in errands:
            errand.cancel()
        await asyncio.gather(*errands, return_exceptions=True)
        for listener in self._runs:
            self._relay.leave(listener)
        await asyncio.gather(*self._withdrawals)

    def submit(self, batch: Batch, order: Order, pieces: Sequence[Piece]) -> None:
        """Queue executions for the items that `pieces` names by their place in `batch`."""
        for piece in pieces:
            items = [batch.items[index] for index in piece.inputs]
            run = Run(batch, order, piece, items)
            for item in items:
                if not item.done:
                    self._run_of[item] = run
                    run.lasting += 1
            self._spawn(self._start(run))

    def forget(self, item: Item, *, cancelled: bool) -> None:
        """An item has been told. An execution that nobody waits for any more is ended."""
        run = self._run_of.pop(item, None)
        if run is None:
            return
        run.lasting -= 1
        if cancelled and run.lasting == 0 and run.listener is not None:
            self._drop(run, run.listener)

    async def collect(self) -> None:
        """Take what has come. Raises the defect that ended an errand: nobody else would hear of it."""
        if self._defect is not None:
            raise self._defect
        while self._news:
            listener = self._news.popleft()
            run = self._runs.get(listener)
            if run is None or run.mending or not listener.has_news:
                continue
            if listener.behind:
                run.mending = True
                self._spawn(self._collect(listener, run))
            else:
                await self._collect(listener, run)

    async def _start(self, run: Run) -> None:
        try:
            listener, _ = await self._executions.start(run.order, run.piece)
        except errors.ServiceError as refused:
            self._end(run, refused)
            return
        run.listener = listener
        self._runs[listener] = run
        listener.on_news = self._note
        if run.lasting == 0:  # cancelled meanwhile
            self._drop(run, listener)
        elif listener.has_news:
            self._note(listener)

    def _note(self, listener: Listener) -> None:
        self._news.append(listener)
        self.woken.set()

    async def _collect(self, listener: Listener, run: Run) -> None:
        """Take what has come of an execution. Waits for nothing but the repair of what was lost."""
        try:
            events = await self._relay.events(listener)
        except errors.ServiceError as lost:
            self._end(run, lost)
            return
        finally:
            run.mending = False
        if listener not in self._runs:
            return
        run.events += events
        if run.batch.deltas:
            self._tell(run, events)
        if listener.ended:
            self._end(run, failure(run.events))

    def _tell(self, run: Run, events: Sequence[Event]) -> None:
        [item] = run.items
        for event in events:
            if event.HasField("delta") and not item.done:
                candidate = event.delta.candidate
                self._outbox.delta(item, run.told.get(candidate, 0), event.delta)
                run.told[candidate] = run.told.get(candidate, 0) + len(event.delta.token_ids)

    def _end(self, run: Run, failed: errors.ServiceError | None) -> None:
        """An execution is over: tell what came of its items."""
        self._leave(run)
        task = run.batch.task
        if failed is not None:
            if poisoned(run.piece, failed):
                model = run.order.model
                alone = [task.split(run.batch.request, [index], model)[0] for index in run.piece.inputs]
                self.submit(run.batch, run.order, alone)
                return
            status = failed.status
            if run.listener is not None:
                status = errors.with_execution_id(status, run.listener.execution_id)
            for item in run.items:
                self._fail(item, run.batch.status_for(0, status))
        else:
            outputs = task.outputs(run.piece, run.events)
            for item, index, output in zip(run.items, run.piece.inputs, outputs, strict=True):
                if item.done:
                    continue
                if output.WhichOneof("outcome") == "error":
                    self._fail(item, run.batch.status_for(index, output.error))
                else:
                    self._settle(item, item.branch, output.result)
        self.woken.set()

    async def _expire(self) -> None:
        """End what reaches its deadline, for ever. Runs stand in the order of their beginning, and so of deadlines."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(EXPIRY_TICK_S)
            for listener, run in list(self._runs.items()):
                if run.order.call.answer_at - EXPIRY_TICK_S > loop.time():
                    break
                self._end(run, await self._executions.expire(listener))

    def _drop(self, run: Run, listener: Listener) -> None:
        """Nobody wants what this execution gives: end it, also where it would outlive its listeners."""
        self._leave(run)
        if run.order.detach:
            withdrawal = asyncio.create_task(self._executions.withdraw(run.order.call.tenant, listener.execution_id))
            self._withdrawals.add(withdrawal)
            withdrawal.add_done_callback(self._withdrawals.discard)

    def _leave(self, run: Run) -> None:
        if run.listener is not None and self._runs.pop(run.listener, None) is not None:
            run.listener.on_news = None
            self._relay.leave(run.listener)

    def _fail(self, item: Item, status: Status) -> None:
        if not item.done:
            self._settle(item, "error", status)

    def _spawn(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errand_ended)

    def _errand_ended(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (defect := task.exception()):
            self._defect = defect
            self.woken.set()
