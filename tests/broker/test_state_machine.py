"""Random histories of the queue against a real broker: crashes, zombies, requests and replies lost at any call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import redis
from broker.play import (
    MODEL,
    ROOT,
    FlakyGateway,
    FlakyLink,
    Listener,
    check_clean,
    check_events,
    envelope,
    is_terminal,
    lapse,
    script_of,
    worker_on,
)
from effort import examples
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from xlmstream_server.broker import BrokerDown, Fenced, NotFound, Output, State, Stop, WorkerBroker, failures
from xlmstream_server.broker.v1.messages_pb2 import Envelope, Event

T = TypeVar("T")
LOSE = st.sampled_from([None, None, None, "request", "reply", "reply"])
PICK = st.integers(0, 1000)
OTHER_MODEL = "other@1"


class Worker:
    """A worker process: what it believes it runs, and how far it is."""

    def __init__(self, url: str, name: str) -> None:
        self.link = FlakyLink(url)
        self.broker: WorkerBroker = worker_on(self.link, name, (MODEL, OTHER_MODEL))
        self.rows: dict[str, tuple[Envelope, int]] = {}

    def call(self, lose: str | None, call: Callable[[], T]) -> T:
        """As the worker's loop does it: after BrokerDown the same again."""
        self.link.lose = lose
        try:
            return call()
        except BrokerDown:
            return call()


