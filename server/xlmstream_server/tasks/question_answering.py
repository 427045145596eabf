"""AnswerQuestion: the stretches of texts that answer questions."""

from __future__ import annotations

from xlmstream.v1.common_pb2 import RequestOptions, Task, Truncation
from xlmstream.v1.question_answering_pb2 import (
    AnswerQuestionInput,
    AnswerQuestionOutput,
    AnswerQuestionRequest,
    AnswerQuestionResponse,
)

from xlmstream_server.catalogue import ServedModel
from xlmstream_server.config import Limits
from xlmstream_server.errors import ServiceError
from xlmstream_server.tasks.batched import BatchedTask
from xlmstream_server.validation import Violations, input_error

MAX_ANSWERS = 20
MAX_ANSWER_TOKENS = 512
DEFAULT_WINDOW_TOKENS = 384
DEFAULT_STRIDE_TOKENS = 128
# Special tokens of a window: around the question and around the text.
SPECIAL_TOKENS = 4
# The text is read in windows: it is never cut, whatever its request says.
UNCUT = RequestOptions(truncation=Truncation.TRUNCATION_KEEP_START)


class AnswerQuestionTask(BatchedTask[AnswerQuestionInput]):
    kind = Task.TASK_ANSWER_QUESTION
    request_type, response_type, output_type = AnswerQuestionRequest, AnswerQuestionResponse, AnswerQuestionOutput
    terminal = "question_answered"

    def check_parameters(self, found: Violations, request: AnswerQuestionRequest, model: ServedModel) -> None:
        given, most = request.parameters, max(model.card.max_input_tokens, 1)
        ranges = {
            "top_k": (1, MAX_ANSWERS),
            "max_answer_tokens": (1, MAX_ANSWER_TOKENS),
            "max_question_tokens": (1, max(most // 2, 1)),
            "window_tokens": (SPECIAL_TOKENS, most),
            "stride_tokens": (1, given.window_tokens or most),
        }
        for name, (least, largest) in ranges.items():
            if given.HasField(name):  # type: ignore[arg-type]  # the stub wants a literal
                found.within(f"parameters.{name}", getattr(given, name), least, largest)

    def check_input(
        self, path: str, given: AnswerQuestionInput, options: RequestOptions, model: ServedModel, limits: Limits
    ) -> ServiceError | None:
        for name, text in (("question", given.question), ("context", given.context)):
            if wrong := input_error(f"{path}.{name}", text, UNCUT, model.card, limits, ids_taken=False):
                return wrong
        return None

    def cost_tokens(self, given: AnswerQuestionInput, request: AnswerQuestionRequest, model: ServedModel) -> int:
        parameters, most = request.parameters, max(model.card.max_input_tokens, 1)
        window = min(parameters.window_tokens or DEFAULT_WINDOW_TOKENS, most)
        question, context = model.estimate_tokens(given.question), model.estimate_tokens(given.context)
        if question + context <= window:
            return question + context
        windows = -(-context // (parameters.stride_tokens or DEFAULT_STRIDE_TOKENS))
        return windows * window
