"""ClassifySequence: labels or a value for a text or a pair of texts."""

from __future__ import annotations

from typing import Any

from xlmstream.v1.classification_pb2 import (
    ClassifySequenceInput,
    ClassifySequenceOutput,
    ClassifySequenceRequest,
    ClassifySequenceResponse,
    ScoreFunction,
)
from xlmstream.v1.common_pb2 import RequestOptions, Task

from xlmstream_server.catalogue import ServedModel
from xlmstream_server.config import Limits
from xlmstream_server.errors import ServiceError
from xlmstream_server.tasks.batched import BatchedTask
from xlmstream_server.validation import Violations, check_labels, input_error, kinds_error


class ClassifySequenceTask(BatchedTask[ClassifySequenceInput]):
    kind = Task.TASK_CLASSIFY_SEQUENCE
    request_type, response_type, output_type = ClassifySequenceRequest, ClassifySequenceResponse, ClassifySequenceOutput
    terminal = "sequence_classified"

    def check_parameters(self, found: Violations, request: ClassifySequenceRequest, model: ServedModel) -> None:
        given = request.parameters
        found.known("parameters.function", given.function, ScoreFunction)
        if given.HasField("top_k"):
            found.check(given.top_k >= 1, "parameters.top_k", f"{given.top_k} is out of range: 1 or more")
        check_labels(found, "parameters.labels", given.labels, set(model.card.labels), model.card)

    def check_input(
        self, path: str, given: ClassifySequenceInput, options: RequestOptions, model: ServedModel, limits: Limits
    ) -> ServiceError | None:
        wrong = input_error(f"{path}.text", given.text, options, model.card, limits)
        if wrong or not given.HasField("text_pair"):
            return wrong
        return input_error(f"{path}.text_pair", given.text_pair, options, model.card, limits) or kinds_error(
            f"{path}.text_pair", given.text_pair, given.text
        )

    def cost_tokens(self, given: ClassifySequenceInput, request: Any, model: ServedModel) -> int:
        pair = model.estimate_tokens(given.text_pair) if given.HasField("text_pair") else 0
        return min(model.estimate_tokens(given.text) + pair, max(model.card.max_input_tokens, 1))
