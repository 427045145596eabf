"""ClassifyTokens: labels for the words of a text, and the entities that neighbouring words form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.rpc.status_pb2 import Status
from numpy.typing import NDArray
from xlmstream.v1.classification_pb2 import (
    AGGREGATION_AVERAGE,
    AGGREGATION_MAX,
    AGGREGATION_SIMPLE,
    Aggregation,
    ClassifyTokensOutput,
    ClassifyTokensParameters,
    ClassifyTokensRequest,
    ClassifyTokensResponse,
    ClassifyTokensResult,
    Entity,
    LabelledToken,
    LabelledWord,
)
from xlmstream.v1.common_pb2 import TRUNCATION_KEEP_END, TextInput, Token, Truncation
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.encoder_inputs import EncoderInput, TokenLabels, Values
from xlmstream_worker.tasks.checks import Checks
from xlmstream_worker.tasks.encoding import Cost, EncoderTask, Item
from xlmstream_worker.tasks.frames import Frame, Text, fitted, read_text, single
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.tasks.probabilities import softmax
from xlmstream_worker.tasks.words import Word, words_of
from xlmstream_worker.text_model import TextModel

OUTSIDE = "O"


@dataclass(frozen=True, slots=True)
class _Wish:
    """The parameters in effect."""

    aggregation: Aggregation.ValueType
    ignored: frozenset[str]
    """Labels without "B-" and "I-"."""
    include_tokens: bool


@dataclass(frozen=True, slots=True)
class Labelled:
    """A word with the label that was chosen for it."""

    word: Word
    label: int
    score: float


@dataclass(frozen=True, slots=True)
class _Text(Item[ClassifyTokensResult]):
    sequences: tuple[EncoderInput, ...]
    text: str | None
    """As given; None for token ids."""
    tokens: Text
    words: tuple[Word, ...]
    first: int
    """Place of the text's first token in the sequence."""
    wish: _Wish

    def result(self, model: TextModel, values: Sequence[Values], cost: Cost) -> ClassifyTokensResult:
        ((logits,),) = values
        scores = softmax(logits[self.first : self.first + len(self.tokens.ids)].astype(np.float32, copy=False))
        pieces = model.tokenizer.convert_ids_to_tokens(self.tokens.ids)
        labelled = [_labelled(word, scores[word.first : word.last + 1], self.wish.aggregation) for word in self.words]
        names = list(model.card.labels)
        words = [
            LabelledWord(
                text=self._text(pieces, each.word, each.word),
                start=each.word.start,
                end=each.word.end,
                label=names[each.label],
                score=each.score,
            )
            for each in labelled
        ]
        return ClassifyTokensResult(
            words=words,
            entities=self._entities(pieces, labelled, names),
            tokens=self._tokens(pieces, scores) if self.wish.include_tokens else (),
            usage=cost.usage,
            timing=cost.timing,
        )

    def _entities(self, pieces: Sequence[str], labelled: Sequence[Labelled], names: Sequence[str]) -> list[Entity]:
        entities = []
        for group in groups_of(labelled, names):
            _, kind = split_label(names[group[0].label])
            if kind in self.wish.ignored:
                continue
            first, last = group[0].word, group[-1].word
            entities.append(
                Entity(
                    text=self._text(pieces, first, last),
                    start=first.start,
                    end=last.end,
                    label=kind,
                    score=float(np.mean([each.score for each in group])),
                )
            )
        return entities

    def _text(self, pieces: Sequence[str], first: Word, last: Word) -> str:
        """What stands from one word to another: of the text, or of the pieces of token ids."""
        if self.text is None:
            return " ".join(pieces[first.start : last.end])
        return self.text[first.start : last.end]

    def _tokens(self, pieces: Sequence[str], scores: NDArray[np.float32]) -> list[LabelledToken]:
        return [
            LabelledToken(token=Token(id=token_id, piece=piece, start=start, end=end), scores=row)
            for token_id, piece, (start, end), row in zip(
                self.tokens.ids, pieces, self.tokens.spans, scores.tolist(), strict=True
            )
        ]


