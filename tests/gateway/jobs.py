"""What the tests of jobs say often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import google_crc32c
import grpc.aio
from gateway.conftest import ServeGateway, Service
from gateway.job_worker import JobWorker
from xlmstream.v1 import jobs_pb2 as pb
from xlmstream.v1.common_pb2 import TextInput
from xlmstream.v1.embedding_pb2 import EmbedParameters
from xlmstream.v1.job_pb2 import Job, JobItem, JobResult, JobTask
from xlmstream_server.config import GatewayConfig

EMBED = JobTask(embed=EmbedParameters())


@asynccontextmanager
async def job_service(
    serve_gateway: ServeGateway, worker: JobWorker, config: GatewayConfig | None = None
) -> AsyncIterator[Service]:
    """A gateway that knows the worker's model."""
    async with serve_gateway(config) as service:
        while not service.gateway.catalogue.models:
            await service.gateway.catalogue.changed.beyond(service.gateway.catalogue.changed.count)
        yield service


def texts(number: int, *, bad: Iterable[int] = ()) -> list[str]:
    """Texts of which those at `bad` fail."""
    failing = set(bad)
    return [f"{'bad ' if index in failing else ''}text {index}" for index in range(number)]


def item(text: str, key: str = "") -> bytes:
    """An item of an Embed job, serialized."""
    return JobItem(key=key, embed=TextInput(text=text)).SerializeToString()


def chunk(first_index: int, items: Sequence[bytes], crc32c: int | None = None) -> pb.UploadJobItemsRequest:
    """A message of an upload; with its right checksum unless another is given."""
    checksum = google_crc32c.value(b"".join(items)) if crc32c is None else crc32c
    return pb.UploadJobItemsRequest(chunk=pb.UploadChunk(first_index=first_index, items=items, crc32c=checksum))


def header(job_id: str, *, seal: bool = False) -> pb.UploadJobItemsRequest:
    return pb.UploadJobItemsRequest(header=pb.UploadHeader(job_id=job_id, seal=seal))


def upload(service: Service, *messages: pb.UploadJobItemsRequest) -> Any:
    """A call of UploadJobItems with these messages."""
    return service.jobs.UploadJobItems(iter(messages))


async def make(service: Service, given: Sequence[str], job_id: str = "j", **fields: Any) -> Job:
    """A sealed job of Embed."""
    await service.jobs.CreateJob(pb.CreateJobRequest(job_id=job_id, task=EMBED, **fields))
    items = [item(text, f"k{index}") for index, text in enumerate(given)]
    await upload(service, header(job_id, seal=True), chunk(0, items))
    return await get(service, job_id)


async def get(service: Service, job_id: str = "j") -> Job:
    return (await service.jobs.GetJob(pb.GetJobRequest(job_id=job_id))).job


async def ended(service: Service, job_id: str = "j") -> Job:
    """The job once it has ended."""

    async def has_ended() -> bool:
        return (await get(service, job_id)).HasField("end_time")

    await until(has_ended)
    return await get(service, job_id)


async def read(call: grpc.aio.UnaryStreamCall) -> list[pb.StreamJobResultsResponse]:
    """All messages of a stream of results, which ends as it should."""
    messages: list[pb.StreamJobResultsResponse] = []
    while (message := await call.read()) is not grpc.aio.EOF:
        assert not messages or not messages[-1].end
        messages.append(message)
    assert messages[-1].end
    return messages


def results_in(messages: Iterable[pb.StreamJobResultsResponse]) -> list[JobResult]:
    return [result for message in messages for result in message.results]


async def results(service: Service, job_id: str = "j", **fields: Any) -> list[JobResult]:
    request = pb.StreamJobResultsRequest(job_id=job_id, **fields)
    return results_in(await read(service.jobs.StreamJobResults(request)))


async def failure_of(call: grpc.aio.UnaryStreamCall, messages: list[Any] | None = None) -> grpc.aio.AioRpcError:
    """What a stream ends with, after further messages, which are added to `messages`."""
    kept = [] if messages is None else messages
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            kept.append(message)
    except grpc.aio.AioRpcError as failed:
        return failed
    raise AssertionError("the stream ended well")


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 60.0) -> None:
    """Ask again and again until it holds."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - what is asked for lies in other processes
            await asyncio.sleep(0.02)
