"""Chunks of jobs through the worker's end: progress, deaths, quarantine, splitting, what they weigh."""

from __future__ import annotations

from collections import Counter

import pytest
import redis
from broker.job_play import TENANT, drain, finish, item, outcome, read, results_of, spec, upload
from broker.play import MODEL, ROOT, FlakyLink, check_clean, envelope, lapse, work, worker_on
from xlmstream.v1.common_pb2 import TextInput
from xlmstream.v1.job_pb2 import JOB_STATE_PARTIALLY_SUCCEEDED, JOB_STATE_SUCCEEDED, JobItem
from xlmstream_server.broker import (
    BrokerDown,
    ErrorCount,
    Fenced,
    GatewayBroker,
    ItemResult,
    JobLimits,
    QueueFull,
    TakenChunk,
    WorkerBroker,
    job_wire,
)
from xlmstream_worker.jobs.chunks import MOST_AT_ONCE, MOST_UNSAVED


def age(worker: WorkerBroker) -> None:
    """Let the unsent results of its chunks grow old enough to be saved."""
    for row in worker._chunks.values():
        row.unsaved_since = row.unsaved_since and 0.0


async def sealed_job(gateway: GatewayBroker, n: int, **fields: object) -> None:
    await gateway.jobs.create(spec(**fields))
    await upload(gateway.jobs, n)


