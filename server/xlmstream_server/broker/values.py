"""The values that cross the broker's two ends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from xlmstream_server.broker.v1.messages_pb2 import Envelope, Event, Frame, WorkerCard


class State(StrEnum):
    """Where an execution stands: QUEUED -> RUNNING -> a terminal state; RUNNING -> QUEUED by reap or handoff."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    DEAD = "DEAD"

    @property
    def terminal(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


class Stop(Enum):
    """Why a worker should end a row that still runs."""

    CANCELLED = "CANCELLED"  # its caller wants it no more: publish `failures.cancelled()`
    EXPIRED = "EXPIRED"  # its deadline passed: publish `failures.deadline_compute()`
    ORPHANED = "ORPHANED"  # nobody listens and it may not outlive its listeners: publish `failures.cancelled()`
    LOST = "LOST"  # the broker no longer knows it, or it ended elsewhere: free the slot, publish nothing


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of what waits for a worker (not of what runs), per shard: of each model, and of each tenant of a model."""

    max_requests: int = 4096
    max_bytes: int = 64 << 20
    max_tokens: int = 4_000_000
    tenant_max_requests: int = 4096
    tenant_max_bytes: int = 64 << 20
    tenant_max_tokens: int = 4_000_000

    @property
    def most_cost_tokens(self) -> int:
        """What one request may count for: were it more, it would be refused even where nothing else waits. At most what
        Envelope.cost_tokens holds."""
        return min(self.max_tokens, self.tenant_max_tokens, (1 << 32) - 1)


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted request.

    Attributes:
        joined: an execution of this id was there before (a retry, a twin). Call `follow` to listen to it and to learn
            what it has produced.
    """

    execution_id: str
    joined: bool
    state: State


@dataclass(frozen=True, slots=True)
class Followed:
    """An execution as it stands, from the moment on which its frames reach this gateway.

    Attributes:
        from_event: number of the first event in `events`, as asked for.
        events: events `from_event` .. `n_events` - 1; empty where they are not kept (`journaled` false).
        n_events: events published so far. Frames that arrive later continue here.
        journaled: whether the events are kept. A terminal execution with `journaled` false whose result this gateway
            lacks can only be run again: `submit(envelope, rerun=True)`.
    """

    state: State
    from_event: int
    events: tuple[Event, ...]
    n_events: int
    journaled: bool
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Audited:
    """What the broker knows of one execution. `state` None: nothing (submit it again)."""

    state: State | None
    n_events: int
    journaled: bool


@dataclass(frozen=True, slots=True)
class Arrival:
    """One frame read from this gateway's stream.

    Attributes:
        gap: frames before this one may be missing (trimmed, or the broker was away): `audit` every open execution.
            The frame itself may be empty.
    """

    frame: Frame
    gap: bool


@dataclass(frozen=True, slots=True)
class Registered:
    """A worker in the registry.

    Attributes:
        alive: it has renewed its card within its time. Cards stay a few minutes longer, so that a model without workers
            is told from one never heard of.
    """

    card: WorkerCard
    alive: bool


@dataclass(frozen=True, slots=True)
class ModelQueue:
    """What waits for one model ("name@version"), over all shards."""

    model: str
    requests: int
    size_bytes: int
    tokens: int
    oldest_wait_s: float


@dataclass(frozen=True, slots=True)
class Taken:
    """An execution that this worker now owns.

    Attributes:
        journal: the events it has already published, to continue from: their tokens are forced, never drawn again.
        attempt: 1, and one more for each worker that died with it without any progress.
        alone: it runs in quarantine. Nothing for the worker to do: `take` gives it only to an empty worker and gives
            nothing else until it has ended.
        taken_ms: broker time of this take.
    """

    envelope: Envelope
    journal: tuple[Event, ...]
    attempt: int
    alone: bool
    taken_ms: int


@dataclass(frozen=True, slots=True)
class Output:
    """The next events of one row, in order. The terminal one, if any, is the last and ends the row."""

    execution_id: str
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """What the broker said to a step's output.

    Attributes:
        stop: rows to end, with the reason; repeated in every answer until their terminal event is published.
            A chunk that is named has ended already: drop its items and publish nothing.
        waiting: requests that wait for one of this worker's models.
        waiting_chunks: 0 where no job has a chunk to take for one of them.
    """

    stop: dict[str, Stop]
    waiting: int
    waiting_chunks: int = 0
