"""The gateway's end: admission, joining, following, cancelling, deadlines, frames and their repair."""

from __future__ import annotations

import asyncio

import pytest
import redis
from broker.play import (
    MODEL,
    ROOT,
    Listener,
    check_events,
    delta,
    envelope,
    finished,
    script_of,
    work,
)
from xlmstream.v1.common_pb2 import PRIORITY_BULK, PRIORITY_INTERACTIVE
from xlmstream_server.broker import (
    Arrival,
    BrokerMisconfigured,
    GatewayBroker,
    NotFound,
    Output,
    QueueFull,
    QueueLimits,
    RequestIdReused,
    State,
    Stop,
    WorkerBroker,
    failures,
    gateway_link,
    journal,
)
from xlmstream_server.broker.v1.messages_pb2 import FrameItem, WorkerCard


@pytest.mark.parametrize(
    ("limits", "bound", "fits"),
    [
        (QueueLimits(max_requests=3), "requests", 3),
        (QueueLimits(max_bytes=1000), "bytes", 5),
        (QueueLimits(max_tokens=14), "tokens", 2),
        (QueueLimits(tenant_max_requests=3), "tenant requests", 3),
        (QueueLimits(tenant_max_bytes=1000), "tenant bytes", 5),
        (QueueLimits(tenant_max_tokens=14), "tenant tokens", 2),
    ],
)
async def test_queue_full(
    broker_url: str, client: redis.Redis, worker: WorkerBroker, limits: QueueLimits, bound: str, fits: int
) -> None:
    async with await GatewayBroker.connect(broker_url, limits=limits) as gateway:
        padding = bytes(200 - envelope(gateway).ByteSize() + len(b"prompt") - 1)
        asked = [envelope(gateway, request=padding) for _ in range(fits + 1)]
        assert {one.ByteSize() for one in asked} <= {199, 200}
        for one in asked[:fits]:
            await gateway.submit(one)
        with pytest.raises(QueueFull) as refused:
            await gateway.submit(asked[fits])
        assert refused.value.bound == bound
        assert 0.1 <= refused.value.retry_after_s <= 10
        assert not client.exists(f"{ROOT}r:{asked[fits].execution_id}")
        if bound.startswith("tenant"):
            await gateway.submit(envelope(gateway, tenant="another"))
        assert worker.take(1)  # what runs no longer waits
        await gateway.submit(asked[fits])


async def test_retry_hint_follows_the_age_of_the_queue(broker_url: str, client: redis.Redis) -> None:
    async with await GatewayBroker.connect(broker_url, limits=QueueLimits(max_requests=1)) as gateway:
        # An entry that has waited for 6 s.
        begun_ms = gateway.now_ms() - 6000
        client.xadd(f"{ROOT}lane:{MODEL}:2", {"i": "x"}, id=f"{begun_ms}-0")
        await gateway.submit(envelope(gateway))
        with pytest.raises(QueueFull) as refused:
            await gateway.submit(envelope(gateway))
        assert 2.9 <= refused.value.retry_after_s <= (gateway.now_ms() - begun_ms) / 2000 + 0.1
        (load,) = await gateway.load()
        waited_s = (gateway.now_ms() - begun_ms) / 1000
        assert (load.model, load.requests, load.tokens) == (MODEL, 1, 7)
        assert 5.9 <= load.oldest_wait_s <= waited_s + 0.1


