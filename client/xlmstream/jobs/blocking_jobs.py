"""`Client.jobs`: jobs, blocking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self, Unpack

from xlmstream.blocking_calls import Calls, Gateway, OpenCall, Stream
from xlmstream.jobs.blocking_upload import Upload
from xlmstream.jobs.reading import ResultsState
from xlmstream.jobs.requests import (
    ItemKeywords,
    Only,
    Order,
    create_request,
    item_keywords,
    list_request,
    results_request,
)
from xlmstream.jobs.uploading import UploadState
from xlmstream.jobs.values import JobResult, JobState, state_of, task_of
from xlmstream.requests import new_request_id
from xlmstream.tasks import Task
from xlmstream.v1 import job_pb2
from xlmstream.v1 import jobs_pb2 as pb

Limit = Callable[[float | None], float]


class Jobs:
    """The jobs of the service; `client.jobs`."""

    def __init__(self, calls: Calls, limit: Limit) -> None:
        self._calls = calls
        self._limit = limit

    def create(self, task: str, /, *, timeout_s: float | None = None, **keywords: Any) -> Job:
        """Make a job, or find the one that was made with the same `job_id` or `request_id` and the same content.

        task: the name of a verb that jobs can do: "generate", "embed", "classify", ...
        keywords: those of that verb, but for what belongs to single items, and those of `JobKeywords`: job_id,
            request_id, job_labels, ttl_s, retention_s, max_attempts, max_failed_items.

        Raises JobIdReused, RequestIdReused, ModelNotFound, TaskUnsupported, InvalidInput, QuotaExceeded.
        """
        request = create_request(task, keywords)
        response = self._calls.unary(
            lambda gateway: gateway.jobs.CreateJob,
            request,
            timeout_s=self._limit(timeout_s),
        )
        return Job(self._calls, self._limit, response.job)

    def get(self, job_id: str, /, *, timeout_s: float | None = None) -> Job:
        """One job. Raises JobNotFound."""
        response = self._calls.unary(
            lambda gateway: gateway.jobs.GetJob, pb.GetJobRequest(job_id=job_id), timeout_s=self._limit(timeout_s)
        )
        return Job(self._calls, self._limit, response.job)

    def list(
        self,
        *,
        states: Iterable[JobState | str] = (),
        labels: Mapping[str, str] | None = None,
        page_size: int = 50,
        timeout_s: float | None = None,
    ) -> Iterator[Job]:
        """Your jobs, newest first; fetched page by page as they are taken. `timeout_s` limits each page.

        states, labels: only jobs in one of these states, with all these labels.
        """
        request = list_request(states, labels, page_size)
        while True:
            response = self._calls.unary(
                lambda gateway: gateway.jobs.ListJobs, request, timeout_s=self._limit(timeout_s)
            )
            for job in response.jobs:
                yield Job(self._calls, self._limit, job)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def delete(self, job_id: str, /, *, timeout_s: float | None = None) -> None:
        """Forget an ended job with its inputs and results. Raises JobNotFound, JobStateConflict."""
        request = pb.DeleteJobRequest(job_id=job_id)
        self._calls.unary(lambda gateway: gateway.jobs.DeleteJob, request, timeout_s=self._limit(timeout_s))


class Job:
    """One job. Its attributes tell what the last call of this object learnt; `refresh` learns anew.

    Attributes:
        info: all that is known of it; job.proto documents each field.
    """

    def __init__(self, calls: Calls, limit: Limit, info: job_pb2.Job) -> None:
        self._calls = calls
        self._limit = limit
        self._uploaded = 0
        self.info = info

    @property
    def job_id(self) -> str:
        return self.info.job_id

    @property
    def task(self) -> str:
        """The verb of its task."""
        return task_of(self.info)[0]

    @property
    def state(self) -> JobState:
        return state_of(self.info.state)

    @property
    def ended(self) -> bool:
        """Whether it is over: only `retry` would make it run again."""
        return self.state.ended

    @property
    def items_committed(self) -> int:
        """How many items the service has stored."""
        return self.info.items_committed

    def upload(
        self,
        items: Iterable[Any],
        /,
        *,
        on_commit: Callable[[int], None] | None = None,
        timeout_s: float | None = None,
        **keywords: Unpack[ItemKeywords],
    ) -> int:
        """Add items: what the verb of the task takes, or `JobItem`s that carry a key; any number, in constant memory.

        The uploads of one `Job` object number their items on from 0, and what the service has stored already is passed
        over. So a program that is run again goes on where it was stopped, if it finds the job by its `job_id` and
        uploads the same. Broken connections and gateways that restart are got over inside, as the client's retry
        policy says, which counts anew after each success.

        on_commit: called with the number of items of the job that are stored, whenever it has grown.
        timeout_s: time limit of the whole; None: none.

        Returns the number of items of the job that are stored. Raises InvalidInput, naming the item as "items[17]", for
        one that can be no item of this job; JobStateConflict where it takes no more; QuotaExceeded.
        """
        state = UploadState(self.job_id, task_of(self.info)[1], item_keywords(keywords), self._uploaded)

        def learn(count: int) -> None:
            self.info.items_committed = count
            if on_commit is not None:
                on_commit(count)

        Upload(self._calls, state, items, learn, timeout_s).run()
        self._uploaded = state.next_index
        return self.items_committed

    def seal(self, *, expected_items: int | None = None, timeout_s: float | None = None) -> Self:
        """Tell that no more items come: only a sealed job ends.

        expected_items: seal only if that many are stored, else raise UploadGap.
        """
        request = pb.SealJobRequest(job_id=self.job_id, expected_items=expected_items)
        return self._update(lambda gateway: gateway.jobs.SealJob, request, timeout_s)

    def refresh(self, *, timeout_s: float | None = None) -> Self:
        """Learn how the job is doing."""
        return self._update(lambda gateway: gateway.jobs.GetJob, pb.GetJobRequest(job_id=self.job_id), timeout_s)

    def retry(self, *, timeout_s: float | None = None) -> Self:
        """Run the failed items of the ended job again, and no others."""
        request = pb.RetryJobRequest(job_id=self.job_id, request_id=new_request_id())
        return self._update(lambda gateway: gateway.jobs.RetryJob, request, timeout_s)

    def pause(self, *, timeout_s: float | None = None) -> Self:
        """Let no further item begin, until `resume`."""
        return self._update(lambda gateway: gateway.jobs.PauseJob, pb.PauseJobRequest(job_id=self.job_id), timeout_s)

    def resume(self, *, timeout_s: float | None = None) -> Self:
        """Let a paused job go on."""
        return self._update(lambda gateway: gateway.jobs.ResumeJob, pb.ResumeJobRequest(job_id=self.job_id), timeout_s)

    def cancel(self, *, timeout_s: float | None = None) -> Self:
        """End the job. Results that are there stay readable."""
        return self._update(lambda gateway: gateway.jobs.CancelJob, pb.CancelJobRequest(job_id=self.job_id), timeout_s)

    def delete(self, *, timeout_s: float | None = None) -> None:
        """Forget the ended job with its inputs and results."""
        request = pb.DeleteJobRequest(job_id=self.job_id)
        self._calls.unary(lambda gateway: gateway.jobs.DeleteJob, request, timeout_s=self._limit(timeout_s))

    def watch(self, *, timeout_s: float | None = None) -> JobWatch:
        """What is known of the job, now and after every change, until it has ended; `info` follows.

        >>> with job.watch() as watch:
        ...     for info in watch:
        ...         print(info.counts.succeeded, info.items_per_s)
        """
        return JobWatch(self._calls, self, timeout_s)

    def wait(self, *, timeout_s: float | None = None) -> Self:
        """Until the job has ended; only a sealed one does. Raises DeadlineExceeded."""
        with self.watch(timeout_s=timeout_s) as watch:
            for _ in watch:
                pass
        return self

    def results(
        self,
        *,
        order: Order = "input",
        follow: bool = True,
        only: Only = "all",
        cursor: str = "",
        timeout_s: float | None = None,
    ) -> JobResults:
        """The results, as they come: an iterator of `JobResult`, and a context manager for leaving it early.

        What the task's verb gives is each result's `value`, as `Client.map` gives it. Broken connections and gateways
        that go away are got over inside.

        order: "input": by index, each once; or "completion": as they came about, a retried one again.
        follow: wait for more until the job has ended; otherwise end with what there is now.
        only: "all", or those that "succeeded" or "failed".
        cursor: continue where a reading of the same order and filter stood; see `JobResults.cursor`.
        timeout_s: time limit of the whole; None: none.
        """
        request = results_request(self.job_id, order, only, follow, cursor)
        return JobResults(self._calls, request, task_of(self.info)[1], timeout_s)

    def _update(self, method: Callable[[Gateway], Any], request: Any, timeout_s: float | None) -> Self:
        self.info = self._calls.unary(method, request, timeout_s=self._limit(timeout_s)).job
        return self


class JobWatch(Stream[pb.WatchJobResponse, job_pb2.Job]):
    """What is known of a job, anew after every change; see `Job.watch`."""

    def __init__(self, calls: Calls, job: Job, timeout_s: float | None) -> None:
        super().__init__(calls, timeout_s)
        self._job = job

    def _open(self, gateway: Gateway, timeout_s: float | None) -> OpenCall[pb.WatchJobResponse]:
        return gateway.jobs.WatchJob(pb.WatchJobRequest(job_id=self._job.job_id), timeout=timeout_s)

    def _take(self, message: pb.WatchJobResponse) -> job_pb2.Job | None:
        if not message.HasField("job"):
            return None
        self._job.info = message.job
        self._ended = self._job.ended
        return message.job


class JobResults(ResultsState, Stream[pb.StreamJobResultsResponse, JobResult[Any]]):
    """The results of a job; see `Job.results`."""

    def __init__(self, calls: Calls, request: pb.StreamJobResultsRequest, task: Task, timeout_s: float | None) -> None:
        ResultsState.__init__(self, request, task)
        Stream.__init__(self, calls, timeout_s)

    def __iter__(self) -> Iterator[JobResult[Any]]:
        """Outside a `with` block the call is closed when the loop ends, however it ends."""
        if self._entered:
            return self
        return self._all()

    def __next__(self) -> JobResult[Any]:
        while not self._due:
            if self._ended:
                self._complete()
                raise StopIteration
            self._read()
        return self._due.popleft()

    def _all(self) -> Iterator[JobResult[Any]]:
        with self:
            yield from self

    def _open(self, gateway: Gateway, timeout_s: float | None) -> OpenCall[pb.StreamJobResultsResponse]:
        return gateway.jobs.StreamJobResults(self._request(), timeout=timeout_s)

    def _take(self, message: pb.StreamJobResultsResponse) -> None:
        self._ended = self._accept(message)
