"""What a finished google.rpc.Status says, and the same status with a little more or less: pure functions."""

from __future__ import annotations

import xlmstream.status as statuses
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from xlmstream.status import MAX_MESSAGE_CHARS, MAX_STATUS_BYTES


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


def is_retryable(status: Status) -> bool:
    """Whether the status invites a retry."""
    return any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)


def retry_after_s(status: Status) -> float | None:
    """The time that the status says to wait before a retry, or None."""
    for detail in status.details:
        retry = RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToMilliseconds()) / 1000
    return None


def names(status: Status, field: str) -> bool:
    """Whether the status finds fault with `field` or with a field inside it."""
    for detail in status.details:
        bad = BadRequest()
        if detail.Unpack(bad):
            return any(statuses.is_within(violation.field, field) for violation in bad.field_violations)
    return False


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
