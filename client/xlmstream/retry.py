"""When to try again: pure decisions for the attempts of one call. Knows no grpc and never sleeps."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from xlmstream.errors import DeadlineExceeded, XlmstreamError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How persistently a client repeats what failed on the way or was refused with a time to come back.

    The n-th wait is `initial_backoff_s * 2**n`, at most `max_backoff_s`, with a random part of up to a half taken off
    so that many clients do not return together. A time that the service names is waited first.
    """

    max_attempts: int = 8
    """Attempts of a call, the first included; 1 never repeats. A stream counts anew after every event it receives."""
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 5.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or not 0 <= self.initial_backoff_s <= self.max_backoff_s:
            raise ValueError(f"need max_attempts >= 1 and 0 <= initial_backoff_s <= max_backoff_s, not {self}")


class Attempts:
    """The attempts of one call under one total time limit."""

    def __init__(
        self, policy: RetryPolicy, timeout_s: float | None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy = policy
        self._now = now
        self._deadline = None if timeout_s is None else now() + timeout_s
        self._failed = 0

    def remaining_s(self) -> float | None:
        """Time left for the next attempt; None without a limit. Raises DeadlineExceeded when there is none left."""
        if self._deadline is None:
            return None
        left = self._deadline - self._now()
        if left <= 0:
            raise DeadlineExceeded("the time limit of the call passed")
        return left

    def wait_s(self, error: XlmstreamError) -> float:
        """How long to wait before the next attempt; raises `error` where another one is useless, too many, too late."""
        self._failed += 1
        if not error.retryable or self._failed >= self._policy.max_attempts:
            raise error
        backoff = min(self._policy.initial_backoff_s * 2.0 ** (self._failed - 1), self._policy.max_backoff_s)
        wait: float = (error.retry_after_s or 0.0) + backoff * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        if self._deadline is not None and self._now() + wait >= self._deadline:
            raise error
        return wait

    def progressed(self) -> None:
        """The service did its work: what fails next is a new trouble."""
        self._failed = 0


class Failover(Generic[T]):
    """The addresses of a client in the order given: stays with one that answers, goes round when it does not."""

    def __init__(self, targets: Sequence[T]) -> None:
        self.targets = tuple(targets)
        self._index = 0

    def current(self) -> T:
        return self.targets[self._index]

    def leave(self, target: T) -> None:
        """`target` failed. Does nothing where another call has already left it."""
        if self.current() is target:
            self._index = (self._index + 1) % len(self.targets)
