"""From a checked request to an accepted execution that this gateway listens to, and back out at its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass

from xlmstream.v1.common_pb2 import DisconnectPolicy, RequestOptions, Task
from xlmstream.v1.errors_pb2 import ErrorReason

from xlmstream_server import errors
from xlmstream_server.broker import BrokerError, GatewayBroker, QueueFull, RequestIdReused, State
from xlmstream_server.broker.v1.messages_pb2 import Envelope
from xlmstream_server.call import Call
from xlmstream_server.catalogue import ServedModel
from xlmstream_server.coalesce import failure
from xlmstream_server.listener import Listener
from xlmstream_server.observe.metrics import Metrics
from xlmstream_server.relay import Relay
from xlmstream_server.tasks.base import Piece
from xlmstream_server.tasks.generating import GENERATING

LOG = logging.getLogger(__name__)

EXECUTION_ID = re.compile(r"[0-9A-Za-z]{8,64}")
RESUME_TOKEN = re.compile(r"([0-9A-Za-z]{8,64})\.([0-9A-Za-z_-]{16,64})")

# How long to wait, past the deadline, for an event that has been published already.
LAST_EVENT_S = 0.05


@dataclass(frozen=True, slots=True)
class Order:
    """What all executions of one call have in common."""

    call: Call
    model: ServedModel
    task: Task.ValueType
    options: RequestOptions
    streams: bool
    parts: int = 1

    @property
    def detach(self) -> bool:
        """Whether the work outlives its call for a while.

        A unary call that carries a request_id does unless told otherwise: whoever repeats it after a broken connection
        joins the work instead of finding it cancelled.
        """
        policy = self.options.disconnect_policy
        if policy == DisconnectPolicy.DISCONNECT_POLICY_UNSPECIFIED:
            return not self.streams and bool(self.options.request_id)
        return policy == DisconnectPolicy.DISCONNECT_POLICY_DETACH and (self.streams or bool(self.options.request_id))


class Executions:
    """Submits, joins, resumes, cancels and expires executions."""

    def __init__(self, broker: GatewayBroker, relay: Relay, metrics: Metrics) -> None:
        self._broker = broker
        self._relay = relay
        self._accepted = metrics.executions.labels("accepted")
        self._joined = metrics.executions.labels("joined")
        self._refused = metrics.executions.labels("refused")

    async def start(self, order: Order, piece: Piece, part: int = 0) -> tuple[Listener, str]:
        """Queue one execution, or join the one that its request_id names; returns its listener and resume token.

        Raises ServiceError, and then nothing was accepted: QUEUE_FULL, QUEUE_DOWN, REQUEST_ID_REUSED.
        """
        envelope = self._envelope(order, piece, part)
        listener = self._relay.listen(envelope.execution_id, unbounded=not order.streams)
        away = not self._broker.up  # then nothing is sent
        try:
            submitted = await self._broker.submit(envelope)
            if submitted.joined:
                envelope = await self._join(listener)
        except BaseException as cause:
            if not (away or isinstance(cause, (QueueFull, RequestIdReused))):
                self._relay.keep(envelope)  # it may have been accepted all the same: leaving withdraws from it
            self._relay.leave(listener)
            self._refused.inc()
            if isinstance(cause, BrokerError):
                raise errors.from_broker(cause, order.model.full_name) from cause
            raise
        (self._joined if submitted.joined else self._accepted).inc()
        self._relay.keep(envelope)
        return listener, resume_token(envelope)

    async def resume(self, tenant: str, token: str, next_event: int) -> tuple[Listener, str]:
        """Listen again to the execution that `token` opens, from event `next_event` on.

        Raises ServiceError: REQUEST_NOT_FOUND, CURSOR_EXPIRED, QUEUE_DOWN.
        """
        match = RESUME_TOKEN.fullmatch(token)
        if match is None:
            raise errors.request_not_found()
        execution_id, secret = match.groups()
        envelope = await self._known(tenant, execution_id)
        if not hmac.compare_digest(envelope.resume_secret.encode(), secret.encode()):
            raise errors.request_not_found()
        listener = self._relay.listen(execution_id, next_event)
        try:
            await self._take_up(listener, next_event)
        except BaseException:
            self._relay.leave(listener)
            raise
        self._relay.keep(envelope)
        return listener, token

    async def cancel(self, tenant: str, execution_id: str) -> bool:
        """Whether the execution was waiting or running and now ends.

        Raises ServiceError: REQUEST_NOT_FOUND, QUEUE_DOWN.
        """
        if not EXECUTION_ID.fullmatch(execution_id):
            raise errors.request_not_found()
        await self._known(tenant, execution_id)
        return await self._cancel(execution_id)

    async def withdraw(self, tenant: str, execution_id: str) -> None:
        """As `cancel`, for one that nobody waits for: where it cannot be told now, it ends by itself."""
        try:
            await self.cancel(tenant, execution_id)
        except errors.ServiceError as cause:
            LOG.debug("a withdrawal failed: %s", cause)

    async def cancel_request(self, tenant: str, request_id: str) -> bool:
        """The same for every part of the call that carried `request_id`."""
        first = await self._known(tenant, self._broker.id_for(tenant, request_id))
        cancelled = False
        for part in range(max(1, first.parts)):
            try:
                cancelled |= await self._cancel(self._broker.id_for(tenant, request_id, part))
            except errors.ServiceError as missing:
                if part == 0 or not errors.has_reason(missing, ErrorReason.ERROR_REASON_REQUEST_NOT_FOUND):
                    raise
        return cancelled

    async def expire(self, listener: Listener) -> errors.ServiceError:
        """End an execution whose call has reached its deadline; returns what to tell the caller."""
        try:
            state = await self._broker.expire(listener.execution_id)
        except BrokerError:
            state = State.RUNNING  # nothing is known: that it ran is the more cautious answer
        if state is State.QUEUED:
            return errors.deadline_queue()
        if state is State.EXPIRED:  # the broker or the worker was quicker, and its last event says which
            with contextlib.suppress(TimeoutError, errors.ServiceError):
                async with asyncio.timeout(LAST_EVENT_S):
                    while not listener.ended:
                        if failed := failure(await self._relay.events(listener)):
                            return failed
        return errors.deadline_compute()

    def _envelope(self, order: Order, piece: Piece, part: int) -> Envelope:
        options, tenant = order.options, order.call.tenant
        request_id, now_ms = options.request_id, self._broker.now_ms()
        journaled = order.streams or bool(request_id)
        return Envelope(
            execution_id=self._broker.id_for(tenant, request_id, part) if request_id else self._broker.new_id(),
            tenant=tenant,
            model=order.model.full_name,
            task=order.task,
            request=piece.request,
            accepted_ms=now_ms,
            deadline_ms=now_ms + int(order.call.time_left_s * 1000),
            resume_secret=secrets.token_urlsafe(24) if journaled else "",
            seed=secrets.randbits(63) if order.task in GENERATING else 0,
            priority=options.priority,
            journaled=journaled,
            detach=order.detach,
            cost_tokens=min(piece.cost_tokens, self._broker.most_cost_tokens),
            parts=order.parts,
        )

    async def _join(self, listener: Listener) -> Envelope:
        found = await self._broker.follow(listener.execution_id)
        listener.fill(found.from_event, found.events, found.n_events)
        return found.envelope

    async def _take_up(self, listener: Listener, next_event: int) -> None:
        try:
            found = await self._broker.follow(listener.execution_id, next_event)
            if next_event > found.n_events:
                raise errors.cursor_expired(next_event, 0, found.n_events)
            if found.state.terminal and next_event == found.n_events:
                # All was received. A success has nothing left to say; a failure is said again.
                last = (await self._broker.follow(listener.execution_id, next_event - 1)).events
                if last and last[-1].HasField("failed"):
                    raise errors.ServiceError(last[-1].failed)
                listener.ended = True
        except BrokerError as cause:
            raise errors.from_broker(cause) from cause
        listener.fill(found.from_event, found.events, found.n_events)

    async def _known(self, tenant: str, execution_id: str) -> Envelope:
        try:
            envelope = await self._broker.envelope(execution_id)
        except BrokerError as cause:
            raise errors.from_broker(cause) from cause
        if envelope.tenant != tenant:
            raise errors.request_not_found()
        return envelope

    async def _cancel(self, execution_id: str) -> bool:
        try:
            return not (await self._broker.cancel(execution_id)).terminal
        except BrokerError as cause:
            raise errors.from_broker(cause) from cause


def resume_token(envelope: Envelope) -> str:
    return f"{envelope.execution_id}.{envelope.resume_secret}"
