"""JobService: made, filled, watched, changed; what is refused, and by which name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import grpc.aio
import pytest
from gateway.conftest import ServeGateway, Service
from gateway.helpers import details, fields, reason, reason_in, status_in, status_of
from gateway.job_worker import JobWorker
from gateway.jobs import EMBED, chunk, ended, failure_of, get, header, item, job_service, make, results, texts, upload
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import QuotaFailure, ResourceInfo
from google.rpc.status_pb2 import Status
from xlmstream.v1 import job_pb2
from xlmstream.v1 import jobs_pb2 as pb
from xlmstream.v1.classification_pb2 import ChooseMultipleInput, ClassifySequenceInput
from xlmstream.v1.common_pb2 import TRUNCATION_KEEP_START, TextInput
from xlmstream.v1.embedding_pb2 import EmbedParameters
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.job_pb2 import JobItem, JobTask
from xlmstream.v1.question_answering_pb2 import AnswerQuestionInput
from xlmstream.v1.translation_pb2 import TranslateParameters
from xlmstream_server import errors
from xlmstream_server.broker import JobStore
from xlmstream_server.config import GatewayConfig, Jobs, Limits
from xlmstream_server.jobs.kinds import KINDS

TEXT = TextInput(text="some text")
INPUTS: dict[str, Any] = {
    "classify_sequence": ClassifySequenceInput(text=TEXT, text_pair=TEXT),
    "answer_question": AnswerQuestionInput(question=TEXT, context=TEXT),
    "choose_multiple": ChooseMultipleInput(prompt=TEXT, choices=[TEXT, TEXT]),
}


@pytest.fixture
async def service(broker_url: str, serve_gateway: ServeGateway) -> AsyncIterator[Service]:
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker) as running:
            yield running


@pytest.fixture
async def idle(broker_url: str, serve_gateway: ServeGateway) -> AsyncIterator[Service]:
    """A service whose worker takes nothing."""
    with JobWorker(broker_url, takes=False) as worker:
        async with job_service(serve_gateway, worker) as running:
            yield running


def state_told(status: Status) -> str:
    info = errors.error_info(status)
    assert info is not None
    return info.metadata["state"]


async def test_a_job_from_first_to_last(service: Service) -> None:
    request = pb.CreateJobRequest(
        job_id="news",
        task=JobTask(embed=EmbedParameters(dimensions=2)),
        truncation=TRUNCATION_KEEP_START,
        labels={"team": "a"},
        ttl_s=600,
        retention_s=60,
        max_attempts=2,
    )
    job = (await service.jobs.CreateJob(request)).job
    assert (job.job_id, job.state, job.model) == ("news", job_pb2.JOB_STATE_ACCEPTING, "toy@1")
    assert (job.task, job.truncation, dict(job.labels)) == (request.task, TRUNCATION_KEEP_START, {"team": "a"})
    assert (job.max_attempts, job.attempt, job.sealed, job.items_committed) == (2, 1, False, 0)
    assert job.expire_time.seconds - job.create_time.seconds == 600
    items = [item(text, f"key {index}") for index, text in enumerate(texts(600))]
    assert (
        await upload(service, header("news"), chunk(0, items[:500]), chunk(500, items[500:]))
    ).items_committed == 600
    await service.jobs.SealJob(pb.SealJobRequest(job_id="news", expected_items=600))
    job = await ended(service, "news")
    assert (job.state, job.counts.succeeded, job.sealed) == (job_pb2.JOB_STATE_SUCCEEDED, 600, True)
    assert job.prompt_tokens == sum(map(len, texts(600)))
    found = await results(service, "news")
    assert [(one.index, one.key, one.attempt) for one in found] == [(i, f"key {i}", 1) for i in range(600)]
    assert [one.embed.usage.prompt_tokens for one in found] == list(map(len, texts(600)))


def test_every_task_of_the_contract_has_a_kind() -> None:
    assert set(KINDS) == {field.name for field in JobTask.DESCRIPTOR.fields}


@pytest.mark.parametrize("branch", KINDS)
async def test_every_task_is_a_job_task(broker_url: str, serve_gateway: ServeGateway, branch: str) -> None:
    tasks = [KINDS[branch].task]
    with JobWorker(broker_url, tasks=tasks) as worker:
        async with job_service(serve_gateway, worker) as service:
            await run_a_job(service, branch)


async def run_a_job(service: Service, branch: str) -> None:
    task = JobTask()
    getattr(task, branch).SetInParent()
    if branch == "translate":
        task.translate.target_language = "fr"
    items = [JobItem(key=key, **{branch: INPUTS.get(branch, TEXT)}) for key in "ab"]
    request = pb.CreateJobRequest(job_id=branch.replace("_", "-"), task=task, items=items, seal=True)
    job = (await service.jobs.CreateJob(request)).job
    assert (job.sealed, job.items_committed) == (True, 2)
    await ended(service, job.job_id)
    found = await results(service, job.job_id)
    assert [(one.key, one.WhichOneof("outcome")) for one in found] == [("a", branch), ("b", branch)]


async def test_creating_twice_makes_one(service: Service) -> None:
    for name in ({"job_id": "mine"}, {"request_id": "r-1"}, {"job_id": "both", "request_id": "r-2"}):
        request = pb.CreateJobRequest(task=EMBED, items=[JobItem(embed=TEXT)], seal=True, **name)
        first, second = [(await service.jobs.CreateJob(request)).job for _ in range(2)]
        assert (first.job_id, first.create_time) == (second.job_id, second.create_time)
        assert second.items_committed == 1
        request.max_attempts = 7
        status = await status_of(service.jobs.CreateJob(request))
        told = "REQUEST_ID_REUSED" if name == {"request_id": "r-1"} else "JOB_ID_REUSED"
        assert (status.code, reason(status)) == (Code.ALREADY_EXISTS, told)
    nameless = [(await service.jobs.CreateJob(pb.CreateJobRequest(task=EMBED))).job.job_id for _ in range(2)]
    assert nameless[0] != nameless[1]


async def test_a_job_is_found_whatever_is_served_now(service: Service, broker_url: str) -> None:
    request = pb.CreateJobRequest(job_id="mine", model="toy", task=EMBED)
    await service.jobs.CreateJob(request)
    service.gateway.catalogue._models.clear()
    request.request_id = "another"
    for model in ("toy", "toy@1", ""):
        request.model = model
        assert (await service.jobs.CreateJob(request)).job.model == "toy@1"


@pytest.mark.parametrize(
    ("request_fields", "code", "told", "path"),
    [
        ({"task": None}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "task"),
        ({"job_id": "Über"}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "job_id"),
        ({"job_id": "a" * 64}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "job_id"),
        ({"request_id": "a b"}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "request_id"),
        ({"truncation": 9}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "truncation"),
        ({"ttl_s": 59}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "ttl_s"),
        ({"retention_s": 2592001}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "retention_s"),
        ({"max_attempts": 11}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "max_attempts"),
        ({"labels": {"a": "b" * 64}}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "labels['a']"),
        ({"labels": {str(n): "" for n in range(65)}}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "labels"),
        ({"items": [JobItem(score=TEXT)]}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "items[0]"),
        ({"items": [JobItem(embed=TEXT)] * 257}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "items"),
        ({"items": [JobItem(embed=TEXT, key="ü" * 129)]}, Code.INVALID_ARGUMENT, "INVALID_INPUT", "items[0].key"),
        ({"model": "other"}, Code.NOT_FOUND, "MODEL_NOT_FOUND", None),
        (
            {"task": JobTask(embed=EmbedParameters(dimensions=99))},
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "task.embed.dimensions",
        ),
        (
            {"task": JobTask(generate=GenerationParameters(top_p=2))},
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "task.generate.top_p",
        ),
        (
            {"task": JobTask(translate=TranslateParameters(target_language="xx"))},
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "task.translate.target_language",
        ),
        (
            {
                "task": JobTask(
                    translate=TranslateParameters(target_language="fr", parameters=GenerationParameters(top_p=2))
                )
            },
            Code.INVALID_ARGUMENT,
            "INVALID_INPUT",
            "task.translate.parameters.top_p",
        ),
    ],
)
async def test_what_is_no_job(
    service: Service, request_fields: dict[str, Any], code: Code.ValueType, told: str, path: str | None
) -> None:
    request = pb.CreateJobRequest(**({"task": EMBED} | request_fields))
    status = await status_of(service.jobs.CreateJob(request))
    assert (status.code, reason(status)) == (code, told)
    assert fields(status) == ([path] if path else [])
    assert not (await service.jobs.ListJobs(pb.ListJobsRequest())).jobs, "there is no job"


async def test_unknown_jobs(service: Service) -> None:
    calls = [
        service.jobs.GetJob(pb.GetJobRequest(job_id="x")),
        service.jobs.SealJob(pb.SealJobRequest(job_id="x")),
        service.jobs.RetryJob(pb.RetryJobRequest(job_id="x")),
        service.jobs.CancelJob(pb.CancelJobRequest(job_id="x")),
        service.jobs.PauseJob(pb.PauseJobRequest(job_id="x")),
        service.jobs.ResumeJob(pb.ResumeJobRequest(job_id="x")),
        service.jobs.DeleteJob(pb.DeleteJobRequest(job_id="x")),
        service.jobs.ListJobResults(pb.ListJobResultsRequest(job_id="x")),
    ]
    for call in calls:
        status = await status_of(call)
        assert (status.code, reason(status)) == (Code.NOT_FOUND, "JOB_NOT_FOUND")
        assert details(status, ResourceInfo)[0].resource_type == "job"
    for stream in (
        service.jobs.WatchJob(pb.WatchJobRequest(job_id="x")),
        service.jobs.StreamJobResults(pb.StreamJobResultsRequest(job_id="x")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream.read()
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def upload_refused(service: Service, *messages: pb.UploadJobItemsRequest) -> Status:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await upload(service, *messages)
    return status_in(failed.value)


async def test_items_once_committed_are_skipped_and_gaps_refused(idle: Service) -> None:
    await idle.jobs.CreateJob(pb.CreateJobRequest(job_id="j", task=EMBED))
    items = [item(text) for text in texts(100)]
    assert (await upload(idle, header("j"), chunk(0, items[:40]))).items_committed == 40
    assert (await upload(idle, header("j"), chunk(20, items[20:60]), chunk(0, items[:10]))).items_committed == 60
    status = await upload_refused(idle, header("j"), chunk(60, items[60:70]), chunk(90, items[90:]))
    assert (status.code, reason(status)) == (Code.OUT_OF_RANGE, "UPLOAD_GAP")
    info = errors.error_info(status)
    assert info is not None
    assert info.metadata["items_committed"] == "70"
    status = await status_of(idle.jobs.SealJob(pb.SealJobRequest(job_id="j", expected_items=100)))
    assert (status.code, reason(status)) == (Code.OUT_OF_RANGE, "UPLOAD_GAP")
    assert (await upload(idle, header("j", seal=True), chunk(70, items[70:]))).items_committed == 100
    job = await get(idle)
    assert (job.items_committed, job.sealed, job.counts.pending) == (100, True, 100)
    status = await upload_refused(idle, header("j"), chunk(100, items[:1]))
    assert (status.code, reason(status), state_told(status)) == (Code.FAILED_PRECONDITION, "JOB_STATE", "QUEUED")


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        (JobItem(score=TEXT).SerializeToString(), "items[3]"),
        (JobItem(key="k").SerializeToString(), "items[3]"),
        (b"\xff\xff", "items[3]"),
        (b"\x0a\x01\xff" + item("not UTF-8"), "items[3]"),
        (item("x" * (256 << 10)), "items[3]"),
        (item("text", "ü" * 129), "items[3].key"),
    ],
    ids=["another task", "no input", "garbage", "not UTF-8", "too large", "long key"],
)
async def test_what_can_be_no_item_ends_the_upload_behind_those_before(idle: Service, bad: bytes, path: str) -> None:
    await idle.jobs.CreateJob(pb.CreateJobRequest(job_id="j", task=EMBED))
    good = [item(text, "ü" * 128) for text in texts(5)]
    status = await upload_refused(idle, header("j"), chunk(0, good[:2]), chunk(2, [good[2], bad, *good[3:]]))
    assert (status.code, reason(status), fields(status)) == (Code.INVALID_ARGUMENT, "INVALID_INPUT", [path])
    assert (await get(idle)).items_committed == 3


async def test_messages_that_are_no_upload(idle: Service) -> None:
    await idle.jobs.CreateJob(pb.CreateJobRequest(job_id="j", task=EMBED))
    good = [item("text")]
    for messages in ((), (chunk(0, good),), (pb.UploadJobItemsRequest(),)):
        status = await upload_refused(idle, *messages)
        assert (reason(status), fields(status)) == ("INVALID_INPUT", ["header"])
    for messages in ((header("j"), header("j")), (header("j"), pb.UploadJobItemsRequest())):
        status = await upload_refused(idle, *messages)
        assert (reason(status), fields(status)) == ("INVALID_INPUT", ["chunk"])
    status = await upload_refused(idle, header("j"), chunk(0, []))
    assert fields(status) == ["chunk.items"]
    status = await upload_refused(idle, header("j"), chunk(0, good, crc32c=1))
    assert (status.code, reason(status)) == (Code.DATA_LOSS, "CHECKSUM_MISMATCH")
    assert errors.is_retryable(status)
    unchecked = pb.UploadJobItemsRequest(chunk=pb.UploadChunk(items=good))
    assert (await upload(idle, header("j"), unchecked)).items_committed == 1


async def test_a_caller_that_goes_on_sending_learns_why(idle: Service, quick_config: GatewayConfig) -> None:
    """Also one that has not sent all when the service has seen enough."""
    many = [chunk(9, [item("x" * 1000)] * 200) for _ in range(20)]
    for _ in range(10):
        status = await upload_refused(idle, header("x"), *many)
        assert reason(status) == "JOB_NOT_FOUND"


async def test_messages_have_a_limit(broker_url: str, serve_gateway: ServeGateway, quick_config: GatewayConfig) -> None:
    config = replace(quick_config, limits=Limits(max_message_bytes=2000))
    with JobWorker(broker_url, takes=False) as worker:
        async with job_service(serve_gateway, worker, config) as service:
            await service.jobs.CreateJob(pb.CreateJobRequest(job_id="j", task=EMBED))
            good = [item("x" * 400)]
            status = await upload_refused(service, header("j"), chunk(0, good * 3), chunk(3, good * 5))
            assert (status.code, reason(status)) == (Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
            assert (await get(service)).items_committed == 3


async def test_quotas(broker_url: str, serve_gateway: ServeGateway, quick_config: GatewayConfig) -> None:
    config = replace(quick_config, jobs=Jobs(jobs_max_bytes=3000, jobs_max_count=2))
    with JobWorker(broker_url, takes=False) as worker:
        async with job_service(serve_gateway, worker, config) as service:
            for name in ("a", "b"):
                await service.jobs.CreateJob(pb.CreateJobRequest(job_id=name, task=EMBED))
            status = await status_of(service.jobs.CreateJob(pb.CreateJobRequest(job_id="c", task=EMBED)))
            assert (status.code, reason(status)) == (Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
            status = await upload_refused(service, header("a"), chunk(0, [item("x" * 100)] * 100))
            assert (status.code, reason(status)) == (Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
            assert errors.retry_after_s(status)
            [failure] = details(status, QuotaFailure)
            assert failure.violations[0].subject == "jobs: bytes"


async def test_items_are_cut_into_chunks_by_number_and_by_cost(
    broker_url: str, serve_gateway: ServeGateway, quick_config: GatewayConfig
) -> None:
    config = replace(quick_config, jobs=Jobs(chunk_max_items=50, chunk_max_tokens=400))
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker, config) as service:
            await make(service, ["short"] * 120)
            await ended(service)
            assert sorted(worker.sizes) == [20, 50, 50]
            worker.sizes.clear()
            await make(service, ["x" * 320] * 12, "long")
            await ended(service, "long")
            assert max(worker.sizes) == 4, "of about 80 tokens each"


async def test_paused_resumed_cancelled_deleted(idle: Service) -> None:
    await make(idle, texts(3))
    job = (await idle.jobs.PauseJob(pb.PauseJobRequest(job_id="j"))).job
    assert job.state == job_pb2.JOB_STATE_PAUSED
    job = (await idle.jobs.ResumeJob(pb.ResumeJobRequest(job_id="j"))).job
    assert job.state == job_pb2.JOB_STATE_QUEUED
    for call in (
        idle.jobs.DeleteJob(pb.DeleteJobRequest(job_id="j")),
        idle.jobs.RetryJob(pb.RetryJobRequest(job_id="j")),
    ):
        status = await status_of(call)
        assert (status.code, reason(status), state_told(status)) == (Code.FAILED_PRECONDITION, "JOB_STATE", "QUEUED")
    job = (await idle.jobs.CancelJob(pb.CancelJobRequest(job_id="j"))).job
    assert (job.state, job.counts.skipped) == (job_pb2.JOB_STATE_CANCELLED, 3)
    status = await status_of(idle.jobs.PauseJob(pb.PauseJobRequest(job_id="j")))
    assert state_told(status) == "CANCELLED"
    await idle.jobs.DeleteJob(pb.DeleteJobRequest(job_id="j"))
    assert reason(await status_of(idle.jobs.GetJob(pb.GetJobRequest(job_id="j")))) == "JOB_NOT_FOUND"


async def test_failed_items_alone_are_retried(broker_url: str, serve_gateway: ServeGateway) -> None:
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker) as service:
            await make(service, texts(300, bad=range(0, 300, 100)))
            job = await ended(service)
            assert job.state == job_pb2.JOB_STATE_PARTIALLY_SUCCEEDED
            assert (job.counts.succeeded, job.counts.failed) == (297, 3)
            [summary] = job.error_summary
            assert (summary.reason, summary.count, summary.sample_index % 100) == ("INVALID_INPUT", 3, 0)
            worker.mended = True
            worker.sizes.clear()
            wrong = await status_of(service.jobs.RetryJob(pb.RetryJobRequest(job_id="j", request_id="a b")))
            assert fields(wrong) == ["request_id"]
            for _ in range(2):
                await service.jobs.RetryJob(pb.RetryJobRequest(job_id="j", request_id="again"))
            job = await ended(service)
            assert (job.state, job.attempt, job.counts.succeeded) == (job_pb2.JOB_STATE_SUCCEEDED, 2, 300)
            assert sum(worker.sizes) == 3
            assert [one.index for one in await results(service) if one.attempt == 2] == [0, 100, 200]


async def test_jobs_are_listed_by_state_and_label(idle: Service) -> None:
    for number in range(7):
        labels = {"even": str(number % 2 == 0), "all": "yes"}
        await idle.jobs.CreateJob(pb.CreateJobRequest(job_id=f"j{number}", task=EMBED, labels=labels))
    await idle.jobs.SealJob(pb.SealJobRequest(job_id="j2"))
    names, token = [], ""
    for _ in range(10):
        page = await idle.jobs.ListJobs(pb.ListJobsRequest(page_size=3, page_token=token))
        assert len(page.jobs) <= 3
        names += [job.job_id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert sorted(names) == [f"j{number}" for number in range(7)]
    accepting = pb.ListJobsRequest(states=[job_pb2.JOB_STATE_ACCEPTING], labels={"even": "True"})
    assert {job.job_id for job in (await idle.jobs.ListJobs(accepting)).jobs} == {"j0", "j4", "j6"}
    first = await idle.jobs.ListJobs(pb.ListJobsRequest(page_size=3))
    for request, field in (
        (pb.ListJobsRequest(page_size=3, page_token="nonsense"), "page_token"),
        (pb.ListJobsRequest(page_token=first.next_page_token, labels={"all": "yes"}), "page_token"),
        (pb.ListJobsRequest(page_size=1001), "page_size"),
        (pb.ListJobsRequest(states=[0]), "states[0]"),
        (pb.ListJobsRequest(states=[99]), "states[0]"),
        (pb.ListJobsRequest(states=[1] * 17), "states"),
        (pb.ListJobsRequest(labels={str(number): "" for number in range(65)}), "labels"),
    ):
        status = await status_of(idle.jobs.ListJobs(request))
        assert (reason(status), fields(status)) == ("INVALID_INPUT", [field])


async def test_a_filtered_list_looks_at_many_jobs_at_a_time(idle: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of many wanted: not a look at the broker for each that is not."""
    for number in range(30):
        await make(idle, texts(1), job_id=f"j{number}", labels={"rare": str(number % 14 == 1)})
    looks = 0
    list_jobs = JobStore.list_jobs

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal looks
        looks += 1
        return list_jobs(*arguments, **keywords)

    monkeypatch.setattr(JobStore, "list_jobs", counted)
    names, token = [], ""
    while not names or token:
        page = await idle.jobs.ListJobs(pb.ListJobsRequest(page_size=1, labels={"rare": "True"}, page_token=token))
        names += [job.job_id for job in page.jobs]
        token = page.next_page_token
    assert names == ["j29", "j15", "j1"]
    assert looks <= 4


