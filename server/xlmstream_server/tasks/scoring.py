"""Score: how probable texts are, token by token."""

from __future__ import annotations

from typing import Any

from xlmstream.v1.common_pb2 import Task, TextInput
from xlmstream.v1.scoring_pb2 import ScoreOutput, ScoreRequest, ScoreResponse

from xlmstream_server.catalogue import ServedModel
from xlmstream_server.tasks.batched import TextTask


class ScoreTask(TextTask):
    kind = Task.TASK_SCORE
    request_type, response_type, output_type = ScoreRequest, ScoreResponse, ScoreOutput
    terminal = "scored"

    def cost_tokens(self, given: TextInput, request: Any, model: ServedModel) -> int:
        tokens = min(model.estimate_tokens(given), max(model.card.max_input_tokens, 1))
        # A masked model reads the text once for each of its tokens.
        return tokens if model.card.causal else tokens * tokens
