"""One InferStream call: items in, executions submitted and listened to, outputs out.

One task reads what the caller sends, one writes all that is ready whenever something is; nothing waits for anything
else. An execution costs a task only while it is being submitted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import RequestOptions
from xlmstream.v1.inference_pb2 import InferItem, InferOpen, InferStreamRequest

from xlmstream_server import errors
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_server.call import Call, CallMaker, Context
from xlmstream_server.catalogue import Catalogue
from xlmstream_server.coalesce import failure
from xlmstream_server.config import Limits
from xlmstream_server.executions import Executions, Order
from xlmstream_server.infer.batch import Batch, Item, batches
from xlmstream_server.infer.outbox import Outbox
from xlmstream_server.listener import Listener
from xlmstream_server.observe.metrics import Metrics
from xlmstream_server.relay import Relay
from xlmstream_server.tasks.base import Piece
from xlmstream_server.unary import poisoned
from xlmstream_server.validation import Violations, check_options

# How often the deadlines of a stream's items are looked at.
EXPIRY_TICK_S = 0.5
# A caller that goes on sending what it has no credit for, and reads nothing, is read no further beyond this.
MOST_UNSENT_MESSAGES = 64


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


class InferStreams:
    """The InferStream calls in progress, and what they share."""

    def __init__(
        self,
        catalogue: Catalogue,
        executions: Executions,
        relay: Relay,
        calls: CallMaker,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self.catalogue = catalogue
        self.executions = executions
        self.relay = relay
        self.calls = calls
        self.limits = limits
        self.messages_sent = metrics.messages_sent

    async def run(self, requests: AsyncIterator[InferStreamRequest | errors.ServiceError], context: Context) -> None:
        """Serve one call. Raises ServiceError where it ends before its items do."""
        await Session(self, context).serve(requests)


class Session:
    """One call. `serve` runs it."""

    def __init__(self, shared: InferStreams, context: Context) -> None:
        self._shared = shared
        self._context = context
        self._options: RequestOptions | None = None
        self._items: dict[int, Item] = {}
        self._runs: dict[Listener, Run] = {}
        self._run_of: dict[Item, Run] = {}
        self._news: deque[Listener] = deque()
        self._outbox = Outbox()
        self._errands: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._sent = asyncio.Event()

    async def serve(self, requests: AsyncIterator[InferStreamRequest | errors.ServiceError]) -> None:
        call = self._shared.calls.begin_work(self._context)
        reading = asyncio.create_task(self._read(requests))
        reading.add_done_callback(lambda _: self._woken.set())
        ticking = asyncio.create_task(self._tick())
        try:
            await self._write(call, reading)
        finally:
            others = [reading, ticking, *self._errands]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            for listener in self._runs:
                self._shared.relay.leave(listener)

    # ------------------------------------------------------------------ from the caller

    async def _read(self, requests: AsyncIterator[InferStreamRequest | errors.ServiceError]) -> None:
        async for message in requests:
            if isinstance(message, errors.ServiceError):
                raise message
            self._take(message)
            while len(self._outbox) > MOST_UNSENT_MESSAGES:
                self._sent.clear()
                await self._sent.wait()

    def _take(self, message: InferStreamRequest) -> None:
        fresh: list[tuple[InferItem, Item]] = []
        for action in message.actions:
            kind = action.WhichOneof("action")
            if kind == "item":
                if item := self._admit(action.item):
                    fresh.append((action.item, item))
            elif kind == "cancel":
                self._begin(fresh)
                fresh = []
                self._cancel(action.cancel.correlation_ids)
            elif kind == "open":
                self._open(action.open)
            else:
                raise errors.invalid_input([("actions", "set exactly one of open, item and cancel in each")])
        self._begin(fresh)
        self._woken.set()

    def _open(self, given: InferOpen) -> None:
        found = Violations()
        found.check(self._options is None, "open", "a stream is opened once")
        check_options(found, given.options)
        found.raise_if_any()
        self._options = given.options
        self._outbox.open(self._shared.limits.max_stream_items, ordered=given.ordered)

    def _admit(self, message: InferItem) -> Item | None:
        """The item, if it has to be worked on; what is refused is answered here."""
        if self._options is None:
            raise errors.invalid_input([("open", "must be the first action of a stream")])
        identity = message.correlation_id
        if identity in self._items:
            raise errors.invalid_input([("item.correlation_id", f"{identity} is that of an unfinished item")])
        item = Item(identity, message.WhichOneof("task") or "")
        most = self._shared.limits.max_stream_items
        if len(self._items) >= most:
            item.credited = False
            full = errors.queue_full(errors.RETRY_UNARY_FULL_S, "stream", f"{most} items are unfinished")
            self._outbox.fail(item, full.status)
            return None
        self._items[identity] = item
        self._outbox.expect(item)
        if not item.branch:
            self._fail(item, errors.invalid_input([("task", "set exactly one task")]).status)
            return None
        return item

    def _begin(self, fresh: Sequence[tuple[InferItem, Item]]) -> None:
        """Check new items and submit what is good."""
        if not fresh:
            return
        assert self._options is not None
        for batch in batches(self._options, fresh, self._shared.limits.max_inputs):
            try:
                call = self._shared.calls.begin_work(self._context)
                model = self._shared.catalogue.serving(self._options.model, batch.task.kind)
                wrong = batch.task.check(batch.request, model, self._shared.limits)
            except errors.ServiceError as refused:
                for item in batch.items:
                    self._fail(item, batch.status_for(0, refused.status))
                continue
            for index, each in enumerate(wrong):
                if each is not None:
                    self._fail(batch.items[index], batch.status_for(index, each.status))
            if good := [index for index, each in enumerate(wrong) if each is None]:
                order = Order(call, model, batch.task.kind, batch.request.options, streams=batch.deltas)
                self._submit(batch, order, batch.task.split(batch.request, good, model))

    def _cancel(self, identities: Sequence[int]) -> None:
        for identity in identities or list(self._items):
            if item := self._items.get(identity):
                run = self._run_of.get(item)
                self._fail(item, errors.cancelled("the item was cancelled").status)
                if run is not None and run.lasting == 0 and run.listener is not None:
                    self._drop(run, run.listener)

    # ------------------------------------------------------------------ executions

    def _submit(self, batch: Batch, order: Order, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            items = [batch.items[index] for index in piece.inputs]
            run = Run(batch, order, piece, items)
            for item in items:
                if not item.done:
                    self._run_of[item] = run
                    run.lasting += 1
            self._spawn(self._start(run))

    async def _start(self, run: Run) -> None:
        try:
            listener, _ = await self._shared.executions.start(run.order, run.piece)
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
        self._woken.set()

    async def _collect(self, listener: Listener, run: Run) -> None:
        """Take what has come of an execution. Waits for nothing but the repair of what was lost."""
        try:
            events = await self._shared.relay.events(listener)
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
                self._submit(run.batch, run.order, alone)
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
        self._woken.set()

    def _drop(self, run: Run, listener: Listener) -> None:
        """Nobody wants what this execution gives: end it, also where it would outlive its listeners."""
        self._leave(run)
        if run.order.detach:
            self._spawn(self._shared.executions.withdraw(run.order.call.tenant, listener.execution_id))

    def _leave(self, run: Run) -> None:
        if run.listener is not None and self._runs.pop(run.listener, None) is not None:
            run.listener.on_news = None
            self._shared.relay.leave(run.listener)

    def _fail(self, item: Item, status: Status) -> None:
        if not item.done:
            self._settle(item, "error", status)

    def _settle(self, item: Item, branch: str, outcome: Any) -> None:
        self._outbox.settle(item, branch, outcome)
        del self._items[item.correlation_id]
        if run := self._run_of.pop(item, None):
            run.lasting -= 1

    async def _tick(self) -> None:
        """End what has reached its deadline. Runs stand in the order of their beginning, and so of their deadlines."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(EXPIRY_TICK_S)
            for listener, run in list(self._runs.items()):
                if run.order.call.answer_at - EXPIRY_TICK_S > loop.time():
                    break
                self._end(run, await self._shared.executions.expire(listener))

    # ------------------------------------------------------------------ to the caller

    async def _write(self, call: Call, reading: asyncio.Task[None]) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
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
            if reading.done():
                reading.result()
            finished = reading.done() and not self._items
            if finished:
                self._outbox.finish()
            while self._outbox:
                await call.write(self._outbox.take())
                self._shared.messages_sent.inc()
                self._sent.set()
            if finished:
                return

    def _spawn(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
