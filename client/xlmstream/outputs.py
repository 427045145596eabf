"""What a response says of several inputs: one outcome for each, in their order. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, Protocol, TypeVar

from google.rpc.status_pb2 import Status

from xlmstream.errors import ProtocolError, XlmstreamError
from xlmstream.failures import from_status
from xlmstream.messages import Generation, generation_of
from xlmstream.v1 import generation_pb2

_Result = TypeVar("_Result")
_ResultMessage = TypeVar("_ResultMessage", covariant=True)


class Output(Protocol[_ResultMessage]):
    """The outcome for one input, as every response with several carries it: `oneof {result, error}`."""

    @property
    def result(self) -> _ResultMessage: ...
    @property
    def error(self) -> Status: ...
    def WhichOneof(self, oneof_group: Literal["outcome"]) -> str | None: ...  # noqa: N802 - protobuf's name


def outcomes(
    outputs: Iterable[Output[_ResultMessage]],
    read: Callable[[_ResultMessage], _Result],
    expected: int,
    request_id: str | None = None,
) -> list[_Result | XlmstreamError]:
    """One result or error for each of the `expected` inputs, in their order."""
    found: list[_Result | XlmstreamError] = []
    for index, output in enumerate(outputs):
        if output.WhichOneof("outcome") == "error":
            error = from_status(output.error)
            error.input_index, error.request_id = index, request_id
            found.append(error)
        else:
            found.append(read(output.result))
    if len(found) != expected:
        raise ProtocolError(f"the service answered {len(found)} of {expected} inputs")
    return found


def all_or_raise(outcomes: Iterable[_Result | XlmstreamError]) -> list[_Result]:
    """The results; raises the first error among them."""
    results: list[_Result] = []
    for outcome in outcomes:
        if isinstance(outcome, XlmstreamError):
            raise outcome
        results.append(outcome)
    return results


def generations(
    outputs: Iterable[Output[generation_pb2.GenerateResult]],
    expected: int,
    request_id: str,
    *,
    alone: bool,
    return_exceptions: bool,
) -> Generation | list[Generation] | list[Generation | XlmstreamError]:
    """What `generate` and `translate` return: of one input given `alone` its result, else a list."""
    found = outcomes(outputs, generation_of, expected, request_id)
    if return_exceptions and not alone:
        return found
    results = all_or_raise(found)
    return results[0] if alone else results
