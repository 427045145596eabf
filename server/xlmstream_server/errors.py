"""Every error a caller can see, and the one table that gives each reason its gRPC code.

An error is a google.rpc.Status that carries an ErrorInfo (errors.proto) and, where it helps, one standard detail: which
field, how long to wait, which resource. Code elsewhere raises what the functions below return; `guard` turns it into
the status of the call. Nothing here logs, and no text of an unexpected exception ever becomes part of a status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    ResourceInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.errors_pb2 import ErrorReason

from xlmstream_server.broker import BrokerDown, BrokerError, NotFound, QueueFull, RequestIdReused

Reason: TypeAlias = ErrorReason.ValueType

DOMAIN = "xlmstream"
# A status travels in HTTP/2 trailers, which a client refuses beyond 8 KiB: whatever a caller sent, it stays below this.
MAX_STATUS_BYTES = 4096
MAX_MESSAGE_CHARS = 512
MAX_VIOLATIONS = 8

# When to try again, in seconds, where the broker does not say.
RETRY_NO_WORKER_S = 1.0
RETRY_DRAINING_S = 0.1
RETRY_QUEUE_DOWN_S = 1.0
RETRY_UNARY_FULL_S = 0.1

CODES: Mapping[Reason, grpc.StatusCode] = {
    ErrorReason.ERROR_REASON_INVALID_INPUT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_INPUT_TOO_LONG: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_TASK_UNSUPPORTED: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_REQUEST_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorReason.ERROR_REASON_NO_WORKER: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_DRAINING: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_QUEUE_DOWN: grpc.StatusCode.UNAVAILABLE,
    ErrorReason.ERROR_REASON_POISONED_INPUT: grpc.StatusCode.INTERNAL,
    ErrorReason.ERROR_REASON_DEVICE_OOM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_DEADLINE_QUEUE: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_DEADLINE_COMPUTE: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_CURSOR_EXPIRED: grpc.StatusCode.OUT_OF_RANGE,
    ErrorReason.ERROR_REASON_REQUEST_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    ErrorReason.ERROR_REASON_CANCELLED: grpc.StatusCode.CANCELLED,
    ErrorReason.ERROR_REASON_INTERNAL: grpc.StatusCode.INTERNAL,
}


class ServiceError(Exception):
    """An answer to the caller that is not a result. `status` is complete: code, message and details."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


def reason_name(reason: Reason) -> str:
    """The name that callers see: "INPUT_TOO_LONG"."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def task_name(task: Task.ValueType) -> str:
    """The name that callers see: "GENERATE"."""
    return Task.Name(task).removeprefix("TASK_")


def quote(value: str, limit: int = 64) -> str:
    """What a caller sent, fit for an error message: ASCII, escaped, at most about `limit` characters."""
    return ascii(value if len(value) <= limit else value[:limit] + "...")


def listing(names: Iterable[str], limit: int = 1024) -> str:
    """Names joined by ", ", cut with a count where they would not fit into a status."""
    joined, rest = "", list(names)
    while rest and len(joined) + len(rest[0]) <= limit:
        joined += (", " if joined else "") + rest.pop(0)
    return f"{joined} and {len(rest)} more" if rest else joined or "none"


def error(
    reason: Reason, message: str, *details: Message, retry_after_s: float | None = None, **metadata: str
) -> ServiceError:
    """A ServiceError with its ErrorInfo, with `details`, and with RetryInfo where a retry is worth it."""
    status = Status(code=Code.Value(CODES[reason].name), message=message[:MAX_MESSAGE_CHARS])
    status.details.add().Pack(ErrorInfo(reason=reason_name(reason), domain=DOMAIN, metadata=metadata))
    if retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(max(1, round(retry_after_s * 1000)))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    for detail in details:
        status.details.add().Pack(detail)
    return ServiceError(status)


def error_info(status: Status) -> ErrorInfo | None:
    """The ErrorInfo of a status, or None where it has none."""
    for detail in status.details:
        if detail.Is(ErrorInfo.DESCRIPTOR):
            info = ErrorInfo()
            detail.Unpack(info)
            return info
    return None


def reason_of(status: Status) -> str:
    """The reason's name, "" where the status has none."""
    info = error_info(status)
    return info.reason if info else ""


def has_reason(failed: ServiceError, reason: Reason) -> bool:
    return reason_of(failed.status) == reason_name(reason)


def is_retryable(status: Status) -> bool:
    """Whether the status invites a retry."""
    return any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)


