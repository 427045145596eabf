"""What can go wrong between us and the broker.

BrokerError
├── BrokerDown            cannot be reached now: nothing was accepted, try again later
├── BrokerMisconfigured   reachable, but would lose work, or disagrees with us: refuse to start
├── QueueFull             the queue is at its bound: carries when to try again
├── RequestIdReused       same request_id, other content
├── NotFound              no such execution, or it has been forgotten
└── Fenced                this worker's life is over: others have taken its work
"""

from __future__ import annotations


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


class Fenced(BrokerError):
    """This worker's lease ran out and another worker has reaped it: drop every row and `begin` a new life."""
