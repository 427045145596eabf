"""A worker's end of the broker (synchronous; for one thread, the publisher)."""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from xlmstream_server.broker import failures, journal
from xlmstream_server.broker.bell import Bell
from xlmstream_server.broker.chunks import ChunkRow, HeldChunks
from xlmstream_server.broker.connection import Argument, Reply, check_info, check_shards
from xlmstream_server.broker.errors import BrokerDown, BrokerError, Fenced
from xlmstream_server.broker.job_values import ItemResult, TakenChunk
from xlmstream_server.broker.link import Link
from xlmstream_server.broker.rows import HeldRows, Row
from xlmstream_server.broker.scripts import REGISTRY_ROOT, shard_root
from xlmstream_server.broker.v1.messages_pb2 import WorkerCard
from xlmstream_server.broker.values import Output, Published, Stop, Taken

CARD_ALIVE_MS = 30_000
ANY_ITEMS = 1 << 31
LONGEST_WAIT_S = 2.0

_WORKER_ID = re.compile(r"[A-Za-z0-9._-]{1,48}")


class WorkerBroker:
    """One worker process's place in the queue: its lives, its lease, its rows. For one thread, the publisher.

    It remembers each row it has taken and the events it was given for it until the broker has them, so the worker hands
    over new events and nothing else: numbers, gateways and repetition after a lost reply are settled here. After
    `BrokerDown` nothing is lost: call again a little later, with new output or none, and everything unsent goes along.
    After `Fenced` all rows are gone: drop them and `begin` a new life.

    A chunk of a job is a row like any other, whose results take the place of events: `take_chunks` gives it, `publish`
    takes the results of its items in any order, and it ends when all have one.

    The publisher's loop: `publish` after each step (also without output, while rows run, to hear of cancellations);
    `take` when slots are free and `Published.waiting` is not 0; `take_chunks` when there is room besides and
    `Published.waiting_chunks` is not 0; `renew` every `renew_every_s` as long as the decode
    loop ticks; `reap` every `reap_every_s`; `register` every few seconds; `wait` when nothing runs.
    """

    def __init__(self, link: Link, worker_id: str, models: Sequence[str], lease_s: float, shards: int) -> None:
        """Use `connect`."""
        self._link = link
        self._worker_id = worker_id
        self._models = tuple(models)
        # In another order at each take of chunks: the first has the first choice.
        self._chunk_models = deque(models)
        self._lease_s = lease_s
        self._roots = [shard_root(shard) for shard in range(shards)]
        self._life = ""
        self._rows = HeldRows()
        self._chunks = HeldChunks()
        # Whether a take, or a take of chunks, may have given something whose reply we never saw.
        self._unsure = self._unsure_chunks = False
        # Gateways whose heartbeat was missing: the broker is to look at their rows.
        self._away: set[bytes] = set()
        self._bells: list[bytes] = [b"0-0"] * shards
        self._offset_ms = 0.0
        self._cancelled = journal.encode(failures.cancelled())
        self._deadline_queue = journal.encode(failures.deadline_queue())
        self._deadline_compute = journal.encode(failures.deadline_compute())
        self._poisoned = journal.encode(failures.poisoned())

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        worker_id: str,
        models: Sequence[str],
        lease_s: float = 3.0,
        shards: int = 1,
        allow_volatile: bool = False,
    ) -> Self:
        """Connect, check the broker's configuration and begin a life.

        Args:
            url: redis://, rediss:// or unix:// URL.
            worker_id: name of the worker, 1 to 48 characters of letters, digits, '.', '_' and '-'.
            models: "name@version" of each model it serves: the lanes it takes from. No '|' and no line breaks.
            lease_s: after this long without `renew` others may take its rows.
            shards: number of shards, 1 to 256; the same for every process of an installation.
            allow_volatile: accept a broker without appendonly (a warning is logged).

        Raises:
            BrokerDown, BrokerMisconfigured, ValueError.
        """
        if not _WORKER_ID.fullmatch(worker_id):
            raise ValueError(
                f"worker_id must be 1 to 48 characters of letters, digits, '.', '_' and '-': {worker_id!r}"
            )
        if not models or any(not model or "|" in model or "\n" in model for model in models):
            raise ValueError(f"models must be names without '|' and line breaks, at least one: {models!r}")
        if not 1 <= shards <= 256:
            raise ValueError(f"shards must be 1 to 256: {shards}")
        link = Link(url)
        info = link.command("INFO")
        assert isinstance(info, bytes)
        check_info(info, allow_volatile=allow_volatile)
        check_shards(link.command("SET", REGISTRY_ROOT + b"shards", shards, "NX", "GET"), shards)
        broker = cls(link, worker_id, models, lease_s, shards)
        broker.begin()
        return broker

    def close(self) -> None:
        """End this life and disconnect: rows still held go back to the queue, the registry counts it no more.

        Never raises BrokerDown.
        """
        with contextlib.suppress(BrokerDown, Fenced):
            self.handoff(self.held)
        with contextlib.suppress(BrokerDown):
            self._everywhere("retire", [self._life])
            self._link.scripts("withdraw", [(REGISTRY_ROOT, [self._worker_id, self._life])])
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def life(self) -> str:
        """ "wid:epoch" of the present life."""
        return self._life

    @property
    def renew_every_s(self) -> float:
        """A third of the lease."""
        return self._lease_s / 3

    @property
    def reap_every_s(self) -> float:
        """A tenth of the lease: what the work of a dead worker waits for beyond its lease."""
        return self._lease_s / 10

    @property
    def held(self) -> tuple[str, ...]:
        """Ids of the executions and chunks it owns."""
        return (*self._rows, *self._chunks)

    @property
    def held_chunks(self) -> tuple[str, ...]:
        """Ids of the chunks it owns."""
        return tuple(self._chunks)

    def now_ms(self) -> int:
        """Broker time in milliseconds, from the monotonic clock and the time stamp of the last answer."""
        return int(time.monotonic() * 1000 + self._offset_ms)

    def begin(self) -> str:
        """Begin a new life, forgetting every row of the last; returns its name. Needed after `Fenced` only."""
        self._drop()
        self._unsure = self._unsure_chunks = False
        self._life = f"{self._worker_id}:{secrets.token_hex(4)}"
        self._everywhere("begin", [self._life, self._lease_ms, *self._models])
        return self._life

    def register(self, card: WorkerCard) -> None:
        """Tell the registry what this worker serves (`card.worker` is filled in), for 30 s or until `close`."""
        card.worker = self._life
        self._link.scripts("register", [(REGISTRY_ROOT, [self._worker_id, card.SerializeToString(), CARD_ALIVE_MS])])

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
            waiting += _integer(queued)
            waiting_chunks += _integer(queued_chunks)
            for execution_id, reason in _pairs(stops):
                self._end(stop, execution_id, reason)
            for execution_id, n_events in _pairs(gaps):
                self._rows[execution_id].sent = _integer(n_events)
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

    def renew(self) -> None:
        """Extend the lease, also a late one that nobody has reaped. Raises BrokerDown, Fenced."""
        self._everywhere("renew", [self._life, self._lease_ms])

    def reap(self) -> int:
        """Put the work of workers whose lease has run out back into the queue; returns the number of executions moved.

        Does nothing on a connection younger than the lease: after the broker's return every lease looks late.
        """
        connected_s = self._link.connected_s
        if connected_s is None or time.monotonic() - connected_s < self._lease_s:
            return 0
        return self._moved("reap", [self._life, self._cancelled, self._deadline_compute, self._poisoned])

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
                moved += _integer(self._checked(reply)[1])
                for name in mine:
                    self._rows.pop(name, None)
                    self._chunks.pop(name, None)
        return moved

    def wait(self, timeout_s: float) -> bool:
        """Wait until new work may be there (true) or the time is over (false). For a worker without rows.

        Work submitted since the last `take` is noticed at once. At most 2 s, so that leases are renewed in between.
        """
        block_ms = max(1, int(min(timeout_s, LONGEST_WAIT_S) * 1000))
        bells = [root + b"bell" for root in self._roots]
        return self._link.command("XREAD", "BLOCK", block_ms, "STREAMS", *bells, *self._bells) is not None

    def bell(self) -> Bell:
        """What another thread can wait on for new work, while this one is busy with work that can wait."""
        return Bell(self._link.another(), [root + b"bell" for root in self._roots])

    @property
    def _lease_ms(self) -> int:
        return int(self._lease_s * 1000)

    def _everywhere(self, name: str, arguments: list[Argument]) -> list[list[Reply]]:
        replies = self._link.scripts(name, [(root, arguments) for root in self._roots])
        return [self._checked(reply) for reply in replies]

    def _moved(self, name: str, arguments: list[Argument]) -> int:
        return sum(_integer(reply[1]) for reply in self._everywhere(name, arguments))

    def _checked(self, reply: list[Reply]) -> list[Reply]:
        """What follows OK: broker time first."""
        if reply[0] == b"FENCED":
            self._drop()
            raise Fenced(f"the lease of {self._life} ran out and its work was given to others")
        if reply[0] != b"OK":
            raise BrokerError(f"unexpected reply {reply[0]!r}")
        self._offset_ms = _integer(reply[1]) - time.monotonic() * 1000
        return reply[1:]

    def _drop(self) -> None:
        self._rows.clear()
        self._chunks.clear()


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


def _integer(reply: Reply) -> int:
    assert isinstance(reply, int)
    return reply


def _pairs(flat: Reply) -> Iterable[tuple[str, Reply]]:
    """(execution id, value) of a flat list of both."""
    assert isinstance(flat, list)
    for i in range(0, len(flat), 2):
        name = flat[i]
        assert isinstance(name, bytes)
        yield name.decode(), flat[i + 1]
