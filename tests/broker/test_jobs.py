"""Jobs through the gateway's end: uploads, states, results, quotas, ends."""

from __future__ import annotations

import asyncio

import pytest
import redis
from broker.job_play import (
    DAY_S,
    TENANT,
    drain,
    end_time,
    finish,
    item,
    job_keys,
    read,
    results_of,
    spec,
    upload,
)
from broker.play import MODEL, ROOT, FlakyLink, check_clean, worker_on
from xlmstream.v1.job_pb2 import (
    JOB_RESULT_FILTER_FAILED,
    JOB_RESULT_FILTER_SUCCEEDED,
    JOB_RESULT_ORDER_COMPLETION,
    JOB_RESULT_ORDER_INPUT,
    JOB_STATE_ACCEPTING,
    JOB_STATE_CANCELLED,
    JOB_STATE_CANCELLING,
    JOB_STATE_EXPIRED,
    JOB_STATE_FAILED,
    JOB_STATE_PARTIALLY_SUCCEEDED,
    JOB_STATE_PAUSED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    Job,
    JobResult,
)
from xlmstream_server.broker import (
    CursorInvalid,
    ErrorCount,
    GatewayBroker,
    JobIdReused,
    JobLimits,
    JobNotFound,
    JobQuotaExceeded,
    JobStateForbids,
    Stop,
    UploadGap,
    WorkerBroker,
    job_wire,
)


