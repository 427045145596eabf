"""FillMask: which tokens may stand in the gaps of texts. Only the worker can count the gaps."""

from __future__ import annotations

from xlmstream.v1.common_pb2 import Task
from xlmstream.v1.fill_mask_pb2 import FillMaskOutput, FillMaskRequest, FillMaskResponse

from xlmstream_server.catalogue import ServedModel
from xlmstream_server.tasks.batched import TextTask
from xlmstream_server.validation import Violations

MAX_CANDIDATES = 1000
MAX_TARGETS = 1000


class FillMaskTask(TextTask):
    kind = Task.TASK_FILL_MASK
    request_type, response_type, output_type = FillMaskRequest, FillMaskResponse, FillMaskOutput
    terminal = "mask_filled"

    def check_parameters(self, found: Violations, request: FillMaskRequest, model: ServedModel) -> None:
        given = request.parameters
        found.at_most("parameters.targets", len(given.targets), MAX_TARGETS, "targets")
        for position, target in enumerate(given.targets[:MAX_TARGETS]):
            found.check(bool(target.strip()), f"parameters.targets[{position}]", "must not be empty")
        if given.HasField("top_k"):
            most = min(MAX_CANDIDATES, model.card.vocabulary_size, len(given.targets) or MAX_CANDIDATES)
            found.within("parameters.top_k", given.top_k, 1, most)