async def test_results_come_in_any_order_and_the_first_of_an_item_counts(
    gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    await sealed_job(gateway, 20)
    (chunk,) = worker.take_chunks(1)
    for i in reversed(range(10)):
        worker.publish([], results_of(chunk, indices=[i]))
        worker.publish([], results_of(chunk, indices=[i], bad=[i]))
    assert worker.held == (chunk.chunk_id,)
    worker.publish([], [ItemResult(chunk.chunk_id, outcome(99)), ItemResult("unknown", outcome(10))])
    worker.publish([], results_of(chunk, indices=range(10, 20)))
    assert worker.held == ()
    found = await read(gateway.jobs)
    assert [one.index for one in found] == [*range(20)]
    assert all(one.HasField("embed") for one in found)
    worker.publish([], results_of(chunk, bad=range(20)))  # long over
    assert await read(gateway.jobs) == found


async def test_what_was_saved_is_not_run_again(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    await sealed_job(gateway, 20)
    (chunk,) = worker.take_chunks(1)
    worker.publish([], results_of(chunk, indices=[4, 2], bad=[2]))
    assert not client.exists(f"{ROOT}j:{chunk.chunk_id}")  # not at every step
    before = await gateway.jobs.get(TENANT, "a")
    assert (before.running, before.succeeded, before.failed) == (20, 0, 0)
    age(worker)
    worker.publish([])
    assert client.exists(f"{ROOT}j:{chunk.chunk_id}")
    record = await gateway.jobs.get(TENANT, "a")  # what is saved counts, and who waits is told
    assert (record.pending, record.running, record.succeeded, record.failed) == (0, 18, 1, 1)
    assert (record.errors, record.prompt_tokens) == ((ErrorCount("INVALID_INPUT", 1, 2),), 5)
    assert record.version > before.version
    worker.publish([], results_of(chunk, indices=[7]))
    lapse(client, worker)
    assert other_worker.reap() == 1
    record = await gateway.jobs.get(TENANT, "a")
    assert (record.pending, record.running, record.succeeded, record.failed) == (18, 0, 1, 1)
    (again,) = other_worker.take_chunks(1)
    assert (again.deaths, again.alone) == (0, False)  # it had made progress
    assert [one.index for one in again.items] == [i for i in range(20) if i not in (2, 4)]
    finish(other_worker, [again])
    record = await gateway.jobs.get(TENANT, "a")
    assert (record.succeeded, record.failed, record.prompt_tokens) == (19, 1, sum(range(1, 21)) - 3)
    assert record.errors == (ErrorCount("INVALID_INPUT", 1, 2),)
    assert [one.index for one in await read(gateway.jobs)] == [*range(20)]
    with pytest.raises(Fenced):
        worker.publish([], results_of(chunk))
    check_clean(client, [other_worker.life])


async def test_who_was_reaped_stores_nothing_even_if_it_learns_of_it_late(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    """Between the two round trips of `publish` its lease runs out."""
    await sealed_job(gateway, 20)
    (chunk,) = worker.take_chunks(1)
    for one in results_of(chunk, bad=range(20)):
        worker._chunks[one.chunk_id].add(one.result)
    lapse(client, worker)
    other_worker.reap()
    with pytest.raises(Fenced):
        worker._settle({}, list(worker.held_chunks))
    assert worker.held == ()
    drain(other_worker)
    assert (await gateway.jobs.get(TENANT, "a")).succeeded == 20


async def test_handing_over_keeps_results_and_counts_no_death(
    gateway: GatewayBroker, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    await sealed_job(gateway, 300)
    first, second = worker.take_chunks(2)
    worker.publish([], results_of(first, indices=[1]) + results_of(second, indices=[299]))
    worker.close()
    chunks = drain(other_worker)
    assert [chunk.deaths for chunk in chunks] == [0, 0]
    assert [one.index for chunk in chunks for one in chunk.items] == [i for i in range(300) if i not in (1, 299)]
    assert (await gateway.jobs.get(TENANT, "a")).state == JOB_STATE_SUCCEEDED


async def test_a_death_repeats_the_chunks_in_flight_and_no_others(
    client: redis.Redis, broker_url: str, gateway: GatewayBroker
) -> None:
    await sealed_job(gateway, 3000)
    runs: Counter[int] = Counter()
    deaths = 0
    for i in range(100):
        with worker_on(FlakyLink(broker_url), f"w{i}") as worker:
            worker.reap()
            taken = worker.take_chunks(1)
            while taken:
                runs.update(one.index for chunk in taken for one in chunk.items)
                if len(taken[0].items) > 100 and deaths < 5 and runs[taken[0].items[0].index] == 1:
                    deaths += 1
                    lapse(client, worker)  # dies with it
                    worker.begin()
                    break
                finish(worker, taken)
                taken = worker.take_chunks(1)
            if (await gateway.jobs.get(TENANT, "a")).ended:
                break
    assert deaths == 5
    assert set(runs) == set(range(3000))
    assert sum(runs.values()) - 3000 <= deaths * 256
    assert [one.index for one in await read(gateway.jobs)] == [*range(3000)]


@pytest.mark.parametrize("poisoned", [0, 100, 255])
async def test_a_poisoned_item_is_isolated_and_fails_alone(
    client: redis.Redis, broker_url: str, gateway: GatewayBroker, poisoned: int
) -> None:
    """One of 256 kills every worker: in company, alone, in its sixteenth, and three times by itself."""
    await sealed_job(gateway, 300)
    deaths, i = 0, 0
    while not (await gateway.jobs.get(TENANT, "a")).ended:
        i += 1
        with worker_on(FlakyLink(broker_url), f"w{i}") as worker:
            worker.reap()
            while taken := worker.take_chunks(2):
                if any(one.index == poisoned for chunk in taken for one in chunk.items):
                    deaths += 1
                    assert len(taken) == 1 or deaths == 1
                    assert taken[0].alone == (deaths > 1)
                    lapse(client, worker)
                    worker.begin()
                    break
                finish(worker, taken)
        assert i < 50
    assert deaths == 6
    record = await gateway.jobs.get(TENANT, "a")
    assert (record.state, record.succeeded) == (JOB_STATE_PARTIALLY_SUCCEEDED, 299)
    assert record.errors == (ErrorCount("POISONED_INPUT", 1, poisoned),)
    found = await read(gateway.jobs)
    assert [(one.index, one.key, one.attempt) for one in found] == [(i, f"key {i}", 1) for i in range(300)]
    assert [one.index for one in found if one.HasField("error")] == [poisoned]
    ((_, letter),) = client.xrange(f"{ROOT}dead")
    assert letter[b"env"] == item(poisoned)
    assert await gateway.jobs.retry(TENANT, "a")
    with worker_on(FlakyLink(broker_url), "last") as worker:
        (chunk,) = worker.take_chunks(9)
        assert [one.index for one in chunk.items] == [poisoned]
        assert (chunk.alone, chunk.deaths) == (False, 0)
        finish(worker, [chunk])
    assert (await gateway.jobs.get(TENANT, "a")).state == JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("retried", [False, True])
async def test_a_chunk_that_is_split_keeps_what_was_saved_and_counts_each_item_once(
    client: redis.Redis, broker_url: str, gateway: GatewayBroker, retried: bool
) -> None:
    """One worker dies with it after some progress, the next without, and the third while it runs alone."""
    await sealed_job(gateway, 40)
    attempt = 1
    if retried:
        attempt = 2
        with worker_on(FlakyLink(broker_url), "first") as worker:
            drain(worker, bad=range(40))
        await gateway.jobs.retry(TENANT, "a")
    for i, saved in enumerate(([3, 5], [], [])):
        with worker_on(FlakyLink(broker_url), f"w{i}") as worker:
            worker.reap()
            (chunk,) = worker.take_chunks(1)
            assert (len(chunk.items), chunk.alone) == ((40, 38, 38)[i], i == 2)
            worker.publish([], results_of(chunk, indices=saved, bad=[5]))
            age(worker)
            worker.publish([])
            lapse(client, worker)
            worker.begin()
    with worker_on(FlakyLink(broker_url), "last") as worker:
        worker.reap()
        chunks = drain(worker)
    assert len(chunks) == 16
    assert all(chunk.alone for chunk in chunks)
    assert sorted(one.index for chunk in chunks for one in chunk.items) == [i for i in range(40) if i not in (3, 5)]
    record = await gateway.jobs.get(TENANT, "a")
    assert (record.state, record.succeeded, record.failed) == (JOB_STATE_PARTIALLY_SUCCEEDED, 39, 1)
    assert record.errors == (ErrorCount("INVALID_INPUT", 1, 5),)
    assert [(one.index, one.attempt, one.HasField("error")) for one in await read(gateway.jobs)] == [
        (i, attempt, i == 5) for i in range(40)
    ]


async def test_a_job_may_allow_fewer_deaths(client: redis.Redis, broker_url: str, gateway: GatewayBroker) -> None:
    await sealed_job(gateway, 1, max_attempts=1)
    for i in range(2):
        with worker_on(FlakyLink(broker_url), f"w{i}") as worker:
            worker.reap()
            (chunk,) = worker.take_chunks(1)
            assert chunk.alone == (i == 1)
            lapse(client, worker)
            worker.begin()
    with worker_on(FlakyLink(broker_url), "last") as worker:
        worker.reap()
        assert worker.take_chunks(1) == []
    assert (await gateway.jobs.get(TENANT, "a")).errors == (ErrorCount("POISONED_INPUT", 1, 0),)


async def test_the_items_key_is_found_wherever_its_field_stands(
    client: redis.Redis, broker_url: str, gateway: GatewayBroker
) -> None:
    """Serializers may write fields in any order, and unknown ones."""
    text = JobItem(embed=TextInput(text="x")).SerializeToString()
    unknown = b"\xb8\x3e\x05" + b"\xc1\x3e12345678" + b"\xc5\x3e1234" + b"\xca\x3e\x02hi"
    key = JobItem(key="k" * 200).SerializeToString()
    stored = text + unknown + key
    assert JobItem.FromString(stored).key == "k" * 200
    jobs = gateway.jobs
    await jobs.create(spec(max_attempts=1))
    await jobs.upload(TENANT, "a", 0, [stored], [1])
    await jobs.seal(TENANT, "a")
    for i in range(2):
        with worker_on(FlakyLink(broker_url), f"w{i}") as worker:
            worker.reap()
            worker.take_chunks(1)
            lapse(client, worker)
            worker.begin()
    with worker_on(FlakyLink(broker_url), "last") as worker:
        worker.reap()
    (found,) = await read(jobs)
    assert (found.key, found.HasField("error")) == ("k" * 200, True)


async def test_a_quarantined_chunk_runs_alone(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    await sealed_job(gateway, 600)
    worker.take_chunks(1)
    (own,) = other_worker.take_chunks(1)
    lapse(client, worker)
    other_worker.reap()
    (another,) = other_worker.take_chunks(9)  # it waits for a worker that holds nothing ...
    assert not another.alone
    await gateway.submit(envelope(gateway))
    entry = client.xrange(f"{ROOT}lane:{MODEL}:p")[0]
    client.xdel(f"{ROOT}lane:{MODEL}:p", entry[0])  # ... unless it has waited for long
    chunk_id = entry[1][b"i"].decode()
    old = client.xadd(f"{ROOT}lane:{MODEL}:p:old", entry[1], id="1-1")
    client.rename(f"{ROOT}lane:{MODEL}:p:old", f"{ROOT}lane:{MODEL}:p")
    client.hset(f"{ROOT}r:{chunk_id}", "entry", old)
    assert other_worker.take_chunks(9) == []
    assert other_worker.take(9) == []  # the worker empties itself
    finish(other_worker, [own, another])
    assert other_worker.take(9) == []
    (alone,) = other_worker.take_chunks(9)
    assert (alone.chunk_id, alone.alone, alone.deaths) == (chunk_id, True, 1)
    assert other_worker.take(9) == other_worker.take_chunks(9) == []
    finish(other_worker, [alone])
    (request,) = other_worker.take(9)
    other_worker.publish([work(other_worker, request)])
    assert (await gateway.jobs.get(TENANT, "a")).state == JOB_STATE_SUCCEEDED
    client.delete(f"{ROOT}quarantine:{MODEL}")
    check_clean(client, [other_worker.life])


async def test_requests_never_wait_behind_chunks(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    """The two are asked for apart: whatever a worker holds of one, the other is given."""
    await sealed_job(gateway, 600)
    assert len(worker.take_chunks(2)) == 2
    asked = envelope(gateway)
    await gateway.submit(asked)
    published = worker.publish([])
    assert (published.waiting, published.waiting_chunks) == (1, 1)
    (taken,) = worker.take(1)
    assert taken.envelope == asked
    assert worker.take(9) == []
    assert len(worker.take_chunks(9)) == 1
    published = worker.publish([])
    assert (published.waiting, published.waiting_chunks) == (0, 0)
    assert [(load.requests, load.tokens) for load in await gateway.load()] == []


async def test_an_idle_worker_is_woken_by_a_chunk(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    worker.take(1)
    worker.take_chunks(1)
    assert not worker.wait(0.01)
    await sealed_job(gateway, 1)
    assert worker.wait(2.0)
    worker.take(1)
    assert not worker.wait(0.01)
    worker.take_chunks(1)
    await gateway.jobs.cancel(TENANT, "a")
    assert worker.wait(2.0)


async def test_what_rings_between_the_two_takes_is_heard(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    worker.take(1)
    await gateway.submit(envelope(gateway))
    worker.take_chunks(1)
    assert worker.wait(2.0)


async def test_the_result_of_a_lost_reply_is_not_stored_twice(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    await sealed_job(gateway, 300)
    link = worker._link
    assert isinstance(link, FlakyLink)
    taken: list[TakenChunk] = []
    link.lose = "reply"
    with pytest.raises(BrokerDown):
        worker.take_chunks(2)
    taken = worker.take_chunks(1)
    taken += worker.take_chunks(1)
    assert [one.index for chunk in taken for one in chunk.items] == [*range(300)]
    for chunk in taken:
        results = results_of(chunk)
        worker._settle({}, [])  # nothing to say
        for one in results:
            worker._chunks[one.chunk_id].add(one.result)
        link.lose = "reply"
        with pytest.raises(BrokerDown):
            worker._settle({}, list(worker.held_chunks))
        assert worker.publish([]).stop == {}
    assert worker.held == ()
    assert [one.index for one in await read(gateway.jobs)] == [*range(300)]
    assert (await gateway.jobs.get(TENANT, "a")).succeeded == 300
    check_clean(client, [worker.life])


async def test_a_full_broker_refuses_uploads_and_finishes_jobs(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    await sealed_job(gateway, 300)
    await gateway.jobs.create(spec("b"))
    client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
    try:
        with pytest.raises(QueueFull):
            await upload(gateway.jobs, 300, job_id="b")
        with pytest.raises(QueueFull):
            await gateway.jobs.create(spec("c"))
        drain(worker, bad=[1])
        await gateway.jobs.retry(TENANT, "a")
        drain(worker)
        assert (await gateway.jobs.get(TENANT, "a")).state == JOB_STATE_SUCCEEDED
    finally:
        client.config_set("maxmemory", 0)


@pytest.mark.parametrize("text_bytes", [100, 1000])
async def test_the_broker_holds_little_more_than_the_inputs(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker, text_bytes: int
) -> None:
    """20,000 items: what the broker's memory grows by, over the bytes of the items as they are on the wire."""
    n = 20_000
    items = [JobItem(key=f"{i:012}", embed=TextInput(text="x" * text_bytes)).SerializeToString() for i in range(n)]
    wire = len(job_wire.join(items))
    await gateway.jobs.create(spec())
    worker.take_chunks(1)  # what a worker needs is there before
    before = client.info("memory")["used_memory_dataset"]
    for first in range(0, n, 1000):
        await gateway.jobs.upload(TENANT, "a", first, items[first : first + 1000], [1] * 1000)
    keys = list(client.scan_iter(f"{ROOT}job:*"))
    weight = sum(client.memory_usage(name, samples=0) for name in keys)
    grown = client.info("memory")["used_memory_dataset"] - before
    assert wire < weight <= 1.15 * wire
    assert grown <= 1.15 * wire


async def test_who_gave_a_chunk_back_and_did_not_hear_of_it_stores_nothing_of_it(
    gateway: GatewayBroker, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    await sealed_job(gateway, 20)
    (chunk,) = worker.take_chunks(1)
    link = worker._link
    assert isinstance(link, FlakyLink)
    link.lose = "reply"
    with pytest.raises(BrokerDown):
        worker.handoff([chunk.chunk_id])
    (again,) = other_worker.take_chunks(1)
    assert again.chunk_id == chunk.chunk_id
    worker.publish([], results_of(chunk, bad=range(20)))
    assert worker.held == ()
    assert (await gateway.jobs.get(TENANT, "a")).running == 20
    finish(other_worker, [again])
    assert (await gateway.jobs.get(TENANT, "a")).succeeded == 20


async def test_many_results_are_saved_however_young_they_are(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    """Those of all chunks together count: they are what would be lost."""
    await sealed_job(gateway, 512)
    first, second = worker.take_chunks(2)
    worker.publish([], results_of(first, indices=range(100)) + results_of(second, indices=range(256, 283)))
    assert worker.unsaved_results == 127
    assert not client.exists(f"{ROOT}j:{first.chunk_id}", f"{ROOT}j:{second.chunk_id}")
    worker.publish([], results_of(second, indices=[283]))
    assert worker.unsaved_results == 0
    assert client.exists(f"{ROOT}j:{first.chunk_id}", f"{ROOT}j:{second.chunk_id}") == 2
    link = worker._link
    assert isinstance(link, FlakyLink)
    link.lose = "reply"
    with pytest.raises(BrokerDown):
        worker.publish([], results_of(first, indices=range(100, 256)))
    assert worker.unsaved_results == 156
    worker.publish([])
    assert worker.unsaved_results == 0
    assert worker.held == (second.chunk_id,)


async def test_the_few_items_that_failed_of_many_chunks_are_taken_together(
    broker_url: str, worker: WorkerBroker
) -> None:
    """One item of each of sixty chunks: two takes, as many results saved in two calls, and nobody runs twice."""
    async with await GatewayBroker.connect(broker_url, job_limits=JobLimits(chunk_items=5)) as gateway:
        await sealed_job(gateway, 300)
        bad = range(3, 300, 5)
        drain(worker, bad=bad)
        await gateway.jobs.retry(TENANT, "a")
        takes = []
        while taken := worker.take_chunks(MOST_AT_ONCE, MOST_UNSAVED):
            takes.append([one.index for chunk in taken for one in chunk.items])
            finish(worker, taken)
        assert len(takes) == 2
        assert sorted(index for take in takes for index in take) == list(bad)
        assert (await gateway.jobs.get(TENANT, "a")).state == JOB_STATE_SUCCEEDED


async def test_no_chunk_comes_behind_those_that_have_items_enough(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    for number, n in enumerate((100, 100, 256, 100)):
        await gateway.jobs.create(spec(f"job-{number}"))
        await upload(gateway.jobs, n, job_id=f"job-{number}")
    assert [len(one.items) for one in worker.take_chunks(9, 100)] == [100]
    taken = worker.take_chunks(9, 101)
    assert [len(one.items) for one in taken] == [100, 256]
    worker.handoff([one.chunk_id for one in taken])
    link = worker._link
    assert isinstance(link, FlakyLink)
    link.lose = "reply"
    with pytest.raises(BrokerDown):
        worker.take_chunks(9)
    assert [len(one.items) for one in worker.take_chunks(9, 50)] == [100]
    assert [len(one.items) for one in worker.take_chunks(9, 50)] == [256]
    assert [len(one.items) for one in worker.take_chunks(9, 50)] == [100]
