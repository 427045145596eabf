"""A gateway's end of the broker (asyncio)."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from xlmstream.v1.common_pb2 import PRIORITY_BULK, PRIORITY_INTERACTIVE

from xlmstream_server.broker import failures, journal
from xlmstream_server.broker.connection import Argument, Reply
from xlmstream_server.broker.errors import BrokerError, NotFound, QueueFull, RequestIdReused
from xlmstream_server.broker.gateway_link import GatewayLink
from xlmstream_server.broker.ids import id_for, random_id, shard_of
from xlmstream_server.broker.job_values import JobLimits
from xlmstream_server.broker.jobs import JobStore
from xlmstream_server.broker.queue_reading import merged, registered
from xlmstream_server.broker.scripts import REGISTRY_ROOT, shard_root
from xlmstream_server.broker.v1.messages_pb2 import Envelope
from xlmstream_server.broker.values import (
    Arrival,
    Audited,
    Followed,
    ModelQueue,
    QueueLimits,
    Registered,
    State,
    Submitted,
)

# Frames that wait in this gateway's stream before the oldest is given up for repair from the journal.
MOST_FRAMES = 4096

_BOUNDS = ("requests", "bytes", "tokens", "tenant requests", "tenant bytes", "tenant tokens")
_GATEWAY_ID = re.compile(r"[A-Za-z0-9._-]{1,48}")


class GatewayBroker:
    """One life of one gateway process.

    Every call raises `BrokerDown` at once while the broker is away; a task of this object probes it and service
    resumes by itself. Every call may be repeated after `BrokerDown`: if the first one did arrive, the repetition
    changes nothing.

    A gateway that serves a call does, in this order: make an id, register the call locally under it, `submit`; hand
    on what `frames` brings, dropping what it has (`first_event` + `event_count` <= next expected) and calling `follow`
    from the next expected event on any gap; `expire` at the deadline; `leave` when the client goes away; `audit` its
    open ids on every `Arrival.gap` and those silent for 5 s.

    Attributes:
        jobs: the jobs, whose work needs no gateway to listen.
    """

    def __init__(
        self, url: str, gateway_id: str, limits: QueueLimits, job_limits: JobLimits, shards: int, most_frames: int
    ) -> None:
        """Use `connect`."""
        self._gateway_id = gateway_id
        self._limits = limits
        self._shards = shards
        self._link = GatewayLink(url, gateway_id, shards, most_frames)
        self.jobs = JobStore(lambda name, root, *arguments: self._run(name, root, *arguments), job_limits, shards)
        self._cancelled = journal.encode(failures.cancelled())
        self._deadline_queue = journal.encode(failures.deadline_queue())

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        gateway_id: str | None = None,
        limits: QueueLimits | None = None,
        job_limits: JobLimits | None = None,
        shards: int = 1,
        allow_volatile: bool = False,
        most_frames: int = MOST_FRAMES,
    ) -> Self:
        """Connect, check the broker's configuration, announce this gateway, start its heartbeat.

        Args:
            url: redis://, rediss:// or unix:// URL.
            gateway_id: name of this life, 1 to 48 characters of letters, digits, '.', '_' and '-'; random by default.
                Must not be used twice.
            limits: bounds of the queue that this gateway enforces when it submits.
            job_limits: bounds of what jobs hold, and of their chunks, that it enforces when it uploads.
            shards: number of shards, 1 to 256; the same for every process of an installation.
            allow_volatile: accept a broker without appendonly (a warning is logged).
            most_frames: unread frames kept for this gateway; older ones are repaired from the journals.

        Raises:
            BrokerDown: it cannot be reached.
            BrokerMisconfigured: it would evict or lose work, or was set up with another number of shards.
        """
        gateway_id = gateway_id or f"gw-{secrets.token_hex(6)}"
        if not _GATEWAY_ID.fullmatch(gateway_id):
            raise ValueError(f"gateway_id must be 1 to 48 characters of letters, digits, '.', '_', '-': {gateway_id!r}")
        if not 1 <= shards <= 256:
            raise ValueError(f"shards must be 1 to 256: {shards}")
        broker = cls(url, gateway_id, limits or QueueLimits(), job_limits or JobLimits(), shards, most_frames)
        try:
            await broker._link.open(allow_volatile=allow_volatile)
        except BaseException:
            await broker.close()
            raise
        broker._link.keep(broker.jobs.sweep)
        return broker

    async def close(self) -> None:
        """Stop the heartbeat, withdraw this gateway's name, close the connections."""
        await self._link.leave_alone()
        await self.jobs.close()
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def gateway_id(self) -> str:
        return self._gateway_id

    @property
    def up(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._link.up

    @property
    def most_cost_tokens(self) -> int:
        """What one request may count for; see QueueLimits."""
        return self._limits.most_cost_tokens

    def now_ms(self) -> int:
        """Broker time in milliseconds, from the local monotonic clock and the offset that the heartbeat measures."""
        return self._link.now_ms()

    def new_id(self) -> str:
        """A random execution id."""
        return random_id(self._shards)

    def id_for(self, tenant: str, request_id: str, part: int = 0) -> str:
        """The execution id of a client's request_id, always the same. `part`: which input of a call with several."""
        return id_for(tenant, request_id, part, self._shards)

    # ------------------------------------------------------------------ executions

    async def submit(self, envelope: Envelope, *, rerun: bool = False) -> Submitted:
        """Accept a request: it now waits for a worker, and its frames come to this gateway.

        An execution of the same id with the same model, task and request is joined (`Submitted.joined`; then call
        `follow`). So is one submitted again after a lost reply.

        Args:
            envelope: complete: execution_id, tenant, model, task, request, accepted_ms, deadline_ms, journaled, ...
            rerun: if the execution has ended and its events were not kept, run it again.

        Raises:
            QueueFull, RequestIdReused, BrokerDown.
        """
        execution_id, limits = envelope.execution_id, self._limits
        reply = await self._on(
            execution_id,
            "submit",
            execution_id,
            envelope.SerializeToString(),
            _digest(envelope),
            envelope.model,
            {PRIORITY_INTERACTIVE: 1, PRIORITY_BULK: 3}.get(envelope.priority, 2),
            envelope.tenant,
            envelope.cost_tokens,
            envelope.deadline_ms,
            int(envelope.journaled),
            int(envelope.detach),
            self._gateway_id,
            int(rerun),
            limits.max_requests,
            limits.max_bytes,
            limits.max_tokens,
            limits.tenant_max_requests,
            limits.tenant_max_bytes,
            limits.tenant_max_tokens,
        )
        match reply:
            case [b"QUEUED"]:
                return Submitted(execution_id, False, State.QUEUED)
            case [b"JOINED", bytes(state)]:
                return Submitted(execution_id, True, State(state.decode()))
            case [b"FULL", int(bound), bytes(limit), int(retry_ms)]:
                raise QueueFull(retry_ms / 1000, _BOUNDS[bound - 1], int(limit))
            case [b"REUSED"]:
                raise RequestIdReused(execution_id)
        raise BrokerError(f"unexpected reply {reply!r}")

    async def follow(self, execution_id: str, from_event: int = 0) -> Followed:
        """Listen to an execution from event `from_event` on: what exists now is returned, the rest arrives in frames.

        `from_event` beyond what was published gives no events; compare with `n_events`.

        Raises:
            NotFound, BrokerDown.
        """
        match await self._on(execution_id, "follow", execution_id, self._gateway_id):
            case [b"OK", bytes(state), int(n_events), int(journaled), bytes(envelope), bytes(events)]:
                found = journal.decode(events, from_event)
                known = Envelope.FromString(envelope)
                return Followed(State(state.decode()), from_event, found, n_events, journaled == 1, known)
        raise NotFound(execution_id)

    async def leave(self, execution_id: str) -> None:
        """Listen no more (the last client of it on this gateway went away or has everything).

        When nobody listens any more, a DETACH request keeps running for the grace period and any other is cancelled.
        Unknown and ended executions are no error.
        """
        await self._on(execution_id, "leave", execution_id, self._gateway_id, self._cancelled)

    async def cancel(self, execution_id: str) -> State:
        """Cancel: a queued one ends here, a running one within two decode steps. Returns the state it was found in.

        Raises:
            NotFound, BrokerDown.
        """
        return _state_found(execution_id, await self._on(execution_id, "cancel", execution_id, self._cancelled))

    async def expire(self, execution_id: str) -> State:
        """As `cancel`, because its deadline has passed; ends EXPIRED. Changes nothing 100 ms or more before it.

        Raises:
            NotFound, BrokerDown.
        """
        return _state_found(execution_id, await self._on(execution_id, "expire", execution_id, self._deadline_queue))

    async def envelope(self, execution_id: str) -> Envelope:
        """The request as it was accepted. Raises NotFound, BrokerDown."""
        key = shard_root(shard_of(execution_id, self._shards)) + b"e:" + execution_id.encode()
        found = await self._link.command("GET", key)
        if found is None:
            raise NotFound(execution_id)
        assert isinstance(found, bytes)
        return Envelope.FromString(found)

    async def audit(self, execution_ids: Sequence[str]) -> dict[str, Audited]:
        """State and number of events of each id; repair what differs by `follow`, what is unknown by `submit`."""
        found: dict[str, Audited] = {}
        for shard in range(self._shards):
            mine = [name for name in execution_ids if shard_of(name, self._shards) == shard]
            if not mine:
                continue
            for name, entry in zip(mine, await self._run("audit", shard_root(shard), *mine), strict=True):
                match entry:
                    case [bytes(state), int(n_events), int(journaled)]:
                        found[name] = Audited(State(state.decode()) if state else None, n_events, journaled == 1)
        return found

    # ------------------------------------------------------------------ workers and queues

    async def models(self) -> list[Registered]:
        """Every worker heard of in the last minutes, with the models it serves."""
        return registered(await self._run("models", REGISTRY_ROOT))

    async def load(self) -> list[ModelQueue]:
        """What waits, by model. Models for which nothing waits are missing."""
        return merged([await self._run("load", shard_root(shard)) for shard in range(self._shards)])

    # ------------------------------------------------------------------ frames

    def frames(self) -> AsyncIterator[Arrival]:
        """This gateway's frames, for ever: survives the broker's absence. One reader; trims the streams as it reads.

        After the broker was away an empty frame with `gap` comes first.
        """
        return self._link.frames()

    async def _on(self, execution_id: str, name: str, *arguments: Argument) -> list[Reply]:
        return await self._run(name, shard_root(shard_of(execution_id, self._shards)), *arguments)

    async def _run(self, name: str, root: bytes, *arguments: Argument) -> list[Reply]:
        return await self._link.run(name, root, *arguments)


def _digest(envelope: Envelope) -> bytes:
    """What must be equal for two requests of one id to be the same request."""
    head = f"{envelope.model}\n{envelope.task}\n".encode()
    return hashlib.sha256(head + envelope.request).digest()


def _state_found(execution_id: str, reply: list[Reply]) -> State:
    match reply:
        case [b"OK", bytes(state)]:
            return State(state.decode())
    raise NotFound(execution_id)
