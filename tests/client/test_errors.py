"""Every reason becomes the exception of its name, with what it carries; nothing that may come back is left out."""

import pickle
import re
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from xlmstream import errors, status
from xlmstream.errors import BY_REASON, XlmstreamError
from xlmstream.failures import DETAILS_KEY, from_call, from_status
from xlmstream.testing import Failure, FakeServer
from xlmstream.v1.errors_pb2 import ErrorReason

REASONS = [name.removeprefix("ERROR_REASON_") for name, number in ErrorReason.items() if number]


def subclasses(kind: type[XlmstreamError]) -> list[type[XlmstreamError]]:
    return [one for child in kind.__subclasses__() for one in (child, *subclasses(child))]


class FailedCall:
    """What grpc raises, as far as it is read."""

    def __init__(self, code: grpc.StatusCode, details: str, *trailers: tuple[str, str | bytes]) -> None:
        self._parts = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._parts[2]


def test_every_reason_has_an_exception_with_the_code_of_the_service() -> None:
    assert set(BY_REASON) == set(REASONS)
    for reason, kind in BY_REASON.items():
        assert kind.default_code.value[0] == status.CODES[ErrorReason.Value(f"ERROR_REASON_{reason}")], reason


@pytest.mark.parametrize("reason", REASONS)
def test_each_reason_is_raised_as_its_exception(clients: Any, server: FakeServer, reason: str) -> None:
    server.fail(Failure(reason, "what is wrong", metadata={"execution_id": "e-7"}))
    with pytest.raises(BY_REASON[reason]) as caught:
        clients.call(server.address, "generate", "Hello", request_id="mine")
    error = caught.value
    assert (error.reason, error.message, error.execution_id, error.request_id) == (
        reason,
        "what is wrong",
        "e-7",
        "mine",
    )
    assert error.code is BY_REASON[reason].default_code
    assert not error.retryable, "only RetryInfo makes an error of the service worth a retry"
    assert str(error) == f"what is wrong [{reason}, execution e-7, request mine]"


def test_figures_of_the_reasons() -> None:
    too_long = from_status(Failure("INPUT_TOO_LONG", metadata={"tokens": "300", "max": "256"}).to_status())
    assert isinstance(too_long, errors.InputTooLong)
    assert (too_long.tokens, too_long.max_tokens) == (300, 256)
    unknown = from_status(Failure("MODEL_NOT_FOUND", metadata={"models": "a@1, b@2"}).to_status())
    assert isinstance(unknown, errors.ModelNotFound)
    assert unknown.models == ("a@1", "b@2")
    unsupported = from_status(Failure("TASK_UNSUPPORTED", metadata={"tasks": "EMBED,SCORE"}).to_status())
    assert isinstance(unsupported, errors.TaskUnsupported)
    assert unsupported.tasks == ("EMBED", "SCORE")
    late = from_status(Failure("CURSOR_EXPIRED", metadata={"earliest": "0", "next": "9"}).to_status())
    assert isinstance(late, errors.CursorExpired)
    assert (late.earliest, late.next) == (0, 9)
    full = from_status(Failure("QUEUE_FULL", retry_after_s=1.25).to_status())
    assert isinstance(full, errors.QueueFull)
    assert (full.retry_after_s, full.retryable) == (1.25, True)
    bad = from_status(Failure("INVALID_INPUT", "must not be empty", field="inputs[3].text").to_status())
    assert isinstance(bad, errors.InvalidInput)
    assert bad.field_violations == (errors.FieldViolation("inputs[3].text", "must not be empty"),)


def test_what_a_newer_service_or_a_proxy_may_send() -> None:
    newer = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="no such shelf")
    newer.details.add().Pack(error_details_pb2.ErrorInfo(reason="SHELF_NOT_FOUND", domain="xlmstream"))
    error = from_status(newer)
    assert (type(error), error.reason) == (errors.NotFound, "SHELF_NOT_FOUND")
    foreign = status_pb2.Status(code=grpc.StatusCode.PERMISSION_DENIED.value[0])
    foreign.details.add().Pack(error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="googleapis.com"))
    error = from_status(foreign)
    assert (type(error), error.reason) == (errors.PermissionDenied, "")
    error = from_status(status_pb2.Status(code=99, message="?"))
    assert (type(error), error.code) == (XlmstreamError, grpc.StatusCode.UNKNOWN)


@pytest.mark.parametrize(
    ("code", "text", "kind", "retryable"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", errors.Unavailable, True),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", errors.InternalError, True),
        (grpc.StatusCode.INTERNAL, "Internal error from Core", errors.InternalError, True),
        (grpc.StatusCode.INTERNAL, "Exception deserializing response!", errors.InternalError, False),
        (grpc.StatusCode.UNAUTHENTICATED, "no", errors.Unauthenticated, False),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", XlmstreamError, False),
    ],
)
def test_errors_of_the_way(code: grpc.StatusCode, text: str, kind: type[XlmstreamError], *, retryable: bool) -> None:
    garbled = (DETAILS_KEY, b"\xff not a status")
    other_code = (DETAILS_KEY, Failure("QUEUE_FULL").to_status().SerializeToString())
    for trailers in ((), (garbled,), (other_code,)):
        error = from_call(FailedCall(code, text, *trailers))
        assert (type(error), error.message, error.reason, error.retryable) == (kind, text, "", retryable)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    path = ["XlmstreamError"]
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"    ([│ ]*)[├└]── (\w+)", line):
            depth = len(found[1]) // 4 + 1
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1]
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in subclasses(XlmstreamError)}


def test_exceptions_survive_a_process_boundary() -> None:
    error = from_status(Failure("QUEUE_FULL", retry_after_s=2, metadata={"execution_id": "e"}).to_status())
    error.input_index = 3
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.QueueFull
    assert (str(copy), copy.retry_after_s, copy.input_index) == (str(error), 2.0, 3)
