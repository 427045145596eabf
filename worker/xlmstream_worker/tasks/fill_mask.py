"""FillMask: which tokens may stand in the gaps of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xlmstream.status as statuses
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import TextInput, Truncation
from xlmstream.v1.fill_mask_pb2 import (
    FillMaskCandidate,
    FillMaskOutput,
    FillMaskParameters,
    FillMaskRequest,
    FillMaskResponse,
    FillMaskResult,
    MaskedPosition,
)
from xlmstream_server.broker.v1.messages_pb2 import Event

from xlmstream_worker.detokenize import WORD_END
from xlmstream_worker.encoder_inputs import Candidates, EncoderInput, Values
from xlmstream_worker.tasks.checks import Checks
from xlmstream_worker.tasks.encoding import Cost, EncoderTask, Item
from xlmstream_worker.tasks.frames import Span, Text, fitted, language_row, read_text, refuse_far_too_long, single
from xlmstream_worker.tasks.inputs import Refused, language_of
from xlmstream_worker.text_model import TextModel

DEFAULT_TOP_K = 5
MAX_TOP_K = 1000
MAX_TARGETS = 1000
MAX_GAPS = 64
# Of all filled texts of an input together: each candidate of each gap has one. So the results of a chunk of a job, 256
# of them, stay below the 512 MB that the broker takes as one value.
MAX_FILLED_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class _Text(Item[FillMaskResult]):
    sequences: tuple[EncoderInput, ...]
    text: str | None
    """As given; None for token ids."""
    gaps: tuple[Span, ...]
    """Of each gap, in code points of the text; empty for token ids."""

    def result(self, model: TextModel, values: Sequence[Values], cost: Cost) -> FillMaskResult:
        (given,) = self.sequences
        ((ids, scores),) = values
        masks = []
        for gap, place in enumerate(given.places):
            best = sorted(zip(ids[gap].tolist(), scores[gap].tolist(), strict=True), key=lambda one: (-one[1], one[0]))
            candidates = [
                FillMaskCandidate(
                    token_id=token_id,
                    piece=model.tokenizer.convert_ids_to_tokens(token_id),
                    score=score,
                    text=self._filled(model, {gap: token_id}),
                )
                for token_id, score in best
            ]
            start, end = self.gaps[gap] if self.gaps else (0, 0)
            masks.append(MaskedPosition(token_index=place, start=start, end=end, candidates=candidates))
        text = self._filled(model, {gap: mask.candidates[0].token_id for gap, mask in enumerate(masks)})
        return FillMaskResult(masks=masks, text=text, usage=cost.usage, timing=cost.timing)

    def _filled(self, model: TextModel, chosen: dict[int, int]) -> str:
        """The text with these tokens in these gaps."""
        if self.text is None:
            (given,) = self.sequences
            ids = list(given.ids)
            for gap, token_id in chosen.items():
                ids[given.places[gap]] = token_id
            return model.tokenizer.decode(ids)
        parts, end = [], 0
        for gap, (start, stop) in enumerate(self.gaps):
            if gap in chosen:
                piece = model.tokenizer.convert_ids_to_tokens(chosen[gap])
                parts += [self.text[end:start], piece.removesuffix(WORD_END)]
                end = stop
        return "".join([*parts, self.text[end:]])


class FillMask(EncoderTask[FillMaskResult]):
    def prepare(self, request: bytes, model: TextModel) -> list[Item[FillMaskResult] | Status]:
        asked = FillMaskRequest.FromString(request)
        reading = _reading(asked.parameters, model)
        items: list[Item[FillMaskResult] | Status] = []
        for place, given in enumerate(asked.inputs):
            field = f"inputs[{place}]"
            try:
                text = fitted(
                    model, _read(model, given, field, asked.options.truncation), asked.options.truncation, field
                )
                items.append(_item(model, given, text, reading, field))
            except Refused as refused:
                items.append(refused.status)
        return items

    def event(self, results: Sequence[FillMaskResult | Status]) -> Event:
        return Event(mask_filled=FillMaskResponse(outputs=[_output(result) for result in results]))


def _output(result: FillMaskResult | Status) -> FillMaskOutput:
    return FillMaskOutput(error=result) if isinstance(result, Status) else FillMaskOutput(result=result)


def _read(model: TextModel, given: TextInput, field: str, truncation: Truncation.ValueType) -> Text:
    """The tokens of a text with gaps. Only gaps have spans."""
    mask = model.card.mask_token
    if given.WhichOneof("source") == "token_ids" or mask not in given.text:
        return read_text(model, given, field, truncation, with_spans=True)
    mask_id = model.tokenizer.convert_tokens_to_ids(mask)
    language = language_of(model, given, field)
    refuse_far_too_long(model, given, language, field, truncation)
    ids: list[int] = []
    spans: list[Span] = []
    start = 0
    for number, part in enumerate(given.text.split(mask)):
        if number:
            ids.append(mask_id)
            spans.append((start, start + len(mask)))
            start += len(mask)
        encoded = model.tokenizer(
            part,
            lang=language or "en",
            add_special_tokens=False,
            split_special_tokens=not given.allow_special_tokens,
        )["input_ids"]
        ids += encoded
        spans += [(0, 0)] * len(encoded)
        start += len(part)
    return Text(tuple(ids), tuple(spans), language_row(model, given, language), raw=False)


def _item(model: TextModel, given: TextInput, text: Text, reading: Candidates, field: str) -> _Text:
    mask_id = model.tokenizer.convert_tokens_to_ids(model.card.mask_token)
    gaps = [place for place, token_id in enumerate(text.ids) if token_id == mask_id]
    name = f"{field}.token_ids" if text.raw else f"{field}.text"
    if not gaps:
        raise Refused(statuses.invalid_input([(name, f"no gap to fill: write {model.card.mask_token} where one is")]))
    if len(gaps) > MAX_GAPS:
        raise Refused(statuses.invalid_input([(name, f"{len(gaps)} gaps; at most {MAX_GAPS} are taken")]))
    as_given = model.tokenizer.decode(list(text.ids)) if text.raw else given.text
    filled_bytes = len(as_given.encode()) * len(gaps) * reading.k
    if filled_bytes > MAX_FILLED_BYTES:
        told = f"{reading.k} candidates of {len(gaps)} gaps are {filled_bytes} bytes of filled texts"
        problem = f"{told}; at most {MAX_FILLED_BYTES} are given: ask for fewer candidates or give a shorter text"
        raise Refused(statuses.invalid_input([(name, problem)]))
    frame = single(model, text)
    return _Text(
        sequences=(frame.input(reading, [frame.first[gap] for gap in gaps]),),
        text=None if text.raw else given.text,
        gaps=() if text.raw else tuple(text.spans[gap] for gap in gaps),
    )


def _reading(asked: FillMaskParameters, model: TextModel) -> Candidates:
    checks = Checks()
    top_k = asked.top_k if asked.HasField("top_k") else DEFAULT_TOP_K
    checks.within("parameters.top_k", top_k, 1, MAX_TOP_K)
    if len(asked.targets) > MAX_TARGETS:
        checks.add("parameters.targets", f"{len(asked.targets)} targets; at most {MAX_TARGETS} are taken")
    targets: dict[int, None] = {}  # each once, in order
    for place, target in enumerate(asked.targets[:MAX_TARGETS]):
        token_id = _target_id(model, target)
        if token_id is None:
            pieces = " ".join(model.tokenizer.tokenize(target, split_special_tokens=True)[:8]) or "nothing"
            checks.add(f"parameters.targets[{place}]", f"is not one token of the model but {pieces}")
        else:
            targets[token_id] = None
    checks.refuse()
    return Candidates(min(top_k, len(targets) or model.card.vocabulary_size), tuple(targets))


def _target_id(model: TextModel, target: str) -> int | None:
    """The one token of a word, else the vocabulary entry of this very name."""
    tokenizer = model.tokenizer
    pieces = tokenizer.tokenize(target, lang=model.card.default_language or "en", split_special_tokens=True)
    for piece in (*pieces, target) if len(pieces) == 1 else (target,):
        if piece in tokenizer.encoder:
            return tokenizer.encoder[piece]
    return None
