"""Builds the `google.rpc.Status` of the service's errors: the one place where a reason meets its gRPC code and details.

Gateway, broker and worker all report errors and all import this package, so it lives here; `errors` reads what is built
here. Whatever a caller sent, a status stays small: HTTP/2 clients refuse trailers beyond 8 KiB. What a caller or an
operator named is quoted: ASCII, escaped, cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, PreconditionFailure, RetryInfo
from google.rpc.status_pb2 import Status

from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.errors_pb2 import ErrorReason
from xlmstream.v1.job_pb2 import JobState
from xlmstream.v1.models_pb2 import Model

Reason: TypeAlias = ErrorReason.ValueType

DOMAIN = "xlmstream"
MAX_STATUS_BYTES = 4096
MAX_MESSAGE_CHARS = 512
MAX_DETAIL_BYTES = 2048
MAX_VIOLATIONS = 8

CODES: Mapping[Reason, code_pb2.Code.ValueType] = {
    ErrorReason.ERROR_REASON_INVALID_INPUT: code_pb2.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_INPUT_TOO_LONG: code_pb2.INVALID_ARGUMENT,
    ErrorReason.ERROR_REASON_MESSAGE_TOO_LARGE: code_pb2.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_QUEUE_FULL: code_pb2.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_TASK_UNSUPPORTED: code_pb2.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_MODEL_NOT_FOUND: code_pb2.NOT_FOUND,
    ErrorReason.ERROR_REASON_REQUEST_NOT_FOUND: code_pb2.NOT_FOUND,
    ErrorReason.ERROR_REASON_NO_WORKER: code_pb2.UNAVAILABLE,
    ErrorReason.ERROR_REASON_DRAINING: code_pb2.UNAVAILABLE,
    ErrorReason.ERROR_REASON_QUEUE_DOWN: code_pb2.UNAVAILABLE,
    ErrorReason.ERROR_REASON_POISONED_INPUT: code_pb2.INTERNAL,
    ErrorReason.ERROR_REASON_DEVICE_OOM: code_pb2.RESOURCE_EXHAUSTED,
    ErrorReason.ERROR_REASON_DEADLINE_QUEUE: code_pb2.DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_DEADLINE_COMPUTE: code_pb2.DEADLINE_EXCEEDED,
    ErrorReason.ERROR_REASON_CURSOR_EXPIRED: code_pb2.OUT_OF_RANGE,
    ErrorReason.ERROR_REASON_REQUEST_ID_REUSED: code_pb2.ALREADY_EXISTS,
    ErrorReason.ERROR_REASON_CANCELLED: code_pb2.CANCELLED,
    ErrorReason.ERROR_REASON_INTERNAL: code_pb2.INTERNAL,
    ErrorReason.ERROR_REASON_JOB_NOT_FOUND: code_pb2.NOT_FOUND,
    ErrorReason.ERROR_REASON_JOB_ID_REUSED: code_pb2.ALREADY_EXISTS,
    ErrorReason.ERROR_REASON_JOB_STATE: code_pb2.FAILED_PRECONDITION,
    ErrorReason.ERROR_REASON_UPLOAD_GAP: code_pb2.OUT_OF_RANGE,
    ErrorReason.ERROR_REASON_CHECKSUM_MISMATCH: code_pb2.DATA_LOSS,
    ErrorReason.ERROR_REASON_QUOTA_EXCEEDED: code_pb2.RESOURCE_EXHAUSTED,
}


def build(
    reason: Reason,
    message: str,
    *details: Message,
    retry_after_s: float | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Status:
    """The status of a reason: its code, its ErrorInfo, RetryInfo where a retry is worth it, and further details."""
    status = Status(code=CODES[reason], message=message[:MAX_MESSAGE_CHARS])
    status.details.add().Pack(ErrorInfo(reason=reason_name(reason), domain=DOMAIN, metadata=metadata or {}))
    if retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(max(1, round(retry_after_s * 1000)))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def reason_name(reason: Reason) -> str:
    """The name that callers see: "INPUT_TOO_LONG"."""
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def task_name(task: Task.ValueType) -> str:
    """The name that callers see: "GENERATE"; the number of a task that this version does not know."""
    return Task.Name(task).removeprefix("TASK_") if task in Task.values() else str(task)


def job_state_name(state: JobState.ValueType) -> str:
    """The name that callers see: "RUNNING"; the number of a state that this version does not know."""
    return JobState.Name(state).removeprefix("JOB_STATE_") if state in JobState.values() else str(state)


def quote(value: str, limit: int = 64) -> str:
    """What a caller sent, fit for an error message: ASCII, escaped, at most about `limit` characters."""
    return ascii(value if len(value) <= limit else value[:limit] + "...")


def listing(names: Iterable[str], limit: int = 1024) -> str:
    """Names joined by ", ", cut with a count where they would not fit into a status."""
    joined, rest = "", list(names)
    while rest and len(joined) + len(rest[0]) <= limit:
        joined += (", " if joined else "") + rest.pop(0)
    return f"{joined} and {len(rest)} more" if rest else joined or "none"


def relocated(status: Status, field: str, to: str) -> Status:
    """The same status, with what it says of `field` and of the fields inside it said of `to`."""
    message = to + status.message.removeprefix(field) if is_within(status.message, field) else status.message
    moved = Status(code=status.code, message=message)
    for detail in status.details:
        bad = BadRequest()
        if detail.Unpack(bad):
            for violation in bad.field_violations:
                if is_within(violation.field, field):
                    violation.field = to + violation.field.removeprefix(field)
            moved.details.add().Pack(bad)
        else:
            moved.details.add().CopyFrom(detail)
    return moved


def is_within(path: str, field: str) -> bool:
    """Whether a path begins with a field's: "inputs[3].text" is within "inputs[3]" and within "inputs"."""
    return path.startswith(field) and not path[len(field) : len(field) + 1].isalnum()


