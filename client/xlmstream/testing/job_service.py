# ruff: noqa: N802 - the methods bear the names of the rpcs
"""The JobService of the fake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Never

import google_crc32c
import grpc

from xlmstream.testing.jobs import FakeJob
from xlmstream.testing.script import Failure
from xlmstream.testing.services import perform
from xlmstream.testing.stage import Fault, Stage, abort
from xlmstream.v1 import job_pb2
from xlmstream.v1 import jobs_pb2 as pb
from xlmstream.v1.jobs_pb2_grpc import JobServiceServicer

# Results of one message.
RESULTS_A_MESSAGE = 100


class JobService(JobServiceServicer):
    """Keeps jobs in memory, for as long as the fake lives."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def CreateJob(self, request: pb.CreateJobRequest, context: grpc.ServicerContext) -> pb.CreateJobResponse:
        stage = self._stage
        stage.receive(request, "CreateJob", context)
        content = pb.CreateJobRequest()
        content.CopyFrom(request)
        content.ClearField("request_id")
        with stage.changed:
            for job in stage.jobs.values():
                named = bool(request.job_id) and job.info.job_id == request.job_id
                if named and job.request != content:
                    abort(context, Failure("JOB_ID_REUSED"))
                if named or (request.request_id and stage.job_ids.get(request.request_id) == job.info.job_id):
                    return pb.CreateJobResponse(job=job.info)
            job_id = request.job_id or f"job-{len(stage.jobs)}"
            job = FakeJob(job_id, content, lambda *given: perform(stage, *given))
            stage.jobs[job_id] = job
            stage.job_ids[request.request_id] = job_id
            job.add(request.items)
            if request.seal:
                job.seal()
            return pb.CreateJobResponse(job=self._ran(job))

    def UploadJobItems(
        self, request_iterator: Iterator[pb.UploadJobItemsRequest], context: grpc.ServicerContext
    ) -> pb.UploadJobItemsResponse:
        fault: Fault | None = None
        header = pb.UploadHeader()
        for number, request in enumerate(request_iterator):
            if number == 0:
                fault = self._stage.fault_of(request, "UploadJobItems")
                header.CopyFrom(request.header)
            else:
                self._stage.note(request)
            if fault is not None and number == fault.after_messages:
                break_off(fault.failure, request_iterator, context)
            if request.HasField("chunk"):
                with self._stage.changed:
                    self._add(self._job(header.job_id, context), request.chunk, context)
        with self._stage.changed:
            job = self._job(header.job_id, context)
            if header.seal:
                job.seal()
            return pb.UploadJobItemsResponse(items_committed=self._ran(job).items_committed)

    def SealJob(self, request: pb.SealJobRequest, context: grpc.ServicerContext) -> pb.SealJobResponse:
        with self._stage.changed:
            job = self._asked(request, "SealJob", context)
            count = len(job.items)
            if request.HasField("expected_items") and request.expected_items != count:
                abort(context, Failure("UPLOAD_GAP", metadata={"items_committed": str(count)}))
            job.seal()
            return pb.SealJobResponse(job=self._ran(job))

    def GetJob(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> pb.GetJobResponse:
        with self._stage.changed:
            return pb.GetJobResponse(job=self._asked(request, "GetJob", context).info)

    def ListJobs(self, request: pb.ListJobsRequest, context: grpc.ServicerContext) -> pb.ListJobsResponse:
        self._stage.receive(request, "ListJobs", context)
        with self._stage.changed:
            jobs = [job.info for job in reversed(self._stage.jobs.values())]
        if request.states:
            jobs = [job for job in jobs if job.state in request.states]
        jobs = [job for job in jobs if request.labels.items() <= job.labels.items()]
        begin = int(request.page_token or 0)
        end = begin + (request.page_size or 50)
        return pb.ListJobsResponse(jobs=jobs[begin:end], next_page_token=str(end) if end < len(jobs) else "")

    def WatchJob(self, request: pb.WatchJobRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchJobResponse]:
        fault = self._stage.receive(request, "WatchJob", context)
        with self._stage.changed:
            job = self._job(request.job_id, context)
        messages = (pb.WatchJobResponse(job=told) for told in self._changes(job, context))
        yield from self._stage.stream(messages, fault, context)

    def StreamJobResults(
        self, request: pb.StreamJobResultsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamJobResultsResponse]:
        fault = self._stage.receive(request, "StreamJobResults", context)
        with self._stage.changed:
            job = self._job(request.job_id, context)
        yield from self._stage.stream(self._results(job, request, context), fault, context)

    def ListJobResults(
        self, request: pb.ListJobResultsRequest, context: grpc.ServicerContext
    ) -> pb.ListJobResultsResponse:
        with self._stage.changed:
            job = self._asked(request, "ListJobResults", context)
            begin, most = int(request.page_token or 0), request.page_size or 100
            results, end = job.results(request.order, request.filter, begin, most)
        return pb.ListJobResultsResponse(results=results, next_page_token=str(end) if len(results) == most else "")

    def RetryJob(self, request: pb.RetryJobRequest, context: grpc.ServicerContext) -> pb.RetryJobResponse:
        with self._stage.changed:
            job = self._asked(request, "RetryJob", context)
            if not job.ended:
                self._refuse(job, context)
            job.retry()
            return pb.RetryJobResponse(job=self._ran(job))

    def CancelJob(self, request: pb.CancelJobRequest, context: grpc.ServicerContext) -> pb.CancelJobResponse:
        with self._stage.changed:
            job = self._asked(request, "CancelJob", context)
            job.cancel()
            return pb.CancelJobResponse(job=self._ran(job))

    def PauseJob(self, request: pb.PauseJobRequest, context: grpc.ServicerContext) -> pb.PauseJobResponse:
        return pb.PauseJobResponse(job=self._paused(request, "PauseJob", True, context))

    def ResumeJob(self, request: pb.ResumeJobRequest, context: grpc.ServicerContext) -> pb.ResumeJobResponse:
        return pb.ResumeJobResponse(job=self._paused(request, "ResumeJob", False, context))

    def DeleteJob(self, request: pb.DeleteJobRequest, context: grpc.ServicerContext) -> pb.DeleteJobResponse:
        with self._stage.changed:
            job = self._asked(request, "DeleteJob", context)
            if not job.ended:
                self._refuse(job, context)
            del self._stage.jobs[request.job_id]
            self._stage.notify()
        return pb.DeleteJobResponse()

    def _asked(self, request: Any, method: str, context: grpc.ServicerContext) -> FakeJob:
        self._stage.receive(request, method, context)
        return self._job(request.job_id, context)

    def _job(self, job_id: str, context: grpc.ServicerContext) -> FakeJob:
        if job_id not in self._stage.jobs:
            abort(context, Failure("JOB_NOT_FOUND", f"no job {job_id!r}"))
        return self._stage.jobs[job_id]

    def _refuse(self, job: FakeJob, context: grpc.ServicerContext) -> Never:
        state = job_pb2.JobState.Name(job.info.state).removeprefix("JOB_STATE_")
        abort(context, Failure("JOB_STATE", f"the job is {state}", metadata={"state": state}))

    def _ran(self, job: FakeJob) -> job_pb2.Job:
        """The job after what waits has run, if it may."""
        if not self._stage.jobs_held:
            job.run()
        self._stage.notify()
        return job.info

    def _add(self, job: FakeJob, chunk: pb.UploadChunk, context: grpc.ServicerContext) -> None:
        count = len(job.items)
        if job.info.sealed or job.ended:
            self._refuse(job, context)
        if chunk.first_index > count:
            abort(context, Failure("UPLOAD_GAP", metadata={"items_committed": str(count)}))
        if chunk.HasField("crc32c") and chunk.crc32c != google_crc32c.value(b"".join(chunk.items)):
            abort(context, Failure("CHECKSUM_MISMATCH"))
        job.add([job_pb2.JobItem.FromString(item) for item in chunk.items[count - chunk.first_index :]])
        self._stage.notify()

    def _paused(
        self,
        request: pb.PauseJobRequest | pb.ResumeJobRequest,
        method: str,
        paused: bool,
        context: grpc.ServicerContext,
    ) -> job_pb2.Job:
        with self._stage.changed:
            job = self._asked(request, method, context)
            if job.ended:
                self._refuse(job, context)
            job.pause(paused)
            return self._ran(job)

    def _changes(self, job: FakeJob, context: grpc.ServicerContext) -> Iterator[job_pb2.Job]:
        """The job now and after every change, until it has ended or its watcher is gone."""
        ended, told = False, job_pb2.Job()
        while not ended and context.is_active():
            with self._stage.changed:
                self._stage.changed.wait_for(lambda: job.info != told or not context.is_active())
                told.CopyFrom(job.info)
                ended = job.ended
            yield told

    def _results(
        self, job: FakeJob, request: pb.StreamJobResultsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamJobResultsResponse]:
        place, end = int(request.cursor or 0), False
        while not end and context.is_active():
            with self._stage.changed:
                before = job.info.SerializeToString()
                results, place = job.results(request.order, request.filter, place, RESULTS_A_MESSAGE)
                end = not results and (job.ended or not request.follow)
                if not results and not end:
                    self._stage.changed.wait_for(
                        lambda: job.info.SerializeToString() != before or not context.is_active()  # noqa: B023
                    )
            if results or end:
                yield pb.StreamJobResultsResponse(results=results, next_cursor=str(place), end=end)


def break_off(failure: Failure, rest: Iterator[object], context: grpc.ServicerContext) -> Never:
    """End an upload with `failure`; as the service does it, after reading the rest, unless the connection breaks."""
    if failure.reason:
        for _ in rest:
            pass
    abort(context, failure)
