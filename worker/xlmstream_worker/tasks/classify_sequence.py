"""ClassifySequence: labels or a value for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xlmstream.status as statuses
from google.rpc.status_pb2 import Status
from numpy.typing import NDArray
from xlmstream.v1.classification_pb2 import (
    SCORE_FUNCTION_NONE,
    SCORE_FUNCTION_SIGMOID,
    SCORE_FUNCTION_SOFTMAX,
    SCORE_FUNCTION_UNSPECIFIED,
    ClassifySequenceInput,
    ClassifySequenceOutput,
    ClassifySequenceParameters,
    ClassifySequenceRequest,
    ClassifySequenceResponse,
    ClassifySequenceResult,
    LabelScore,
    ScoreFunction,
)
from xlmstream.v1.common_pb2 import Truncation
from xlmstream.v1.models_pb2 import (
    PROBLEM_TYPE_MULTI_LABEL,
    PROBLEM_TYPE_REGRESSION,
    PROBLEM_TYPE_SINGLE_LABEL,
    ProblemType,
)
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.encoder_inputs import EncoderInput, Labels, Values
from xlmstream_worker.tasks.checks import Checks
from xlmstream_worker.tasks.encoding import Cost, EncoderTask, Item
from xlmstream_worker.tasks.frames import Frame, fitted, fitted_pair, pair, read_text, single
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.tasks.probabilities import sigmoid, softmax
from xlmstream_worker.text_model import TextModel

_FUNCTIONS: Mapping[ProblemType.ValueType, ScoreFunction.ValueType] = {
    PROBLEM_TYPE_SINGLE_LABEL: SCORE_FUNCTION_SOFTMAX,
    PROBLEM_TYPE_MULTI_LABEL: SCORE_FUNCTION_SIGMOID,
    PROBLEM_TYPE_REGRESSION: SCORE_FUNCTION_NONE,
}
_ALL_FUNCTIONS = (SCORE_FUNCTION_UNSPECIFIED, *_FUNCTIONS.values())


@dataclass(frozen=True, slots=True)
class _Wish:
    """The parameters in effect."""

    function: ScoreFunction.ValueType
    top_k: int
    labels: tuple[int, ...]
    """The labels that may be returned."""

    def scores(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.function == SCORE_FUNCTION_SOFTMAX:
            return softmax(logits)
        return sigmoid(logits) if self.function == SCORE_FUNCTION_SIGMOID else logits


@dataclass(frozen=True, slots=True)
class _Texts(Item[ClassifySequenceResult]):
    sequences: tuple[EncoderInput, ...]
    wish: _Wish

    def result(self, model: TextModel, values: Sequence[Values], cost: Cost) -> ClassifySequenceResult:
        logits = values[0][0].astype(np.float32, copy=False)
        scores = self.wish.scores(logits)
        best = sorted(self.wish.labels, key=lambda label: (-scores[label], label))[: self.wish.top_k]
        labels = [
            LabelScore(label=model.card.labels[index], index=index, score=scores[index], logit=logits[index])
            for index in best
        ]
        return ClassifySequenceResult(labels=labels, usage=cost.usage, timing=cost.timing)


class ClassifySequence(EncoderTask[ClassifySequenceResult]):
    def prepare(self, request: bytes, model: TextModel) -> list[Item[ClassifySequenceResult] | Status]:
        asked = ClassifySequenceRequest.FromString(request)
        wish = _wish(asked.parameters, model)
        items: list[Item[ClassifySequenceResult] | Status] = []
        for place, given in enumerate(asked.inputs):
            try:
                frame = _frame(model, given, asked.options.truncation, f"inputs[{place}]")
                items.append(_Texts((frame.input(Labels()),), wish))
            except Refused as refused:
                items.append(refused.status)
        return items

    def event(self, results: Sequence[ClassifySequenceResult | Status]) -> Event:
        return Event(sequence_classified=ClassifySequenceResponse(outputs=[_output(result) for result in results]))


def _output(result: ClassifySequenceResult | Status) -> ClassifySequenceOutput:
    if isinstance(result, Status):
        return ClassifySequenceOutput(error=result)
    return ClassifySequenceOutput(result=result)


def _frame(model: TextModel, given: ClassifySequenceInput, truncation: Truncation.ValueType, field: str) -> Frame:
    if not given.HasField("text"):
        raise Refused(statuses.invalid_input([(f"{field}.text", "must be set")]))
    first = read_text(model, given.text, f"{field}.text", truncation)
    if not given.HasField("text_pair"):
        return single(model, fitted(model, first, truncation, f"{field}.text"))
    second = read_text(model, given.text_pair, f"{field}.text_pair", truncation)
    return pair(model, *fitted_pair(model, first, second, truncation, field))


def _wish(asked: ClassifySequenceParameters, model: TextModel) -> _Wish:
    names = list(model.card.labels)
    checks = Checks()
    checks.one_of("parameters.function", asked.function, _ALL_FUNCTIONS)
    if asked.HasField("top_k"):
        checks.within("parameters.top_k", asked.top_k, 1, 2**32 - 1)
    for place, label in enumerate(asked.labels):
        if label not in names:
            checks.add(f"parameters.labels[{place}]", f"unknown label; the model's labels: {', '.join(names)}")
    checks.refuse()
    return _Wish(
        function=asked.function or _FUNCTIONS[model.card.problem_type],
        top_k=asked.top_k if asked.HasField("top_k") else len(names),
        labels=tuple(index for index, name in enumerate(names) if not asked.labels or name in asked.labels),
    )
