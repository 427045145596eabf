"""What the broker's tests share: envelopes and events to play with, connections that lose messages, a listener."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import redis
from xlmstream.v1.common_pb2 import TASK_GENERATE
from xlmstream.v1.generation_pb2 import StreamFinished, TokenDelta
from xlmstream_server.broker import (
    BrokerDown,
    BrokerError,
    GatewayBroker,
    Output,
    Taken,
    WorkerBroker,
    failures,
    is_terminal,
    journal,
)
from xlmstream_server.broker.connection import Argument, Reply
from xlmstream_server.broker.link import Link
from xlmstream_server.broker.v1.messages_pb2 import Envelope, Event, Frame

MODEL = "toy@1"
HOUR_MS = 3_600_000
ROOT = "xs:{0}:"


def envelope(gateway: GatewayBroker, execution_id: str | None = None, *, length: int = 3, **fields: object) -> Envelope:
    """A request whose execution publishes `length` deltas and a terminal event."""
    now_ms = gateway.now_ms()
    defaults = {"tenant": "default", "model": MODEL, "deadline_ms": now_ms + HOUR_MS, "request": b"prompt"}
    defaults |= {"cost_tokens": 7, "seed": length} | fields
    name = execution_id or gateway.new_id()
    return Envelope(execution_id=name, task=TASK_GENERATE, accepted_ms=now_ms, **defaults)


def delta(text: str) -> Event:
    return Event(delta=TokenDelta(text=text))


def finished() -> Event:
    return Event(finished=StreamFinished())


def script_of(asked: Envelope) -> list[Event]:
    """The events that a fault-free execution publishes."""
    return [delta(f"{asked.execution_id}-{i}") for i in range(asked.seed)] + [finished()]


class FlakyLink(Link):
    """A link that loses a request or a reply when told to, and counts as old enough to reap."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.lose: str | None = None

    def commands(self, commands: Sequence[Sequence[Argument]]) -> list[Reply | BrokerError]:
        lose, self.lose = self.lose, None
        if lose == "request":
            raise BrokerDown("the request was lost")
        replies = super().commands(commands)
        self.connected_s = -1e9
        if lose == "reply":
            raise BrokerDown("the reply was lost")
        return replies


class FlakyGateway(GatewayBroker):
    """The same for a gateway."""

    lose: str | None = None

    async def _run(self, name: str, root: bytes, *arguments: Argument) -> list[Reply]:
        lose, self.lose = self.lose, None
        if lose == "request":
            raise BrokerDown("the request was lost")
        reply = await super()._run(name, root, *arguments)
        if lose == "reply":
            raise BrokerDown("the reply was lost")
        return reply


def worker_on(link: Link, name: str = "w", models: Sequence[str] = (MODEL,), *, shards: int = 1) -> WorkerBroker:
    """A worker whose lease outlives every test, unless the test ends it."""
    worker = WorkerBroker(link, name, models, 3600.0, shards)
    worker.begin()
    return worker


def work(worker: WorkerBroker, taken: Taken, *, until: int | None = None) -> Output:
    """What remains of an execution, up to event number `until`."""
    return Output(taken.envelope.execution_id, tuple(script_of(taken.envelope)[len(taken.journal) : until]))


def lapse(client: redis.Redis, worker: WorkerBroker) -> None:
    """Let a worker's lease run out."""
    client.zadd(f"{ROOT}ws", {worker.life: 1}, xx=True)


@dataclass
class Listener:
    """A gateway's view of its frames: events by execution. Fails on a gap, a repeat, or anything after the end."""

    client: redis.Redis
    gateway: GatewayBroker
    events: dict[str, list[Event]] = field(default_factory=dict)
    # Next event of each execution as the stream brings them, repeats included.
    raw: dict[str, int] = field(default_factory=dict)
    read_to: str = "-"

    def listen(self, execution_id: str, events: Sequence[Event] = (), n_events: int = 0) -> None:
        """Begin with what `follow` returned."""
        self.read()
        known = self.events.setdefault(execution_id, [])
        known.extend(events)
        self.raw[execution_id] = max(n_events, self.raw.get(execution_id, 0))

    def read(self) -> None:
        stream = f"{ROOT}out:{self.gateway.gateway_id}"
        for name, fields in self.client.xrange(stream, min=self.read_to):
            self.read_to = f"({name.decode()}"
            for item in Frame.FromString(fields[b"f"]).items:
                self._take(item.execution_id, item.first_event, item.event_count, item.events, item.terminal)

    def _take(self, name: str, first: int, count: int, events: bytes, terminal: bool) -> None:
        found = journal.decode(events)
        assert len(found) == count
        assert terminal == is_terminal(found[-1])
        if name not in self.events:
            return
        assert first == self.raw[name], f"{name}: frame continues at {first}, not at {self.raw[name]}"
        self.raw[name] = first + count
        known = self.events[name]
        assert first <= len(known)
        fresh = found[len(known) - first :]
        assert not (fresh and known and is_terminal(known[-1])), f"{name}: events after the end"
        known.extend(fresh)


def check_events(asked: Envelope, events: Sequence[Event]) -> None:
    """Events 0, 1, 2, ... without gap or repeat, and one terminal event at the end."""
    assert events, "no event arrived"
    assert [is_terminal(event) for event in events] == [False] * (len(events) - 1) + [True]
    expected = script_of(asked)
    assert list(events[:-1]) == expected[: len(events) - 1]
    end = events[-1]
    if end.WhichOneof("kind") == "finished":
        assert len(events) == len(expected)
    else:
        assert end in (
            failures.cancelled(),
            failures.deadline_queue(),
            failures.deadline_compute(),
            failures.poisoned(),
        )


FOREVER = ("lane:", "adm", "bell", "dead", "ws", "lives", "ends", "use", "turn:")


def check_clean(client: redis.Redis, living: Sequence[str]) -> None:
    """Nothing waits, nothing is owned, nothing is charged; every key ends but a fixed list."""
    assert client.hgetall(f"{ROOT}adm") == {}
    assert {life.decode() for life in client.zrange(f"{ROOT}ws", 0, -1)} == set(living)
    assert {life.decode() for life in client.hkeys(f"{ROOT}lives")} == set(living)
    for key in (name.decode() for name in client.scan_iter()):
        if key.startswith(f"{ROOT}lane:"):
            assert client.xlen(key) == 0, key
            for group in client.xinfo_groups(key):
                assert group["pending"] == 0, key
        if key == "xs:{registry}:shards" or key.removeprefix(ROOT).startswith(FOREVER):
            continue
        assert client.pttl(key) > 0, f"{key} never ends"
