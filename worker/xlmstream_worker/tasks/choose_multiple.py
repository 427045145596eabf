"""ChooseMultiple: which of several continuations fits a text best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xlmstream.status as statuses
from google.rpc.status_pb2 import Status
from xlmstream.v1.classification_pb2 import (
    ChoiceScore,
    ChooseMultipleInput,
    ChooseMultipleOutput,
    ChooseMultipleRequest,
    ChooseMultipleResponse,
    ChooseMultipleResult,
)
from xlmstream.v1.common_pb2 import Truncation
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.encoder_inputs import ChoiceFit, EncoderInput, Values
from xlmstream_worker.tasks.encoding import Cost, EncoderTask, Item
from xlmstream_worker.tasks.frames import fitted_pair, pair, read_text
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.tasks.probabilities import softmax
from xlmstream_worker.text_model import TextModel

MAX_CHOICES = 64


@dataclass(frozen=True, slots=True)
class _Choices(Item[ChooseMultipleResult]):
    sequences: tuple[EncoderInput, ...]
    """One for each choice."""

    def result(self, model: TextModel, values: Sequence[Values], cost: Cost) -> ChooseMultipleResult:
        logits = np.concatenate([value for (value,) in values]).astype(np.float32, copy=False)
        scores = softmax(logits)
        best = sorted(range(len(scores)), key=lambda choice: (-scores[choice], choice))
        choices = [ChoiceScore(index=index, score=scores[index], logit=logits[index]) for index in best]
        return ChooseMultipleResult(choices=choices, usage=cost.usage, timing=cost.timing)


class ChooseMultiple(EncoderTask[ChooseMultipleResult]):
    def prepare(self, request: bytes, model: TextModel) -> list[Item[ChooseMultipleResult] | Status]:
        asked = ChooseMultipleRequest.FromString(request)
        items: list[Item[ChooseMultipleResult] | Status] = []
        for place, given in enumerate(asked.inputs):
            try:
                items.append(_Choices(_sequences(model, given, asked.options.truncation, f"inputs[{place}]")))
            except Refused as refused:
                items.append(refused.status)
        return items

    def event(self, results: Sequence[ChooseMultipleResult | Status]) -> Event:
        return Event(choice_made=ChooseMultipleResponse(outputs=[_output(result) for result in results]))


def _output(result: ChooseMultipleResult | Status) -> ChooseMultipleOutput:
    return ChooseMultipleOutput(error=result) if isinstance(result, Status) else ChooseMultipleOutput(result=result)


def _sequences(
    model: TextModel, given: ChooseMultipleInput, truncation: Truncation.ValueType, field: str
) -> tuple[EncoderInput, ...]:
    if not 1 <= len(given.choices) <= MAX_CHOICES:
        count = f"{len(given.choices)} choices; 1 to {MAX_CHOICES} are taken"
        raise Refused(statuses.invalid_input([(f"{field}.choices", count)]))
    prompt = read_text(model, given.prompt, f"{field}.prompt", truncation)
    sequences = []
    for place, choice in enumerate(given.choices):
        name = f"{field}.choices[{place}]"
        texts = fitted_pair(model, prompt, read_text(model, choice, name, truncation), truncation, name)
        sequences.append(pair(model, *texts).input(ChoiceFit()))
    return tuple(sequences)
