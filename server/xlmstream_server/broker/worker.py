"""A worker's end of the broker (synchronous; for one thread, the publisher)."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from xlmstream_server.broker.chunks import ChunkRow, HeldChunks
from xlmstream_server.broker.connection import Argument, Reply
from xlmstream_server.broker.errors import BrokerDown, Fenced
from xlmstream_server.broker.job_values import ItemResult, TakenChunk
from xlmstream_server.broker.link import Link
from xlmstream_server.broker.rows import HeldRows, Row
from xlmstream_server.broker.values import Output, Published, Stop, Taken
from xlmstream_server.broker.worker_life import WorkerLife, integer

ANY_ITEMS = 1 << 31


class WorkerBroker(WorkerLife):
    """One worker process's place in the queue: its lives, its lease, its rows. For one thread, the publisher.

    It remembers each row it has taken and the events it was given for it until the broker has them, so the worker hands
    over new events and nothing else: numbers, gateways and repetition after a lost reply are settled here. After
    `BrokerDown` nothing is lost: call again a little later, with new output or none, and everything unsent goes along.
    After `Fenced` all rows are gone: drop them and `begin` a new life.

    A chunk of a job is a row like any other, whose results take the place of events: `take_chunks` gives it, `publish`
    takes the results of its items in any order, and it ends when all have one.

    The publisher's loop: `publish` after each step (also without output, while rows run, to hear of cancellations);
    `take` when slots are free and `Published.waiting` is not 0; `take_chunks` when there is room besides and
    `Published.waiting_chunks` is not 0; `renew` every `renew_every_s` as long as the decode loop ticks; `reap` every
    `reap_every_s`; `register` every few seconds; `wait` when nothing runs.
    """

    def __init__(self, link: Link, worker_id: str, models: Sequence[str], lease_s: float, shards: int) -> None:
        """Use `connect`."""
        super().__init__(link, worker_id, models, lease_s, shards)
        # In another order at each take of chunks: the first has the first choice.
        self._chunk_models = deque(models)
        self._rows = HeldRows()
        self._chunks = HeldChunks()
        # Whether a take, or a take of chunks, may have given something whose reply we never saw.
        self._unsure = self._unsure_chunks = False
        # Gateways whose heartbeat was missing: the broker is to look at their rows.
        self._away: set[bytes] = set()

    def close(self) -> None:
        """End this life and disconnect: rows still held go back to the queue, the registry counts it no more.

        Never raises BrokerDown.
        """
        with contextlib.suppress(BrokerDown, Fenced):
            self.handoff(self.held)
        with contextlib.suppress(BrokerDown):
            self._retire()
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def held(self) -> tuple[str, ...]:
        """Ids of the executions and chunks it owns."""
        return (*self._rows, *self._chunks)

    @property
    def held_chunks(self) -> tuple[str, ...]:
        """Ids of the chunks it owns."""
        return tuple(self._chunks)

    def take(self, n: int) -> list[Taken]:
        """Own up to `n` more executions, highest lane first; never blocks. Fewer, or none, is normal.

        Raises:
            BrokerDown, Fenced.
        """
        taken: list[Taken] = []
        recover, self._unsure = self._unsure, True
        unsure = False
        with _none_or_all(self._rows):
            for shard, root in enumerate(self._roots):
                if self._alone():
                    unsure = unsure or recover
                    continue
                most = n - len(taken)
                arguments: list[Argument] = [self._life, most, int(recover), self._cancelled, self._deadline_queue]
                arguments += (len(self.held), *self.held, *self._models)
                (reply,) = self._link.scripts("take", [(root, arguments)])
                now, more, bell = self._checked(reply)[:3]
                assert isinstance(now, int)
                assert isinstance(bell, bytes)
                self._bells[shard] = bell
                unsure = unsure or more == 1
                for given in reply[4:]:
                    assert isinstance(given, list)
                    taken.append(self._rows.took(shard, now, given))
        self._unsure = unsure
        return taken

    @property
    def unsaved_results(self) -> int:
        """Results of items that were handed to `publish` and that the broker has not: lost if this process dies."""
        return self._chunks.unsaved

    def take_chunks(self, n: int, items: int = ANY_ITEMS) -> list[TakenChunk]:
        """Own up to `n` more chunks, model by model and job by job in turn; never blocks. Fewer, or none, is normal.

        None comes behind those that have `items` items together: only the last one may go beyond.

        Nothing here looks at what else waits: ask when there is room besides the requests, or when chunks have waited
        long enough. Ask behind `take`, which alone moves the place from which `wait` listens.

        Raises:
            BrokerDown, Fenced.
        """
        taken: list[TakenChunk] = []
        self._chunk_models.rotate(-1)
        recover, self._unsure_chunks = self._unsure_chunks, True
        unsure = False
        with _none_or_all(self._chunks):
            for shard, root in enumerate(self._roots):
                if self._alone():
                    unsure = unsure or recover
                    continue
                left = items - sum(len(one.items) for one in taken)
                arguments: list[Argument] = [self._life, n - len(taken), int(recover), left, len(self.held), *self.held]
                arguments += self._chunk_models
                (reply,) = self._link.scripts("take_chunks", [(root, arguments)])
                now, more = self._checked(reply)[:2]
                assert isinstance(now, int)
                unsure = unsure or more == 1
                for given in reply[3:]:
                    assert isinstance(given, list)
                    taken.append(self._chunks.took(shard, now, given))
        self._unsure_chunks = unsure
        return taken

    def _alone(self) -> bool:
        return any(row.alone for row in self._rows.values()) or any(row.alone for row in self._chunks.values())

    def publish(self, outputs: Sequence[Output], results: Sequence[ItemResult] = ()) -> Published:
        """Send one step's output in one round trip: every row's events, terminal ones included, one frame a gateway.

        Rows without output need not be named; output of rows no longer held is dropped. A row whose terminal event was
        accepted is no longer held. Where a chunk ends or has results older than half a second, they go with a second
        round trip, and those of all chunks once they are 128. A chunk that has a result for each item, or that is to
        stop, ends by itself.

        Args:
            outputs: events of executions.
            results: of items of chunks, in any order.

        Raises:
            BrokerDown: keep going; the events are kept and go with the next call. Do not hand them over again.
            Fenced: all rows are lost to this worker.
        """
        for one in results:
            self._chunks.add(one)
        for output in outputs:
            self._rows.add(output)
        stop: dict[str, Stop] = {}
        while True:
            waiting, waiting_chunks, again = self._send(stop)
            if not again:
                break
        self._settle(stop, list(self._chunks))
        for execution_id in self._rows.late(self.now_ms()):
            stop.setdefault(execution_id, Stop.EXPIRED)
        return Published(stop, waiting, waiting_chunks)

    def _send(self, stop: dict[str, Stop]) -> tuple[int, int, bool]:
        """One round trip. Returns how many requests and chunks wait, and whether a row was ahead of the broker."""
        calls: list[tuple[bytes, list[Argument]]] = []
        sent: dict[str, int] = {}
        for shard, root in enumerate(self._roots):
            groups, news = self._rows.news(shard, self._away)
            calls.append((root, [self._life, len(self._models), *self._models, *groups]))
            sent |= news
        waiting, waiting_chunks, behind, self._away = 0, 0, set[str](), set()
        for reply in self._link.scripts("emit", calls):
            _, queued, stops, gaps, away, queued_chunks = self._checked(reply)
            waiting += integer(queued)
            waiting_chunks += integer(queued_chunks)
            for execution_id, reason in _pairs(stops):
                self._end(stop, execution_id, reason)
            for execution_id, n_events in _pairs(gaps):
                self._rows[execution_id].sent = integer(n_events)
                behind.add(execution_id)
            assert isinstance(away, list)
            self._away.update(gateway for gateway in away if isinstance(gateway, bytes))
        self._rows.arrived({name: n_events for name, n_events in sent.items() if name not in behind})
        return waiting, waiting_chunks, bool(behind)

    def _settle(self, stop: dict[str, Stop], chunk_ids: Iterable[str], *, save: bool = False) -> None:
        """Send the results of chunks that have ended or are due; of all with news where `save`."""
        for shard, root in enumerate(self._roots):
            sent, reports = self._chunks.reports(shard, chunk_ids, save=save)
            if sent:
                (reply,) = self._link.scripts("settle", [(root, [self._life, *reports])])
                lost = {name.decode() for name in self._checked(reply)[1:] if isinstance(name, bytes)}
                self._chunks.settled(sent, lost, stop)

    def _end(self, stop: dict[str, Stop], execution_id: str, reason: Reply) -> None:
        if execution_id in self._chunks:
            self._chunks[execution_id].cancelled = True
            return
        row = self._rows.get(execution_id)
        if row is None:
            return  # given to us by a take whose reply was lost
        assert isinstance(reason, bytes)
        if not row.final:
            stop[execution_id] = Stop(reason.decode())
        if reason == b"LOST":
            del self._rows[execution_id]

    def handoff(self, execution_ids: Iterable[str]) -> int:
        """Give rows back to the queue, in front, with their journals; returns how many. They are no longer held.

        Publish first what they have produced. Of chunks the results are kept and the rest is given back.
        """
        moved, ids = 0, list(execution_ids)
        self._settle({}, [name for name in ids if name in self._chunks], save=True)
        rows: dict[str, Row | ChunkRow] = {**self._rows, **self._chunks}
        for shard, root in enumerate(self._roots):
            mine = [name for name in ids if name in rows and rows[name].shard == shard]
            if mine:
                arguments: list[Argument] = [self._life, self._cancelled, self._deadline_compute, *mine]
                (reply,) = self._link.scripts("handoff", [(root, arguments)])
                moved += integer(self._checked(reply)[1])
                for name in mine:
                    self._rows.pop(name, None)
                    self._chunks.pop(name, None)
        return moved

    def _drop(self) -> None:
        self._rows.clear()
        self._chunks.clear()
        self._unsure = self._unsure_chunks = False


@contextlib.contextmanager
def _none_or_all(rows: HeldRows | HeldChunks) -> Iterator[None]:
    """A take from several shards that breaks off between two: its caller sees none of what it gave, so none of it may
    count as held. The next take gives it again."""
    before = set(rows)
    try:
        yield
    except BrokerDown:
        for name in rows.keys() - before:
            del rows[name]
        raise


def _pairs(flat: Reply) -> Iterable[tuple[str, Reply]]:
    """(execution id, value) of a flat list of both."""
    assert isinstance(flat, list)
    for i in range(0, len(flat), 2):
        name = flat[i]
        assert isinstance(name, bytes)
        yield name.decode(), flat[i + 1]
