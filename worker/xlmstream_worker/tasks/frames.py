"""Inputs of the encoder tasks: texts become tokens, tokens a sequence with special tokens around them.

    huggingface    <s> A </s>     <s> A </s> B </s>      token types 0 and, for "B </s>", 1
    original       </s> A </s>    </s> A </s> B </s>     no token types

Without a language the huggingface format adds no language embedding, as transformers' pipelines add none; the original
one adds that of the model's default language, as XLM never saw a text without. Token ids that a client sent stay as
they are: nothing is put around them, and they have no token types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import xlmstream.status as statuses
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import TRUNCATION_KEEP_END, TRUNCATION_UNSPECIFIED, TextInput, Truncation

from xlmstream_worker.encoder_inputs import EncoderInput, Reading
from xlmstream_worker.tasks.inputs import (
    LONG_TEXT_CHARS_A_TOKEN,
    Refused,
    checked_ids,
    language_of,
    relevant_part,
    text_ids,
    text_tokens,
)
from xlmstream_worker.text_model import TextModel
from xlmstream_worker.xlm.layout import tokens_to_cut

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Text:
    """The tokens of one text, or ids as a client sent them (`raw`)."""

    ids: tuple[int, ...]
    spans: tuple[Span, ...]
    """Code points [start, end) of each token, (0, 0) where it has none; empty unless asked for."""
    language: int | None
    raw: bool

    def cut(self, count: int, truncation: Truncation.ValueType) -> Text:
        """Without `count` tokens at the end, or at the beginning where the end is to be kept."""
        if truncation == TRUNCATION_KEEP_END:
            return replace(self, ids=self.ids[count:], spans=self.spans[count:])
        kept = len(self.ids) - count
        return replace(self, ids=self.ids[:kept], spans=self.spans[:kept])


@dataclass(frozen=True, slots=True)
class Frame:
    """A sequence as the model sees it, and where the texts are in it."""

    ids: tuple[int, ...]
    languages: tuple[int, ...] | None
    token_types: tuple[int, ...] | None
    first: range
    second: range = range(0)

    def input(
        self,
        reading: Reading,
        places: Sequence[int] = (),
        targets: Sequence[int] = (),
        replaced: tuple[int, int] | None = None,
    ) -> EncoderInput:
        """What the engine shall compute of it."""
        return EncoderInput(
            ids=self.ids,
            reading=reading,
            languages=self.languages,
            token_types=self.token_types,
            places=tuple(places),
            targets=tuple(targets),
            replaced=replaced,
        )


def read_text(
    model: TextModel,
    given: TextInput,
    field: str,
    truncation: Truncation.ValueType,
    *,
    with_spans: bool = False,
    default_language: bool = False,
) -> Text:
    """The tokens of an input, all of them; one without a language gets the default one's embedding where the format
    wants it or the caller does. Raises Refused, also for a text that cannot fit and may not be cut."""
    language = language_of(model, given, field)
    refuse_far_too_long(model, given, language, field, truncation)
    row = language_row(model, given, language) if not default_language else model.language_id(language)
    if given.WhichOneof("source") == "token_ids":
        sent = tuple(checked_ids(model, given, field))
        return Text(sent, ((0, 0),) * len(sent) if with_spans else (), row, raw=True)
    if not with_spans:
        return Text(tuple(text_ids(model, given, language, field)), (), row, raw=False)
    tokens = text_tokens(model, given, language)
    if not tokens:
        raise Refused(statuses.invalid_input([(f"{field}.text", "nothing but spaces and control characters")]))
    model.text_rate.note(len(given.text.encode()), len(tokens))
    ids, starts, ends = zip(*tokens, strict=True)
    return Text(ids, tuple(zip(starts, ends, strict=True)), row, raw=False)


def refuse_far_too_long(
    model: TextModel, given: TextInput, language: str, field: str, truncation: Truncation.ValueType
) -> None:
    """Raise Refused for a text whose beginning is too long already, without tokenising a megabyte of it."""
    if truncation != TRUNCATION_UNSPECIFIED:
        return
    most = model.card.max_input_tokens
    part, whole = relevant_part(given, most * LONG_TEXT_CHARS_A_TOKEN, truncation)
    if not whole and len(ids := text_ids(model, part, language, field)) >= 2 * most:
        raise Refused(statuses.input_too_long(f"{field}.text", len(ids), most, at_least=True))


def language_row(model: TextModel, given: TextInput, language: str) -> int | None:
    """The language embedding of an input, None for none."""
    return model.language_id(language) if given.HasField("language") or model.is_original else None


def fitted(model: TextModel, text: Text, truncation: Truncation.ValueType, field: str) -> Text:
    """The text, cut to what the model takes. Raises Refused where it is too long and may not be cut."""
    around = 0 if text.raw else 2
    excess = len(text.ids) + around - model.card.max_input_tokens
    if excess <= 0:
        return text
    if truncation == TRUNCATION_UNSPECIFIED:
        raise Refused(_too_long(field, text.raw, len(text.ids) + around, model))
    return text.cut(excess, truncation)


def single(model: TextModel, text: Text) -> Frame:
    """The sequence of one text."""
    if text.raw:
        return Frame(text.ids, _languages([(text.language, len(text.ids))], model), None, range(len(text.ids)))
    ids = (model.begin_id, *text.ids, model.end_id)
    return Frame(
        ids=ids,
        languages=_languages([(text.language, len(ids))], model),
        token_types=None if model.is_original else (0,) * len(ids),
        first=range(1, len(ids) - 1),
    )


def fitted_pair(
    model: TextModel, first: Text, second: Text, truncation: Truncation.ValueType, field: str
) -> tuple[Text, Text]:
    """Both texts, the longer cut first, so that the pair is what the model takes. Raises Refused as `fitted`."""
    if first.raw != second.raw:
        raise Refused(statuses.invalid_input([(field, "both must be texts or both token ids")]))
    around = 0 if first.raw else 3
    tokens = len(first.ids) + len(second.ids) + around
    excess = tokens - model.card.max_input_tokens
    if excess <= 0:
        return first, second
    if truncation == TRUNCATION_UNSPECIFIED:
        raise Refused(_too_long(field, first.raw, tokens, model))
    cuts = tokens_to_cut(len(first.ids), len(second.ids), excess, "longest_first")
    return first.cut(cuts[0], truncation), second.cut(cuts[1], truncation)


def pair(model: TextModel, first: Text, second: Text) -> Frame:
    """The sequence of two texts."""
    A, B = len(first.ids), len(second.ids)
    if first.raw:
        languages = _languages([(first.language, A), (second.language, B)], model)
        return Frame((*first.ids, *second.ids), languages, None, range(A), range(A, A + B))
    ids = (model.begin_id, *first.ids, model.end_id, *second.ids, model.end_id)
    # The token between the texts belongs to the second where XLM was pre-trained, to the first in transformers.
    before = A + 1 if model.is_original else A + 2
    return Frame(
        ids=ids,
        languages=_languages([(first.language, before), (second.language, len(ids) - before)], model),
        token_types=None if model.is_original else (0,) * before + (1,) * (len(ids) - before),
        first=range(1, A + 1),
        second=range(A + 2, A + 2 + B),
    )


def _languages(parts: Sequence[tuple[int | None, int]], model: TextModel) -> tuple[int, ...] | None:
    """One language per token, given (language, tokens) of each part; of a pair, one alone brings in the default."""
    if all(language is None for language, _ in parts):
        return None
    default = model.language_id(model.card.default_language)
    assert default is not None  # a part has a language, so the model has them
    return tuple(language for given, tokens in parts for language in [default if given is None else given] * tokens)


def _too_long(field: str, raw: bool, tokens: int, model: TextModel) -> Status:
    name = f"{field}.token_ids" if raw else f"{field}.text"
    return statuses.input_too_long(name, tokens, model.card.max_input_tokens)
