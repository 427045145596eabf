"""A worker's end of a queue that exists only in this process, for tests that script what the broker says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from xlmstream.v1.job_pb2 import JobResult
from xlmstream_server.broker import (
    BrokerDown,
    Fenced,
    ItemResult,
    Output,
    Published,
    Stop,
    Taken,
    TakenChunk,
    is_terminal,
)
from xlmstream_server.broker.v1.messages_pb2 import Event, WorkerCard


class FakeBell:
    """Rings when there is something in a queue that was not there before."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._seen = 0

    def wait(self, timeout_s: float) -> bool:
        with self._broker.changed:
            rung = self._broker.changed.wait_for(lambda: self._broker.given > self._seen, timeout_s)
            self._seen = self._broker.given
            return rung

    def close(self) -> None:
        pass


class FakeBroker:
    """Gives what is in `queue`, remembers what it is told; `changed` wakes tests that wait."""

    renew_every_s = 0.02
    reap_every_s = 0.02

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.given = 0
        self.queue: list[Taken] = []
        self.chunks: list[TakenChunk] = []
        self.events: dict[str, list[Event]] = {}
        self.results: dict[str, dict[int, JobResult]] = {}
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
        self._missing: dict[str, set[int]] = {}  # of each chunk, the items without a result
        self._unsent: list[ItemResult] = []

    @property
    def life(self) -> str:
        return f"w:{self.lives}"

    @property
    def held(self) -> tuple[str, ...]:
        return (*self._held, *self._missing)

    def give(self, *taken: Taken | TakenChunk) -> None:
        with self.changed:
            self.given += 1
            for one in taken:
                (self.chunks if isinstance(one, TakenChunk) else self.queue).append(one)
            self.changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at after each call of the worker."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout=60)

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
            self._missing.clear()
            self._unsent.clear()
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

    @property
    def unsaved_results(self) -> int:
        return len(self._unsent)

    def take_chunks(self, n: int, items: int) -> list[TakenChunk]:
        with self.changed:
            self._call()
            assert min(n, items) > 0
            taken: list[TakenChunk] = []
            while self.chunks and len(taken) < n and sum(len(one.items) for one in taken) < items:
                taken.append(self.chunks.pop(0))
            self._missing |= {one.chunk_id: {item.index for item in one.items} for one in taken}
            return taken

    def publish(self, outputs: Sequence[Output], results: Sequence[ItemResult] = ()) -> Published:
        with self.changed:
            self._unsent += results
            for output in outputs:
                if output.execution_id in self._held:
                    self._held[output.execution_id] += output.events
            self._call()
            for execution_id, events in list(self._held.items()):
                self.events.setdefault(execution_id, []).extend(events)
                events.clear()
                if self.ended(execution_id):
                    del self._held[execution_id]
            self._take_in_results()
            stops = {name: stop for name, stop in self.stops.items() if name in self.held}
            for name, stop in stops.items():
                if name in self._missing:
                    del self._missing[name]
                elif stop is Stop.LOST:
                    del self._held[name]
            self.changed.notify_all()
            return Published(stops, len(self.queue), len(self.chunks))

    def _take_in_results(self) -> None:
        unsent, self._unsent = self._unsent, []
        for one in unsent:
            missing = self._missing.get(one.chunk_id, set())
            if one.result.index in missing:
                missing.remove(one.result.index)
                self.results.setdefault(one.chunk_id, {})[one.result.index] = one.result
                if not missing:
                    del self._missing[one.chunk_id]

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
            return self.changed.wait_for(lambda: bool(self.queue or self.chunks), min(timeout_s, 0.05))

    def bell(self) -> FakeBell:
        return FakeBell(self)

    def close(self) -> None:
        with self.changed:
            self.handed_over = self.held
            self.changed.notify_all()
