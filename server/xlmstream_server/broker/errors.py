"""What can go wrong between us and the broker.

BrokerError
├── BrokerDown            cannot be reached now: nothing was accepted, try again later
├── BrokerMisconfigured   reachable, but would lose work, or disagrees with us: refuse to start
├── QueueFull             the queue is at its bound: carries when to try again
├── RequestIdReused       same request_id, other content
├── NotFound              no such execution, or it has been forgotten
├── JobNotFound           no such job, or its time is over
├── JobIdReused           a job of this name was made with other content
├── JobStateForbids       the state of the job does not allow this
├── JobQuotaExceeded      the tenant's jobs hold as much as they may: carries when to try again
├── UploadGap             items before these are missing: carries where to continue
├── CursorInvalid         no cursor of this order of results
└── Fenced                this worker's life is over: others have taken its work
"""

from __future__ import annotations

from xlmstream.v1.job_pb2 import JobState


class BrokerError(Exception):
    """Base of every error this package raises on its own account."""


class BrokerDown(BrokerError):
    """The broker cannot be reached, is loading its data, or did not answer in time. Raised at once, without retries."""


class BrokerMisconfigured(BrokerError):
    """The broker would evict or lose work (maxmemory-policy, appendonly), or holds another number of shards."""


class QueueFull(BrokerError):
    """A bound of the queue is reached; nothing was accepted.

    Attributes:
        retry_after_s: when to try again, in seconds.
        bound: which bound: "requests", "bytes" or "tokens", "tenant " before it where it is the tenant's share, or
            "memory" where the broker itself has run out of it.
        limit: its value; 0 for "memory".
    """

    def __init__(self, retry_after_s: float, bound: str, limit: int) -> None:
        super().__init__(f"the queue is full ({bound}, limit {limit}); try again in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s
        self.bound = bound
        self.limit = limit


class RequestIdReused(BrokerError):
    """The request_id belongs to a request with other content."""

    def __init__(self, execution_id: str) -> None:
        super().__init__("this request_id was used with other content")
        self.execution_id = execution_id


class NotFound(BrokerError):
    """No execution of that id is known, or it has been forgotten."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"no execution {execution_id} is known")
        self.execution_id = execution_id


class JobNotFound(BrokerError):
    """The tenant has no job of that name, or its time is over."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id} is known")
        self.job_id = job_id


class JobIdReused(BrokerError):
    """The tenant has a job of that name, made with other content."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} was made with other content")
        self.job_id = job_id


class JobStateForbids(BrokerError):
    """The job's state does not allow this; nothing was changed."""

    def __init__(self, job_id: str, state: JobState.ValueType) -> None:
        super().__init__(f"job {job_id} is {JobState.Name(state)}")
        self.job_id = job_id
        self.state = state


class JobQuotaExceeded(BrokerError):
    """The tenant's jobs hold as much as they may; nothing of the refused part was stored.

    Attributes:
        retry_after_s: when to try again, in seconds.
        subject: "bytes" or "jobs".
        limit, used: of it, per shard.
    """

    def __init__(self, retry_after_s: float, subject: str, limit: int, used: int) -> None:
        super().__init__(f"the quota of {limit} {subject} is used up ({used})")
        self.retry_after_s = retry_after_s
        self.subject = subject
        self.limit = limit
        self.used = used


class UploadGap(BrokerError):
    """Items before these are missing; `items_committed` says from where to continue."""

    def __init__(self, items_committed: int) -> None:
        super().__init__(f"{items_committed} items are committed: continue there")
        self.items_committed = items_committed


class CursorInvalid(BrokerError, ValueError):
    """The cursor is none, or one of another order."""

    def __init__(self, cursor: str) -> None:
        super().__init__(f"not a cursor of this order: {cursor!r}")


class Fenced(BrokerError):
    """This worker's lease ran out and another worker has reaped it: drop every row and `begin` a new life."""
