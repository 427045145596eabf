"""A gateway's end of the broker (asyncio)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from xlmstream_server.broker.types import (
    Arrival,
    Audited,
    Followed,
    ModelQueue,
    QueueLimits,
    Registered,
    State,
    Submitted,
)
from xlmstream_server.broker.v1.messages_pb2 import Envelope


class GatewayBroker:
    """One life of one gateway process.

    Every call raises `BrokerDown` at once while the broker is away; a task of this object probes it and service resumes by itself.
    Every call may be repeated after `BrokerDown`: if the first one did arrive, the repetition changes nothing.

    A gateway that serves a call does, in this order: make an id, register the call locally under it, `submit`; hand on what
    `frames` brings, dropping what it has (`first_event` + `event_count` <= next expected) and calling `follow` from the next expected event on
    any gap; `expire` at the deadline; `leave` when the client goes away; `audit` its open ids on every `Arrival.gap`
    and those silent for 5 s.
    """

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        gateway_id: str | None = None,
        limits: QueueLimits | None = None,
        shards: int = 1,
        allow_volatile: bool = False,
    ) -> Self:
        """Connect, check the broker's configuration, announce this gateway, start its heartbeat.

        Args:
            url: redis://, rediss:// or unix:// URL.
            gateway_id: name of this life; random by default. Must not be used twice.
            limits: bounds of the queue that this gateway enforces when it submits.
            shards: number of shards, 1 to 256; the same for every process of an installation.
            allow_volatile: accept a broker without appendonly (a warning is logged).

        Raises:
            BrokerDown: it cannot be reached.
            BrokerMisconfigured: it would evict or lose work, or was set up with another number of shards.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Stop the heartbeat, withdraw this gateway's name, close the connections."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def gateway_id(self) -> str:
        raise NotImplementedError

    @property
    def up(self) -> bool:
        """Whether the last exchange with the broker went well."""
        raise NotImplementedError

    def now_ms(self) -> int:
        """Broker time in milliseconds, from the local monotonic clock and the offset that the heartbeat measures."""
        raise NotImplementedError

    def new_id(self) -> str:
        """A random execution id."""
        raise NotImplementedError

    def id_for(self, tenant: str, request_id: str, part: int = 0) -> str:
        """The execution id of a client's request_id: always the same. `part` counts the inputs of a call with several."""
        raise NotImplementedError

    async def submit(self, envelope: Envelope, *, rerun: bool = False) -> Submitted:
        """Accept a request: it now waits for a worker, and its frames come to this gateway.

        An execution of the same id with the same model, task and request is joined (`Submitted.joined`; then call `follow`).

        Args:
            envelope: complete: execution_id, tenant, model, task, request, accepted_ms, deadline_ms, journaled, ...
            rerun: if the execution has ended and its events were not kept, run it again.

        Raises:
            QueueFull, RequestIdReused, BrokerDown.
        """
        raise NotImplementedError

    async def follow(self, execution_id: str, from_event: int = 0) -> Followed:
        """Listen to an execution from event `from_event` on: what exists now is returned, the rest arrives in frames.

        `from_event` beyond what was published gives no events; compare with `n_events`.

        Raises:
            NotFound, BrokerDown.
        """
        raise NotImplementedError

    async def leave(self, execution_id: str) -> None:
        """Listen no more (the last client of it on this gateway went away or has everything).

        When nobody listens any more, a DETACH request keeps running for the grace period and any other is cancelled. Unknown and
        ended executions are no error.
        """
        raise NotImplementedError

    async def cancel(self, execution_id: str) -> State:
        """Cancel: a queued one ends here, a running one within two decode steps. Returns the state it was found in.

        Raises:
            NotFound, BrokerDown.
        """
        raise NotImplementedError

    async def expire(self, execution_id: str) -> State:
        """As `cancel`, because its deadline has passed; ends EXPIRED. A deadline still ahead (broker time) changes nothing."""
        raise NotImplementedError

    async def envelope(self, execution_id: str) -> Envelope:
        """The request as it was accepted. Raises NotFound, BrokerDown."""
        raise NotImplementedError

    async def audit(self, execution_ids: Sequence[str]) -> dict[str, Audited]:
        """State and number of events of each id; what differs from what the gateway has is repaired by `follow` or `submit`."""
        raise NotImplementedError

    def frames(self) -> AsyncIterator[Arrival]:
        """This gateway's frames, for ever: survives the broker's absence. One reader; trims the stream as it reads."""
        raise NotImplementedError

    async def models(self) -> list[Registered]:
        """Every worker heard of in the last minutes, with the models it serves."""
        raise NotImplementedError

    async def load(self) -> list[ModelQueue]:
        """What waits, by model. Models for which nothing waits may be missing."""
        raise NotImplementedError
