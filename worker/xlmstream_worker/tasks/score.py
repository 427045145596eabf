"""Score: how probable a text is, token by token.

A causal model reads left to right: one sequence. A masked model is asked for each token with that one masked: one
sequence a token (pseudo-log-likelihood; Salazar et al. 2020, arXiv:1910.14659).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xlmstream.status as statuses
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import TextInput, Token, Truncation
from xlmstream.v1.scoring_pb2 import (
    ScoredToken,
    ScoreOutput,
    ScoreParameters,
    ScoreRequest,
    ScoreResponse,
    ScoreResult,
)
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.encoder_inputs import EncoderInput, Likelihoods, Values
from xlmstream_worker.tasks.encoding import Cost, EncoderTask, Item
from xlmstream_worker.tasks.frames import Frame, Span, Text, fitted, read_text, single
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.text_model import TextModel

# exp() of more is no double.
_LARGEST_EXPONENT = 709.0


@dataclass(frozen=True, slots=True)
class _Text(Item[ScoreResult]):
    sequences: tuple[EncoderInput, ...]
    scored: tuple[int, ...]
    """Ids of the scored tokens, in the order in which the sequences give their scores."""
    unscored: tuple[int, ...]
    """Ids before those, that nothing predicts."""
    spans: tuple[Span, ...]
    """Of the unscored and the scored tokens; empty where they are not asked for."""

    def result(self, model: TextModel, values: Sequence[Values], cost: Cost) -> ScoreResult:
        logs = np.concatenate([value for (value,) in values]).astype(np.float64)
        total = float(logs.sum())
        tokens = []
        if self.spans:
            ids = (*self.unscored, *self.scored)
            pieces = model.tokenizer.convert_ids_to_tokens(ids)
            scores: list[float | None] = [*[None] * len(self.unscored), *logs.tolist()]
            tokens = [
                ScoredToken(token=Token(id=token_id, piece=piece, start=start, end=end), log_probability=score)
                for token_id, piece, (start, end), score in zip(ids, pieces, self.spans, scores, strict=True)
            ]
        return ScoreResult(
            log_probability=total,
            perplexity=math.exp(min(-total / len(logs), _LARGEST_EXPONENT)),
            scored_tokens=len(logs),
            tokens=tokens,
            usage=cost.usage,
            timing=cost.timing,
        )


class Score(EncoderTask[ScoreResult]):
    def prepare(self, request: bytes, model: TextModel) -> list[Item[ScoreResult] | Status]:
        asked = ScoreRequest.FromString(request)
        items: list[Item[ScoreResult] | Status] = []
        for place, given in enumerate(asked.inputs):
            field = f"inputs[{place}]"
            try:
                items.append(_item(model, given, asked.parameters, asked.options.truncation, field))
            except Refused as refused:
                items.append(refused.status)
        return items

    def event(self, results: Sequence[ScoreResult | Status]) -> Event:
        return Event(scored=ScoreResponse(outputs=[_output(result) for result in results]))


def _output(result: ScoreResult | Status) -> ScoreOutput:
    return ScoreOutput(error=result) if isinstance(result, Status) else ScoreOutput(result=result)


def _item(
    model: TextModel, given: TextInput, asked: ScoreParameters, truncation: Truncation.ValueType, field: str
) -> _Text:
    # A causal model reads what it would have generated: with the same language.
    causal = model.card.causal
    text = read_text(model, given, field, truncation, with_spans=asked.include_tokens, default_language=causal)
    text = fitted(model, text, truncation, field)
    frame = single(model, text)
    scored = [*frame.first]
    if asked.score_end and not text.raw:
        scored.append(frame.first.stop)
    if causal:
        return _left_to_right(frame, text, scored, field, asked.include_tokens)
    return _each_masked(model, frame, text, scored, asked.include_tokens)


def _left_to_right(frame: Frame, text: Text, scored: list[int], field: str, include_tokens: bool) -> _Text:
    unscored = [place for place in scored if place == 0]
    scored = scored[len(unscored) :]
    if not scored:
        raise Refused(statuses.invalid_input([(f"{field}.token_ids.ids", "nothing comes before the only id")]))
    # No token types, as in generation, and nothing behind the last token that is scored.
    stop = scored[-1] + 1
    frame = Frame(frame.ids[:stop], None if frame.languages is None else frame.languages[:stop], None, frame.first)
    ids = tuple(frame.ids[place] for place in scored)
    return _Text(
        sequences=(frame.input(Likelihoods(), [place - 1 for place in scored], ids),),
        scored=ids,
        unscored=tuple(frame.ids[place] for place in unscored),
        spans=_spans(text, len(unscored) + len(scored)) if include_tokens else (),
    )


def _each_masked(model: TextModel, frame: Frame, text: Text, scored: list[int], include_tokens: bool) -> _Text:
    mask_id = model.tokenizer.mask_token_id
    assert mask_id is not None  # else the task is not served
    ids = tuple(frame.ids[place] for place in scored)
    sequences = tuple(
        frame.input(Likelihoods(), [place], [token_id], replaced=(place, mask_id))
        for place, token_id in zip(scored, ids, strict=True)
    )
    return _Text(sequences, ids, (), _spans(text, len(scored)) if include_tokens else ())


def _spans(text: Text, count: int) -> tuple[Span, ...]:
    """Of the text's tokens and, where one more is scored, the end's."""
    return (*text.spans, *[(0, 0)] * (count - len(text.spans)))
