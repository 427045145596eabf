"""Reads what comes back when something fails: from a google.rpc.Status or a failed grpc call to an exception."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from xlmstream.errors import BY_CODE, BY_REASON, FieldViolation, XlmstreamError
from xlmstream.status import DOMAIN

DETAILS_KEY = "grpc-status-details-bin"

_CODE_OF_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def from_status(status: status_pb2.Status) -> XlmstreamError:
    """The exception for the error of one input, or of a call whose trailers carried `status`."""
    code = _CODE_OF_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    info = _detail(status.details, error_details_pb2.ErrorInfo)
    retry = _detail(status.details, error_details_pb2.RetryInfo)
    bad_request = _detail(status.details, error_details_pb2.BadRequest)
    ours = info is not None and info.domain == DOMAIN
    reason = info.reason if info is not None and ours else ""
    return BY_REASON.get(reason, BY_CODE.get(code, XlmstreamError))(
        status.message,
        code=code,
        reason=reason,
        metadata=info.metadata if info is not None else None,
        retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if retry is not None else None,
        field_violations=[FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        if bad_request is not None
        else (),
    )


class FailedCall(Protocol):
    """What grpc raises, from a blocking call (grpc.RpcError that is a grpc.Call) and from grpc.aio alike."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def from_call(call: FailedCall) -> XlmstreamError:
    """The exception for a call that failed as a whole."""
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status = status_pb2.Status.FromString(value)
                if status.code == call.code().value[0]:
                    return from_status(status)
            except DecodeError:  # a proxy cut it: the plain code and text still tell most
                continue
    return from_status(status_pb2.Status(code=call.code().value[0], message=call.details() or ""))


_Detail = TypeVar("_Detail", bound=Message)


def _detail(details: Iterable[AnyMessage], kind: type[_Detail]) -> _Detail | None:
    for packed in details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None
