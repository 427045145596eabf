"""The values of jobs that cross the broker's two ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp
from xlmstream.v1.job_pb2 import (
    JOB_STATE_ACCEPTING,
    JOB_STATE_CANCELLING,
    JOB_STATE_PAUSED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    Job,
    JobCounts,
    JobErrorSummary,
    JobItem,
    JobResult,
    JobState,
)

from xlmstream_server.broker import job_wire
from xlmstream_server.broker.v1.messages_pb2 import JobSpec

# Over which time rates fade: RATE_MS of job.lua.
RATE_S = 30.0


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What a tenant's jobs may hold, per shard, and how items are cut into chunks: the pieces that workers take.

    Attributes:
        max_bytes: inputs and results of all its jobs. Uploads beyond are refused; results never are.
        max_jobs: its jobs, ended ones included.
        chunk_items, chunk_bytes, chunk_tokens: bounds of a chunk. A single item may have more tokens.
    """

    max_bytes: int = 1 << 30
    max_jobs: int = 10_000
    chunk_items: int = 256
    chunk_bytes: int = 1 << 18
    chunk_tokens: int = 16_384


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Failed items of one reason ("INPUT_TOO_LONG"), and the index of one of them."""

    reason: str
    count: int
    sample_index: int


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it stands. Times are broker time in milliseconds, 0 where they have not come.

    Attributes:
        version: another number after every change.
        items, size_bytes: what is committed.
        attempt: 1, and 1 more for each retry.
    """

    spec: JobSpec
    state: JobState.ValueType
    version: int
    sealed: bool
    items: int
    size_bytes: int
    attempt: int
    running: int
    succeeded: int
    failed: int
    skipped: int
    prompt_tokens: int
    completion_tokens: int
    items_per_s: float
    tokens_per_s: float
    errors: tuple[ErrorCount, ...]
    created_ms: int
    started_ms: int
    ended_ms: int
    expires_ms: int

    @property
    def pending(self) -> int:
        """Items that wait."""
        return self.items - self.running - self.succeeded - self.failed - self.skipped

    @property
    def ended(self) -> bool:
        return self.ended_ms > 0

    def to_job(self) -> Job:
        """The public message."""
        spec, left = self.spec, self.pending + self.running
        job = Job(
            job_id=spec.job_id,
            state=self.state,
            model=spec.model,
            task=spec.task,
            truncation=spec.truncation,
            labels=spec.labels,
            failure_policy=spec.failure_policy,
            max_attempts=spec.max_attempts,
            items_committed=self.items,
            bytes_committed=self.size_bytes,
            sealed=self.sealed,
            counts=JobCounts(
                pending=self.pending,
                running=self.running,
                succeeded=self.succeeded,
                failed=self.failed,
                skipped=self.skipped,
            ),
            error_summary=[
                JobErrorSummary(reason=error.reason, count=error.count, sample_index=error.sample_index)
                for error in self.errors
            ],
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            items_per_s=self.items_per_s,
            tokens_per_s=self.tokens_per_s,
            eta_s=left / self.items_per_s if left and self.items_per_s > 0 else None,
            attempt=self.attempt,
        )
        for field, at_ms in (
            (job.create_time, self.created_ms),
            (job.start_time, self.started_ms),
            (job.end_time, self.ended_ms),
            (job.expire_time, self.expires_ms),
        ):
            if at_ms:
                field.CopyFrom(Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000))
        return job


def read_record(fields: dict[bytes, bytes], errors: dict[bytes, bytes], now_ms: int) -> JobRecord:
    """A job's hashes as the broker keeps them; `now_ms` is its time."""

    def number(name: bytes) -> int:
        return int(fields.get(name, 0))

    counts = [
        ErrorCount(reason.decode(), int(count), int(errors[reason + b"|i"]))
        for reason, count in errors.items()
        if not reason.endswith(b"|i")
    ]
    started_ms, rate_at_ms = number(b"started"), number(b"rate_at")
    per_s = 0.0
    if started_ms and not fields[b"state"]:
        lived_s = max(1.0, (now_ms - started_ms) / 1000)
        faded = math.exp((rate_at_ms - now_ms) / 1000 / RATE_S)
        per_s = faded / RATE_S / (1 - math.exp(-lived_s / RATE_S))
    return JobRecord(
        spec=JobSpec.FromString(fields[b"spec"]),
        state=_state(fields),
        version=number(b"version"),
        sealed=b"sealed" in fields,
        items=number(b"items"),
        size_bytes=number(b"bytes"),
        attempt=number(b"attempt"),
        running=number(b"running"),
        succeeded=number(b"succeeded"),
        failed=number(b"failed"),
        skipped=number(b"skipped"),
        prompt_tokens=number(b"prompt"),
        completion_tokens=number(b"completion"),
        items_per_s=_rate(float(fields[b"rate_items"]) * per_s),
        tokens_per_s=_rate(float(fields[b"rate_tokens"]) * per_s),
        errors=tuple(sorted(counts, key=lambda error: (-error.count, error.reason))),
        created_ms=number(b"created"),
        started_ms=started_ms,
        ended_ms=number(b"ended"),
        expires_ms=number(b"expires"),
    )


def _rate(value: float) -> float:
    """Nothing where the last end lies so far back that the figure says nothing."""
    return value if value > 1e-3 else 0.0


def _state(fields: dict[bytes, bytes]) -> JobState.ValueType:
    if fields[b"state"]:
        return JobState.Value(f"JOB_STATE_{fields[b'state'].decode()}")
    if b"ending" in fields:
        return JOB_STATE_CANCELLING
    if b"paused" in fields:
        return JOB_STATE_PAUSED
    if b"sealed" not in fields:
        return JOB_STATE_ACCEPTING
    return JOB_STATE_RUNNING if b"started" in fields else JOB_STATE_QUEUED


@dataclass(frozen=True, slots=True)
class ResultPage:
    """Results of a job, read behind a cursor.

    Attributes:
        results: serialized JobResults.
        cursor: behind the last of them.
        at_end: the job has ended and this was all.
        more: there is more at this very moment. Neither `more` nor `at_end`: wait until the job has changed.
        version: of the job, as it was when these were read.
    """

    results: list[bytes]
    cursor: str
    at_end: bool
    more: bool
    version: int

    def wire(self) -> bytes:
        """The results as the bytes of field 1 of a message, such as StreamJobResultsResponse."""
        return job_wire.join(self.results)


@dataclass(frozen=True, slots=True)
class JobBacklog:
    """What waits of the jobs of one model, over all shards: jobs with chunks to begin, and chunks that were begun and
    wait again."""

    model: str
    jobs: int
    chunks: int


@dataclass(frozen=True, slots=True)
class ChunkItem:
    """One item of a chunk; `index` is its number in the job."""

    index: int
    item: JobItem


@dataclass(frozen=True, slots=True)
class TakenChunk:
    """A chunk of a job that this worker now owns, or a part of one.

    Attributes:
        chunk_id: its name wherever an execution id serves: `held`, `handoff`, `Published.stop`.
        attempt: the attempt of the job that its results belong to.
        items: those without a result; never empty.
        deaths: workers that died with it without any progress.
        alone: it runs in quarantine. Nothing for the worker to do, as for `Taken.alone`.
        taken_ms: broker time of this take.
    """

    chunk_id: str
    spec: JobSpec
    attempt: int
    items: tuple[ChunkItem, ...]
    deaths: int
    alone: bool
    taken_ms: int


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What came of one item of a chunk: a JobResult with `index` and the outcome. Key and attempt are filled in."""

    chunk_id: str
    result: JobResult
