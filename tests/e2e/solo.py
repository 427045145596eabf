"""What a prompt gives alone, and whether two ways of computing it may differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from xlmstream.v1.common_pb2 import TextInput
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.sequences import EngineConfig, SequenceRequest
from xlmstream_worker.tasks.inputs import text_ids

# Where two scores are closer than this, float32 sums of another order may decide between them.
MARGIN = 1e-4


class Solo:
    """Greedy generation of one prompt at a time, in the model's default language, in this process."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._language = model.card.default_language
        self._language_id = model.language_id(self._language)
        self._engine = DecoderEngine(model.network, EngineConfig(max_slots=1))

    def prompt(self, text: str) -> list[int]:
        return [self._model.begin_id, *text_ids(self._model, TextInput(text=text), self._language, "input")]

    def ids(self, text: str, count: int) -> list[int]:
        """The first `count` tokens after a prompt."""
        self._engine.add(SequenceRequest("solo", tuple(self.prompt(text)), self._language_id, max_new_tokens=count))
        ids: list[int] = []
        while not self._engine.idle:
            ids += [output.token_id for output in self._engine.step().tokens]
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids."""
        return self._model.tokenizer.decode(list(ids), skip_special_tokens=True)

    def check(self, text: str, ids: Sequence[int]) -> None:
        """Fail unless `ids` continue a prompt as alone, or first differ where the scores are as good as equal."""
        alone = self.ids(text, len(ids))
        for place, (one, other) in enumerate(zip(ids, alone, strict=True)):
            if one != other:
                scores = self._scores([*self.prompt(text), *alone[:place]])
                margin = abs(float(scores[one] - scores[other]))
                assert margin < MARGIN, f"token {place} of {text!r}: {one} instead of {other}, margin {margin:.2e}"
                return

    def _scores(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            langs = torch.full((1, len(ids)), self._language_id)
            return self._model.network(torch.tensor([list(ids)]), langs=langs).logits[0, -1]