async def test_a_watcher_sees_changes_beats_and_the_end(broker_url: str, serve_gateway: ServeGateway) -> None:
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker) as service:
            await make(service, ["hold this", "and that"])
            watch = service.jobs.WatchJob(pb.WatchJobRequest(job_id="j"))
            seen: list[pb.WatchJobResponse] = []
            while not any(message.HasField("heartbeat") for message in seen):
                seen.append(await watch.read())
            assert seen[0].HasField("job")
            worker.release()
            while (message := await watch.read()) is not grpc.aio.EOF:
                seen.append(message)
            jobs = [message.job for message in seen if message.HasField("job")]
            assert jobs[-1].state == job_pb2.JOB_STATE_SUCCEEDED
            assert all(before != after for before, after in pairwise(jobs))


async def test_watchers_are_sent_away_when_the_gateway_goes(idle: Service) -> None:
    await make(idle, texts(1))
    watch = idle.jobs.WatchJob(pb.WatchJobRequest(job_id="j"))
    follow = idle.jobs.StreamJobResults(pb.StreamJobResultsRequest(job_id="j", follow=True))
    for call in (watch, follow):  # the second gets a heartbeat
        assert await call.read() is not grpc.aio.EOF
    draining = asyncio.ensure_future(idle.gateway.drain(5.0))
    for call in (watch, follow):
        assert reason_in(await failure_of(call)) == "DRAINING"
    await draining


