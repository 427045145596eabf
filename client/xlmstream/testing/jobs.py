"""The jobs of the fake service: items run as soon as they are there, unless they are held. Called from many threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from google.rpc.status_pb2 import Status

from xlmstream.failures import from_status
from xlmstream.v1 import job_pb2 as pb
from xlmstream.v1.jobs_pb2 import CreateJobRequest

ENDED = {
    pb.JOB_STATE_SUCCEEDED,
    pb.JOB_STATE_PARTIALLY_SUCCEEDED,
    pb.JOB_STATE_FAILED,
    pb.JOB_STATE_CANCELLED,
}


class FakeJob:
    """One job.

    Args:
        perform: the result of an input, given its branch, itself and its parameters; or the Status it fails with.
    """

    def __init__(self, job_id: str, request: CreateJobRequest, perform: Callable[[str, Any, Any], Any]) -> None:
        self.request = request
        self.info = pb.Job(
            job_id=job_id,
            model=request.model or "fake@1",
            task=request.task,
            truncation=request.truncation,
            labels=request.labels,
            failure_policy=request.failure_policy,
            max_attempts=request.max_attempts or 3,
            attempt=1,
        )
        self.info.create_time.GetCurrentTime()
        self.branch = request.task.WhichOneof("parameters") or ""
        self.items: list[pb.JobItem] = []
        self.finished: list[pb.JobResult] = []
        """Results in the order they came about, replaced ones included."""
        self.latest: dict[int, pb.JobResult] = {}
        self._pending: list[int] = []
        self._perform = perform
        self._paused = self._cancelled = False
        self.update()

    @property
    def ended(self) -> bool:
        return self.info.state in ENDED

    def add(self, items: Sequence[pb.JobItem]) -> None:
        self._pending += range(len(self.items), len(self.items) + len(items))
        self.items += items
        self.info.items_committed = len(self.items)
        self.info.bytes_committed += sum(item.ByteSize() for item in items)
        self.update()

    def run(self) -> None:
        """Work off what waits."""
        if self._paused or self._cancelled:
            return
        for index in self._pending:
            item = self.items[index]
            result = pb.JobResult(index=index, key=item.key, attempt=self.info.attempt)
            parameters = getattr(self.info.task, self.branch)
            # Of a translation they are beside its target.
            own = getattr(parameters, "parameters", parameters)
            outcome = self._perform(self.branch, getattr(item, self.branch), own)
            getattr(result, "error" if isinstance(outcome, Status) else self.branch).CopyFrom(outcome)
            self.latest[index] = result
            self.finished.append(result)
        self._pending.clear()
        self.update()

    def seal(self) -> None:
        self.info.sealed = True
        self.update()

    def pause(self, paused: bool) -> None:
        self._paused = paused
        self.update()

    def cancel(self) -> None:
        self._cancelled = not self.ended
        self.update()

    def retry(self) -> None:
        """Let the failed items wait again."""
        failed = sorted(index for index, result in self.latest.items() if result.HasField("error"))
        if failed:
            self._pending += failed
            self.latest = {index: result for index, result in self.latest.items() if index not in failed}
            self._cancelled = False
            self.info.attempt += 1
        self.update()

    def update(self) -> None:
        """Make `info` tell how things stand."""
        errors = Counter(
            from_status(result.error).reason for result in self.latest.values() if result.HasField("error")
        )
        failed, waiting = errors.total(), len(self._pending)
        succeeded = len(self.latest) - failed
        waits, skipped = (0, waiting) if self._cancelled else (waiting, 0)
        self.info.counts.CopyFrom(pb.JobCounts(pending=waits, succeeded=succeeded, failed=failed, skipped=skipped))
        self.info.state = self._state(succeeded, failed, waits)
        del self.info.error_summary[:]
        for reason, count in errors.most_common():
            sample = min(i for i, r in self.latest.items() if from_status(r.error).reason == reason)
            self.info.error_summary.add(reason=reason, count=count, sample_index=sample)

    def _state(self, succeeded: int, failed: int, waiting: int) -> pb.JobState.ValueType:
        if self._cancelled:
            return pb.JOB_STATE_CANCELLED
        if self._paused:
            return pb.JOB_STATE_PAUSED
        if not self.info.sealed:
            return pb.JOB_STATE_ACCEPTING
        if waiting:
            return pb.JOB_STATE_RUNNING if self.latest else pb.JOB_STATE_QUEUED
        if not failed:
            return pb.JOB_STATE_SUCCEEDED
        return pb.JOB_STATE_PARTIALLY_SUCCEEDED if succeeded else pb.JOB_STATE_FAILED

    def results(
        self, order: pb.JobResultOrder.ValueType, wanted: pb.JobResultFilter.ValueType, place: int, most: int
    ) -> tuple[list[pb.JobResult], int]:
        """The next results from `place` on, at most `most`, and the place behind them."""
        found: list[pb.JobResult] = []
        if order == pb.JOB_RESULT_ORDER_COMPLETION:
            while place < len(self.finished) and len(found) < most:
                result = self.finished[place]
                if self.latest.get(result.index) is result and _is_wanted(result, wanted):
                    found.append(result)
                place += 1
            return found, place
        while place < len(self.items) and len(found) < most and (self.ended or place in self.latest):
            if place in self.latest and _is_wanted(self.latest[place], wanted):
                found.append(self.latest[place])
            place += 1
        return found, place


def _is_wanted(result: pb.JobResult, wanted: pb.JobResultFilter.ValueType) -> bool:
    failed = result.HasField("error")
    return wanted == pb.JOB_RESULT_FILTER_UNSPECIFIED or failed == (wanted == pb.JOB_RESULT_FILTER_FAILED)
