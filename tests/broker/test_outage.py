"""A broker that stops, hangs, restarts, forgets its scripts, runs out of memory, or is set up to lose work."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from broker.job_play import TENANT, drain, read, results_of, spec, upload
from broker.play import MODEL, ROOT, FlakyLink, Listener, delta, envelope, finished, script_of, work, worker_on
from xlmstream.v1.job_pb2 import JOB_STATE_SUCCEEDED
from xlmstream_server.broker import (
    BrokerDown,
    BrokerMisconfigured,
    GatewayBroker,
    Output,
    QueueFull,
    State,
    WorkerBroker,
    channel,
)
from xlmstream_server.broker.connection import TIMEOUT_S
from xlmstream_server.broker.embedded import EmbeddedBroker


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """A broker of the test's own, on a TCP port that it keeps over restarts."""
    with EmbeddedBroker(tmp_path / "broker", port=0) as server:
        yield server


@pytest.fixture
async def own(server: EmbeddedBroker) -> AsyncIterator[GatewayBroker]:
    async with await GatewayBroker.connect(server.url) as gateway:
        yield gateway


def again(server: EmbeddedBroker, directory: Path) -> EmbeddedBroker:
    return EmbeddedBroker(directory, port=int(server.url.rpartition(":")[2]))


async def until_up(gateway: GatewayBroker) -> None:
    async with asyncio.timeout(60):
        while not gateway.up:  # noqa: ASYNC110 - what a user of the broker sees
            await asyncio.sleep(0.02)


async def test_a_killed_broker_loses_nothing(server: EmbeddedBroker, own: GatewayBroker, tmp_path: Path) -> None:
    """SIGKILL with work queued, running and ended; worker and gateway go on after the restart."""
    asked = [envelope(own, length=4, journaled=True) for _ in range(200)]
    for one in asked:
        await own.submit(one)
    worker = worker_on(FlakyLink(server.url))
    taken = worker.take(60)
    worker.publish([work(worker, one) for one in taken[:30]])
    worker.publish([work(worker, one, until=2) for one in taken[30:]])
    frames = own.frames()
    assert len((await anext(frames)).frame.items) == 30
    assert len((await anext(frames)).frame.items) == 30

    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(BrokerDown):
        worker.publish([Output(taken[30].envelope.execution_id, tuple(script_of(taken[30].envelope)[2:]))])
    before = time.monotonic()
    with pytest.raises(BrokerDown):
        await asyncio.gather(*(own.submit(envelope(own)) for _ in range(10)))
    assert time.monotonic() - before < TIMEOUT_S
    with pytest.raises(BrokerDown):
        await own.follow(asked[0].execution_id)
    assert not own.up
    server.stop()

    with again(server, tmp_path / "broker"):
        await until_up(own)
        audited = await own.audit([one.execution_id for one in asked])
        assert [one.state for one in audited.values()].count(State.QUEUED) == 140
        async with asyncio.timeout(60):
            arrival = await anext(frames)
        assert arrival.gap
        assert not arrival.frame.items
        worker.publish([])
        first = await anext(frames)
        assert [item.execution_id for item in first.frame.items] == [taken[30].envelope.execution_id]
        for one in taken[31:]:
            events = script_of(one.envelope)[2:]
            worker.publish([Output(one.envelope.execution_id, tuple(events))])
        while rest := worker.take(60):
            worker.publish([work(worker, one) for one in rest])
        for one in asked:
            followed = await own.follow(one.execution_id)
            assert (followed.state, list(followed.events)) == (State.DONE, script_of(one))
        await frames.aclose()
        worker.close()
        await own.close()


async def test_a_killed_broker_keeps_its_jobs(server: EmbeddedBroker, own: GatewayBroker, tmp_path: Path) -> None:
    """SIGKILL in the middle of an upload, with chunks that have ended, run and wait: all goes on where it was."""
    jobs = own.jobs
    await jobs.create(spec())
    await upload(jobs, 900, seal=False)
    worker = worker_on(FlakyLink(server.url))
    done, running = worker.take_chunks(2)
    worker.publish([], results_of(done) + results_of(running, indices=[256, 300]))
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(BrokerDown):
        worker.publish([], results_of(running, indices=range(301, 512)))
    with pytest.raises(BrokerDown):
        await upload(jobs, 2000, first=900)
    server.stop()

    with again(server, tmp_path / "broker"):
        await until_up(own)
        record = await jobs.get(TENANT, "a")
        assert (record.items, record.succeeded, record.running, record.pending) == (900, 256, 256, 388)
        assert await upload(jobs, 2000, first=800) == 2000
        worker.publish([], results_of(running, indices=range(256, 301)))
        assert worker.held == ()
        assert min(one.index for chunk in drain(worker) for one in chunk.items) == 512
        record = await jobs.get(TENANT, "a")
        assert (record.state, record.succeeded) == (JOB_STATE_SUCCEEDED, 2000)
        assert [one.index for one in await read(jobs)] == [*range(2000)]
        worker.close()
        await own.close()


