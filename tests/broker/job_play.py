"""What the tests of jobs share: specs, items and results to play with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import redis
from broker.play import MODEL, ROOT
from xlmstream import status
from xlmstream.v1.common_pb2 import TextInput, Usage
from xlmstream.v1.embedding_pb2 import EmbedParameters, EmbedResult
from xlmstream.v1.errors_pb2 import ErrorReason
from xlmstream.v1.job_pb2 import (
    JOB_RESULT_ORDER_INPUT,
    JobFailurePolicy,
    JobItem,
    JobResult,
    JobResultOrder,
    JobTask,
)
from xlmstream_server.broker import GatewayBroker, ItemResult, JobStore, TakenChunk, WorkerBroker
from xlmstream_server.broker.v1.messages_pb2 import JobSpec

TENANT = "tenant|1"
DAY_S = 86_400


def spec(job_id: str = "a", tenant: str = TENANT, *, max_failed: int | None = None, **fields: object) -> JobSpec:
    """A job of Embed."""
    defaults: dict[str, object] = {"model": MODEL, "max_attempts": 3, "ttl_s": 3600, "retention_s": DAY_S} | fields
    return JobSpec(
        job_id=job_id,
        tenant=tenant,
        task=JobTask(embed=EmbedParameters()),
        failure_policy=JobFailurePolicy(max_failed_items=max_failed),
        **defaults,
    )


def item(index: int) -> bytes:
    return JobItem(key=f"key {index}", embed=TextInput(text=f"text {index}")).SerializeToString()


async def upload(jobs: JobStore, n: int, *, job_id: str = "a", first: int = 0, cost: int = 1, seal: bool = True) -> int:
    """Items `first` .. `n` - 1."""
    committed = await jobs.upload(TENANT, job_id, first, [item(i) for i in range(first, n)], [cost] * (n - first))
    if seal:
        await jobs.seal(TENANT, job_id)
    return committed


def outcome(index: int, *, bad: bool = False) -> JobResult:
    """What a worker gives for an item."""
    if bad:
        error = status.build(ErrorReason.ERROR_REASON_INVALID_INPUT, f"item {index} is bad")
        return JobResult(index=index, error=error)
    return JobResult(index=index, embed=EmbedResult(usage=Usage(prompt_tokens=index + 1)))


def results_of(chunk: TakenChunk, *, bad: Iterable[int] = (), indices: Sequence[int] | None = None) -> list[ItemResult]:
    """Results of a chunk's items, or of those given; of `bad` ones errors."""
    wanted = [one.index for one in chunk.items] if indices is None else indices
    return [ItemResult(chunk.chunk_id, outcome(index, bad=index in bad)) for index in wanted]


def finish(worker: WorkerBroker, chunks: Iterable[TakenChunk], *, bad: Iterable[int] = ()) -> None:
    worker.publish([], [result for chunk in chunks for result in results_of(chunk, bad=bad)])


def drain(worker: WorkerBroker, *, bad: Iterable[int] = (), at_once: int = 2) -> list[TakenChunk]:
    """Work until no chunk is left; returns what was taken."""
    taken: list[TakenChunk] = []
    while chunks := worker.take_chunks(at_once):
        taken += chunks
        finish(worker, chunks, bad=bad)
    return taken


async def read(
    jobs: JobStore,
    order: JobResultOrder.ValueType = JOB_RESULT_ORDER_INPUT,
    *,
    tenant: str = TENANT,
    job_id: str = "a",
    max_results: int = 100,
    max_bytes: int = 1 << 18,
) -> list[JobResult]:
    """All results there are now."""
    found: list[JobResult] = []
    cursor, more = "", True
    while more:
        page = await jobs.results(
            tenant, job_id, order=order, cursor=cursor, max_results=max_results, max_bytes=max_bytes
        )
        assert len(page.results) <= max_results
        found += [JobResult.FromString(result) for result in page.results]
        cursor, more = page.cursor, page.more
    return found


def job_keys(client: redis.Redis) -> set[str]:
    """Keys of jobs and of their parts that are left."""
    names = {name.decode().removeprefix(ROOT) for name in client.scan_iter()}
    return {name for name in names if name.startswith(("job", "ends", "use", "turn")) or name.count(".") > 1}


async def end_time(client: redis.Redis, gateway: GatewayBroker, job_id: str = "a") -> None:
    """Let the job's time run out, and have the gateway see it."""
    for member in client.zrange(f"{ROOT}ends", 0, -1):
        client.zadd(f"{ROOT}ends", {member: 1})
    await gateway.jobs.sweep(gateway._run)
