"""JobService: makes jobs, takes their items in, tells how they stand, gives their results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

from xlmstream.v1 import jobs_pb2 as pb
from xlmstream.v1.generation_pb2 import Heartbeat
from xlmstream.v1.job_pb2 import Job
from xlmstream.v1.jobs_pb2_grpc import JobServiceServicer

from xlmstream_server import errors
from xlmstream_server.broker import BrokerError, JobRecord, JobStore
from xlmstream_server.call import CallMaker, Context
from xlmstream_server.jobs.creation import Creation
from xlmstream_server.jobs.listing import list_jobs
from xlmstream_server.jobs.results import Results
from xlmstream_server.jobs.uploads import Uploads
from xlmstream_server.jobs.waiting import Waiting
from xlmstream_server.observe.metrics import Metrics
from xlmstream_server.validation import REQUEST_ID

# A watcher is told of changes at most this often.
WATCH_EVERY_S = 1.0


class JobService(JobServiceServicer):
    """Answers calls about jobs; holds none of them."""

    def __init__(
        self,
        store: JobStore,
        creation: Creation,
        uploads: Uploads,
        results: Results,
        waiting: Waiting,
        calls: CallMaker,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._creation = creation
        self._uploads = uploads
        self._results = results
        self._waiting = waiting
        self._calls = calls
        self._metrics = metrics

    async def CreateJob(self, request: pb.CreateJobRequest, context: Context) -> pb.CreateJobResponse:
        call = self._calls.begin_work(context)
        return pb.CreateJobResponse(job=(await self._creation.create(call.tenant, request)).to_job())

    async def UploadJobItems(
        self, requests: AsyncIterator[pb.UploadJobItemsRequest], context: Context
    ) -> pb.UploadJobItemsResponse:
        call = self._calls.begin_work(context)
        return pb.UploadJobItemsResponse(items_committed=await self._uploads.run(call.tenant, requests))

    async def SealJob(self, request: pb.SealJobRequest, context: Context) -> pb.SealJobResponse:
        tenant = self._calls.begin(context).tenant
        expected = request.expected_items if request.HasField("expected_items") else None
        return pb.SealJobResponse(job=await _job(self._store.seal(tenant, request.job_id, expected)))

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=await _job(self._store.get(self._calls.begin(context).tenant, request.job_id)))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        return await list_jobs(self._store, self._calls.begin(context).tenant, request)

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> None:  # type: ignore[override]  # a coroutine that writes
        call = self._calls.begin_work(context)
        clock = asyncio.get_running_loop().time
        told: Job | None = None
        while True:
            record = await _record(self._store.get(call.tenant, request.job_id))
            if (job := record.to_job()) != told:
                await call.write(pb.WatchJobResponse(job=job))
                told, told_at = job, clock()
            if record.ended:
                return
            while not await self._waiting.for_change(record, record.version):
                await call.write(pb.WatchJobResponse(heartbeat=Heartbeat()))
            await asyncio.sleep(told_at + WATCH_EVERY_S - clock())

    async def StreamJobResults(self, request: pb.StreamJobResultsRequest, context: Context) -> None:  # type: ignore[override]  # a coroutine that writes
        await self._results.stream(request, self._calls.begin_work(context))

    async def ListJobResults(self, request: pb.ListJobResultsRequest, context: Context) -> pb.ListJobResultsResponse:
        return await self._results.page(request, self._calls.begin(context))

    async def RetryJob(self, request: pb.RetryJobRequest, context: Context) -> pb.RetryJobResponse:
        tenant = self._calls.begin_work(context).tenant
        if request.request_id and not REQUEST_ID.fullmatch(request.request_id):
            raise errors.invalid_input([("request_id", "1 to 128 letters, digits, '.', '_', ':' and '-'")])
        job = await _job(self._store.retry(tenant, request.job_id, request.request_id))
        self._metrics.jobs_retried.inc()
        return pb.RetryJobResponse(job=job)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        tenant = self._calls.begin(context).tenant
        return pb.CancelJobResponse(job=await _job(self._store.cancel(tenant, request.job_id)))

    async def PauseJob(self, request: pb.PauseJobRequest, context: Context) -> pb.PauseJobResponse:
        tenant = self._calls.begin(context).tenant
        return pb.PauseJobResponse(job=await _job(self._store.pause(tenant, request.job_id)))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Context) -> pb.ResumeJobResponse:
        tenant = self._calls.begin(context).tenant
        return pb.ResumeJobResponse(job=await _job(self._store.resume(tenant, request.job_id)))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Context) -> pb.DeleteJobResponse:
        tenant = self._calls.begin(context).tenant
        try:
            await self._store.delete(tenant, request.job_id)
        except BrokerError as cause:
            raise errors.from_broker(cause) from cause
        return pb.DeleteJobResponse()


async def _record(asked: Awaitable[JobRecord]) -> JobRecord:
    try:
        return await asked
    except BrokerError as cause:
        raise errors.from_broker(cause) from cause


async def _job(asked: Awaitable[JobRecord]) -> Job:
    return (await _record(asked)).to_job()
