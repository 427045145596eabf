"""The worker's end: taking, publishing, leases, quarantine, handing over."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
import redis
from broker.job_play import spec, upload
from broker.play import (
    MODEL,
    ROOT,
    FlakyGateway,
    FlakyLink,
    Listener,
    check_clean,
    check_events,
    delta,
    envelope,
    lapse,
    script_of,
    work,
    worker_on,
)
from xlmstream.v1.common_pb2 import PRIORITY_BULK, PRIORITY_INTERACTIVE, PRIORITY_STANDARD
from xlmstream_server.broker import (
    BrokerDown,
    BrokerError,
    Fenced,
    GatewayBroker,
    Output,
    State,
    Stop,
    WorkerBroker,
    failures,
)
from xlmstream_server.broker.connection import Argument, Reply


class BreakingLink(FlakyLink):
    """A link that breaks before a later exchange."""

    breaks_after = -1

    def commands(self, commands: Sequence[Sequence[Argument]]) -> list[Reply | BrokerError]:
        self.breaks_after -= 1
        if self.breaks_after == -1:
            raise BrokerDown("the connection broke")
        return super().commands(commands)


async def test_higher_lanes_first_and_each_in_order(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    asked = {}
    for priority in (PRIORITY_BULK, PRIORITY_STANDARD, PRIORITY_INTERACTIVE):
        for i in range(2):
            one = envelope(gateway, priority=priority)
            asked[priority, i] = one.execution_id
            await gateway.submit(one)
    taken = [one.envelope.execution_id for n in (3, 2, 5) for one in worker.take(n)]
    order = [(p, i) for p in (PRIORITY_INTERACTIVE, PRIORITY_STANDARD, PRIORITY_BULK) for i in range(2)]
    assert taken == [asked[key] for key in order]
    assert worker.take(4) == []
    assert worker.held == tuple(taken)


async def test_one_worker_takes_for_its_own_models_only(broker_url: str, gateway: GatewayBroker) -> None:
    for model in ("a@1", "b@1", "a@2"):
        await gateway.submit(envelope(gateway, model=model))
    with worker_on(FlakyLink(broker_url), models=("a@1", "b@1")) as worker:
        assert worker.publish([]).waiting == 2
        assert {one.envelope.model for one in worker.take(9)} == {"a@1", "b@1"}
        assert worker.publish([]).waiting == 0


async def test_the_work_of_a_dead_worker_continues_from_its_journal(
    client: redis.Redis, gateway: GatewayBroker, listener: Listener, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    asked = envelope(gateway, length=5, journaled=True)
    listener.listen(asked.execution_id)
    await gateway.submit(asked)
    worker.take(1)
    worker.publish([Output(asked.execution_id, tuple(script_of(asked)[:2]))])
    assert other_worker.reap() == 0  # its lease holds
    lapse(client, worker)
    assert other_worker.reap() == 1
    (taken,) = other_worker.take(1)
    assert list(taken.journal) == script_of(asked)[:2]
    assert (taken.attempt, taken.alone) == (1, False)  # it had made progress
    with pytest.raises(Fenced):
        worker.publish([Output(asked.execution_id, tuple(script_of(asked)[2:]))])
    for refused in (worker.renew, worker.reap, lambda: worker.take(1)):
        with pytest.raises(Fenced):
            refused()
    other_worker.publish([work(other_worker, taken)])
    listener.read()
    assert listener.events[asked.execution_id] == script_of(asked)
    before = worker.life
    assert worker.begin() != before
    assert worker.held == ()
    worker.publish([])


@pytest.mark.parametrize("chunks", [False, True])
async def test_what_a_take_broken_off_between_shards_gave_comes_with_the_next(
    broker_url: str, client: redis.Redis, chunks: bool
) -> None:
    """The caller never saw what the first shards gave."""
    client.delete("xs:{registry}:shards")
    link = BreakingLink(broker_url)
    async with await GatewayBroker.connect(broker_url, shards=3) as gateway:
        worker = worker_on(link, shards=3)
        asked = {f"{shard:02x}{gateway.new_id()[2:]}" for shard in range(3)}
        if chunks:
            for i in range(12):  # of which each shard has some
                await gateway.jobs.create(spec(f"job-{i}"))
                await upload(gateway.jobs, 1, job_id=f"job-{i}")
        else:
            for name in asked:
                await gateway.submit(envelope(gateway, name))
        take = worker.take_chunks if chunks else worker.take
        link.breaks_after = 2
        with pytest.raises(BrokerDown):
            take(99)
        assert worker.held == ()
        given = take(99)
        if chunks:
            assert len(given) == 12
        else:
            assert {one.envelope.execution_id for one in given} == asked
        assert len(worker.held) == len(given)
        worker.close()


async def test_a_late_lease_that_nobody_reaped_goes_on(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    await gateway.submit(envelope(gateway))
    worker.take(1)
    for one in (worker, other_worker):
        lapse(client, one)
    assert other_worker.reap() == 0  # itself late: it must renew first
    worker.renew()
    other_worker.renew()
    assert other_worker.reap() == 0
    assert worker.publish([]).stop == {}


async def test_a_young_connection_does_not_reap(
    broker_url: str, client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    await gateway.submit(envelope(gateway))
    worker.take(1)
    lapse(client, worker)
    with WorkerBroker.connect(broker_url, worker_id="young", models=[MODEL], lease_s=30) as young:
        assert young.reap() == 0
    with WorkerBroker.connect(broker_url, worker_id="old", models=[MODEL], lease_s=0.001) as old:
        old.renew()
        assert worker.publish([]).stop == {}


async def test_reaping_is_bounded_and_finishes(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    for _ in range(70):
        await gateway.submit(envelope(gateway))
    assert len(worker.take(70)) == 70
    lapse(client, worker)
    assert [other_worker.reap() for _ in range(4)] == [32, 32, 6, 0]
    assert client.hkeys(f"{ROOT}lives") == [other_worker.life.encode()]
    assert other_worker.publish([]).waiting == 70


async def test_a_poison_request_dies_alone(
    broker_url: str, client: redis.Redis, gateway: GatewayBroker, listener: Listener
) -> None:
    """One poison request among seven: only it ends, after three workers died with it alone."""
    asked = [envelope(gateway, length=2, journaled=i % 2 == 0) for i in range(8)]
    for one in asked:
        listener.listen(one.execution_id)
        await gateway.submit(one)
    poison = asked[5].execution_id
    deaths = 0
    reaper = worker_on(FlakyLink(broker_url), "reaper")
    while deaths < 10:
        mortal = worker_on(FlakyLink(broker_url), f"mortal{deaths}")
        died = False
        while taken := mortal.take(8):
            if any(one.envelope.execution_id == poison for one in taken):
                died = True
                break
            mortal.publish([work(mortal, one) for one in taken])
        if not died:
            mortal.close()
            break
        deaths += 1
        lapse(client, mortal)
        reaper.reap()
    assert deaths == 4  # once in company, three times alone
    listener.read()
    for one in asked:
        check_events(one, listener.events[one.execution_id])
    assert listener.events.pop(poison) == [failures.poisoned()]
    assert all(events[-1].WhichOneof("kind") == "finished" for events in listener.events.values())
    ((_, dead),) = client.xrange(f"{ROOT}dead")
    assert (dead[b"id"], dead[b"deaths"]) == (poison.encode(), b"4")
    assert (await gateway.audit([poison]))[poison].state is State.DEAD
    reaper.close()


async def test_a_quarantined_request_waits_for_an_empty_worker(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    suspect, running, next_one = (envelope(gateway) for _ in range(3))
    await gateway.submit(suspect)
    worker.take(1)
    lapse(client, worker)
    await gateway.submit(running)
    other_worker.take(1)
    assert other_worker.reap() == 1
    await gateway.submit(next_one)
    assert other_worker.publish([]).waiting == 2
    assert other_worker.take(4) == []  # it empties itself first
    worker.begin()
    (free,) = worker.take(4)  # the others go on
    assert free.envelope == next_one
    other_worker.publish([Output(running.execution_id, tuple(script_of(running)))])
    (alone,) = other_worker.take(4)
    assert (alone.envelope, alone.attempt, alone.alone) == (suspect, 2, True)
    await gateway.submit(envelope(gateway))
    assert other_worker.take(4) == []
    other_worker.publish([work(other_worker, alone)])
    assert len(other_worker.take(4)) == 1


async def test_progress_keeps_a_request_out_of_quarantine(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    """Also where nothing of it was published, because its events are not kept."""
    asked = envelope(gateway)
    await gateway.submit(asked)
    worker.take(1)
    worker.publish([Output(asked.execution_id, tuple(script_of(asked)[:1]))])
    lapse(client, worker)
    other_worker.reap()
    (taken,) = other_worker.take(1)
    assert (taken.attempt, taken.alone, taken.journal) == (1, False, ())


async def test_handoff_keeps_the_journal_and_counts_no_attempt(
    client: redis.Redis, gateway: GatewayBroker, listener: Listener, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    asked = [envelope(gateway, length=3, journaled=True) for _ in range(3)]
    for one in asked:
        listener.listen(one.execution_id)
        await gateway.submit(one)
    worker.take(3)
    worker.publish([Output(asked[0].execution_id, tuple(script_of(asked[0])[:2]))])
    await gateway.cancel(asked[2].execution_id)
    assert worker.handoff(worker.held) == 2
    assert worker.held == ()
    assert not client.exists(f"{ROOT}own:{worker.life}", f"{ROOT}att:{worker.life}")
    worker.close()
    assert client.hkeys(f"{ROOT}lives") == [other_worker.life.encode()]
    taken = other_worker.take(8)
    assert [(one.attempt, len(one.journal)) for one in taken] == [(1, 2), (1, 0)]
    other_worker.publish([work(other_worker, one) for one in taken])
    listener.read()
    for one in asked:
        check_events(one, listener.events[one.execution_id])
    assert listener.events[asked[2].execution_id] == [failures.cancelled()]


@pytest.mark.parametrize("lost", ["submit", "take", "publish", "end", "handoff", "reap", "cancel", "stop", None])
async def test_a_repeated_call_changes_nothing(
    broker_url: str, client: redis.Redis, lost: str | None, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    """One history over every script; the reply of one call is lost and the call repeated, the outcome is the same."""
    gateway = await FlakyGateway.connect(broker_url)
    listener = Listener(client, gateway)

    def call(name: str, one: WorkerBroker, act: Callable[[], object]) -> object:
        assert isinstance(one._link, FlakyLink)
        one._link.lose = "reply" if name == lost else None
        if name != lost:
            return act()
        with pytest.raises(BrokerDown):
            act()
        return act()

    async def ask(name: str, act: Callable[[], Awaitable[object]]) -> None:
        gateway.lose = "reply" if name == lost else None
        if name == lost:
            with pytest.raises(BrokerDown):
                await act()
        await act()

    first, second, third = (envelope(gateway, length=4, journaled=True) for _ in range(3))
    for asked in (first, second, third):
        listener.listen(asked.execution_id)
        await ask("submit", lambda asked=asked: gateway.submit(asked))
    taken = call("take", worker, lambda: worker.take(3))
    assert isinstance(taken, list)
    assert [one.envelope for one in taken] == [first, second, third]
    outputs = [Output(one.execution_id, tuple(script_of(one)[:2])) for one in (first, second, third)]
    call("publish", worker, lambda: worker.publish(outputs and [outputs.pop()]))
    worker.publish(outputs)
    last = [Output(first.execution_id, tuple(script_of(first)[2:]))]
    call("end", worker, lambda: worker.publish(last and [last.pop()]))
    call("handoff", worker, lambda: worker.handoff([second.execution_id]))
    assert worker.held == (third.execution_id,)
    assert client.hkeys(f"{ROOT}own:{worker.life}") == [third.execution_id.encode()]
    assert worker.publish([]).waiting == 1
    await ask("cancel", lambda: gateway.cancel(third.execution_id))
    lapse(client, worker)
    call("reap", other_worker, other_worker.reap)
    with pytest.raises(Fenced):
        worker.publish([])
    (again,) = other_worker.take(5)
    assert (again.envelope, list(again.journal), again.attempt) == (second, script_of(second)[:2], 1)
    await ask("stop", lambda: gateway.cancel(second.execution_id))
    assert other_worker.publish([]).stop == {second.execution_id: Stop.CANCELLED}
    other_worker.publish([Output(second.execution_id, (failures.cancelled(),))])
    listener.read()
    assert listener.events[first.execution_id] == script_of(first)
    for one in (second, third):
        assert listener.events[one.execution_id] == [*script_of(one)[:2], failures.cancelled()]
    check_clean(client, [other_worker.life])
    await gateway.close()


async def test_output_outlives_a_lost_message(gateway: GatewayBroker, listener: Listener, worker: WorkerBroker) -> None:
    """What a lost reply leaves open goes along with later output, merged with it, and arrives once."""
    asked = envelope(gateway, length=5, journaled=True)
    name, events = asked.execution_id, script_of(asked)
    listener.listen(name)
    await gateway.submit(asked)
    worker.take(1)
    link = worker._link
    assert isinstance(link, FlakyLink)
    for lose, event in (("reply", events[0]), ("request", events[1]), ("reply", events[2])):
        link.lose = lose
        with pytest.raises(BrokerDown):
            worker.publish([Output(name, (event,))])
    worker.publish([Output(name, (events[3],))])
    link.lose = "reply"
    with pytest.raises(BrokerDown):
        worker.publish([Output(name, (events[4], events[5]))])
    assert worker.held == (name,)
    assert worker.publish([]).stop == {}
    assert worker.held == ()
    listener.read()
    assert listener.events[name] == events


async def test_a_broker_that_lost_its_last_second_is_filled_up(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    asked = envelope(gateway, length=5, journaled=True)
    name, events = asked.execution_id, script_of(asked)
    await gateway.submit(asked)
    worker.take(1)
    worker.publish([Output(name, tuple(events[:1]))])
    kept = client.get(f"{ROOT}j:{name}")
    worker.publish([Output(name, tuple(events[1:4]))])
    client.set(f"{ROOT}j:{name}", kept, keepttl=True)
    client.hset(f"{ROOT}own:{worker.life}", name, 1)
    worker.publish([Output(name, tuple(events[4:]))])
    assert list((await gateway.follow(name)).events) == events


async def test_rows_the_broker_no_longer_knows_are_dropped(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    asked = envelope(gateway, journaled=True)
    await gateway.submit(asked)
    worker.take(1)
    client.delete(f"{ROOT}r:{asked.execution_id}", f"{ROOT}own:{worker.life}")
    published = worker.publish([Output(asked.execution_id, (delta("x"),))])
    assert published.stop == {asked.execution_id: Stop.LOST}
    assert worker.held == ()
    assert not client.exists(f"{ROOT}r:{asked.execution_id}")
    assert not client.exists(f"{ROOT}j:{asked.execution_id}")
    await gateway.submit(asked)  # the gateway audits and submits it again
    assert worker.take(1)[0].envelope == asked


async def test_a_step_is_one_round_trip_and_one_frame_a_gateway(
    client: redis.Redis, gateway: GatewayBroker, other_gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    asked = [envelope(one, journaled=True) for one in (gateway, other_gateway) for _ in range(8)]
    for i, one in enumerate(asked):
        await (gateway, other_gateway)[i // 8].submit(one)
    worker.take(16)
    client.config_resetstat()
    worker.publish([Output(one.execution_id, tuple(script_of(one)[: 1 + i % 4])) for i, one in enumerate(asked)])
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
    for one in (gateway, other_gateway):
        assert client.xlen(f"{ROOT}out:{one.gateway_id}") == 2  # the stream's first entry, and this frame
    assert len(worker.held) == 12


async def test_the_bell(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    assert worker.take(1) == []
    assert worker.wait(0.01) is False
    await gateway.submit(envelope(gateway))
    assert worker.wait(2.0) is True  # rung since the last take
    assert len(worker.take(1)) == 1
    heard: list[bool] = []
    waiting = threading.Thread(target=lambda: heard.append(worker.wait(2.0)))
    waiting.start()
    await gateway.submit(envelope(gateway))
    waiting.join()
    assert heard == [True]


def test_names_are_checked(broker_url: str) -> None:
    for worker_id, models in (("", [MODEL]), ("a:b", [MODEL]), ("x" * 49, [MODEL]), ("w", []), ("w", ["a|b"])):
        with pytest.raises(ValueError, match=r"must be"):
            WorkerBroker.connect(broker_url, worker_id=worker_id, models=models)