async def test_request_id_joins_and_refuses_other_content(
    gateway: GatewayBroker, other_gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    name = gateway.id_for("default", "mine")
    assert name == other_gateway.id_for("default", "mine")
    others = [gateway.id_for("default", "mine", 1), gateway.id_for("other", "mine"), gateway.id_for("defaultm", "ine")]
    assert len({name, *others}) == 4
    asked = envelope(gateway, name, journaled=True)
    again = envelope(other_gateway, name, journaled=True, seed=3, resume_secret="another")
    answers = await asyncio.gather(
        *(gateway.submit(asked) for _ in range(50)), *(other_gateway.submit(again) for _ in range(50))
    )
    assert [answer.joined for answer in answers].count(False) == 1
    with pytest.raises(RequestIdReused):
        await gateway.submit(envelope(gateway, name, journaled=True, request=b"another prompt"))
    (taken,) = worker.take(8)
    worker.publish([work(worker, taken)])
    submitted = await other_gateway.submit(again)
    assert (submitted.joined, submitted.state) == (True, State.DONE)
    followed = await other_gateway.follow(name)
    assert list(followed.events) == script_of(asked)
    assert followed.envelope == taken.envelope
    assert followed.envelope == await other_gateway.envelope(name)


async def test_follow_continues_on_another_gateway_without_gap_or_repeat(
    client: redis.Redis, gateway: GatewayBroker, other_gateway: GatewayBroker, listener: Listener, worker: WorkerBroker
) -> None:
    asked = envelope(gateway, length=6, journaled=True)
    listener.listen(asked.execution_id)
    await gateway.submit(asked)
    (taken,) = worker.take(1)
    worker.publish([Output(asked.execution_id, tuple(script_of(asked)[:3]))])
    other = Listener(client, other_gateway)
    followed = await other_gateway.follow(asked.execution_id, 2)
    assert (followed.state, followed.n_events, len(followed.events)) == (State.RUNNING, 3, 1)
    audited = (await gateway.audit([asked.execution_id]))[asked.execution_id]
    assert (audited.state, audited.n_events, audited.journaled) == (State.RUNNING, 3, True)
    other.listen(asked.execution_id, script_of(asked)[:2] + list(followed.events), followed.n_events)
    worker.publish([Output(asked.execution_id, tuple(script_of(asked)[3:]))])
    for one in (listener, other):
        one.read()
        assert one.events[asked.execution_id] == script_of(asked)
    late = await other_gateway.follow(asked.execution_id, 99)
    assert (late.events, late.n_events, late.state) == ((), 7, State.DONE)
    assert taken.attempt == 1


async def test_deadline_passes_in_the_queue(gateway: GatewayBroker, listener: Listener, worker: WorkerBroker) -> None:
    soon = envelope(gateway, journaled=True, deadline_ms=gateway.now_ms() - 1)
    dropped = envelope(gateway, deadline_ms=gateway.now_ms() - 1)
    later = envelope(gateway)
    for asked in (soon, dropped, later):
        listener.listen(asked.execution_id)
        await gateway.submit(asked)
    assert await gateway.expire(later.execution_id) is State.QUEUED
    assert await gateway.expire(soon.execution_id) is State.QUEUED
    (taken,) = worker.take(8)  # the gateway's own timer was late for the second one: it is dropped unrun
    assert taken.envelope == later
    listener.read()
    for asked in (soon, dropped):
        assert listener.events[asked.execution_id] == [failures.deadline_queue()]
    audited = await gateway.audit([soon.execution_id, dropped.execution_id, later.execution_id, gateway.new_id()])
    assert [one.state for one in audited.values()] == [State.EXPIRED, State.EXPIRED, State.RUNNING, None]


async def test_deadline_passes_while_running(
    client: redis.Redis,
    gateway: GatewayBroker,
    listener: Listener,
    worker: WorkerBroker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker notices, or the gateway tells it."""
    asked, told = envelope(gateway, deadline_ms=gateway.now_ms() + 60_000), envelope(gateway)
    for one in (asked, told):
        listener.listen(one.execution_id)
        await gateway.submit(one)
    assert len(worker.take(2)) == 2
    assert worker.publish([]).stop == {}
    client.hset(f"{ROOT}r:{told.execution_id}", "deadline", gateway.now_ms())
    assert await gateway.expire(told.execution_id) is State.RUNNING
    assert abs(worker.now_ms() - gateway.now_ms()) < 1000
    monkeypatch.setattr(worker, "now_ms", lambda: asked.deadline_ms)
    assert worker.publish([]).stop == {asked.execution_id: Stop.EXPIRED, told.execution_id: Stop.EXPIRED}
    worker.publish([Output(asked.execution_id, (failures.deadline_compute(),))])
    assert (await gateway.audit([asked.execution_id]))[asked.execution_id].state is State.EXPIRED
    listener.read()
    assert listener.events[asked.execution_id] == [failures.deadline_compute()]


async def test_cancel(gateway: GatewayBroker, listener: Listener, worker: WorkerBroker) -> None:
    queued, running = (envelope(gateway, priority=p, journaled=True) for p in (PRIORITY_BULK, PRIORITY_INTERACTIVE))
    for asked in (queued, running):
        listener.listen(asked.execution_id)
        await gateway.submit(asked)
    (taken,) = worker.take(1)
    assert taken.envelope == running
    assert await gateway.cancel(queued.execution_id) is State.QUEUED
    assert await gateway.cancel(queued.execution_id) is State.CANCELLED
    assert await gateway.cancel(running.execution_id) is State.RUNNING
    assert worker.publish([]).stop == {running.execution_id: Stop.CANCELLED}
    assert worker.publish([Output(running.execution_id, (delta(f"{running.execution_id}-0"),))]).stop
    published = worker.publish([Output(running.execution_id, (failures.cancelled(),))])
    assert (published.stop, published.waiting, worker.held) == ({}, 0, ())
    listener.read()
    check_events(queued, listener.events[queued.execution_id])
    check_events(running, listener.events[running.execution_id])
    for unknown in (gateway.new_id(), "", "ff" + "a" * 26, "00" + "A" * 26, "../../etc/passwd"):
        with pytest.raises(NotFound):
            await gateway.cancel(unknown)


async def test_leaving_ends_the_work_unless_it_may_detach(
    client: redis.Redis, gateway: GatewayBroker, other_gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    ends = envelope(gateway, journaled=True)
    shared = envelope(gateway, journaled=True)
    stays = envelope(gateway, journaled=True, detach=True)
    waits = envelope(gateway, journaled=True, priority=PRIORITY_BULK)
    for asked in (ends, shared, stays, waits):
        await gateway.submit(asked)
    await other_gateway.follow(shared.execution_id)
    worker.take(3)
    for asked in (ends, shared, stays, waits):
        await gateway.leave(asked.execution_id)
    await gateway.leave(gateway.new_id())
    assert worker.publish([]).stop == {ends.execution_id: Stop.CANCELLED}
    assert (await gateway.audit([waits.execution_id]))[waits.execution_id].state is State.CANCELLED
    await other_gateway.leave(shared.execution_id)
    assert worker.publish([]).stop.keys() == {ends.execution_id, shared.execution_id}
    # A returning listener stops the clock, the end of the grace period the work.
    client.hset(f"{ROOT}r:{stays.execution_id}", "orphan", gateway.now_ms() - 29_000)
    assert stays.execution_id not in worker.publish([]).stop
    await other_gateway.follow(stays.execution_id)
    assert not client.hexists(f"{ROOT}r:{stays.execution_id}", "orphan")
    await other_gateway.leave(stays.execution_id)
    client.hset(f"{ROOT}r:{stays.execution_id}", "orphan", gateway.now_ms() - 31_000)
    assert worker.publish([]).stop[stays.execution_id] is Stop.ORPHANED


async def test_a_detached_execution_without_listener_ends_after_its_grace(
    client: redis.Redis, gateway: GatewayBroker, listener: Listener, worker: WorkerBroker
) -> None:
    asked = envelope(gateway, journaled=True, detach=True)
    name, events = asked.execution_id, script_of(asked)
    listener.listen(name)
    await gateway.submit(asked)
    worker.take(1)
    await gateway.leave(name)
    assert worker.publish([Output(name, tuple(events[:1]))]).stop == {}
    client.hset(f"{ROOT}r:{name}", "orphan", gateway.now_ms() - 31_000)
    assert worker.publish([]).stop == {name: Stop.ORPHANED}
    listener.read()
    assert listener.events[name] == []  # it left, so nothing more comes
    followed = await gateway.follow(name)
    assert list(followed.events) == events[:1]
    assert worker.publish([]).stop == {}


async def test_who_follows_a_waiting_request_hears_of_it_too(
    client: redis.Redis, gateway: GatewayBroker, other_gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    asked = envelope(gateway, journaled=True)
    listeners = [Listener(client, one) for one in (gateway, other_gateway)]
    await gateway.submit(asked)
    await other_gateway.follow(asked.execution_id)
    for one in listeners:
        one.listen(asked.execution_id)
    (taken,) = worker.take(1)
    worker.publish([work(worker, taken)])
    for one in listeners:
        one.read()
        assert one.events[asked.execution_id] == script_of(asked)


async def test_a_dead_gateway_orphans_its_work(
    broker_url: str, client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    dying = await GatewayBroker.connect(broker_url)
    running, waiting, resumed = (envelope(dying, journaled=True) for _ in range(3))
    for asked in (running, resumed, waiting):
        await dying.submit(asked)
    worker.take(2)
    await dying.close()
    for _ in range(3):
        assert worker.publish([]).stop == {}  # it may be on its way back
    await gateway.follow(resumed.execution_id)
    for asked in (running, resumed, waiting):
        if client.hexists(f"{ROOT}r:{asked.execution_id}", "orphan"):
            client.hset(f"{ROOT}r:{asked.execution_id}", "orphan", gateway.now_ms() - 6000)
    assert worker.publish([]).stop == {running.execution_id: Stop.ORPHANED}
    client.hset(f"{ROOT}r:{waiting.execution_id}", "orphan", gateway.now_ms() - 6000)
    assert worker.take(1) == []
    assert (await gateway.audit([waiting.execution_id]))[waiting.execution_id].state is State.CANCELLED


async def test_a_gateway_that_was_away_a_moment_is_forgiven(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    asked = envelope(gateway, length=5, journaled=True)
    record, name = f"{ROOT}r:{asked.execution_id}", f"{ROOT}gw:{gateway.gateway_id}"
    await gateway.submit(asked)
    worker.take(1)
    value = client.getdel(name)
    for event in script_of(asked)[:2]:
        assert worker.publish([Output(asked.execution_id, (event,))]).stop == {}
    assert client.hexists(record, "orphan")
    client.set(name, value, px=15_000)
    assert worker.publish([]).stop == {}
    assert not client.hexists(record, "orphan")
    assert list((await gateway.follow(asked.execution_id)).events) == script_of(asked)[:2]


async def read_until(gateway: GatewayBroker, n_items: int) -> tuple[list[FrameItem], list[bool]]:
    """Items and gap flags of the frames up to the given number of items."""
    items: list[FrameItem] = []
    gaps: list[bool] = []
    frames = gateway.frames()
    async with asyncio.timeout(10):
        async for arrival in frames:
            items += arrival.frame.items
            gaps.append(arrival.gap)
            if len(items) >= n_items:
                break
    await frames.aclose()
    return items, gaps


async def test_frames_arrive_in_order_and_are_trimmed(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    asked = envelope(gateway, length=300, journaled=True)
    await gateway.submit(asked)
    worker.take(1)
    reading = asyncio.create_task(read_until(gateway, 301))
    for event in script_of(asked):
        worker.publish([Output(asked.execution_id, (event,))])
        await asyncio.sleep(0)
    items, gaps = await reading
    assert [item.first_event for item in items] == list(range(301))
    assert [item.terminal for item in items] == [False] * 300 + [True]
    assert not any(gaps)
    assert client.xlen(f"{ROOT}out:{gateway.gateway_id}") < 301


async def test_silence_trims_the_last_frames(client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker) -> None:
    asked = envelope(gateway, length=3, journaled=True)
    await gateway.submit(asked)
    worker.take(1)
    for event in script_of(asked):
        worker.publish([Output(asked.execution_id, (event,))])
    frames = gateway.frames()
    for _ in range(4):
        await anext(frames)
    further = asyncio.ensure_future(anext(frames))
    async with asyncio.timeout(60):
        while client.xlen(f"{ROOT}out:{gateway.gateway_id}") > 1:  # noqa: ASYNC110 - the broker's, not ours
            await asyncio.sleep(0.02)
    further.cancel()
    await asyncio.gather(further, return_exceptions=True)


async def test_what_was_trimmed_unread_is_repaired_from_the_journal(broker_url: str, worker: WorkerBroker) -> None:
    async with await GatewayBroker.connect(broker_url, most_frames=8) as gateway:
        asked = envelope(gateway, length=20, journaled=True)
        await gateway.submit(asked)
        worker.take(1)
        for event in script_of(asked):
            worker.publish([Output(asked.execution_id, (event,))])
        items, gaps = await read_until(gateway, 8)
        assert [item.first_event for item in items] == list(range(13, 21))
        assert gaps == [True] + [False] * 7
        audited = (await gateway.audit([asked.execution_id]))[asked.execution_id]
        assert (audited.state, audited.n_events, audited.journaled) == (State.DONE, 21, True)
        assert list((await gateway.follow(asked.execution_id)).events) == script_of(asked)


async def test_a_lost_stream_is_noticed(
    broker_url: str, client: redis.Redis, worker: WorkerBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_link, "BEAT_S", 0.01)
    gateway = await GatewayBroker.connect(broker_url)
    asked = envelope(gateway, length=2, journaled=True)
    await gateway.submit(asked)
    worker.take(1)
    worker.publish([Output(asked.execution_id, tuple(script_of(asked)[:1]))])
    frames = gateway.frames()
    assert (await anext(frames)).gap is False
    client.delete(f"{ROOT}out:{gateway.gateway_id}")
    async with asyncio.timeout(10):
        arrival: Arrival = await anext(frames)
    assert (arrival.gap, len(arrival.frame.items)) == (True, 0)
    await frames.aclose()
    await gateway.close()


async def test_a_large_result_goes_by_reference(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    asked = envelope(gateway)
    await gateway.submit(asked)
    worker.take(1)
    large = (delta("x" * 100_000), finished())
    worker.publish([Output(asked.execution_id, large)])
    (item,), _ = await read_until(gateway, 1)
    assert (item.event_count, item.events, item.terminal) == (2, b"", True)
    assert (await gateway.follow(asked.execution_id)).events == large


async def test_unjournaled_events_leave_with_the_terminal_one(
    gateway: GatewayBroker, listener: Listener, worker: WorkerBroker
) -> None:
    asked = envelope(gateway, length=2)
    name = asked.execution_id
    listener.listen(name)
    await gateway.submit(asked)
    worker.take(1)
    for event in script_of(asked)[:2]:
        worker.publish([Output(name, (event,))])
    listener.read()
    assert listener.events[name] == []
    worker.publish([Output(name, (finished(),))])
    listener.read()
    assert listener.events[name] == script_of(asked)
    followed = await gateway.follow(name)
    assert (followed.state, followed.events, followed.n_events, followed.journaled) == (State.DONE, (), 3, False)
    # A gateway that lost the frame has it run again.
    assert (await gateway.submit(asked)).joined
    again = await gateway.submit(asked, rerun=True)
    assert (again.joined, again.state) == (False, State.QUEUED)
    assert (await gateway.submit(asked, rerun=True)).joined
    (taken,) = worker.take(1)
    assert (taken.attempt, taken.journal) == (1, ())


async def test_journaled_results_are_not_run_again(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    asked = envelope(gateway, journaled=True)
    await gateway.submit(asked)
    (taken,) = worker.take(1)
    worker.publish([work(worker, taken)])
    assert (await gateway.submit(asked, rerun=True)).joined
    assert worker.take(1) == []


async def test_registry(client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker) -> None:
    assert await gateway.models() == []
    worker.register(WorkerCard(version="1.2.3"))
    (found,) = await gateway.models()
    assert (found.card.worker, found.card.version, found.alive) == (worker.life, "1.2.3", True)
    client.zadd("xs:{registry}:seen", {"w": gateway.now_ms() - 1})
    (found,) = await gateway.models()
    assert not found.alive
    client.zadd("xs:{registry}:seen", {"w": gateway.now_ms() - 300_001})
    assert await gateway.models() == []


async def test_a_worker_that_ends_in_order_is_out_of_the_registry_at_once(
    broker_url: str, client: redis.Redis, gateway: GatewayBroker
) -> None:
    with WorkerBroker.connect(broker_url, worker_id="w", models=[MODEL]) as first:
        first.register(WorkerCard(version="1"))
    (found,) = await gateway.models()
    assert (found.card.worker, found.alive) == (first.life, False)  # its models are known still
    with WorkerBroker.connect(broker_url, worker_id="w", models=[MODEL]) as second:
        second.register(WorkerCard(version="2"))
        with WorkerBroker.connect(broker_url, worker_id="w", models=[MODEL]):
            pass  # another life under the same name
        (found,) = await gateway.models()
        assert (found.card.worker, found.alive) == (second.life, True)


async def test_several_shards(broker_url: str, client: redis.Redis) -> None:
    client.delete("xs:{registry}:shards")
    async with await GatewayBroker.connect(broker_url, shards=4) as gateway:
        with WorkerBroker.connect(broker_url, worker_id="w", models=[MODEL], shards=4) as worker:
            asked = [envelope(gateway, length=1) for _ in range(40)]
            for one in asked:
                await gateway.submit(one)
            assert len({one.execution_id[:2] for one in asked}) == 4
            assert sum(load.requests for load in await gateway.load()) == 40
            taken = [one for n in (16, 24) for one in worker.take(n)]
            assert {one.envelope.execution_id for one in taken} == {one.execution_id for one in asked}
            worker.publish([work(worker, one) for one in taken])
            items, gaps = await read_until(gateway, 40)
            assert {item.execution_id for item in items} == {one.execution_id for one in asked}
            assert not any(gaps)
            audited = await gateway.audit([one.execution_id for one in asked])
            assert {one.state for one in audited.values()} == {State.DONE}
            assert not worker.wait(0.01)
    with pytest.raises(BrokerMisconfigured, match="4"):
        await GatewayBroker.connect(broker_url, shards=2)
    with pytest.raises(BrokerMisconfigured, match="4"):
        WorkerBroker.connect(broker_url, worker_id="w", models=[MODEL], shards=2)


def test_the_journal_splits_where_protobuf_does() -> None:
    events = [delta("x" * n) for n in (0, 1, 120, 121, 128, 16_384)]
    kept = b"".join(journal.encode(event) for event in events)
    assert list(journal.decode(kept)) == events
    assert journal.decode(kept, 4) == tuple(events[4:])
    assert b"".join(journal.split(kept)) == kept
    assert journal.decode(kept, 99) == ()