async def test_a_stopped_broker_is_noticed_and_found_again(
    server: EmbeddedBroker, own: GatewayBroker, tmp_path: Path
) -> None:
    worker = WorkerBroker.connect(server.url, worker_id="w", models=[MODEL])
    server.stop()
    with pytest.raises(BrokerDown):
        worker.take(1)
    with pytest.raises(BrokerDown):
        worker.wait(1.0)
    before = time.monotonic()
    for _ in range(20):
        with pytest.raises(BrokerDown):
            await own.submit(envelope(own))
    assert time.monotonic() - before < TIMEOUT_S
    with pytest.raises(BrokerDown):
        await GatewayBroker.connect(server.url)
    with pytest.raises(BrokerDown):
        WorkerBroker.connect(server.url, worker_id="w", models=[MODEL])
    with again(server, tmp_path / "broker"):
        await until_up(own)
        await own.submit(envelope(own))
        assert len(worker.take(1)) == 1
        worker.close()
        await own.close()
    worker.close()


async def test_a_hanging_broker_is_given_up(server: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "TIMEOUT_S", 0.3)
    own = await GatewayBroker.connect(server.url)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        calls = [own.submit(envelope(own)) for _ in range(5)]
        before = time.monotonic()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - before < 30
        assert all(isinstance(answer, BrokerDown) for answer in answers)
        with pytest.raises(BrokerDown):
            own.submit(envelope(own)).send(None)  # at once: it comes to no first wait
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await until_up(own)
    await own.submit(envelope(own))
    await own.close()


async def test_a_caller_that_gives_up_does_not_disturb_the_others(own: GatewayBroker) -> None:
    asked = [envelope(own) for _ in range(20)]
    tasks = [asyncio.create_task(own.submit(one)) for one in asked]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for one, answer in zip(asked[1::2], answers[1::2], strict=True):
        assert not isinstance(answer, BaseException)
        assert answer.execution_id == one.execution_id


async def test_forgotten_scripts_are_loaded_again(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    listener = Listener(client, gateway)
    asked = envelope(gateway, journaled=True)
    listener.listen(asked.execution_id)
    for step in ("submit", "take", "publish", "renew", "audit"):
        client.script_flush()
        match step:
            case "submit":
                await gateway.submit(asked)
            case "take":
                (taken,) = worker.take(1)
            case "publish":
                worker.publish([work(worker, taken)])
            case "renew":
                worker.renew()
            case "audit":
                assert (await gateway.audit([asked.execution_id]))[asked.execution_id].state is State.DONE
    listener.read()
    assert listener.events[asked.execution_id] == script_of(asked)


async def test_a_full_broker_refuses_new_work_and_finishes_what_runs(
    server: EmbeddedBroker, own: GatewayBroker
) -> None:
    client = redis.Redis.from_url(server.url)
    listener = Listener(client, own)
    worker = WorkerBroker.connect(server.url, worker_id="w", models=[MODEL])
    asked = [envelope(own, length=3, journaled=True) for _ in range(4)]
    for one in asked:
        listener.listen(one.execution_id)
        await own.submit(one)
    running = worker.take(2)
    client.config_set("maxmemory", 1)
    with pytest.raises(QueueFull) as refused:
        await own.submit(envelope(own))
    assert refused.value.bound == "memory"
    worker.publish([work(worker, one) for one in running])
    worker.publish([work(worker, one) for one in worker.take(2)])
    worker.renew()
    listener.read()
    for one in asked:
        assert listener.events[one.execution_id] == script_of(one)
    assert await own.cancel(asked[0].execution_id) is State.DONE
    client.config_set("maxmemory", 0)
    await own.submit(envelope(own))
    worker.close()
    client.close()


async def test_a_broker_that_would_lose_work_is_refused(
    server: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(BrokerMisconfigured, match="noeviction"):
            await GatewayBroker.connect(server.url)
        with pytest.raises(BrokerMisconfigured, match="noeviction"):
            WorkerBroker.connect(server.url, worker_id="w", models=[MODEL])
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "no")
        with pytest.raises(BrokerMisconfigured, match="appendonly"):
            await GatewayBroker.connect(server.url)
        with pytest.raises(BrokerMisconfigured, match="appendonly"):
            WorkerBroker.connect(server.url, worker_id="w", models=[MODEL])
        with caplog.at_level(logging.WARNING):
            async with await GatewayBroker.connect(server.url, allow_volatile=True):
                pass
            WorkerBroker.connect(server.url, worker_id="w", models=[MODEL], allow_volatile=True).close()
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


async def test_password_and_database(server: EmbeddedBroker) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "secret")
        with pytest.raises(BrokerMisconfigured, match="NOAUTH"):
            await GatewayBroker.connect(server.url)
        with pytest.raises((BrokerMisconfigured, BrokerDown)):
            WorkerBroker.connect(server.url, worker_id="w", models=[MODEL])
        address = server.url.removeprefix("redis://")
        with pytest.raises(BrokerMisconfigured, match="WRONGPASS"):
            await GatewayBroker.connect(f"redis://:wrong@{address}")
        url = f"redis://default:secret@{address}/3"
        async with await GatewayBroker.connect(url) as gateway:
            with WorkerBroker.connect(url, worker_id="w", models=[MODEL]) as worker:
                await gateway.submit(envelope(gateway))
                (taken,) = worker.take(1)
                worker.publish([Output(taken.envelope.execution_id, (delta("x"), finished()))])
        with redis.Redis.from_url(url) as other:
            assert other.keys(f"{ROOT}r:*")
        assert not client.keys(f"{ROOT}r:*")
