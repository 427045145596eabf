"""Tokenize and Detokenize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xlmstream.v1.common_pb2 import RequestOptions, Task, TextInput, TokenIds
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
from xlmstream_server.tasks.batched import BatchedTask
from xlmstream_server.validation import Violations, check_ids, input_error


class TokenizeTask(BatchedTask[TextInput]):
    kind = Task.TASK_TOKENIZE
    request_type, response_type, output_type = TokenizeRequest, TokenizeResponse, TokenizeOutput
    terminal = "tokenized"

    def check_input(
        self, path: str, given: TextInput, options: RequestOptions, model: ServedModel, limits: Limits
    ) -> ServiceError | None:
        return input_error(path, given, options, model.card, limits, ids_taken=False)

    def cost_tokens(self, given: TextInput, request: Any, model: ServedModel) -> int:
        return model.estimate_tokens(given)

    def response(self, outputs: Sequence[TokenizeOutput], ends: Sequence[Event]) -> TokenizeResponse:
        return TokenizeResponse(outputs=outputs, timing=ends[0].tokenized.timing if ends else None)


class DetokenizeTask(BatchedTask[TokenIds]):
    kind = Task.TASK_DETOKENIZE
    request_type, response_type, output_type = DetokenizeRequest, DetokenizeResponse, DetokenizeOutput
    terminal = "detokenized"

    def check_input(
        self, path: str, given: TokenIds, options: RequestOptions, model: ServedModel, limits: Limits
    ) -> ServiceError | None:
        found = Violations()
        check_ids(found, f"{path}.ids", given, model.card)
        return found.error()

    def cost_tokens(self, given: TokenIds, request: Any, model: ServedModel) -> int:
        return len(given.ids)

    def response(self, outputs: Sequence[DetokenizeOutput], ends: Sequence[Event]) -> DetokenizeResponse:
        return DetokenizeResponse(outputs=outputs, timing=ends[0].detokenized.timing if ends else None)
