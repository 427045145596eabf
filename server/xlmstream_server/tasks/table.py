"""All tasks, by the name of their branch in InferItem and InferOutput."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xlmstream_server.tasks.base import UnaryTask
from xlmstream_server.tasks.embedding import EmbedTask
from xlmstream_server.tasks.fill_mask import FillMaskTask
from xlmstream_server.tasks.generation import GenerateTask
from xlmstream_server.tasks.multiple_choice import ChooseMultipleTask
from xlmstream_server.tasks.question_answering import AnswerQuestionTask
from xlmstream_server.tasks.scoring import ScoreTask
from xlmstream_server.tasks.sequence_classification import ClassifySequenceTask
from xlmstream_server.tasks.token_classification import ClassifyTokensTask
from xlmstream_server.tasks.tokenization import DetokenizeTask, TokenizeTask
from xlmstream_server.tasks.translation import TranslateTask

TASKS: Mapping[str, UnaryTask[Any, Any, Any]] = {
    "generate": GenerateTask(),
    "embed": EmbedTask(),
    "fill_mask": FillMaskTask(),
    "classify_sequence": ClassifySequenceTask(),
    "classify_tokens": ClassifyTokensTask(),
    "answer_question": AnswerQuestionTask(),
    "choose_multiple": ChooseMultipleTask(),
    "score": ScoreTask(),
    "translate": TranslateTask(),
    "tokenize": TokenizeTask(),
    "detokenize": DetokenizeTask(),
}
