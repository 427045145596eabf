"""Every reason has one code, every status one ErrorInfo, every retryable one RetryInfo; none outgrows its trailers."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
import xlmstream.status as statuses
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.errors_pb2 import ErrorReason
from xlmstream.v1.job_pb2 import JOB_STATE_PAUSED
from xlmstream_server import errors
from xlmstream_server.broker import failures
from xlmstream_server.broker.v1.messages_pb2 import Event

RETRYABLE = {"NO_WORKER", "DRAINING", "QUEUE_DOWN", "QUEUE_FULL", "QUOTA_EXCEEDED", "CHECKSUM_MISMATCH"}

EXAMPLES = [
    errors.invalid_input([("inputs[3].text", "must not be empty")]),
    errors.input_too_long("input.text", 900, 512),
    errors.message_too_large(10, 5),
    errors.request_id_reused(),
    errors.model_not_found("x", ["a@1", "b@2"]),
    errors.task_unsupported("a@1", Task.TASK_GENERATE, [Task.TASK_TOKENIZE]),
    errors.request_not_found(),
    errors.service_unknown("x"),
    errors.cursor_expired(9, 0, 5),
    errors.queue_full(0.25, "model 'a'", "requests"),
    errors.no_worker("a@1"),
    errors.draining(),
    errors.queue_down(),
    errors.deadline_queue(),
    errors.deadline_compute(),
    errors.cancelled("gone"),
    errors.internal(),
    errors.job_not_found("j"),
    errors.job_id_reused("j"),
    errors.job_state("j", JOB_STATE_PAUSED),
    errors.upload_gap(7),
    errors.checksum_mismatch("chunk.items", 1, 2),
    errors.quota_exceeded(60.0, "bytes", 12, 10),
    errors.job_cursor_expired("cursor"),
]


def details(status: Status, kind: type) -> list:
    found = []
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            found.append(message)
    return found


def test_every_reason_has_a_code() -> None:
    assert set(statuses.CODES) == set(ErrorReason.values()) - {ErrorReason.ERROR_REASON_UNSPECIFIED}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: errors.reason_of(error.status))
def test_a_status_is_complete(error: errors.ServiceError) -> None:
    [info] = details(error.status, ErrorInfo)
    assert info.domain == "xlmstream"
    reason = ErrorReason.Value("ERROR_REASON_" + info.reason)
    assert statuses.CODES[reason] == error.status.code
    assert error.status.message.isascii()
    retries = details(error.status, RetryInfo)
    assert bool(retries) == (info.reason in RETRYABLE) == errors.is_retryable(error.status)
    for retry in retries:
        assert retry.retry_delay.ToMilliseconds() > 0
    named = errors.with_execution_id(error.status, "00abc")
    assert details(named, ErrorInfo)[0].metadata["execution_id"] == "00abc"
    assert [each.type_url for each in named.details] == [each.type_url for each in error.status.details]
    assert rpc_status.to_status(named).code.value[0] == error.status.code


def test_giving_up_a_call_is_aborted() -> None:
    assert errors.aborted().status.code == grpc.StatusCode.ABORTED.value[0]


@pytest.mark.parametrize(
    "error",
    [
        errors.invalid_input([(f"parameters.stop[{i}]", "Ω" * 300) for i in range(500)]),
        errors.invalid_input(
            [("input.language", statuses.quote("\x00\n☃" * 10_000) + statuses.listing(["xx"] * 9000))]
        ),
        errors.model_not_found("☃" * 10_000, [f"model-{i}@{i}" for i in range(1000)]),
        errors.task_unsupported("m" * 10_000, Task.TASK_GENERATE, [Task.TASK_TOKENIZE] * 1000),
    ],
)
def test_no_status_outgrows_what_a_client_accepts_in_trailers(error: errors.ServiceError) -> None:
    assert len(error.status.SerializeToString()) <= statuses.MAX_STATUS_BYTES


def test_violations_beyond_the_first_few_are_counted() -> None:
    status = errors.invalid_input([(f"f{i}", "wrong") for i in range(20)]).status
    [bad] = details(status, BadRequest)
    assert [violation.field for violation in bad.field_violations] == [f"f{i}" for i in range(statuses.MAX_VIOLATIONS)]
    assert status.message == "f0: wrong (and 19 more)"


def test_listing_counts_what_it_leaves_out() -> None:
    assert statuses.listing(["a", "b"]) == "a, b"
    assert statuses.listing([]) == "none"
    assert statuses.listing(["abc", "def", "ghi"], limit=8) == "abc, def and 1 more"


def test_a_field_is_named_as_the_caller_knows_it() -> None:
    status = errors.relocated(errors.input_too_long("input.text", 9, 5).status, "input", "inputs[3]")
    assert status.message.startswith("inputs[3].text: 9 tokens")
    assert details(status, BadRequest)[0].field_violations[0].field == "inputs[3].text"
    other = errors.invalid_input([("inputs[1]", "wrong")]).status
    assert errors.relocated(other, "input", "inputs[3]") == other


@pytest.mark.parametrize("message", ["x" * 100_000, "\u2603" * 100_000, "\U0001f600" * 500])
def test_a_status_from_elsewhere_is_cut_to_fit(message: str) -> None:
    status = errors.input_too_long("input.text", 9, 5).status
    status.message = message
    status.details.add().Pack(BadRequest(field_violations=[BadRequest.FieldViolation(description="x" * 10_000)]))
    cut = errors.fitting(errors.with_execution_id(status, "00abc"))
    assert len(cut.SerializeToString()) <= statuses.MAX_STATUS_BYTES
    percent_encoded = 3 * len(cut.message.encode()) if not message.isascii() else len(cut.message)
    assert percent_encoded <= 1024
    assert (errors.reason_of(cut), cut.code) == ("INPUT_TOO_LONG", status.code)


def test_a_status_that_fits_is_left_alone() -> None:
    for example in EXAMPLES:
        assert errors.fitting(example.status) is example.status


@pytest.mark.parametrize("refuse", [errors.model_not_found, errors.task_unsupported])
def test_what_others_named_is_quoted(refuse: Callable[..., errors.ServiceError]) -> None:
    name = "\x1b[2J\n☃"
    rest = ([],) if refuse is errors.model_not_found else (Task.TASK_GENERATE, [])
    status = refuse(name, *rest).status
    assert ascii(name) in status.message
    assert status.message.isascii()
    assert status.message.isprintable()


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (failures.cancelled(), "CANCELLED"),
        (failures.deadline_queue(), "DEADLINE_QUEUE"),
        (failures.deadline_compute(), "DEADLINE_COMPUTE"),
        (failures.poisoned(), "POISONED_INPUT"),
    ],
)
def test_what_ends_an_execution_is_a_status_of_the_same_table(event: Event, reason: str) -> None:
    assert errors.reason_of(event.failed) == reason
    assert event.failed.code == statuses.CODES[ErrorReason.Value(f"ERROR_REASON_{reason}")]