class Queue(RuleBasedStateMachine):
    url: str

    @initialize()
    def start(self) -> None:
        self.client = redis.Redis.from_url(self.url)
        self.client.flushdb()
        self.runner = asyncio.Runner()
        self.gateways: list[FlakyGateway] = []
        self.listeners: dict[str, Listener] = {}
        self.workers: list[Worker] = []
        self.zombies: list[Worker] = []
        self.asked: dict[str, Envelope] = {}
        self.lives = 0
        for _ in range(2):
            self.gateway_starts()
        for _ in range(2):
            self.worker_starts()

    def run(self, gateway: FlakyGateway, lose: str | None, call: Callable[[], Awaitable[T]]) -> T:
        async def calling() -> T:
            gateway.lose = lose
            try:
                return await call()
            except BrokerDown:
                return await call()

        return self.runner.run(calling())

    def pick_id(self, pick: int) -> str:
        return list(self.asked)[pick % len(self.asked)]

    # ---------------------------------------------------------------- gateways

    @rule()
    @precondition(lambda self: len(self.gateways) < 3)
    def gateway_starts(self) -> None:
        gateway = self.runner.run(FlakyGateway.connect(self.url))
        self.gateways.append(gateway)
        self.listeners[gateway.gateway_id] = Listener(self.client, gateway)

    @rule(pick=PICK)
    @precondition(lambda self: len(self.gateways) > 1)
    def gateway_dies(self, pick: int) -> None:
        gateway = self.gateways.pop(pick % len(self.gateways))
        del self.listeners[gateway.gateway_id]
        self.runner.run(gateway.close())

    @rule(pick=PICK, lose=LOSE, journaled=st.booleans(), detach=st.booleans(), length=st.integers(0, 4), bulk=PICK)
    def submit(self, pick: int, lose: str | None, journaled: bool, detach: bool, length: int, bulk: int) -> None:
        gateway = self.gateways[pick % len(self.gateways)]
        asked = envelope(
            gateway,
            length=length,
            journaled=journaled or detach,
            detach=detach,
            priority=bulk % 4,
            tenant=f"tenant|{bulk % 2}",
            model=(MODEL, OTHER_MODEL)[bulk % 5 == 4],
        )
        self.listeners[gateway.gateway_id].listen(asked.execution_id)
        submitted = self.run(gateway, lose, lambda: gateway.submit(asked))
        assert submitted.joined == (lose == "reply")
        self.asked[asked.execution_id] = asked

    @rule(pick=PICK, who=PICK, lose=LOSE)
    @precondition(lambda self: self.asked)
    def joins(self, pick: int, who: int, lose: str | None) -> None:
        """A twin arrives at any gateway, or a stream is resumed there."""
        gateway, name = self.gateways[who % len(self.gateways)], self.pick_id(pick)
        listener = self.listeners[gateway.gateway_id]
        assert self.run(gateway, lose, lambda: gateway.submit(self.asked[name])).joined
        known = listener.events.get(name, [])
        followed = self.run(gateway, lose, lambda: gateway.follow(name, len(known)))
        assert followed.envelope == self.asked[name]
        if not followed.journaled and followed.n_events:
            return  # ended, and nobody else can have its result
        listener.events.setdefault(name, [])
        # What lies unread in the stream comes before what was returned, and is the same.
        before = len(listener.events[name])
        if name in listener.raw:
            listener.read()
            followed_events = followed.events[len(listener.events[name]) - before :]
        else:
            followed_events = followed.events
        listener.events[name].extend(followed_events)
        listener.raw[name] = followed.n_events

    @rule(pick=PICK, who=PICK, lose=LOSE)
    @precondition(lambda self: self.asked)
    def leaves(self, pick: int, who: int, lose: str | None) -> None:
        gateway, name = self.gateways[who % len(self.gateways)], self.pick_id(pick)
        listener = self.listeners[gateway.gateway_id]
        listener.read()
        self.run(gateway, lose, lambda: gateway.leave(name))
        if name in listener.events:
            del listener.events[name], listener.raw[name]

    @rule(pick=PICK, who=PICK, lose=LOSE)
    @precondition(lambda self: self.asked)
    def cancels(self, pick: int, who: int, lose: str | None) -> None:
        gateway, name = self.gateways[who % len(self.gateways)], self.pick_id(pick)
        self.run(gateway, lose, lambda: gateway.cancel(name))

    @rule(pick=PICK, who=PICK, lose=LOSE)
    @precondition(lambda self: self.asked)
    def deadline_passes(self, pick: int, who: int, lose: str | None) -> None:
        gateway, name = self.gateways[who % len(self.gateways)], self.pick_id(pick)
        self.client.hset(f"{ROOT}r:{name}", "deadline", self.asked[name].accepted_ms)
        if pick % 2:
            self.run(gateway, lose, lambda: gateway.expire(name))

    @rule(pick=PICK)
    @precondition(lambda self: self.asked)
    def grace_ends(self, pick: int) -> None:
        key = f"{ROOT}r:{self.pick_id(pick)}"
        if self.client.hexists(key, "orphan"):
            self.client.hset(key, "orphan", 1)

    @rule()
    def listeners_read(self) -> None:
        for listener in self.listeners.values():
            listener.read()

    # ---------------------------------------------------------------- workers

    @rule()
    @precondition(lambda self: len(self.workers) < 3)
    def worker_starts(self) -> None:
        self.lives += 1
        self.workers.append(Worker(self.url, f"w{self.lives}"))

    @rule(pick=PICK, frozen=st.booleans())
    @precondition(lambda self: len(self.workers) > 1)
    def worker_dies(self, pick: int, frozen: bool) -> None:
        """Or is frozen and wakes later."""
        worker = self.workers.pop(pick % len(self.workers))
        lapse(self.client, worker.broker)
        if frozen:
            self.zombies.append(worker)

    @rule(lose=LOSE, length=st.integers(0, 3))
    @precondition(lambda self: self.zombies)
    def zombie_wakes(self, lose: str | None, length: int) -> None:
        zombie = self.zombies.pop()
        reaped = self.client.zscore(f"{ROOT}ws", zombie.broker.life) is None
        try:
            self.advance(zombie, lose, length)
            assert not reaped, "a reaped worker published"
            zombie.broker.renew()
        except Fenced:
            assert reaped
            zombie.rows.clear()
            zombie.broker.begin()
        self.workers.append(zombie)

    @rule(pick=PICK, lose=LOSE, n=st.integers(1, 4))
    @precondition(lambda self: self.workers)
    def take(self, pick: int, lose: str | None, n: int) -> None:
        worker = self.workers[pick % len(self.workers)]
        taken = worker.call(lose, lambda: worker.broker.take(n))
        assert len(taken) <= n
        for one in taken:
            name = one.envelope.execution_id
            assert name not in worker.rows, "given twice"
            assert one.envelope == self.asked[name]
            assert list(one.journal) == script_of(one.envelope)[: len(one.journal)]
            assert one.alone == (one.attempt > 1)
            assert not one.alone or (len(taken) == 1 and not worker.rows)
            worker.rows[name] = (one.envelope, len(one.journal))

    @rule(pick=PICK, lose=LOSE, length=st.integers(0, 3))
    @precondition(lambda self: self.workers)
    def step(self, pick: int, lose: str | None, length: int) -> None:
        self.advance(self.workers[pick % len(self.workers)], lose, length)

    def advance(self, worker: Worker, lose: str | None, length: int) -> None:
        """`length` more events of every row; then what the broker wants ended is ended."""
        outputs = []
        for name, (asked, at) in list(worker.rows.items()):
            events = script_of(asked)[at : at + length]
            outputs.append(Output(name, tuple(events)))
            worker.rows[name] = (asked, at + len(events))
            if events and is_terminal(events[-1]):
                del worker.rows[name]
        worker.link.lose = lose
        try:
            published = worker.broker.publish(outputs)
        except BrokerDown:
            published = worker.broker.publish([])
        ends: list[Output] = []
        for name, stop in published.stop.items():
            del worker.rows[name]
            if stop is not Stop.LOST:
                event: Event = failures.deadline_compute() if stop is Stop.EXPIRED else failures.cancelled()
                ends.append(Output(name, (event,)))
        worker.call(lose, lambda: worker.broker.publish(ends))
        assert set(worker.rows) == set(worker.broker.held)

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: self.workers)
    def renew(self, pick: int, lose: str | None) -> None:
        worker = self.workers[pick % len(self.workers)]
        worker.call(lose, worker.broker.renew)

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: self.workers)
    def reap(self, pick: int, lose: str | None) -> None:
        worker = self.workers[pick % len(self.workers)]
        worker.call(lose, worker.broker.reap)

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: self.workers)
    def handoff(self, pick: int, lose: str | None) -> None:
        worker = self.workers[pick % len(self.workers)]
        worker.call(lose, lambda: worker.broker.handoff(list(worker.rows)))
        worker.rows.clear()

    @rule(pick=PICK, lose=LOSE)
    @precondition(lambda self: len(self.workers) > 1)
    def worker_stops(self, pick: int, lose: str | None) -> None:
        worker = self.workers.pop(pick % len(self.workers))
        worker.link.lose = lose
        worker.broker.close()
        if lose:  # it could not say goodbye properly
            lapse(self.client, worker.broker)

    # ---------------------------------------------------------------- what holds

    @invariant()
    def charged_is_what_waits(self) -> None:
        if not hasattr(self, "client"):
            return
        charged = sum(
            int(n)
            for field, n in self.client.hgetall(f"{ROOT}adm").items()
            if field.count(b"|") == 1 and field.endswith(b"|n")
        )
        states = [self.client.hget(f"{ROOT}r:{name}", "state") for name in self.asked]
        assert charged == states.count(b"QUEUED")

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        try:
            self.heal()
        finally:
            for gateway in self.gateways:
                self.runner.run(gateway.close())
            self.runner.close()
            self.client.close()

    def heal(self) -> None:
        """One healthy worker remains. Everything accepted must end, everything opened must have been delivered."""
        for worker in [*self.workers, *self.zombies]:
            lapse(self.client, worker.broker)
            worker.link.close()
        healthy = Worker(self.url, "healthy")
        for _ in range(200):
            healthy.broker.reap()
            for one in healthy.broker.take(8):
                healthy.rows[one.envelope.execution_id] = (one.envelope, len(one.journal))
            self.advance(healthy, None, 2)
            for name in healthy.rows:
                if self.client.hexists(f"{ROOT}r:{name}", "orphan"):
                    self.client.hset(f"{ROOT}r:{name}", "orphan", 1)
            waiting = self.client.exists(f"{ROOT}adm") or self.client.hlen(f"{ROOT}lives") > 1
            if not healthy.rows and not waiting:
                break
        check_clean(self.client, [healthy.broker.life])
        gateway = self.gateways[0]
        audited = self.runner.run(gateway.audit(list(self.asked)))
        for name, asked in self.asked.items():
            state = audited[name].state
            assert state is not None, "an accepted request was lost"
            assert state.terminal
            if audited[name].journaled:
                followed = self.runner.run(gateway.follow(name))
                check_events(asked, followed.events)
                assert (state is State.DONE) == (followed.events[-1].WhichOneof("kind") == "finished")
        for listener in self.listeners.values():
            listener.read()
            for name, events in listener.events.items():
                check_events(self.asked[name], events)
                assert len(events) == audited[name].n_events
        with pytest.raises(NotFound):
            self.runner.run(gateway.follow(gateway.new_id()))


def test_histories(broker_url: str) -> None:
    machine = type("Machine", (Queue,), {"url": broker_url})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples(60), stateful_step_count=50, suppress_health_check=list(HealthCheck)),
    )
