"""The encoder tasks by their number on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xlmstream.v1.common_pb2 import (
    TASK_ANSWER_QUESTION,
    TASK_CHOOSE_MULTIPLE,
    TASK_CLASSIFY_SEQUENCE,
    TASK_CLASSIFY_TOKENS,
    TASK_EMBED,
    TASK_FILL_MASK,
    TASK_SCORE,
    Task,
)

from xlmstream_worker.tasks.answer_question import AnswerQuestion
from xlmstream_worker.tasks.choose_multiple import ChooseMultiple
from xlmstream_worker.tasks.classify_sequence import ClassifySequence
from xlmstream_worker.tasks.classify_tokens import ClassifyTokens
from xlmstream_worker.tasks.embed import Embed
from xlmstream_worker.tasks.encoding import EncoderTask
from xlmstream_worker.tasks.fill_mask import FillMask
from xlmstream_worker.tasks.score import Score

ENCODER_TASKS: Mapping[Task.ValueType, EncoderTask[Any]] = {
    TASK_EMBED: Embed(),
    TASK_FILL_MASK: FillMask(),
    TASK_CLASSIFY_SEQUENCE: ClassifySequence(),
    TASK_CLASSIFY_TOKENS: ClassifyTokens(),
    TASK_ANSWER_QUESTION: AnswerQuestion(),
    TASK_CHOOSE_MULTIPLE: ChooseMultiple(),
    TASK_SCORE: Score(),
}
