"""The events of one execution on their way to one call: in order, none twice, none missing, never more than fits.

A listener is pure: frames and journal reads are pushed in, the call's writer takes out. It knows the number of the next
event it needs, drops what it has, and notices what it lacks (`behind`); fetching that is the relay's work.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from io import BytesIO

from google.protobuf.proto import parse_length_prefixed

from xlmstream_server.broker import is_terminal
from xlmstream_server.broker.v1.messages_pb2 import Event, FrameItem
from xlmstream_server.errors import ServiceError


def split_events(data: bytes) -> list[Event]:
    """The events of a frame item or a journal: each behind its length as a varint."""
    stream, events = BytesIO(data), []
    while event := parse_length_prefixed(Event, stream):
        events.append(event)
    return events


class Listener:
    """One call's view of one execution.

    Args:
        execution_id: the execution.
        next_event: number of the first event wanted.
        capacity: most events kept for the writer. What arrives beyond is dropped here and read from the journal once
            the writer has caught up.
    """

    def __init__(self, execution_id: str, next_event: int, capacity: int) -> None:
        self.execution_id = execution_id
        self.position = next_event
        self.ended = False
        self.doubted = False
        # Loop times: of the last event that came, of the last message that went out, of the last audit.
        self.active_at = self.sent_at = self.asked_at = 0.0
        self._capacity = capacity
        self._expected = next_event
        self._published = next_event
        self._buffered: deque[tuple[int, bytes | Sequence[Event]]] = deque()
        self._failure: ServiceError | None = None
        self._beat = False
        self._woken = asyncio.Event()
        # Called at each news by whoever serves many listeners from one task, instead of a task that waits for each.
        self.on_news: Callable[[Listener], None] | None = None

    @property
    def expected(self) -> int:
        """Number of the next event that is not here yet."""
        return self._expected

    @property
    def behind(self) -> bool:
        """Whether the next event has been published and is not here."""
        return self._published > self._expected and not self._buffered

    @property
    def has_news(self) -> bool:
        """Whether `wait` would return at once."""
        return bool(self._buffered) or self._failure is not None or self.behind or self._beat

    def push(self, item: FrameItem) -> None:
        """Take what a frame brings. Never blocks; wakes the writer."""
        self._admit(item.first_event, item.event_count, item.events)

    def fill(self, from_event: int, events: Sequence[Event], n_events: int) -> None:
        """Take what the journal holds from `from_event` on, `n_events` having been published by then."""
        if events:
            self._admit(from_event, len(events), events, limited=False)
        self.published(n_events)

    def published(self, n_events: int) -> None:
        """Learn how many events exist."""
        self._published = max(self._published, n_events)
        if self.behind:
            self._wake()

    def restart(self) -> None:
        """The execution runs again from the start; nothing of it has been handed over."""
        self._expected = self._published = self.position
        self._buffered.clear()

    def fail(self, error: ServiceError) -> None:
        """End the call with `error` once the writer has taken what is here."""
        self._failure = error
        self._wake()

    def beat(self) -> None:
        """Let the writer send a heartbeat."""
        self._beat = True
        self._wake()

    async def wait(self) -> bool:
        """Until there is something to do: take, repair (`behind`) or send a heartbeat, the latter alone being false.

        Raises what `fail` was given.
        """
        while not self._buffered:
            if self._failure is not None:
                raise self._failure
            if self.behind:
                return True
            if self._beat:
                self._beat = False
                return False
            self._woken.clear()
            await self._woken.wait()
        return True

    def take(self) -> list[Event]:
        """Everything that is here, in order; afterwards `position` is the number of the event after the last."""
        taken: list[Event] = []
        for skip, chunk in self._buffered:
            events = split_events(chunk) if isinstance(chunk, bytes) else chunk
            taken.extend(events[skip:] if skip else events)
        self._buffered.clear()
        self.position = self._expected
        self._beat = False
        if taken and is_terminal(taken[-1]):
            self.ended = True
        return taken

    def _wake(self) -> None:
        self._woken.set()
        if self.on_news is not None:
            self.on_news(self)

    def _admit(self, first: int, count: int, events: bytes | Sequence[Event], *, limited: bool = True) -> None:
        end = first + count
        self._published = max(self._published, end)
        has_room = not limited or self._expected - self.position < self._capacity
        if first <= self._expected < end and has_room and events:
            self._buffered.append((self._expected - first, events))
            self._expected = end
        if self._buffered or self.behind:
            self._wake()