def translation_problem(model: Model, source: str, target: str) -> str:
    """Why a model does not translate from one of its languages into another; "" where it does."""
    if source == target:
        return f"{source} is target_language as well: there is nothing to translate"
    directions = [(each.source_language, each.target_language) for each in model.translation_directions]
    if directions and (source, target) not in directions:
        return f"{source}-{target} is not translated; supported: {listing(map('-'.join, directions))}"
    return ""


def invalid_input(violations: Iterable[tuple[str, str]]) -> Status:
    """INVALID_INPUT from (path of the field, what is wrong and what is allowed) pairs; the first few are reported."""
    bad_request, room = BadRequest(), MAX_DETAIL_BYTES
    violations = list(violations)
    for field, description in violations[:MAX_VIOLATIONS]:
        room -= len(field) + len(description.encode())
        if room < 0 and bad_request.field_violations:
            break
        bad_request.field_violations.add(field=field, description=description)
    field, description = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return build(ErrorReason.ERROR_REASON_INVALID_INPUT, f"{field}: {description}{more}", bad_request)


def input_too_long(field: str, tokens: int, max_tokens: int, *, at_least: bool = False) -> Status:
    """INPUT_TOO_LONG for the input at `field`, with its count of tokens (or a lower bound) and the model's limit."""
    count = f"at least {tokens}" if at_least else str(tokens)
    violation = BadRequest.FieldViolation(field=field, description=f"at most {max_tokens} tokens")
    return build(
        ErrorReason.ERROR_REASON_INPUT_TOO_LONG,
        f"{field}: {count} tokens, the model takes at most {max_tokens}; shorten it or set options.truncation",
        BadRequest(field_violations=[violation]),
        metadata={"tokens": str(tokens), "max": str(max_tokens)},
    )


def task_unsupported(model: str, task: Task.ValueType, tasks: Iterable[Task.ValueType]) -> Status:
    """TASK_UNSUPPORTED, naming the tasks that `model` has."""
    names, subject = listing(task_name(each) for each in tasks), quote(model)
    violation = PreconditionFailure.Violation(type="TASK", subject=subject, description=f"has the tasks {names}")
    return build(
        ErrorReason.ERROR_REASON_TASK_UNSUPPORTED,
        f"model {subject} cannot do {task_name(task)}; it can do: {names}",
        PreconditionFailure(violations=[violation]),
        metadata={"tasks": names},
    )


def cancelled(message: str = "the request was cancelled") -> Status:
    """CANCELLED: its caller cancelled it or went away."""
    return build(ErrorReason.ERROR_REASON_CANCELLED, message)


def deadline_queue() -> Status:
    """DEADLINE_QUEUE: the deadline passed before a worker took the request."""
    return build(ErrorReason.ERROR_REASON_DEADLINE_QUEUE, "the deadline passed before a worker took the request")


def deadline_compute() -> Status:
    """DEADLINE_COMPUTE: the deadline passed while the request ran."""
    return build(ErrorReason.ERROR_REASON_DEADLINE_COMPUTE, "the deadline passed while the request ran")


def device_oom() -> Status:
    """DEVICE_OOM: no memory for this input even alone."""
    return build(ErrorReason.ERROR_REASON_DEVICE_OOM, "the device ran out of memory even with this input alone")


def internal() -> Status:
    """INTERNAL: a defect. Says no more, so that nothing of the service or of other callers leaks."""
    return build(ErrorReason.ERROR_REASON_INTERNAL, "a defect of the service; its logs hold the cause")
