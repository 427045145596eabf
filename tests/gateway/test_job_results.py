"""Reading results of jobs: orders, filters, cursors, followers, readers that stand still, gateways that go away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
from effort import examples
from gateway.conftest import ServeGateway, Service
from gateway.helpers import fields, reason, reason_in, status_in, status_of
from gateway.job_worker import JobWorker
from gateway.jobs import (
    EMBED,
    chunk,
    ended,
    failure_of,
    get,
    header,
    item,
    job_service,
    make,
    read,
    results,
    results_in,
    texts,
    until,
)
from gateway.scripted_worker import card
from gateway.test_faults import gateway_process
from google.rpc.code_pb2 import Code
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter
from xlmstream import AsyncClient, RetryPolicy
from xlmstream.v1 import job_pb2
from xlmstream.v1 import jobs_pb2 as pb
from xlmstream.v1.common_pb2 import TextInput
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.job_pb2 import JobItem, JobTask
from xlmstream_server.catalogue import ServedModel
from xlmstream_server.config import GatewayConfig, Streams
from xlmstream_server.jobs.cursor import Seal
from xlmstream_server.jobs.items import costs_of
from xlmstream_server.jobs.kinds import KINDS
from xlmstream_server.tasks.generation import generation_cost

INPUT, COMPLETION = job_pb2.JOB_RESULT_ORDER_INPUT, job_pb2.JOB_RESULT_ORDER_COMPLETION
FAILED, SUCCEEDED = job_pb2.JOB_RESULT_FILTER_FAILED, job_pb2.JOB_RESULT_FILTER_SUCCEEDED
BAD = (1, 299, 300, 555)


@pytest.fixture
async def service(broker_url: str, serve_gateway: ServeGateway) -> AsyncIterator[Service]:
    """A service that has done a job of 600 items, the `BAD` of which failed."""
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker) as running:
            await make(running, texts(600, bad=BAD))
            await ended(running)
            yield running


async def has_done(service: Service, number: int) -> bool:
    return (await get(service)).counts.succeeded >= number


async def counted(counter: Counter) -> bool:
    return any(sample.value for sample in counter.collect()[0].samples if sample.name.endswith("_total"))


async def page_by_page(service: Service, **asked: Any) -> list[job_pb2.JobResult]:
    found: list[job_pb2.JobResult] = []
    token = ""
    while True:
        request = pb.ListJobResultsRequest(job_id="j", page_token=token, **asked)
        page = await service.jobs.ListJobResults(request)
        found += page.results
        token = page.next_page_token
        if not token:
            return found


@pytest.mark.parametrize("order", [INPUT, COMPLETION])
@pytest.mark.parametrize("wanted", [0, FAILED, SUCCEEDED])
async def test_orders_and_filters(service: Service, order: int, wanted: int) -> None:
    expected = [index for index in range(600) if not wanted or (index in BAD) == (wanted == FAILED)]
    found = await results(service, order=order, filter=wanted)
    assert sorted(one.index for one in found) == expected
    assert order == COMPLETION or [one.index for one in found] == expected
    assert all((one.WhichOneof("outcome") == "error") == (one.index in BAD) for one in found)
    assert await page_by_page(service, order=order, filter=wanted, page_size=77) == found
    assert await page_by_page(service, order=order, filter=wanted, page_size=1000) == found


async def test_messages_have_a_size_and_a_cursor_each(broker_url: str, serve_gateway: ServeGateway) -> None:
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker) as service:
            task = JobTask(generate=GenerationParameters())
            await service.jobs.CreateJob(pb.CreateJobRequest(job_id="j", task=task))
            given = [
                JobItem(generate=TextInput(text=f"{index} " + "x" * 3000)).SerializeToString() for index in range(400)
            ]
            await service.jobs.UploadJobItems(iter([header("j", seal=True), chunk(0, given)]))
            await ended(service)
            messages = await read(service.jobs.StreamJobResults(pb.StreamJobResultsRequest(job_id="j")))
            sizes = [message.ByteSize() for message in messages if not message.end]
            assert len(sizes) >= 4
            assert 128 << 10 < max(sizes) <= 260 << 10
            whole = results_in(messages)
            assert [one.index for one in whole] == list(range(400))
            for number, message in enumerate(messages[:-1]):
                rest = await results(service, cursor=message.next_cursor)
                assert rest == results_in(messages[number + 1 :])


async def test_a_cursor_is_good_for_its_own_reading_only(service: Service) -> None:
    await make(service, texts(2), "other")
    page = await service.jobs.ListJobResults(pb.ListJobResultsRequest(job_id="j", page_size=5))
    cursor = page.next_page_token
    assert cursor.isascii()
    for asked in (
        {"job_id": "j", "cursor": cursor, "order": COMPLETION},
        {"job_id": "j", "cursor": cursor, "filter": FAILED},
        {"job_id": "j", "cursor": cursor[:-2]},
        {"job_id": "j", "cursor": "x"},
        {"job_id": "j", "cursor": "ü"},
        {"job_id": "j", "cursor": "AAAA" * 10},
        {"job_id": "j", "order": 9},
        {"job_id": "j", "filter": 9},
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await results(service, **asked)
        status = status_in(failed.value)
        field = "cursor" if "cursor" in asked else next(name for name in asked if name != "job_id")
        assert (status.code, fields(status)) == (Code.INVALID_ARGUMENT, [field])
    status = await status_of(service.jobs.ListJobResults(pb.ListJobResultsRequest(job_id="j", page_size=1001)))
    assert fields(status) == ["page_size"]


async def test_a_cursor_outlives_neither_its_job_nor_a_namesake(service: Service) -> None:
    first = await service.jobs.ListJobResults(pb.ListJobResultsRequest(job_id="j", page_size=5))
    request = pb.ListJobResultsRequest(job_id="j", page_token=first.next_page_token)
    await service.jobs.DeleteJob(pb.DeleteJobRequest(job_id="j"))
    assert reason(await status_of(service.jobs.ListJobResults(request))) == "JOB_NOT_FOUND"
    await make(service, texts(3))
    status = await status_of(service.jobs.ListJobResults(request))
    assert (status.code, reason(status)) == (Code.OUT_OF_RANGE, "CURSOR_EXPIRED")


@pytest.mark.parametrize("order", [INPUT, COMPLETION])
async def test_a_follower_gets_what_comes_and_the_end(broker_url: str, serve_gateway: ServeGateway, order: int) -> None:
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker) as service:
            await service.jobs.CreateJob(pb.CreateJobRequest(job_id="j", task=EMBED))
            request = pb.StreamJobResultsRequest(job_id="j", order=order, follow=True)
            reading = asyncio.ensure_future(read(service.jobs.StreamJobResults(request)))
            for first in range(0, 900, 300):
                items = [item(text) for text in texts(300)]
                await service.jobs.UploadJobItems(iter([header("j"), chunk(first, items)]))
            await service.jobs.SealJob(pb.SealJobRequest(job_id="j"))
            found = [one.index for one in results_in(await reading)]
            assert sorted(found) == list(range(900))
            assert order == COMPLETION or found == sorted(found)


async def test_a_follower_that_hears_nothing_hears_that(broker_url: str, serve_gateway: ServeGateway) -> None:
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker) as service:
            await make(service, ["at once", "hold this"])
            call = service.jobs.StreamJobResults(pb.StreamJobResultsRequest(job_id="j", order=COMPLETION, follow=True))
            messages = [await call.read()]
            while messages[-1].results:
                messages.append(await call.read())
            assert not messages[-1].end
            assert messages[-1].next_cursor
            worker.release()
            messages += await read(call)
            assert sorted(one.index for one in results_in(messages)) == [0, 1]
            now = await read(service.jobs.StreamJobResults(pb.StreamJobResultsRequest(job_id="j")))
            assert [one.index for one in results_in(now)] == [0, 1]


async def test_results_of_a_cancelled_job_stay(broker_url: str, serve_gateway: ServeGateway) -> None:
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker) as service:
            await make(service, [*texts(256), "hold this"])
            await until(lambda: has_done(service, 256))
            await service.jobs.CancelJob(pb.CancelJobRequest(job_id="j"))
            assert (await ended(service)).state == job_pb2.JOB_STATE_CANCELLED
            assert [one.index for one in await results(service, follow=True)] == list(range(256))


async def test_a_reader_that_stands_still_holds_nobody_and_may_come_back(
    broker_url: str, serve_gateway: ServeGateway, quick_config: GatewayConfig
) -> None:
    config = replace(quick_config, streams=Streams(write_stall_s=0.3))
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker, config) as service:
            task = JobTask(generate=GenerationParameters())
            await service.jobs.CreateJob(pb.CreateJobRequest(job_id="j", task=task))
            given = [JobItem(generate=TextInput(text="x" * 60_000)).SerializeToString() for _ in range(250)]
            for first in range(0, 250, 50):
                await service.jobs.UploadJobItems(iter([header("j"), chunk(first, given[first : first + 50])]))
            await service.jobs.SealJob(pb.SealJobRequest(job_id="j"))
            await ended(service)
            still = service.jobs.StreamJobResults(pb.StreamJobResultsRequest(job_id="j"))
            messages = [await still.read()]
            assert len(await results(service)) == 250, "beside the one that stands still"
            refused = service.gateway.metrics.calls.labels("StreamJobResults", "CANCELLED")
            await until(lambda: counted(refused))
            assert reason_in(await failure_of(still, messages)) == "CANCELLED"
            assert len(results_in(messages)) < 250
            rest = await results(service, cursor=messages[-1].next_cursor)
            assert [one.index for one in (*results_in(messages), *rest)] == list(range(250))


async def test_two_gateways_that_are_killed_lose_no_item_and_no_result(broker_url: str) -> None:
    """The client goes from one to the other, in both directions; nothing comes twice."""
    retry = RetryPolicy(max_attempts=20, initial_backoff_s=0.01, max_backoff_s=0.5)
    async with AsyncExitStack() as stack:
        stack.enter_context(JobWorker(broker_url))
        first, one = await stack.enter_async_context(gateway_process(broker_url))
        second, two = await stack.enter_async_context(gateway_process(broker_url))
        client = await stack.enter_async_context(AsyncClient([one, two], retry=retry))
        await until(client.models)
        job = await client.jobs.create("embed", job_id="j")

        async def many() -> AsyncIterator[str]:
            for index in range(20_000):
                if index == 14_000:
                    first.send_signal(signal.SIGKILL)
                yield f"{'x' * 600} {index}"

        assert await job.upload(many()) == 20_000
        await job.seal()
        _, again = await stack.enter_async_context(gateway_process(broker_url, "--listen", one))
        assert again == one
        found = []
        async for result in job.results():
            found.append(result.index)
            if len(found) == 6_000:
                second.send_signal(signal.SIGKILL)
        assert found == list(range(20_000))


@settings(max_examples=examples(200))
@given(place=st.text(st.characters(codec="ascii"), max_size=30), flip=st.integers(0, 400), other=st.booleans())
def test_a_sealed_place_comes_back_or_nothing_does(place: str, flip: int, other: bool) -> None:
    seal = Seal("secret", 1234, INPUT, 0)
    cursor = seal.close(place)
    assert seal.open(cursor) == place
    altered = list(cursor)
    altered[flip % len(altered)] = "A" if altered[flip % len(altered)] != "A" else "B"
    try:
        opened = seal.open("".join(altered))
    except ValueError:
        pass
    else:  # the last letter has bits that mean nothing, and the life may have been hit
        assert opened in (place, None)
    for reading in (Seal("other", 1234, INPUT, 0), Seal("secret", 1234, COMPLETION, 0), Seal("secret", 1234, INPUT, 1)):
        with pytest.raises(ValueError, match="of another reading"):
            reading.open(cursor)
    assert Seal("secret", 1235, INPUT, 0).open(cursor) is None


@settings(max_examples=examples(100))
@given(
    given_texts=st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=20),
    new=st.integers(1, 600),
    branch=st.sampled_from(["embed", "generate"]),
)
def test_items_cost_by_their_size_about_what_their_texts_do(given_texts: list[str], new: int, branch: str) -> None:
    """The estimate by serialized size against the one of the unary calls, which reads the text."""
    model = ServedModel(card(), 4.0, 8, 0)
    parameters = GenerationParameters(max_new_tokens=new)
    task = JobTask(generate=parameters) if branch == "generate" else EMBED
    inputs = [TextInput(text=text) for text in given_texts]
    items = [JobItem(**{branch: one}).SerializeToString() for one in inputs]
    estimate = KINDS[branch].estimate(task, model)
    costs, wrong = costs_of(items, 0, branch, estimate)
    assert wrong is None
    many, wrong = costs_of(items * 300, 0, branch, estimate)
    assert (many, wrong) == (costs * 300, None), "looked up or not"
    for one, cost in zip(inputs, costs, strict=True):
        exact = generation_cost(one, parameters, model) if branch == "generate" else model.estimate_tokens(one)
        assert min(exact, 512) <= cost <= exact + 4
