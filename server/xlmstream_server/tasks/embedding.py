"""Embed: texts to vectors."""

from __future__ import annotations

from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.embedding_pb2 import EmbedOutput, EmbedRequest, EmbedResponse, Pooling
from xlmstream.v1.tensor_pb2 import DataType

from xlmstream_server.catalogue import ServedModel
from xlmstream_server.tasks.batched import TextTask
from xlmstream_server.validation import Violations


class EmbedTask(TextTask):
    kind = Task.TASK_EMBED
    request_type, response_type, output_type = EmbedRequest, EmbedResponse, EmbedOutput
    terminal = "embedded"

    def check_parameters(self, found: Violations, request: EmbedRequest, model: ServedModel) -> None:
        given, card = request.parameters, model.card
        found.known("parameters.pooling", given.pooling, Pooling)
        found.known("parameters.dtype", given.dtype, DataType)
        if given.HasField("layer"):
            found.within("parameters.layer", given.layer, 0, card.layers)
        if given.HasField("dimensions"):
            found.within("parameters.dimensions", given.dimensions, 1, card.embedding_size)
