"""What a call can end with that is no result: a google.rpc.Status, as `xlmstream.status` builds it, to be raised.

Code elsewhere raises what the functions below return; `guard` turns it into the status of the call. Nothing here logs,
and no text of an unexpected exception ever becomes part of a status.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import xlmstream.status as statuses
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import PreconditionFailure, QuotaFailure, ResourceInfo
from google.rpc.status_pb2 import Status
from xlmstream.status import Reason, job_state_name, listing, quote, reason_name
from xlmstream.status import relocated as relocated
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.errors_pb2 import ErrorReason
from xlmstream.v1.job_pb2 import JobState

from xlmstream_server.broker import (
    BrokerDown,
    BrokerError,
    JobIdReused,
    JobNotFound,
    JobQuotaExceeded,
    JobStateForbids,
    NotFound,
    QueueFull,
    RequestIdReused,
    UploadGap,
)
from xlmstream_server.status_reading import error_info as error_info
from xlmstream_server.status_reading import fitting as fitting
from xlmstream_server.status_reading import is_retryable as is_retryable
from xlmstream_server.status_reading import names as names
from xlmstream_server.status_reading import reason_of as reason_of
from xlmstream_server.status_reading import retry_after_s as retry_after_s
from xlmstream_server.status_reading import with_execution_id as with_execution_id

# When to try again, in seconds, where the broker does not say.
RETRY_NO_WORKER_S = 1.0
RETRY_DRAINING_S = 0.1
RETRY_QUEUE_DOWN_S = 1.0
RETRY_UNARY_FULL_S = 0.1
RETRY_CHECKSUM_S = 0.1
RETRY_STALLED_S = 0.1


class ServiceError(Exception):
    """An answer to the caller that is not a result. `status` is complete: code, message and details."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def error(
    reason: Reason, message: str, *details: Message, retry_after_s: float | None = None, **metadata: str
) -> ServiceError:
    """A ServiceError of `reason`; see `xlmstream.status.build`."""
    return ServiceError(statuses.build(reason, message, *details, retry_after_s=retry_after_s, metadata=metadata))


def has_reason(failed: ServiceError, reason: Reason) -> bool:
    return reason_of(failed.status) == reason_name(reason)


# What is wrong with the request.


def invalid_input(violations: Sequence[tuple[str, str]]) -> ServiceError:
    """`violations` are (field path, description) pairs; the first few are reported."""
    return ServiceError(statuses.invalid_input(violations))


def input_too_long(field: str, tokens: int, max_tokens: int) -> ServiceError:
    return ServiceError(statuses.input_too_long(field, tokens, max_tokens))


def message_too_large(size_bytes: int, max_bytes: int) -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE,
        f"the request message has {size_bytes} bytes, at most {max_bytes} are taken; split it",
        bytes=str(size_bytes),
        max=str(max_bytes),
    )


def request_id_reused(field: str = "options.request_id") -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_REQUEST_ID_REUSED,
        f"{field} was used before with other content; choose a new one",
    )


# What is asked for and not there.


def model_not_found(name: str, served: Sequence[str]) -> ServiceError:
    names = listing(served)
    return error(
        ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
        f"no model {quote(name)} is served; served: {names}",
        ResourceInfo(resource_type="model", resource_name=quote(name), description="not served here"),
        models=names,
    )


def task_unsupported(model: str, task: Task.ValueType, tasks: Iterable[Task.ValueType]) -> ServiceError:
    return ServiceError(statuses.task_unsupported(model, task, tasks))


def service_unknown(name: str) -> ServiceError:
    """For health checks, whose protocol asks for NOT_FOUND."""
    return error(
        ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
        f"no service or model {quote(name)} here",
        ResourceInfo(resource_type="service", resource_name=quote(name), description="unknown"),
    )


def request_not_found() -> ServiceError:
    """Says nothing about why: an unknown id and another tenant's id look the same."""
    return error(
        ErrorReason.ERROR_REASON_REQUEST_NOT_FOUND,
        "no such request is known; it was never accepted, or it ended too long ago",
        ResourceInfo(resource_type="request", description="unknown or forgotten"),
    )


def job_not_found(job_id: str) -> ServiceError:
    """The same for a name that was never given, for another tenant's job and for one whose time is over."""
    return error(
        ErrorReason.ERROR_REASON_JOB_NOT_FOUND,
        f"no job {quote(job_id)} is known; there never was one, or its time is over",
        ResourceInfo(resource_type="job", resource_name=quote(job_id), description="unknown or forgotten"),
    )


