"""Jobs, on both clients: made, filled, watched, read, changed; items that fail; programs that are run again."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any

import pytest
from client.conftest import FAST
from xlmstream import (
    AsyncClient,
    Cancelled,
    Choices,
    Client,
    DeadlineExceeded,
    InvalidInput,
    JobIdReused,
    JobItem,
    JobNotFound,
    JobResult,
    JobState,
    JobStateConflict,
    ProtocolError,
    Question,
    TextPair,
    UploadGap,
)
from xlmstream.jobs.values import JOB_TASKS, state_of
from xlmstream.testing import Failure, FakeServer
from xlmstream.v1 import job_pb2
from xlmstream.v1.job_pb2 import JobTask

INPUTS: dict[str, Any] = {
    "classify": TextPair("a positive", "pair"),
    "answer": Question("Who?", "Ada Lovelace"),
    "choose": Choices("a", ["b", "cc"]),
}


class Jobs:
    """Calls on `client.jobs` and on jobs, of either client, each with a client of its own."""

    def __init__(self, clients: Any, address: str) -> None:
        self._blocking = clients.is_blocking
        self._address = address

    def call(self, owner: str, verb: str, *args: Any, **keywords: Any) -> Any:
        """`jobs.verb` where `owner` is "", else the verb of the job of that name."""
        if self._blocking:
            with Client(self._address, retry=FAST) as client:
                return getattr(client.jobs.get(owner) if owner else client.jobs, verb)(*args, **keywords)

        async def run() -> Any:
            async with AsyncClient(self._address, retry=FAST) as client:
                return await getattr(await client.jobs.get(owner) if owner else client.jobs, verb)(*args, **keywords)

        return asyncio.run(run())

    def each(self, owner: str, verb: str, take: int | None = None, *, block: bool = True, **keywords: Any) -> list[Any]:
        """The first `take` of what is iterated, inside a block of its own or without one."""
        if self._blocking:
            with Client(self._address, retry=FAST) as client:
                found = getattr(client.jobs.get(owner) if owner else client.jobs, verb)(**keywords)
                if not block:
                    return list(islice(found, take))
                with found as stream:
                    return list(islice(stream, take))

        async def run() -> list[Any]:
            async with AsyncClient(self._address, retry=FAST) as client:
                found = getattr(await client.jobs.get(owner) if owner else client.jobs, verb)(**keywords)
                if not block:
                    return await first(found)
                async with found as stream:
                    return await first(stream)

        async def first(found: Any) -> list[Any]:
            taken: list[Any] = []
            async for one in found:
                taken.append(one)
                if len(taken) == take:
                    break
            return taken

        return asyncio.run(run())

    def make(self, items: Any = (), task: str = "embed", **keywords: Any) -> str:
        """The name of a sealed job of these items."""
        job_id: str = self.call("", "create", task, **keywords).job_id
        self.call(job_id, "upload", items)
        self.call(job_id, "seal")
        return job_id


@pytest.fixture
def jobs(clients: Any, server: FakeServer) -> Jobs:
    return Jobs(clients, server.address)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(lambda text: Failure("INPUT_TOO_LONG") if text.startswith("bad") else f"{text}!") as server:
        yield server


def indices(results: list[JobResult[Any]]) -> list[int]:
    return [result.index for result in results]


def test_a_job_from_first_to_last(jobs: Jobs) -> None:
    job = jobs.call("", "create", "embed", job_id="news", pooling="mean", job_labels={"team": "a"}, ttl_s=600)
    assert (job.job_id, job.task, job.state, job.ended) == ("news", "embed", JobState.ACCEPTING, False)
    assert (job.info.model, job.info.task.embed.pooling, dict(job.info.labels)) == ("fake@1", 2, {"team": "a"})
    texts = [f"text {i}" for i in range(250)]
    assert jobs.call("news", "upload", (JobItem(f"k{i}", text) for i, text in enumerate(texts))) == 250
    assert jobs.call("news", "seal", expected_items=250).state is JobState.SUCCEEDED
    results = jobs.each("news", "results")
    assert indices(results) == list(range(250))
    assert [result.key for result in results] == [f"k{i}" for i in range(250)]
    assert all(result.attempt == 1 and result.error is None for result in results)
    assert results[7].result == results[7].value
    assert results[7].value.usage.prompt_tokens == 2
    assert jobs.call("news", "wait").info.counts.succeeded == 250


def test_every_task_has_its_verb() -> None:
    assert set(JOB_TASKS) == {field.name for field in JobTask.DESCRIPTOR.fields}


@pytest.mark.parametrize("name", [name for name, _ in JOB_TASKS.values()])
def test_results_are_those_of_map(jobs: Jobs, server: FakeServer, name: str) -> None:
    given = INPUTS.get(name, "Ada is <special1> here")
    job_id = jobs.make([given, given], name)
    assert server.jobs[job_id].info.task.WhichOneof("parameters") == server.jobs[job_id].branch
    with Client(server.address) as client:
        [mapped] = list(client.map(name, [given]))  # type: ignore[call-overload]
    assert [result.result for result in jobs.each(job_id, "results")] == [mapped.result] * 2


def test_items_that_fail_fail_alone(jobs: Jobs, server: FakeServer) -> None:
    job_id = jobs.make(["good", "bad one", "fine", "bad two"], "generate", max_new_tokens=3)
    results = jobs.each(job_id, "results")
    assert [result.error and result.error.reason for result in results] == [None, "INPUT_TOO_LONG"] * 2
    assert results[3].error.input_index == 3
    with pytest.raises(type(results[3].error)):
        _ = results[3].result
    assert results[2].result.text == "fine!"
    assert indices(jobs.each(job_id, "results", only="failed")) == [1, 3]
    assert indices(jobs.each(job_id, "results", only="succeeded", order="completion")) == [0, 2]
    info = server.jobs[job_id].info
    assert state_of(info.state) is JobState.PARTIALLY_SUCCEEDED
    assert [(one.reason, one.count, one.sample_index) for one in info.error_summary] == [("INPUT_TOO_LONG", 2, 1)]


def test_a_retry_runs_the_failed_items_only(clients: Any) -> None:
    broken = True
    with FakeServer(lambda text: Failure("DEVICE_OOM") if broken and text == "b" else text) as server:
        jobs = Jobs(clients, server.address)
        job_id = jobs.make(["a", "b", "c"], "score")
        broken = False
        assert jobs.call(job_id, "retry").state is JobState.SUCCEEDED
        results = jobs.each(job_id, "results")
        assert [(result.index, result.attempt) for result in results] == [(0, 1), (1, 2), (2, 1)]
        assert indices(jobs.each(job_id, "results", order="completion")) == [0, 2, 1]


def test_a_program_that_is_run_again_goes_on(jobs: Jobs, server: FakeServer) -> None:
    texts = [f"text {i}" for i in range(10)]
    job_id = jobs.call("", "create", "score", job_id="mine").job_id
    counts: list[int] = []
    assert jobs.call(job_id, "upload", texts[:4], on_commit=counts.append) == 4
    assert jobs.call("", "create", "score", job_id="mine").job_id == job_id
    assert jobs.call(job_id, "upload", iter(texts), on_commit=counts.append) == 10
    assert counts == [0, 4, 4, 10]
    assert [item.score.text for item in server.jobs["mine"].items] == texts
    with pytest.raises(JobIdReused):
        jobs.call("", "create", "score", job_id="mine", score_end=True)


def test_uploads_of_one_object_follow_each_other(server: FakeServer) -> None:
    with Client(server.address) as client:
        job = client.jobs.create("score")
        assert [job.upload(["a", "b"]), job.upload(["c"]), job.upload([])] == [2, 3, 3]
        again = client.jobs.get(job.job_id)
        assert [again.upload(["a", "b"]), again.upload(["c", "d"])] == [3, 4]
        assert [item.score.text for item in server.jobs[job.job_id].items] == ["a", "b", "c", "d"]


async def test_uploads_of_one_object_follow_each_other_asyncio(server: FakeServer) -> None:
    async def later() -> AsyncIterator[str]:
        for text in ("c", "d"):
            await asyncio.sleep(0)
            yield text

    async with AsyncClient(server.address) as client:
        job = await client.jobs.create("score")
        assert [await job.upload(["a", "b"]), await job.upload(later())] == [2, 4]
        assert [item.score.text for item in server.jobs[job.job_id].items] == ["a", "b", "c", "d"]


def test_what_items_are_given_beside_their_inputs(jobs: Jobs, server: FakeServer) -> None:
    job_id = jobs.call("", "create", "embed").job_id
    jobs.call(job_id, "upload", ["a"], language="fr", allow_special_tokens=True)
    [item] = server.jobs[job_id].items
    assert (item.embed.language, item.embed.allow_special_tokens) == ("fr", True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'priority'"):
        jobs.call(job_id, "upload", ["a"], priority="bulk")


@pytest.mark.parametrize(
    ("task", "keywords", "told"),
    [
        ("paint", {}, "'paint' is no task; there are generate, "),
        ("tokenize", {}, "'tokenize' is no task of jobs"),
        ("embed", {"language": "fr"}, "language belongs to items"),
        ("embed", {"priority": "bulk"}, "priority has no use in a job"),
        ("embed", {"temperature": 1.0}, "unexpected keyword argument 'temperature'"),
        ("embed", {"ttl_s": -1}, "ttl_s: "),
        ("embed", {"pooling": "sum"}, "parameters.pooling: 'sum' is none of"),
    ],
)
def test_what_a_job_cannot_be(jobs: Jobs, task: str, keywords: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError, InvalidInput), match=told):
        jobs.call("", "create", task, **keywords)


def test_an_item_that_can_be_none_is_named(jobs: Jobs, server: FakeServer) -> None:
    job_id = jobs.call("", "create", "embed").job_id
    with pytest.raises(InvalidInput, match=r"items\[1\]: a str or a TextInput, not int"):
        jobs.call(job_id, "upload", ["a", 7])
    with pytest.raises(InvalidInput, match=r"items\[0\]\.key"):
        jobs.call(job_id, "upload", [JobItem(3, "a")])  # type: ignore[arg-type]


def test_jobs_are_listed_page_by_page(jobs: Jobs, server: FakeServer) -> None:
    for number in range(5):
        jobs.call("", "create", "score", job_id=f"job-{number}", job_labels={"even": str(number % 2 == 0)})
    jobs.call("job-3", "seal")
    listed = jobs.each("", "list", block=False, page_size=2)
    assert [job.job_id for job in listed] == [f"job-{number}" for number in (4, 3, 2, 1, 0)]
    assert len([one for one in server.requests if type(one).__name__ == "ListJobsRequest"]) == 3
    assert [job.job_id for job in jobs.each("", "list", block=False, states=["succeeded"])] == ["job-3"]
    even = jobs.each("", "list", block=False, labels={"even": "True"}, states=[JobState.ACCEPTING])
    assert [job.job_id for job in even] == ["job-4", "job-2", "job-0"]
    with pytest.raises(ValueError, match="asleep"):
        jobs.each("", "list", block=False, states=["asleep"])


def test_a_job_is_paused_resumed_cancelled_and_forgotten(jobs: Jobs, server: FakeServer) -> None:
    server.hold_jobs()
    job_id = jobs.make(["a", "b"], "score")
    assert jobs.call(job_id, "pause").state is JobState.PAUSED
    assert jobs.call(job_id, "resume").state is JobState.QUEUED
    with pytest.raises(JobStateConflict) as conflict:
        jobs.call("", "delete", job_id)
    assert conflict.value.state == "queued"
    job = jobs.call(job_id, "cancel")
    assert (job.state, job.info.counts.skipped) == (JobState.CANCELLED, 2)
    with pytest.raises(JobStateConflict):
        jobs.call(job_id, "upload", ["a", "b", "c"])
    jobs.call(job_id, "delete")
    with pytest.raises(JobNotFound):
        jobs.call("", "get", job_id)


def test_a_seal_that_expects_other_items_is_refused(jobs: Jobs) -> None:
    job_id = jobs.call("", "create", "score").job_id
    with pytest.raises(UploadGap) as gap:
        jobs.call(job_id, "seal", expected_items=3)
    assert gap.value.items_committed == 0


def test_watching_a_job(server: FakeServer) -> None:
    server.hold_jobs()
    with Client(server.address, retry=FAST) as client:
        job = client.jobs.create("score")
        job.upload(["a"])
        job.seal()
        server.fail(Failure(), method="WatchJob", after_messages=1)
        with job.watch() as watch:
            assert next(watch).state == job_pb2.JOB_STATE_QUEUED
            server.release_jobs()
            states = [state_of(info.state) for info in watch]
        assert states[-1] is JobState.SUCCEEDED is job.state
        assert wait_for_no_stream(server)


def wait_for_no_stream(server: FakeServer) -> bool:
    with server.changed:
        return server.changed.wait_for(lambda: server.open_streams == 0, timeout=60)


def test_waiting_has_a_limit(jobs: Jobs, server: FakeServer) -> None:
    server.hold_jobs()
    job_id = jobs.make(["a"], "score")
    with pytest.raises(DeadlineExceeded):
        jobs.call(job_id, "wait", timeout_s=0.2)


@pytest.mark.parametrize("block", [True, False])
def test_results_are_followed_and_left(jobs: Jobs, server: FakeServer, block: bool) -> None:
    job_id = jobs.call("", "create", "score").job_id
    jobs.call(job_id, "upload", [f"text {i}" for i in range(150)])
    assert indices(jobs.each(job_id, "results", 120, block=block)) == list(range(120)), "although more may come"
    assert wait_for_no_stream(server)
    assert indices(jobs.each(job_id, "results", follow=False)) == list(range(150))


def test_leaving_a_loop_closes_the_call_at_once(server: FakeServer) -> None:
    with Client(server.address) as client:
        job = client.jobs.create("score")
        job.upload(["a", "b"])
        for result in job.results():
            assert result.index == 0
            break
        assert wait_for_no_stream(server)
        with pytest.raises(RuntimeError, match="inside its with block"):
            next(job.results())


def test_results_of_another_task_are_a_breach(jobs: Jobs, server: FakeServer) -> None:
    job_id = jobs.make(["a"], "score")
    server.jobs[job_id].latest[0].embed.SetInParent()
    with pytest.raises(ProtocolError):
        jobs.each(job_id, "results")


def test_closing_the_client_ends_what_waits(server: FakeServer) -> None:
    server.hold_jobs()
    client = Client(server.address)
    job = client.jobs.create("score")
    job.upload(["a"])
    with job.results() as results:
        client.close()
        with pytest.raises(Cancelled):
            next(results)