def with_execution_id(status: Status, execution_id: str) -> Status:
    """The same status, naming the execution in the metadata of its ErrorInfo."""
    named = Status(code=status.code, message=status.message)
    for detail in status.details:
        info = ErrorInfo()
        if detail.Unpack(info):
            info.metadata["execution_id"] = execution_id
            named.details.add().Pack(info)
        else:
            named.details.add().CopyFrom(detail)
    return named


def relocated(status: Status, field: str, to: str) -> Status:
    """The same status, with what it says of `field` and of the fields inside it said of `to`."""
    message = to + status.message.removeprefix(field) if _is_within(status.message, field) else status.message
    moved = Status(code=status.code, message=message)
    for detail in status.details:
        bad = BadRequest()
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                if _is_within(violation.field, field):
                    violation.field = to + violation.field.removeprefix(field)
            moved.details.add().Pack(bad)
        else:
            moved.details.add().CopyFrom(detail)
    return moved


def fitting(status: Status) -> Status:
    """The same status, cut where it would not fit into trailers: workers write statuses too.

    The message also travels on its own, each byte that is not ASCII as three.
    """
    limit = MAX_MESSAGE_CHARS if status.message.isascii() else MAX_MESSAGE_CHARS // 6
    if len(status.message) <= limit and status.ByteSize() <= MAX_STATUS_BYTES:
        return status
    cut = Status(code=status.code, message=status.message[:limit])
    for detail in status.details:
        if cut.ByteSize() + detail.ByteSize() <= MAX_STATUS_BYTES - 16:
            cut.details.add().CopyFrom(detail)
    return cut


def _is_within(path: str, field: str) -> bool:
    return path.startswith(field) and not path[len(field) : len(field) + 1].isalnum()


def _violation(field: str, description: str) -> BadRequest:
    return BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=description)])


# What is wrong with the request.


def invalid_input(violations: Sequence[tuple[str, str]]) -> ServiceError:
    """`violations` are (field path, description) pairs; the first few are reported."""
    bad, room = BadRequest(), MAX_STATUS_BYTES // 2
    for field, description in violations[:MAX_VIOLATIONS]:
        room -= len(field) + len(description.encode())
        if room < 0 and bad.field_violations:
            break
        bad.field_violations.add(field=field, description=description)
    field, description = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return error(ErrorReason.ERROR_REASON_INVALID_INPUT, f"{field}: {description}{more}", bad)


def input_too_long(field: str, tokens: int, max_tokens: int) -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_INPUT_TOO_LONG,
        f"{field}: {tokens} tokens, the model takes at most {max_tokens}; shorten it or set options.truncation",
        _violation(field, f"at most {max_tokens} tokens"),
        tokens=str(tokens),
        max=str(max_tokens),
    )


def message_too_large(size_bytes: int, max_bytes: int) -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE,
        f"the request message has {size_bytes} bytes, at most {max_bytes} are taken; split it",
        bytes=str(size_bytes),
        max=str(max_bytes),
    )


def request_id_reused() -> ServiceError:
    return error(
        ErrorReason.ERROR_REASON_REQUEST_ID_REUSED,
        "options.request_id was used before with other content; choose a new one",
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
    names = listing(task_name(each) for each in tasks)
    return error(
        ErrorReason.ERROR_REASON_TASK_UNSUPPORTED,
        f"model {quote(model)} cannot do {task_name(task)}; it can do: {names}",
        PreconditionFailure(
            violations=[
                PreconditionFailure.Violation(type="TASK", subject=quote(model), description=f"has the tasks {names}")
            ]
        ),
        tasks=names,
    )


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
        case _:
            return internal()


# How a request that was accepted can end.


def deadline_queue() -> ServiceError:
    return error(ErrorReason.ERROR_REASON_DEADLINE_QUEUE, "the deadline passed before a worker took the request")


def deadline_compute() -> ServiceError:
    return error(ErrorReason.ERROR_REASON_DEADLINE_COMPUTE, "the deadline passed while the request ran")


def cancelled(message: str) -> ServiceError:
    return error(ErrorReason.ERROR_REASON_CANCELLED, message)


def aborted() -> ServiceError:
    """The gateway gave a call up that nobody had cancelled: the one status whose code is not its reason's."""
    stopped = internal()
    stopped.status.code = Code.ABORTED
    return stopped


def internal() -> ServiceError:
    return error(ErrorReason.ERROR_REASON_INTERNAL, "a defect of the service; its logs hold the cause")