class ClassifyTokens(EncoderTask[ClassifyTokensResult]):
    def prepare(self, request: bytes, model: TextModel) -> list[Item[ClassifyTokensResult] | Status]:
        asked = ClassifyTokensRequest.FromString(request)
        wish = _wish(asked.parameters, model)
        items: list[Item[ClassifyTokensResult] | Status] = []
        for place, given in enumerate(asked.inputs):
            try:
                items.append(_item(model, given, asked.options.truncation, wish, f"inputs[{place}]"))
            except Refused as refused:
                items.append(refused.status)
        return items

    def event(self, results: Sequence[ClassifyTokensResult | Status]) -> Event:
        return Event(tokens_classified=ClassifyTokensResponse(outputs=[_output(result) for result in results]))


def _output(result: ClassifyTokensResult | Status) -> ClassifyTokensOutput:
    return ClassifyTokensOutput(error=result) if isinstance(result, Status) else ClassifyTokensOutput(result=result)


def _item(model: TextModel, given: TextInput, truncation: Truncation.ValueType, wish: _Wish, field: str) -> _Text:
    whole = read_text(model, given, field, truncation, with_spans=True)
    text = fitted(model, whole, truncation, field)
    frame: Frame = single(model, text)
    # What was cut off at the beginning; words that the cut went through are left out.
    dropped = len(whole.ids) - len(text.ids) if truncation == TRUNCATION_KEEP_END else 0
    words = words_of(model, given, whole)
    if wish.aggregation == AGGREGATION_SIMPLE and not text.raw:
        words = tuple(Word(place, place, *span) for place, span in enumerate(whole.spans))
    kept = [word for word in words if word.first >= dropped and word.last < dropped + len(text.ids)]
    return _Text(
        sequences=(frame.input(TokenLabels()),),
        text=None if text.raw else given.text,
        tokens=text,
        words=tuple(Word(word.first - dropped, word.last - dropped, word.start, word.end) for word in kept),
        first=frame.first.start,
        wish=wish,
    )


def _labelled(word: Word, scores: NDArray[np.float32], aggregation: Aggregation.ValueType) -> Labelled:
    """The label of a word from the `scores` of its tokens."""
    if aggregation == AGGREGATION_AVERAGE:
        chosen = scores.mean(axis=0)
    elif aggregation == AGGREGATION_MAX:
        chosen = scores[scores.max(axis=1).argmax()]
    else:
        chosen = scores[0]
    label = int(chosen.argmax())
    return Labelled(word, label, float(chosen[label]))


def groups_of(labelled: Sequence[Labelled], names: Sequence[str]) -> list[list[Labelled]]:
    """Neighbours of one kind; a "B-" begins anew. A label with neither "B-" nor "I-" continues its like."""
    groups: list[list[Labelled]] = []
    for each in labelled:
        begins, kind = split_label(names[each.label])
        if groups and not begins and split_label(names[groups[-1][-1].label])[1] == kind:
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups


def split_label(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and its kind: "B-LOC" is (True, "LOC"), "NOUN" (False, "NOUN")."""
    if label.startswith(("B-", "I-")):
        return label.startswith("B-"), label[2:]
    return False, label


def _wish(asked: ClassifyTokensParameters, model: TextModel) -> _Wish:
    kinds = {split_label(label)[1] for label in model.card.labels}
    checks = Checks()
    checks.one_of("parameters.aggregation", asked.aggregation, Aggregation.values())
    ignored = set()
    for place, label in enumerate(asked.ignore_labels):
        kind = split_label(label)[1] if label in model.card.labels else label
        if kind not in kinds:
            known = ", ".join(model.card.labels)
            checks.add(f"parameters.ignore_labels[{place}]", f"unknown label; the model's labels: {known}")
        ignored.add(kind)
    checks.refuse()
    return _Wish(asked.aggregation, frozenset(ignored or {OUTSIDE}), asked.include_tokens)