async def test_a_job_from_its_making_to_its_deletion(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    jobs = gateway.jobs
    record, joined = await jobs.create(spec())
    assert (record.state, record.items, joined) == (JOB_STATE_ACCEPTING, 0, False)
    assert record.expires_ms == record.created_ms + 3_600_000
    assert worker.publish([]).waiting_chunks == 0
    assert await upload(jobs, 600) == 600
    assert (await jobs.get(TENANT, "a")).state == JOB_STATE_QUEUED
    published = worker.publish([])
    assert (published.waiting, published.waiting_chunks) == (0, 1)

    chunks = worker.take_chunks(2)
    assert worker.held == worker.held_chunks == tuple(chunk.chunk_id for chunk in chunks)
    assert [[one.index for one in chunk.items] for chunk in chunks] == [[*range(256)], [*range(256, 512)]]
    assert all(one.item.SerializeToString() == item(one.index) for chunk in chunks for one in chunk.items)
    assert all(chunk.spec == spec() for chunk in chunks)
    record = await jobs.get(TENANT, "a")
    assert (record.state, record.pending, record.running) == (JOB_STATE_RUNNING, 88, 512)
    finish(worker, chunks, bad=[3])
    assert worker.held == ()
    drain(worker, bad=[580, 590])

    record = await jobs.get(TENANT, "a")
    assert record.state == JOB_STATE_PARTIALLY_SUCCEEDED
    assert (record.pending, record.running, record.succeeded, record.failed, record.skipped) == (0, 0, 597, 3, 0)
    assert record.errors == (ErrorCount("INVALID_INPUT", 3, 3),)
    assert record.prompt_tokens == sum(range(601)) - 4 - 581 - 591
    assert record.expires_ms == record.ended_ms + DAY_S * 1000
    found = await read(jobs)
    assert [(one.index, one.key, one.attempt) for one in found] == [(i, f"key {i}", 1) for i in range(600)]
    assert [one.index for one in found if one.HasField("error")] == [3, 580, 590]
    check_clean(client, [worker.life])

    await jobs.delete(TENANT, "a")
    assert job_keys(client) == set()
    with pytest.raises(JobNotFound):
        await jobs.get(TENANT, "a")


async def test_the_public_message_tells_the_record(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    jobs = gateway.jobs
    asked = spec(labels={"a": "b"}, max_failed=9)
    await jobs.create(asked)
    await upload(jobs, 512)
    finish(worker, worker.take_chunks(1), bad=[7])
    record = await jobs.get(TENANT, "a")
    job = record.to_job()
    assert (job.job_id, job.model, job.task, job.labels["a"]) == ("a", MODEL, asked.task, "b")
    assert (job.counts.pending, job.counts.succeeded, job.counts.failed) == (256, 255, 1)
    assert (job.items_committed, job.sealed, job.attempt, job.max_attempts) == (512, True, 1, 3)
    assert job.bytes_committed == sum(len(item(i)) + 2 for i in range(512))
    assert [(error.reason, error.count, error.sample_index) for error in job.error_summary] == [("INVALID_INPUT", 1, 7)]
    assert job.items_per_s > 0
    assert job.eta_s == pytest.approx(256 / job.items_per_s)
    assert job.create_time.ToMilliseconds() == record.created_ms
    assert job.start_time.ToMilliseconds() == record.started_ms
    assert not job.HasField("end_time")
    drain(worker)
    job = (await jobs.get(TENANT, "a")).to_job()
    assert job.HasField("end_time")
    assert not job.HasField("eta_s")
    assert Job.FromString(job.SerializeToString()) == job


async def test_making_a_job_twice_gives_one(gateway: GatewayBroker) -> None:
    jobs = gateway.jobs
    first, _ = await jobs.create(spec(seed=1, cursor_secret="x"))
    again, joined = await jobs.create(spec(seed=2, cursor_secret="y"))
    assert joined
    assert again == first
    with pytest.raises(JobIdReused):
        await jobs.create(spec(max_attempts=4))
    _, joined = await jobs.create(spec(tenant="another"))
    assert not joined
    assert jobs.job_id_for("t", "r") == jobs.job_id_for("t", "r") != jobs.job_id_for("u", "r")
    assert jobs.job_id_for("t", "") != jobs.job_id_for("t", "")


async def test_nobody_reaches_the_job_of_another_tenant(gateway: GatewayBroker) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    for reach in (jobs.get, jobs.seal, jobs.cancel, jobs.pause, jobs.resume, jobs.retry, jobs.delete):
        with pytest.raises(JobNotFound):
            await reach("another", "a")
    with pytest.raises(JobNotFound):
        await jobs.upload("another", "a", 0, [item(0)], [1])
    with pytest.raises(JobNotFound):
        await jobs.results("another", "a", order=JOB_RESULT_ORDER_INPUT, cursor="", max_results=1, max_bytes=1)
    assert await jobs.list_jobs("another", limit=10) == ([], "")


@pytest.mark.parametrize("step", [1, 7, 256, 1000, 3000])
async def test_chunks_do_not_depend_on_how_items_arrive(
    gateway: GatewayBroker, worker: WorkerBroker, step: int
) -> None:
    jobs, n = gateway.jobs, 600 if step == 1 else 3000
    await jobs.create(spec())
    for first in range(0, n, step):
        last = min(n, first + step)
        items = [item(i) for i in range(first, last)]
        assert await jobs.upload(TENANT, "a", first, items, [1] * len(items)) == last
    await jobs.seal(TENANT, "a", n)
    chunks = drain(worker)
    assert [one.index for chunk in chunks for one in chunk.items] == [*range(n)]
    assert len(chunks) <= n // 256 + 1 + (step > 256) * (n // step + 1)
    assert 250 <= max(len(chunk.items) for chunk in chunks) <= 256


async def test_chunks_keep_their_bounds(broker_url: str, worker: WorkerBroker) -> None:
    limits = JobLimits(chunk_items=100, chunk_bytes=1000, chunk_tokens=50)
    async with await GatewayBroker.connect(broker_url, job_limits=limits) as gateway:
        jobs = gateway.jobs
        await jobs.create(spec())
        items = [item(i) for i in range(300)]
        costs = [1] * 100 + [10] * 100 + [60] * 100
        for first in range(0, 300, 60):
            await jobs.upload(TENANT, "a", first, items[first : first + 60], costs[first : first + 60])
        taken = [[one.index for one in chunk.items] for chunk in drain(worker)]
        assert [index for chunk in taken for index in chunk] == [*range(300)]
        for chunk in taken:
            assert sum(costs[i] for i in chunk) <= 50 or len(chunk) == 1
            assert sum(len(items[i]) + 2 for i in chunk) <= 1000


async def test_an_upload_skips_what_is_there_and_refuses_gaps(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    assert await upload(jobs, 10, seal=False) == 10
    assert await upload(jobs, 8, seal=False) == 10
    assert await upload(jobs, 300, first=4, seal=False) == 300
    with pytest.raises(UploadGap) as gap:
        await upload(jobs, 310, first=301, seal=False)
    assert gap.value.items_committed == 300
    with pytest.raises(UploadGap):
        await jobs.seal(TENANT, "a", 299)
    await jobs.seal(TENANT, "a", 300)
    assert await upload(jobs, 300, first=280) == 300  # all there already: also when sealed
    with pytest.raises(JobStateForbids) as refused:
        await upload(jobs, 301, first=299)
    assert refused.value.state == JOB_STATE_QUEUED
    assert [one.index for chunk in drain(worker) for one in chunk.items] == [*range(300)]


async def test_items_run_before_the_upload_has_ended(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    await upload(jobs, 5, seal=False)
    (chunk,) = worker.take_chunks(3)
    await upload(jobs, 8, first=5, seal=False)  # not into the chunk that has begun
    assert len(chunk.items) == 5
    finish(worker, [chunk])
    record = await jobs.get(TENANT, "a")
    assert (record.state, record.succeeded, record.pending) == (JOB_STATE_ACCEPTING, 5, 3)
    drain(worker)
    assert (await jobs.get(TENANT, "a")).state == JOB_STATE_ACCEPTING
    assert (await jobs.seal(TENANT, "a")).state == JOB_STATE_SUCCEEDED


async def test_a_job_without_items_succeeds(gateway: GatewayBroker) -> None:
    await gateway.jobs.create(spec())
    record = await gateway.jobs.seal(TENANT, "a")
    assert record.state == JOB_STATE_SUCCEEDED
    page = await gateway.jobs.results(TENANT, "a", order=JOB_RESULT_ORDER_INPUT, cursor="", max_results=9, max_bytes=99)
    assert (page.results, page.at_end) == ([], True)


async def test_the_tenant_quota_counts_inputs_and_results(broker_url: str, worker: WorkerBroker) -> None:
    size = sum(len(item(i)) + 2 for i in range(256))
    limits = JobLimits(max_bytes=2 * size + 600, max_jobs=2)
    async with await GatewayBroker.connect(broker_url, job_limits=limits) as gateway:
        jobs = gateway.jobs
        await jobs.create(spec())
        with pytest.raises(JobQuotaExceeded) as refused:
            await upload(jobs, 1000)
        assert (refused.value.subject, refused.value.limit) == ("bytes", limits.max_bytes)
        assert 0 < refused.value.used == await jobs.usage(TENANT) <= limits.max_bytes
        assert refused.value.retry_after_s > 0
        record = await jobs.get(TENANT, "a")
        assert record.items == 512  # what came before the refusal stands
        await jobs.create(spec(tenant="another"))
        await jobs.upload("another", "a", 0, [item(0)], [1])  # each has its own
        await jobs.create(spec("b"))
        with pytest.raises(JobQuotaExceeded) as refused:
            await jobs.create(spec("c"))
        assert (refused.value.subject, refused.value.used) == ("jobs", 2)
        await jobs.create(spec("b"))  # the same again is no further one
        before = await jobs.usage(TENANT)
        await jobs.seal(TENANT, "a")
        drain(worker)
        assert await jobs.usage(TENANT) > before
        await jobs.delete(TENANT, "a")
        assert await jobs.usage(TENANT) == 0
        await upload(jobs, 256, job_id="b")


async def test_jobs_take_turns(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    jobs = gateway.jobs
    for job_id, n in (("large", 2000), ("small", 600), ("late", 300)):
        await jobs.create(spec(job_id))
        await upload(jobs, n, job_id=job_id)
    order = [chunk.spec.job_id for chunk in drain(worker, at_once=1)]
    assert order[:6] == ["large", "small", "late"] * 2
    assert order[6:] == ["large", "small", *["large"] * 5]


async def test_models_take_turns(broker_url: str, gateway: GatewayBroker) -> None:
    for model in ("a@1", "b@1", "c@1"):
        await gateway.jobs.create(spec(model[0], model=model))
        await upload(gateway.jobs, 1000, job_id=model[0])
    with worker_on(FlakyLink(broker_url), models=("a@1", "b@1", "c@1")) as worker:
        order = [chunk.spec.model[0] for chunk in drain(worker, at_once=1)]
    assert [order[i : i + 3] for i in range(0, 12, 3)] == [["b", "c", "a"]] * 4


async def test_a_paused_job_begins_nothing(
    gateway: GatewayBroker, worker: WorkerBroker, other_worker: WorkerBroker
) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    await upload(jobs, 700, seal=False)
    running, given_back = worker.take_chunks(2)
    worker.handoff([given_back.chunk_id])
    assert (await jobs.pause(TENANT, "a")).state == JOB_STATE_PAUSED
    assert worker.publish([]).waiting_chunks == 0
    assert other_worker.take_chunks(9) == []
    finish(worker, [running])
    await upload(jobs, 800, first=700)
    record = await jobs.pause(TENANT, "a")
    assert (record.state, record.succeeded, record.pending) == (JOB_STATE_PAUSED, 256, 544)
    assert other_worker.take_chunks(9) == []
    assert (await jobs.resume(TENANT, "a")).state == JOB_STATE_RUNNING
    assert other_worker.publish([]).waiting_chunks > 0
    drain(other_worker)
    assert (await jobs.get(TENANT, "a")).state == JOB_STATE_SUCCEEDED
    for refused in (jobs.pause, jobs.resume):
        with pytest.raises(JobStateForbids):
            await refused(TENANT, "a")


async def test_a_cancelled_job_keeps_what_it_has(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    await upload(jobs, 1000)
    done, half, given_back = worker.take_chunks(3)
    finish(worker, [done])
    worker.publish([], results_of(half, indices=[300, 260], bad=[300]))
    worker.handoff([given_back.chunk_id])
    record = await jobs.cancel(TENANT, "a")
    assert (record.state, record.running) == (JOB_STATE_CANCELLING, 256)
    for refused in (jobs.pause, jobs.retry, jobs.delete):
        with pytest.raises(JobStateForbids):
            await refused(TENANT, "a")
    assert worker.publish([]).stop == {half.chunk_id: Stop.CANCELLED}
    assert worker.held == ()
    record = await jobs.get(TENANT, "a")
    assert (record.state, record.succeeded, record.failed, record.skipped) == (JOB_STATE_CANCELLED, 257, 1, 742)
    assert worker.publish([]).waiting_chunks == 0
    assert worker.take_chunks(9) == []
    assert (await jobs.cancel(TENANT, "a")) == record
    assert [one.index for one in await read(jobs)] == [*range(256), 260, 300]
    check_clean(client, [worker.life])


async def test_a_cancelled_job_of_very_many_chunks_can_be_read(broker_url: str, worker: WorkerBroker) -> None:
    """More chunks that never ran than a script can return values."""
    limits = JobLimits(chunk_items=1)
    async with await GatewayBroker.connect(broker_url, job_limits=limits) as gateway:
        jobs = gateway.jobs
        await jobs.create(spec())
        await upload(jobs, 8500)
        finish(worker, worker.take_chunks(3))
        await jobs.cancel(TENANT, "a")
        for order in (JOB_RESULT_ORDER_INPUT, JOB_RESULT_ORDER_COMPLETION):
            assert [result.index for result in await read(jobs, order)] == [0, 1, 2]
        page = await jobs.results(
            TENANT, "a", order=JOB_RESULT_ORDER_INPUT, cursor="i.3.0", max_results=9, max_bytes=1 << 18
        )
        assert (page.results, page.at_end) == ([], True)


async def test_a_job_that_is_cancelled_while_it_is_uploaded_takes_no_more(
    gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    await upload(jobs, 700, seal=False)
    (running,) = worker.take_chunks(1)
    await jobs.cancel(TENANT, "a")
    with pytest.raises(JobStateForbids):
        await upload(jobs, 800, first=700, seal=False)
    assert await upload(jobs, 700, seal=False) == 700  # what is there may come again
    assert worker.take_chunks(9) == []
    worker.publish([], results_of(running, indices=[7, 8], bad=[7]))
    record = await jobs.get(TENANT, "a")
    assert (record.state, record.items, record.succeeded, record.failed) == (JOB_STATE_CANCELLED, 700, 1, 1)
    await jobs.retry(TENANT, "a")  # of what had failed, and of nothing that had not begun
    assert [[one.index for one in chunk.items] for chunk in drain(worker)] == [[7]]
    record = await jobs.get(TENANT, "a")
    assert (record.succeeded, record.failed, record.skipped) == (2, 0, 698)


async def test_the_failure_policy_ends_a_job(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    jobs = gateway.jobs
    await jobs.create(spec(max_failed=2))
    await upload(jobs, 1000)
    first, second, third = worker.take_chunks(3)
    finish(worker, [first], bad=[0, 1])
    assert (await jobs.get(TENANT, "a")).state == JOB_STATE_RUNNING
    finish(worker, [second], bad=[300])
    assert (await jobs.get(TENANT, "a")).state == JOB_STATE_CANCELLING
    assert worker.publish([]).stop == {third.chunk_id: Stop.CANCELLED}
    record = await jobs.get(TENANT, "a")
    assert (record.state, record.succeeded, record.failed, record.skipped) == (JOB_STATE_FAILED, 509, 3, 488)


async def test_a_job_all_of_whose_items_fail_has_failed(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    await gateway.jobs.create(spec())
    await upload(gateway.jobs, 3)
    drain(worker, bad=range(3))
    assert (await gateway.jobs.get(TENANT, "a")).state == JOB_STATE_FAILED


async def test_a_retry_runs_the_failed_items_only(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    await upload(jobs, 600)
    bad = [0, 255, 256, 599]
    drain(worker, bad=bad)
    before = await read(jobs)
    record = await jobs.retry(TENANT, "a", "key")
    assert (record.state, record.attempt, record.pending, record.failed) == (JOB_STATE_QUEUED, 2, 4, 0)
    assert record.errors == ()
    assert await jobs.retry(TENANT, "a", "key") == record  # the reply was lost
    with pytest.raises(JobStateForbids):
        await jobs.retry(TENANT, "a", "another")
    assert await read(jobs) == []  # by input nothing goes over what is to run again
    chunks = drain(worker, bad=[256])
    assert sorted(one.index for chunk in chunks for one in chunk.items) == bad
    assert all(chunk.attempt == 2 for chunk in chunks)
    record = await jobs.get(TENANT, "a")
    assert (record.state, record.succeeded, record.failed) == (JOB_STATE_PARTIALLY_SUCCEEDED, 599, 1)
    assert record.errors == (ErrorCount("INVALID_INPUT", 1, 256),)
    after = await read(jobs)
    assert [one.attempt for one in after] == [2 if i in bad else 1 for i in range(600)]
    assert [one for i, one in enumerate(after) if i not in bad] == [one for i, one in enumerate(before) if i not in bad]
    by_completion = await read(jobs, JOB_RESULT_ORDER_COMPLETION)
    assert sorted(by_completion, key=lambda one: one.index) == after
    await jobs.retry(TENANT, "a")
    drain(worker)
    record = await jobs.retry(TENANT, "a")  # nothing is left to retry
    assert (record.state, record.attempt) == (JOB_STATE_SUCCEEDED, 3)


async def test_a_retry_that_is_cancelled_leaves_failed_what_did_not_run(
    gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    await upload(jobs, 600)
    drain(worker, bad=[5, 6, 300, 599])
    await jobs.retry(TENANT, "a")
    (chunk,) = worker.take_chunks(1)
    finish(worker, [chunk])
    ran = len(chunk.items)
    record = await jobs.cancel(TENANT, "a")
    assert (record.state, record.failed, record.skipped) == (JOB_STATE_CANCELLED, 4 - ran, 0)
    assert record.errors == (ErrorCount("INVALID_INPUT", 4 - ran, record.errors[0].sample_index),)
    await jobs.retry(TENANT, "a")
    (chunk,) = worker.take_chunks(1)  # this time while it runs
    await jobs.cancel(TENANT, "a")
    worker.publish([])
    again = await jobs.get(TENANT, "a")
    assert (again.state, again.failed, again.skipped) == (JOB_STATE_CANCELLED, 4 - ran, 0)
    await jobs.retry(TENANT, "a")
    drain(worker)
    assert (await jobs.get(TENANT, "a")).state == JOB_STATE_SUCCEEDED


async def test_results_page_by_page_equal_those_at_once(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    await upload(jobs, 700)
    first, second = worker.take_chunks(2)
    finish(worker, [second], bad=[300])
    assert await read(jobs) == []  # by input nothing goes before the first chunk
    assert [one.index for one in await read(jobs, JOB_RESULT_ORDER_COMPLETION)] == [*range(256, 512)]
    finish(worker, [first], bad=[1, 2])
    drain(worker)
    for order in (JOB_RESULT_ORDER_INPUT, JOB_RESULT_ORDER_COMPLETION):
        whole = await read(jobs, order, max_results=10_000, max_bytes=1 << 20)
        assert len(whole) == 700
        assert await read(jobs, order, max_results=33) == whole
        assert await read(jobs, order, max_bytes=100) == whole
    failed = await jobs.results(
        TENANT,
        "a",
        order=JOB_RESULT_ORDER_INPUT,
        cursor="",
        max_results=1000,
        max_bytes=1 << 20,
        result_filter=JOB_RESULT_FILTER_FAILED,
    )
    assert [JobResult.FromString(result).index for result in failed.results] == [1, 2, 300]
    assert failed.at_end
    assert job_wire.split(failed.wire()) == failed.results
    succeeded = await jobs.results(
        TENANT,
        "a",
        order=JOB_RESULT_ORDER_COMPLETION,
        cursor="",
        max_results=1000,
        max_bytes=1 << 20,
        result_filter=JOB_RESULT_FILTER_SUCCEEDED,
    )
    assert len(succeeded.results) == 697


@pytest.mark.parametrize(
    "cursor", ["x", "i", "i.", "i.1", "i.1.", "c.0.0", "i.-1.0", "i.1.2.3", "i.²2.0", "i." + "9" * 30]
)
async def test_a_cursor_that_is_none(gateway: GatewayBroker, cursor: str) -> None:
    await gateway.jobs.create(spec())
    with pytest.raises(CursorInvalid):
        await gateway.jobs.results(TENANT, "a", order=JOB_RESULT_ORDER_INPUT, cursor=cursor, max_results=1, max_bytes=1)


async def test_a_change_wakes_who_waits(gateway: GatewayBroker, worker: WorkerBroker) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    version = (await jobs.get(TENANT, "a")).version
    assert not await jobs.changed(TENANT, "a", version, 0.01)
    waiting = [asyncio.create_task(jobs.changed(TENANT, "a", version, 60)) for _ in range(3)]
    await upload(jobs, 3)
    assert await asyncio.gather(*waiting) == [True] * 3
    for change in (lambda: worker.take_chunks(1), lambda: worker.handoff(worker.held), lambda: drain(worker)):
        version = (await jobs.get(TENANT, "a")).version
        change()
        assert await jobs.changed(TENANT, "a", version, 60)
    version = (await jobs.get(TENANT, "a")).version
    await jobs.delete(TENANT, "a")
    assert await jobs.changed(TENANT, "a", version, 60)


async def test_jobs_are_listed_newest_first(broker_url: str) -> None:
    async with await GatewayBroker.connect(broker_url, shards=3) as gateway:
        jobs = gateway.jobs
        for i in range(25):
            await jobs.create(spec(f"job-{i}"))
        whole, token = await jobs.list_jobs(TENANT, limit=100)
        assert token == ""
        assert {record.spec.job_id for record in whole} == {f"job-{i}" for i in range(25)}
        created = [record.created_ms for record in whole]
        assert created == sorted(created, reverse=True)
        for size in (1, 7, 24, 25):
            paged, token = await jobs.list_jobs(TENANT, limit=size)
            while token:
                page, token = await jobs.list_jobs(TENANT, limit=size, before=token)
                paged += page
            assert paged == whole
        for token in ("x", "1", "1.", ".x", "²."):
            with pytest.raises(ValueError, match="page token"):
                await jobs.list_jobs(TENANT, limit=1, before=token)


async def test_a_job_whose_time_is_over_expires_and_is_then_forgotten(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    await upload(jobs, 600)
    (done, running) = worker.take_chunks(2)
    finish(worker, [done])
    await end_time(client, gateway)
    assert (await jobs.get(TENANT, "a")).state == JOB_STATE_CANCELLING
    assert worker.publish([]).stop == {running.chunk_id: Stop.CANCELLED}
    record = await jobs.get(TENANT, "a")
    assert (record.state, record.succeeded, record.skipped) == (JOB_STATE_EXPIRED, 256, 344)
    assert len(await read(jobs)) == 256
    check_clean(client, [worker.life])
    await end_time(client, gateway)
    assert job_keys(client) == set()
    assert await jobs.list_jobs(TENANT, limit=9) == ([], "")


async def test_what_no_gateway_sweeps_ends_by_itself(
    client: redis.Redis, gateway: GatewayBroker, worker: WorkerBroker
) -> None:
    jobs = gateway.jobs
    await jobs.create(spec())
    await upload(jobs, 600)
    drain(worker, bad=[1])
    await jobs.retry(TENANT, "a")
    taken = worker.take_chunks(1)
    worker._chunks[taken[0].chunk_id].unsaved_since = 0.0
    for name in job_keys(client) - {"ends", "use"}:
        if not name.startswith("turn:"):
            left_ms = client.pttl(f"{ROOT}{name}")
            assert 0 < left_ms <= (3600 + 2 * DAY_S) * 1000, name
    client.unlink(*list(client.scan_iter(f"{ROOT}job:*")))  # their time has come
    finish(worker, taken)
    assert worker.held == ()
    with pytest.raises(JobNotFound):
        await jobs.get(TENANT, "a")
    await end_time(client, gateway)
    assert job_keys(client) == set()


async def test_every_name_of_a_job_is_one_of_its_tenant(client: redis.Redis, broker_url: str) -> None:
    """Two shards: all keys of a job lie in one, under the tag that keeps them in one slot of a cluster."""
    async with await GatewayBroker.connect(broker_url, shards=2) as gateway:
        for i in range(8):
            await gateway.jobs.create(spec(f"job-{i}"))
            await gateway.jobs.upload(TENANT, f"job-{i}", 0, [item(0)], [1])
        roots = {name.split(b"}")[0] for name in client.scan_iter("*job:*")}
        assert roots == {b"xs:{0", b"xs:{1"}
