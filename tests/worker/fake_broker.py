"""A worker's end of a queue that exists only in this process, for tests that script what the broker says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from xlmstream_server.broker import BrokerDown, Fenced, Output, Published, Stop, Taken, is_terminal
from xlmstream_server.broker.v1.messages_pb2 import Event, WorkerCard


class FakeBroker:
    """Gives what is in `queue`, remembers what it is told; `changed` wakes tests that wait."""

    renew_every_s = 0.02
    reap_every_s = 0.02

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.queue: list[Taken] = []
        self.events: dict[str, list[Event]] = {}
        self.stops: dict[str, Stop] = {}
        self.down = False
        self.fence = False
        self.lose_take = False
        self.renewals = 0
        self.lives = 1
        self.cards: list[WorkerCard] = []
        self.handed_over: tuple[str, ...] | None = None
        self._unanswered: list[Taken] = []
        self._held: dict[str, list[Event]] = {}  # with what is not sent

    @property
    def life(self) -> str:
        return f"w:{self.lives}"

    @property
    def held(self) -> tuple[str, ...]:
        return tuple(self._held)

    def give(self, *taken: Taken) -> None:
        with self.changed:
            self.queue += taken
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at after each call of the worker."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout=20)

    def ended(self, execution_id: str) -> bool:
        events = self.events.get(execution_id)
        return bool(events) and is_terminal(events[-1])

    def _call(self) -> None:
        self.changed.notify_all()
        if self.down:
            raise BrokerDown("away")
        if self.fence:
            self.fence = False
            self._held.clear()
            raise Fenced("others have it")

    def begin(self) -> str:
        with self.changed:
            self._call()
            self.lives += 1
            return self.life

    def register(self, card: WorkerCard) -> None:
        with self.changed:
            self._call()
            self.cards.append(card)

    def take(self, n: int) -> list[Taken]:
        with self.changed:
            self._call()
            assert n > 0
            taken, self.queue = self._unanswered + self.queue[:n], self.queue[n:]
            self._unanswered = []
            if self.lose_take and taken:
                self.lose_take, self._unanswered = False, taken
                raise BrokerDown("the reply is lost")
            self._held |= {one.envelope.execution_id: [] for one in taken}
            return taken

    def publish(self, outputs: Sequence[Output]) -> Published:
        with self.changed:
            for output in outputs:
                if output.execution_id in self._held:
                    self._held[output.execution_id] += output.events
            self._call()
            for execution_id, events in list(self._held.items()):
                self.events.setdefault(execution_id, []).extend(events)
                events.clear()
                if self.ended(execution_id):
                    del self._held[execution_id]
            stops = {execution_id: stop for execution_id, stop in self.stops.items() if execution_id in self._held}
            for execution_id, stop in stops.items():
                if stop is Stop.LOST:
                    del self._held[execution_id]
            self.changed.notify_all()
            return Published(stops, len(self.queue))

    def renew(self) -> None:
        with self.changed:
            self._call()
            self.renewals += 1

    def reap(self) -> int:
        with self.changed:
            self._call()
            return 0

    def handoff(self, execution_ids: Iterable[str]) -> int:
        raise AssertionError("close hands over")

    def wait(self, timeout_s: float) -> bool:
        with self.changed:
            self._call()
            return self.changed.wait_for(lambda: bool(self.queue), min(timeout_s, 0.05))

    def close(self) -> None:
        with self.changed:
            self.handed_over = self.held
            self.changed.notify_all()
