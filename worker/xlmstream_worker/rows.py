"""What passes between a worker's threads.

    publisher --Row--> preparers (tokenise) --Row, Generation--> decode thread --Row, events--> Outbox --> publisher

A `Row` is one execution this worker owns, from `take` to its terminal event, or a part of one. The publisher alone ends
rows, and whatever another thread still has of an ended row is dropped where it is met, so no thread waits for another's
cleanup.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from xlmstream_server.broker import Taken
from xlmstream_server.broker.v1.messages_pb2 import Event


@dataclass(slots=True, eq=False)
class Row:
    """One execution in this worker's hands."""

    taken: Taken
    key: str
    """Names it in the engine; unlike the execution id, new for each time it is taken."""
    taken_at: float = field(default_factory=time.monotonic)
    """When it was taken, on the monotonic clock, in seconds."""
    ended: bool = False
    """Set by the publisher, once: nothing of this row is wanted any more."""
    bulk: bool = False
    """Part of a job: nobody waits for it, so that all rows that are not go first."""

    @property
    def execution_id(self) -> str:
        return self.taken.envelope.execution_id

    @property
    def apart(self) -> bool:
        """Whether it shares the engine with no other row. The parts of a job's chunk that runs alone share it with each
        other: the chunk is all that the worker has."""
        return self.taken.alone and not self.bulk


@dataclass(frozen=True, slots=True)
class RowEvents:
    """New events of one row, in order."""

    row: Row
    events: tuple[Event, ...]


class Outbox:
    """Where preparers and the decode thread leave events and the publisher collects them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[RowEvents] = []
        self._steps_left = 0  # steps whose events nobody has collected
        self._woken = False
        self._closed = False

    def put(self, events: Sequence[RowEvents]) -> None:
        """Leave events; never waits."""
        with self._changed:
            self._waiting.extend(events)
            self._changed.notify_all()

    def put_step(self, events: Sequence[RowEvents]) -> None:
        """Leave what one step brought, and wait until the publisher has come for it.

        So step k is sent while step k+1 runs, and decoding is never more than one step ahead of what the broker has
        seen: a cancellation that arrives with the answer to step k ends its row before step k+2.
        """
        with self._changed:
            self._waiting.extend(events)
            self._steps_left += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._steps_left == 0 or self._closed)

    def wake(self) -> None:
        """Let `collect` return, though there may be nothing to collect."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def collect(self, timeout_s: float) -> list[RowEvents]:
        """Everything left so far, waiting up to `timeout_s` for something to come or to be woken."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._steps_left or self._woken or self._closed, timeout_s)
            collected, self._waiting, self._steps_left, self._woken = self._waiting, [], 0, False
            self._changed.notify_all()
            return collected

    def close(self) -> None:
        """Nobody will collect any more: `put_step` no longer waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
