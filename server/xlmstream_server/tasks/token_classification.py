"""ClassifyTokens: labels for the words of texts, and the entities they form."""

from __future__ import annotations

from xlmstream.v1.classification_pb2 import (
    Aggregation,
    ClassifyTokensOutput,
    ClassifyTokensRequest,
    ClassifyTokensResponse,
)
from xlmstream.v1.common_pb2 import Task

from xlmstream_server.catalogue import ServedModel
from xlmstream_server.tasks.batched import TextTask
from xlmstream_server.validation import Violations, check_labels


class ClassifyTokensTask(TextTask):
    kind = Task.TASK_CLASSIFY_TOKENS
    request_type, response_type, output_type = ClassifyTokensRequest, ClassifyTokensResponse, ClassifyTokensOutput
    terminal = "tokens_classified"

    def check_parameters(self, found: Violations, request: ClassifyTokensRequest, model: ServedModel) -> None:
        given, labels = request.parameters, model.card.labels
        found.known("parameters.aggregation", given.aggregation, Aggregation)
        known = {*labels, *(label.removeprefix("B-").removeprefix("I-") for label in labels)}
        check_labels(found, "parameters.ignore_labels", given.ignore_labels, known, model.card)
