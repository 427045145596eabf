"""Words of a tokenised text: the runs of tokens that the model's tokenizer made of one word.

What stands between white space may be several words: "Paris," is "Paris" and ",". Knows no labels and no answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xlmstream.v1.common_pb2 import TextInput

from xlmstream_worker.detokenize import WORD_END
from xlmstream_worker.tasks.frames import Text
from xlmstream_worker.text_model import TextModel


@dataclass(frozen=True, slots=True)
class Word:
    """Tokens [first, last] of a text and the code points [start, end) they come from."""

    first: int
    last: int
    start: int
    end: int


def words_of(model: TextModel, given: TextInput, text: Text) -> tuple[Word, ...]:
    """The words of `text`, which was read from the whole of `given` with spans. Each of raw ids is a word, whose
    code points are its place among the ids."""
    if text.raw:
        return tuple(Word(place, place, place, place + 1) for place in range(len(text.ids)))
    pieces = _pieces(model, given, text)
    special = frozenset(model.tokenizer.all_special_tokens)
    words: list[Word] = []
    first = 0
    for place, piece in enumerate(pieces):
        if piece.endswith(WORD_END) or piece in special or place == len(pieces) - 1:
            spans = [span for span in text.spans[first : place + 1] if span[0] < span[1]] or [text.spans[first]]
            words.append(Word(first, place, spans[0][0], max(end for _, end in spans)))
            first = place + 1
    return tuple(words)


def _pieces(model: TextModel, given: TextInput, text: Text) -> Sequence[str]:
    """The pieces as the tokenizer cut them. An id tells its piece, unless it is that of unknown ones."""
    if model.tokenizer.unk_token_id not in text.ids:
        return model.tokenizer.convert_ids_to_tokens(text.ids)
    return model.tokenizer.tokenize(
        given.text,
        lang=given.language or model.card.default_language or "en",
        split_special_tokens=not given.allow_special_tokens,
    )
