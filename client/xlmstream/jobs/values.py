"""What users hold of a job: its states, its items, its results; and how they are read from messages."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from xlmstream.errors import ProtocolError, XlmstreamError
from xlmstream.failures import from_status
from xlmstream.tasks import TASKS, Task
from xlmstream.v1 import job_pb2 as pb

Result = TypeVar("Result")


class JobState(enum.StrEnum):
    """Where a job stands; job.proto says what each state means."""

    ACCEPTING = "accepting"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNSPECIFIED = "unspecified"
    """A state that this version of the client does not know."""

    @property
    def ended(self) -> bool:
        """Whether only a retry of its failed items leads out of it."""
        return self in _ENDED


_ENDED = {
    JobState.SUCCEEDED,
    JobState.PARTIALLY_SUCCEEDED,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.EXPIRED,
}
_STATES: dict[int, JobState] = {
    number: JobState(name.removeprefix("JOB_STATE_").lower()) for name, number in pb.JobState.items()
}


@dataclass(frozen=True, slots=True)
class JobItem:
    """One input of a job with your name for it, which its result tells."""

    key: str
    """0 to 256 bytes of UTF-8; need not be unique."""
    input: Any
    """What the verb of the task takes: a text, a TextPair, a Question, Choices."""


@dataclass(frozen=True, slots=True)
class JobResult(Generic[Result]):
    """What came of one item of a job."""

    index: int
    """Its place among the items, from 0."""
    key: str
    attempt: int
    """1, and 1 more for each retry that ran it again."""
    error: XlmstreamError | None
    """Why it failed; None where it did not."""
    value: Result | None = field(repr=False)

    @property
    def result(self) -> Result:
        """Raises `error` where there is one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # without an error there is a result


# The tasks of jobs, by the branch that a task has in JobTask, JobItem and JobResult.
JOB_TASKS: dict[str, tuple[str, Task]] = {
    task.branch: (name, task) for name, task in TASKS.items() if task.branch in pb.JobTask.DESCRIPTOR.fields_by_name
}


def state_of(number: int) -> JobState:
    return _STATES.get(number, JobState.UNSPECIFIED)


def number_of(state: JobState | str) -> pb.JobState.ValueType:
    """Raises ValueError for a name that is no state."""
    return pb.JobState.Value(f"JOB_STATE_{JobState(state).name}")


def task_of(job: pb.Job) -> tuple[str, Task]:
    """The task of a job and the verb it is called by. Raises ProtocolError for one that this version does not know."""
    branch = job.task.WhichOneof("parameters")
    if branch is None or branch not in JOB_TASKS:
        raise ProtocolError(f"job {job.job_id} has a task that this version of the client does not know")
    return JOB_TASKS[branch]


def result_of(message: pb.JobResult, task: Task) -> JobResult[Any]:
    """One result as users hold it; an error knows its item as `input_index`."""
    branch = message.WhichOneof("outcome")
    if branch == "error":
        error = from_status(message.error)
        error.input_index = message.index
        return JobResult(message.index, message.key, message.attempt, error, None)
    if branch != task.branch:
        raise ProtocolError(f"the service answered item {message.index} with {branch}")
    value = task.result_of(getattr(message, branch))
    return JobResult(message.index, message.key, message.attempt, None, value)
