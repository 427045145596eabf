"""ClassifyTokens: labels for the words of texts, and the entities they form."""

from __future__ import annotations

from xlmstream.status import listing, quote
from xlmstream.v1.classification_pb2 import (
    Aggregation,
    ClassifyTokensOutput,
    ClassifyTokensRequest,
    ClassifyTokensResponse,
)
from xlmstream.v1.common_pb2 import Task

from xlmstream_server.catalogue import ServedModel
from xlmstream_server.tasks.batched import TextTask
from xlmstream_server.validation import Violations


class ClassifyTokensTask(TextTask):
    kind = Task.TASK_CLASSIFY_TOKENS
    request_type, response_type, output_type = ClassifyTokensRequest, ClassifyTokensResponse, ClassifyTokensOutput
    terminal = "tokens_classified"

    def check_parameters(self, found: Violations, request: ClassifyTokensRequest, model: ServedModel) -> None:
        given, labels = request.parameters, model.card.labels
        found.known("parameters.aggregation", given.aggregation, Aggregation)
        known = {*labels, *(label.removeprefix("B-").removeprefix("I-") for label in labels)}
        for position, label in enumerate(given.ignore_labels):
            field = f"parameters.ignore_labels[{position}]"
            found.check(label in known, field, f"{quote(label)} is not a label; the model has: {listing(labels)}")
