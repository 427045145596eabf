"""From a client's `TextInput` to token ids, and the refusals that only a worker can give."""

from __future__ import annotations

import xlmstream.status as statuses
from google.rpc.status_pb2 import Status
from xlmstream.v1.common_pb2 import TRUNCATION_KEEP_END, TRUNCATION_UNSPECIFIED, TextInput, Truncation

from xlmstream_worker.sequences import DecodingMode
from xlmstream_worker.text_model import TextModel

# A text with more characters than this for each position of the model is not tokenised whole unless it must be.
LONG_TEXT_CHARS_A_TOKEN = 64


class Refused(Exception):
    """The request, or one input of it, cannot be served; `status` is what its caller gets."""

    def __init__(self, refusal: Status) -> None:
        super().__init__(refusal.message)
        self.status = refusal


def language_of(model: TextModel, given: TextInput, field: str) -> str:
    """The language of an input: its own or the model's default; "" where the model has only one."""
    if not given.HasField("language"):
        return model.card.default_language
    if given.language not in model.languages:
        known = ", ".join(model.card.languages) or "none: this model has one language"
        raise Refused(statuses.invalid_input([(f"{field}.language", f"unknown; the model's languages: {known}")]))
    return given.language


def text_tokens(model: TextModel, given: TextInput, language: str) -> list[tuple[int, int, int]]:
    """(id, start, end) of each token of a text, in code points of the text; without special tokens around it."""
    encoding = model.tokenizer(
        given.text,
        lang=language or "en",
        add_special_tokens=False,
        split_special_tokens=not given.allow_special_tokens,
        return_offsets_mapping=True,
    )
    return [(token, *span) for token, span in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)]


def text_ids(model: TextModel, given: TextInput, language: str, field: str) -> list[int]:
    """The ids of a text, without special tokens around it. Never empty."""
    ids: list[int] = model.tokenizer(
        given.text,
        lang=language or "en",
        add_special_tokens=False,
        split_special_tokens=not given.allow_special_tokens,
    )["input_ids"]
    if not ids:
        raise Refused(statuses.invalid_input([(f"{field}.text", "nothing but spaces and control characters")]))
    model.text_rate.note(len(given.text.encode()), len(ids))
    return ids


def checked_ids(model: TextModel, given: TextInput, field: str) -> list[int]:
    """The ids a client sent, used as they are."""
    ids = list(given.token_ids.ids)
    check_range(model, ids, f"{field}.token_ids.ids")
    if not ids:
        raise Refused(statuses.invalid_input([(f"{field}.token_ids.ids", "at least one id")]))
    return ids


def check_range(model: TextModel, ids: list[int], field: str) -> None:
    """Refuse ids the model has no embedding for."""
    size = model.card.vocabulary_size
    wrong = [(f"{field}[{place}]", f"must be below {size}") for place, token_id in enumerate(ids) if token_id >= size]
    if wrong:
        raise Refused(statuses.invalid_input(wrong))


def prompt_frame(model: TextModel, mode: DecodingMode) -> tuple[list[int], list[int]]:
    """The special tokens before and after the text of a prompt.

    MASK_APPEND begins with what the tokenizer makes of a text, as who calls `generate` of transformers does.
    """
    if mode is DecodingMode.NEXT_TOKEN:
        return [model.begin_id], []
    begin, end = model.tokenizer.build_inputs_with_special_tokens([])
    return [begin], [end]


def prompt_ids(
    model: TextModel,
    given: TextInput,
    language: str,
    truncation: Truncation.ValueType,
    max_new_tokens: int,
    field: str,
    frame: tuple[list[int], list[int]],
) -> list[int]:
    """The prompt of a generation: the text's ids within their frame, or the ids sent.

    One position must be left for the first new token. With truncation on, the prompt is cut so that all
    `max_new_tokens` fit, yet never to less than half of the model's positions.
    """
    positions = model.card.max_input_tokens
    whole = True
    before, after = frame
    if given.WhichOneof("source") == "token_ids":
        before, ids, after = [], checked_ids(model, given, field), []
        field = f"{field}.token_ids.ids"
    else:
        text, whole = relevant_part(given, positions * LONG_TEXT_CHARS_A_TOKEN, truncation)
        ids = text_ids(model, text, language, field)
        if not whole and len(ids) < 2 * positions:
            ids, whole = text_ids(model, given, language, field), True
        field = f"{field}.text"
    special = len(before) + len(after)
    if truncation == TRUNCATION_UNSPECIFIED:
        if special + len(ids) >= positions:
            raise Refused(statuses.input_too_long(field, special + len(ids), positions - 1, at_least=not whole))
        return before + ids + after
    room = max(positions - max_new_tokens, positions // 2, special + 1) - special
    return before + (ids[-room:] if truncation == TRUNCATION_KEEP_END else ids[:room]) + after


def relevant_part(given: TextInput, chars: int, truncation: Truncation.ValueType) -> tuple[TextInput, bool]:
    """The part of a text that can matter, and whether it is the whole: most of a far too long text never does.

    Tokenising a megabyte would hold up the whole process for the better part of a second.
    """
    text = given.text.rstrip() if truncation == TRUNCATION_KEEP_END else given.text.lstrip()
    if len(text) <= chars:
        return given, True
    if truncation == TRUNCATION_KEEP_END:
        kept = text[-chars:]
        part = kept.partition(" ")[2]
    else:
        kept = text[:chars]
        part = kept.rpartition(" ")[0]
    return TextInput(text=part or kept, allow_special_tokens=given.allow_special_tokens), False