def job_id_reused(job_id: str) -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_JOB_ID_REUSED,
        f"job_id: job {quote(job_id)} exists and was made with other content; choose another name or delete that job",
    )


def job_state(job_id: str, state: JobState.ValueType) -> ServiceError:
    name = job_state_name(state)
    violation = PreconditionFailure.Violation(type="STATE", subject=quote(job_id), description=f"the job is {name}")
    return error(
        ErrorReason.ERROR_REASON_JOB_STATE,
        f"job {quote(job_id)} is {name}, which forbids this",
        PreconditionFailure(violations=[violation]),
        state=name,
    )


def upload_gap(items_committed: int) -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_UPLOAD_GAP,
        f"items are missing: the job has {items_committed}; continue with index {items_committed}",
        items_committed=str(items_committed),
    )


def checksum_mismatch(field: str, found: int, given: int) -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH,
        f"{field}: the items have the CRC-32C {found}, not {given}; nothing of the chunk was committed",
        retry_after_s=RETRY_CHECKSUM_S,
    )


def job_cursor_expired(field: str) -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_CURSOR_EXPIRED,
        f"{field}: it belongs to an earlier job of this name; begin again without one",
        earliest="0",
    )


def cursor_expired(asked: int, earliest: int, following: int) -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_CURSOR_EXPIRED,
        f"next_event {asked}: events {earliest} to {following} can be asked for",
        earliest=str(earliest),
        next=str(following),
    )


# What the service cannot do now.


def queue_full(retry_after_s: float, subject: str, description: str) -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_QUEUE_FULL,
        f"{subject}: {description}",
        QuotaFailure(violations=[QuotaFailure.Violation(subject=subject, description=description)]),
        retry_after_s=retry_after_s,
    )


def quota_exceeded(retry_after_s: float, subject: str, used: int, limit: int) -> ServiceError:
    description = f"{used} of {limit} {subject} are used"
    return error(
        ErrorReason.ERROR_REASON_QUOTA_EXCEEDED,
        f"the quota of jobs is used up: {description}; delete ended jobs to make room",
        QuotaFailure(violations=[QuotaFailure.Violation(subject=f"jobs: {subject}", description=description)]),
        retry_after_s=retry_after_s,
    )


def no_worker(model: str) -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_NO_WORKER,
        f"no worker serves model {quote(model)} now" if model else "no worker has registered a model yet",
        retry_after_s=RETRY_NO_WORKER_S,
    )


def draining() -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_DRAINING,
        "this gateway is shutting down; another one takes over",
        retry_after_s=RETRY_DRAINING_S,
    )


def queue_down() -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_QUEUE_DOWN,
        "the queue cannot be reached; nothing was accepted",
        retry_after_s=RETRY_QUEUE_DOWN_S,
    )


def from_broker(cause: BrokerError, model: str = "") -> ServiceError:
    """What callers get to see of a broker's error."""
    match cause:
        case BrokerDown():
            return queue_down()
        case QueueFull():
            bound = f"{cause.bound} waiting, at most {cause.limit}" if cause.limit else f"{cause.bound} is used up"
            return queue_full(cause.retry_after_s, f"model {quote(model)}", bound)
        case RequestIdReused():
            return request_id_reused()
        case NotFound():
            return request_not_found()
        case JobNotFound():
            return job_not_found(cause.job_id)
        case JobIdReused():
            return job_id_reused(cause.job_id)
        case JobStateForbids():
            return job_state(cause.job_id, cause.state)
        case UploadGap():
            return upload_gap(cause.items_committed)
        case JobQuotaExceeded():
            return quota_exceeded(cause.retry_after_s, cause.subject, cause.used, cause.limit)
        case _:
            return internal()


# How a request that was accepted can end.


def deadline_queue() -> ServiceError:
    return ServiceError(statuses.deadline_queue())


def deadline_compute() -> ServiceError:
    return ServiceError(statuses.deadline_compute())


def cancelled(message: str) -> ServiceError:
    return ServiceError(statuses.cancelled(message))


def reader_stalled(seconds: float) -> ServiceError:
    """A reader took nothing for so long; it may go on from its cursor when it has caught up."""
    return error(
        ErrorReason.ERROR_REASON_CANCELLED,
        f"the client read nothing for {seconds:g} s; continue from the last cursor",
        retry_after_s=RETRY_STALLED_S,
    )


def aborted() -> ServiceError:
    """The gateway gave a call up that nobody had cancelled: the one status whose code is not its reason's."""
    stopped = internal()
    stopped.status.code = Code.ABORTED
    return stopped


def internal() -> ServiceError:
    return ServiceError(statuses.internal())
