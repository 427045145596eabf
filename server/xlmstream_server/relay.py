"""Carries events from the broker to the calls that wait for them, and mends what gets lost on the way.

One reader hands each frame to the listeners it concerns and never waits for any of them. What a listener lacks (a
trimmed frame, a slow reader's overflow, a result too large for a frame) is read from the journal. Executions that have
been silent for a while, and all of them after a gap, are audited against the broker, so that nothing is waited out: a
request the broker has lost is submitted again under its id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from xlmstream_server import errors
from xlmstream_server.broker import (
    Audited,
    BrokerDown,
    BrokerError,
    GatewayBroker,
    NotFound,
    QueueFull,
    RequestIdReused,
)
from xlmstream_server.broker.v1.messages_pb2 import Envelope, Event
from xlmstream_server.config import Streams
from xlmstream_server.listener import Listener
from xlmstream_server.observe.metrics import Metrics

LOG = logging.getLogger(__name__)

# How often silence is looked for, as a fraction of the shortest silence that means something.
TICKS_PER_SILENCE = 10
# While the broker is away: how often to look whether it is back, and how long a withdrawal is worth keeping.
RECONNECT_POLL_S = 0.2
LEAVE_WITHIN_S = 60.0
# Most ids of one audit, so that no single exchange with the broker grows long.
AUDIT_BATCH = 256


class Relay:
    """The listeners of one gateway. Run `run` as a task of the gateway's group."""

    def __init__(self, broker: GatewayBroker, settings: Streams, metrics: Metrics) -> None:
        self._broker = broker
        self._settings = settings
        self._metrics = metrics
        self._listeners: dict[str, list[Listener]] = {}
        self._envelopes: dict[str, Envelope] = {}
        self._leaving: asyncio.Queue[str] = asyncio.Queue()
        self._audit_wanted = False

    @property
    def open_executions(self) -> int:
        return len(self._listeners)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_frames())
            group.create_task(self._watch_silence())
            group.create_task(self._send_withdrawals())

    def listen(self, execution_id: str, next_event: int = 0, *, unbounded: bool = False) -> Listener:
        """Register a listener; do so before anything can be published. Pair with `leave`.

        `unbounded` is for calls whose whole answer is assembled here: its size is bounded by the request's own limits.
        """
        listener = Listener(execution_id, next_event, 1 << 30 if unbounded else self._settings.buffer_events)
        listener.active_at = listener.sent_at = asyncio.get_running_loop().time()
        self._listeners.setdefault(execution_id, []).append(listener)
        return listener

    def keep(self, envelope: Envelope) -> None:
        """Keep what was submitted until its listeners have left, in case the broker loses it."""
        if envelope.execution_id in self._listeners:
            self._envelopes[envelope.execution_id] = envelope

    def leave(self, listener: Listener) -> None:
        """The call is over. The last one to leave an execution that has not ended withdraws from it at the broker."""
        rest = self._listeners[listener.execution_id]
        rest.remove(listener)
        if not rest:
            del self._listeners[listener.execution_id]
            accepted = self._envelopes.pop(listener.execution_id, None) is not None
            if accepted and not listener.ended:
                self._leaving.put_nowait(listener.execution_id)

    async def flush(self) -> None:
        """Until every withdrawal has been sent."""
        await self._leaving.join()

    async def events(self, listener: Listener) -> list[Event]:
        """The next events of `listener`, at least one; an empty list when a heartbeat is due.

        Raises:
            ServiceError: the execution is lost.
        """
        while True:
            if not await listener.wait():
                return []
            if listener.behind:
                await self._repair(listener)
            elif taken := listener.take():
                return taken

    def fail_all(self, error: errors.ServiceError) -> None:
        """End every call with `error`. Work that can be taken up again elsewhere goes on until its grace is over."""
        for execution_id, listeners in self._listeners.items():
            envelope = self._envelopes.get(execution_id)
            if envelope is not None and envelope.journaled:
                del self._envelopes[execution_id]  # so that leaving does not withdraw
            for listener in listeners:
                listener.fail(error)

    async def _read_frames(self) -> None:
        async for arrival in self._broker.frames():
            now = asyncio.get_running_loop().time()
            for item in arrival.frame.items:
                self._metrics.events_received.inc(item.event_count)
                for listener in self._listeners.get(item.execution_id, ()):
                    listener.active_at = now
                    listener.push(item)
            if arrival.gap:
                self._metrics.gaps.inc()
                self._audit_wanted = True

    async def _watch_silence(self) -> None:
        """Audits and heartbeats: one clock for all calls instead of timers for each."""
        shortest = min(self._settings.audit_s, self._settings.heartbeat_s)
        while True:
            await asyncio.sleep(shortest / TICKS_PER_SILENCE)
            now = asyncio.get_running_loop().time()
            everyone = [each for listeners in self._listeners.values() for each in listeners]
            for listener in everyone:
                if now - listener.sent_at >= self._settings.heartbeat_s:
                    listener.sent_at = now
                    listener.beat()
            everything, self._audit_wanted = self._audit_wanted, False
            silence_s = 0.0 if everything else self._settings.audit_s
            silent = [each for each in everyone if now - max(each.active_at, each.asked_at) >= silence_s]
            if not silent:
                continue
            try:
                await self._audit(silent)
            except BrokerError as cause:
                self._audit_wanted = everything
                LOG.debug("an audit is put off: %s", cause)

    async def _audit(self, listeners: Iterable[Listener]) -> None:
        now = asyncio.get_running_loop().time()
        by_id: dict[str, list[Listener]] = {}
        for listener in listeners:
            listener.asked_at = now
            if listener.execution_id in self._envelopes:  # what is still being submitted is not the broker's to know
                by_id.setdefault(listener.execution_id, []).append(listener)
        ids = list(by_id)
        for start in range(0, len(ids), AUDIT_BATCH):
            batch = ids[start : start + AUDIT_BATCH]
            self._metrics.audited.inc(len(batch))
            for execution_id, found in (await self._broker.audit(batch)).items():
                await self._settle(found, by_id[execution_id])

    async def _settle(self, found: Audited, listeners: list[Listener]) -> None:
        """Act on what the broker knows of one execution."""
        if found.state is None:
            await self._submit_again(listeners)
        elif found.state.terminal and not found.journaled:
            # Its one frame may be on the way: only what is still missing at the next audit has to run again.
            if all(listener.doubted for listener in listeners):
                await self._submit_again(listeners)
            for listener in listeners:
                listener.doubted = True
        else:
            for listener in listeners:
                listener.published(found.n_events)

    async def _submit_again(self, listeners: list[Listener]) -> None:
        envelope = self._envelopes.get(listeners[0].execution_id)
        if envelope is None:  # its last listener has left meanwhile
            return
        LOG.warning("submitting again what the broker has lost", extra={"execution_id": envelope.execution_id})
        self._metrics.resubmitted.inc()
        for listener in listeners:
            listener.restart()
        try:
            await self._broker.submit(envelope, rerun=True)
        except (QueueFull, RequestIdReused) as refused:
            for listener in listeners:
                listener.fail(errors.from_broker(refused, envelope.model))

    async def _repair(self, listener: Listener) -> None:
        """Read what `listener` lacks from the journal; while the broker is away, wait for it."""
        while True:
            try:
                await self._read_journal(listener)
                return
            except BrokerDown:
                await asyncio.sleep(RECONNECT_POLL_S)

    async def _read_journal(self, listener: Listener) -> None:
        self._metrics.repairs.inc()
        try:
            found = await self._broker.follow(listener.execution_id, listener.expected)
        except NotFound:
            await self._submit_again([listener])
            return
        if found.journaled or found.events:
            listener.fill(found.from_event, found.events, found.n_events)
            if listener.behind:
                listener.fail(errors.cursor_expired(listener.expected, found.n_events, found.n_events))
        else:
            listener.restart()
            await self._settle(Audited(found.state, found.n_events, found.journaled), [listener])

    async def _send_withdrawals(self) -> None:
        while True:
            execution_id = await self._leaving.get()
            try:
                async with asyncio.timeout(LEAVE_WITHIN_S):
                    await self._withdraw(execution_id)
            except TimeoutError:
                LOG.warning("a withdrawal was given up: the broker is away", extra={"execution_id": execution_id})
            finally:
                self._leaving.task_done()

    async def _withdraw(self, execution_id: str) -> None:
        """Tell the broker that nobody here listens any more, unless somebody does by now."""
        while execution_id not in self._listeners:
            try:
                await self._broker.leave(execution_id)
                return
            except BrokerError:
                await asyncio.sleep(RECONNECT_POLL_S)