async def test_what_is_counted(broker_url: str, serve_gateway: ServeGateway) -> None:
    with JobWorker(broker_url) as worker:
        async with job_service(serve_gateway, worker) as service:
            await make(service, texts(10, bad=[3]))
            await ended(service)
            found = await results(service)
            await service.jobs.RetryJob(pb.RetryJobRequest(job_id="j"))
            await ended(service)
            metrics = service.gateway.metrics
            await service.gateway.census.count()

            def value(name: str, **labels: str) -> float | None:
                return metrics.registry.get_sample_value(f"xlmstream_{name}", labels)

            assert value("jobs_created_total", outcome="made") == 1
            assert value("jobs_retried_total") == 1
            assert value("job_items_uploaded_total", task="embed") == 10
            assert value("job_bytes_uploaded_total") == sum(
                len(item(text, f"k{index}")) for index, text in enumerate(texts(10, bad=[3]))
            )
            assert value("job_results_sent_total", task="embed") == 10
            assert value("job_result_bytes_sent_total") == sum(one.ByteSize() for one in found)
            assert value("jobs", state="PARTIALLY_SUCCEEDED") == 1
            assert value("jobs", state="RUNNING") == 0
            assert value("job_items", task="embed", state="failed") == 1
            assert value("job_items", task="embed", state="succeeded") == 9
