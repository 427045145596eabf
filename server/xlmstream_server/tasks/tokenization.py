"""Tokenize and Detokenize: one execution for all inputs of a call."""

from __future__ import annotations

from collections.abc import Sequence

from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import RequestOptions, Task
from xlmstream.v1.inference_pb2 import (
    DetokenizeOutput,
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeOutput,
    TokenizeRequest,
    TokenizeResponse,
)

from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_server.catalogue import ServedModel
from xlmstream_server.config import Limits
from xlmstream_server.errors import ServiceError
from xlmstream_server.tasks.base import Piece, UnaryTask, relocate_errors
from xlmstream_server.validation import (
    Violations,
    check_ids,
    check_input_count,
    check_options,
    input_error,
)


class TokenizeTask(UnaryTask[TokenizeRequest, TokenizeOutput, TokenizeResponse]):
    kind = Task.TASK_TOKENIZE

    def options(self, request: TokenizeRequest) -> RequestOptions:
        return request.options

    def check(self, request: TokenizeRequest, model: ServedModel, limits: Limits) -> list[ServiceError | None]:
        found = Violations()
        check_options(found, request.options)
        check_input_count(found, len(request.inputs), limits)
        found.raise_if_any()
        return [
            input_error(f"inputs[{position}]", given, request.options, model.card, limits, ids_taken=False)
            for position, given in enumerate(request.inputs)
        ]

    def split(self, request: TokenizeRequest, good: Sequence[int], model: ServedModel) -> list[Piece]:
        inputs = [request.inputs[position] for position in good]
        kept = TokenizeRequest(options=request.options, inputs=inputs, add_special_tokens=request.add_special_tokens)
        cost = sum(model.estimate_tokens(given) for given in inputs)
        return [Piece(tuple(good), kept.SerializeToString(deterministic=True), cost)]

    def outputs(self, piece: Piece, events: Sequence[Event]) -> Sequence[TokenizeOutput]:
        relocate_errors(events[-1].tokenized.outputs, piece.inputs)
        return events[-1].tokenized.outputs

    def failed(self, status: Status) -> TokenizeOutput:
        return TokenizeOutput(error=status)

    def response(self, outputs: Sequence[TokenizeOutput], ends: Sequence[Event]) -> TokenizeResponse:
        return TokenizeResponse(outputs=outputs, timing=ends[0].tokenized.timing if ends else None)


class DetokenizeTask(UnaryTask[DetokenizeRequest, DetokenizeOutput, DetokenizeResponse]):
    kind = Task.TASK_DETOKENIZE

    def options(self, request: DetokenizeRequest) -> RequestOptions:
        return request.options

    def check(self, request: DetokenizeRequest, model: ServedModel, limits: Limits) -> list[ServiceError | None]:
        found = Violations()
        check_options(found, request.options)
        check_input_count(found, len(request.inputs), limits)
        found.raise_if_any()
        wrong: list[ServiceError | None] = []
        for position, ids in enumerate(request.inputs):
            in_this = Violations()
            check_ids(in_this, f"inputs[{position}].ids", ids, model.card)
            wrong.append(in_this.error())
        return wrong

    def split(self, request: DetokenizeRequest, good: Sequence[int], model: ServedModel) -> list[Piece]:
        inputs = [request.inputs[position] for position in good]
        kept = DetokenizeRequest(
            options=request.options, inputs=inputs, skip_special_tokens=request.skip_special_tokens
        )
        cost = sum(len(ids.ids) for ids in inputs)
        return [Piece(tuple(good), kept.SerializeToString(deterministic=True), cost)]

    def outputs(self, piece: Piece, events: Sequence[Event]) -> Sequence[DetokenizeOutput]:
        relocate_errors(events[-1].detokenized.outputs, piece.inputs)
        return events[-1].detokenized.outputs

    def failed(self, status: Status) -> DetokenizeOutput:
        return DetokenizeOutput(error=status)

    def response(self, outputs: Sequence[DetokenizeOutput], ends: Sequence[Event]) -> DetokenizeResponse:
        return DetokenizeResponse(outputs=outputs, timing=ends[0].detokenized.timing if ends else None)
