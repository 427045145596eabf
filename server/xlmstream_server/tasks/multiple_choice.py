"""ChooseMultiple: which of several continuations fits a text."""

from __future__ import annotations

from typing import Any

from xlmstream.v1.classification_pb2 import (
    ChooseMultipleInput,
    ChooseMultipleOutput,
    ChooseMultipleRequest,
    ChooseMultipleResponse,
)
from xlmstream.v1.common_pb2 import RequestOptions, Task

from xlmstream_server.catalogue import ServedModel
from xlmstream_server.config import Limits
from xlmstream_server.errors import ServiceError, invalid_input
from xlmstream_server.tasks.batched import BatchedTask
from xlmstream_server.validation import input_error, kinds_error

MAX_CHOICES = 64


class ChooseMultipleTask(BatchedTask[ChooseMultipleInput]):
    kind = Task.TASK_CHOOSE_MULTIPLE
    request_type, response_type, output_type = ChooseMultipleRequest, ChooseMultipleResponse, ChooseMultipleOutput
    terminal = "choice_made"

    def check_input(
        self, path: str, given: ChooseMultipleInput, options: RequestOptions, model: ServedModel, limits: Limits
    ) -> ServiceError | None:
        if not 1 <= len(given.choices) <= MAX_CHOICES:
            count = len(given.choices)
            return invalid_input([(f"{path}.choices", f"{count} choices; 1 to {MAX_CHOICES} are taken")])
        if wrong := input_error(f"{path}.prompt", given.prompt, options, model.card, limits):
            return wrong
        for position, choice in enumerate(given.choices):
            at = f"{path}.choices[{position}]"
            wrong = input_error(at, choice, options, model.card, limits) or kinds_error(at, choice, given.prompt)
            if wrong:
                return wrong
        return None

    def cost_tokens(self, given: ChooseMultipleInput, request: Any, model: ServedModel) -> int:
        prompt, most = model.estimate_tokens(given.prompt), max(model.card.max_input_tokens, 1)
        return sum(min(prompt + model.estimate_tokens(choice), most) for choice in given.choices)
