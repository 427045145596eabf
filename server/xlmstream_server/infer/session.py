"""One InferStream call: items in, executions submitted and listened to, outputs out.

One task reads what the caller sends, one writes all that is ready whenever something is; nothing waits for anything
else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import RequestOptions
from xlmstream.v1.inference_pb2 import InferItem, InferOpen, InferStreamRequest

from xlmstream_server import errors
from xlmstream_server.call import Call, CallMaker, Context
from xlmstream_server.catalogue import Catalogue
from xlmstream_server.config import Limits
from xlmstream_server.executions import Executions, Order
from xlmstream_server.infer.batch import Item, batches
from xlmstream_server.infer.outbox import Outbox
from xlmstream_server.infer.runs import Runs
from xlmstream_server.observe.metrics import Metrics
from xlmstream_server.relay import Relay
from xlmstream_server.validation import Violations, check_options

# A caller that goes on sending what it has no credit for, and reads nothing, is read no further beyond this.
MOST_UNSENT_MESSAGES = 64
# Actions that a message may have for each item that may be unfinished: what is refused takes time as well, and other
# calls wait meanwhile.
ACTIONS_AN_ITEM = 4


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
        self._outbox = Outbox()
        self._runs = Runs(shared.executions, shared.relay, self._outbox, self._settle)
        self._sent = asyncio.Event()

    async def serve(self, requests: AsyncIterator[InferStreamRequest | errors.ServiceError]) -> None:
        call = self._shared.calls.begin_work(self._context)
        reading = asyncio.create_task(self._read(requests))
        reading.add_done_callback(lambda _: self._runs.woken.set())
        self._runs.start()
        try:
            await self._write(call, reading)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await self._runs.close()

    # ------------------------------------------------------------------ from the caller

    async def _read(self, requests: AsyncIterator[InferStreamRequest | errors.ServiceError]) -> None:
        async for message in requests:
            if isinstance(message, errors.ServiceError):
                raise message
            self._take(message)
            while len(self._outbox) > MOST_UNSENT_MESSAGES:
                self._sent.clear()
                await self._sent.wait()
        if self._options is None:
            raise errors.invalid_input([("open", "must be the first action of a stream")])

    def _take(self, message: InferStreamRequest) -> None:
        most = ACTIONS_AN_ITEM * self._shared.limits.max_stream_items
        if len(message.actions) > most:
            problem = f"{len(message.actions)} actions; at most {most} are taken in one message"
            raise errors.invalid_input([("actions", problem)])
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
        self._runs.woken.set()

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
        if max(len(self._items), self._outbox.expected) >= most:
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
                self._runs.submit(batch, order, batch.task.split(batch.request, good, model))

    def _cancel(self, identities: Sequence[int]) -> None:
        for identity in identities or list(self._items):
            if item := self._items.get(identity):
                self._fail(item, errors.cancelled("the item was cancelled").status, cancelled=True)

    def _fail(self, item: Item, status: Status, *, cancelled: bool = False) -> None:
        if not item.done:
            self._settle(item, "error", status, cancelled=cancelled)

    def _settle(self, item: Item, branch: str, outcome: Message, *, cancelled: bool = False) -> None:
        self._outbox.settle(item, branch, outcome)
        del self._items[item.correlation_id]
        self._runs.forget(item, cancelled=cancelled)

    # ------------------------------------------------------------------ to the caller

    async def _write(self, call: Call, reading: asyncio.Task[None]) -> None:
        while True:
            await self._runs.woken.wait()
            self._runs.woken.clear()
            await self._runs.collect()
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
