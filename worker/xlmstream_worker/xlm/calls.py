"""The calls that turn texts or ids into model inputs, over whatever turns one text into ids."""

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xlmstream_worker.xlm.encoding import BatchEncoding, to_list
from xlmstream_worker.xlm.layout import (
    Layout,
    Offset,
    cut,
    overflow,
    pad_row,
    padded_length,
    tokens_to_cut,
)
from xlmstream_worker.xlm.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

# A text, its words or tokens, or its ids.
Input = str | Sequence[str] | Sequence[int]
Row = dict[str, Any]

# The default, which depends on no setting of the tokenizer.
_PLAIN = Layout().resolved(model_max_length=0, padding_side="right")


class Reading(NamedTuple):
    """How a text is read.

    Attributes:
        lang: language code, for the rules and the segmenter that cut words.
        bypass_tokenizer: the text is cut into words by white space already; only byte-pair encoding is left.
        is_split_into_words: a list of strings is a list of words, each read by itself, not of tokens.
        split_special_tokens: special tokens in the text are ordinary text.
    """

    lang: str = "en"
    bypass_tokenizer: bool = False
    is_split_into_words: bool = False
    split_special_tokens: bool = False


class Encoded(NamedTuple):
    """The ids of one text, without special tokens around it, and where each comes from if asked for."""

    ids: list[int]
    offsets: list[Offset] | None = None


class TokenizerCalls(Vocabulary):
    """Adds `__call__`, `encode`, `prepare_for_model` and `pad` to a vocabulary."""

    model_max_length: int
    padding_side: str
    truncation_side: str
    split_special_tokens: bool
    _warned_of_length = False

    @abstractmethod
    def _encode_text(self, text: str, reading: Reading, with_offsets: bool) -> Encoded:
        """The ids of one text, without special tokens around it."""

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[Any] | None = None,
        *,
        lang: str = "en",
        bypass_tokenizer: bool = False,
        is_split_into_words: bool = False,
        split_special_tokens: bool | None = None,
        **layout: Any,
    ) -> BatchEncoding:
        """Turn a text, or a batch of them, into model inputs.

        Args:
            text: a text; a list of texts (a batch) or of pairs of texts. With `is_split_into_words`: a list of
                words, or a list of such lists.
            text_pair: the second text of a pair, or a list of as many as there are texts.
            lang: language code of the texts. (transformers ignores it and reads everything as English.)
            bypass_tokenizer: see `Reading`, as for the two below.
            is_split_into_words: see `Reading`.
            split_special_tokens: see `Reading`; default: the tokenizer's setting.
            layout: the attributes of `Layout`.

        Returns:
            `input_ids`, `token_type_ids`, `attention_mask` and what else was asked for: lists of T integers for
            one text (tensors have shape (1, T)), lists of B lists for a batch.

        Raises:
            TypeError: an unknown argument, or a text that is none.
            ValueError: arguments that contradict each other.
            MissingSegmenterError: the language needs a package that is not installed.
        """
        if split_special_tokens is None:
            split_special_tokens = self.split_special_tokens
        reading = Reading(lang, bypass_tokenizer, is_split_into_words, split_special_tokens)
        resolved = self._layout(layout)
        if isinstance(text, str):
            return self._single(text, text_pair, reading, resolved)
        if is_split_into_words and not (text and isinstance(text[0], list | tuple)):
            return self._single(text, text_pair, reading, resolved)
        return self._batch(_pairs(text, text_pair, is_split_into_words), reading, resolved)

    def encode(
        self,
        text: Input,
        text_pair: Input | None = None,
        *,
        lang: str = "en",
        bypass_tokenizer: bool = False,
        is_split_into_words: bool = False,
        split_special_tokens: bool | None = None,
        **layout: Any,
    ) -> Any:
        """The `input_ids` of one text or pair: a list, or a (1, T) tensor with `return_tensors`.

        Takes, beside a text, a list of tokens or of ids. Arguments as for a call.
        """
        if split_special_tokens is None:
            split_special_tokens = self.split_special_tokens
        reading = Reading(lang, bypass_tokenizer, is_split_into_words, split_special_tokens)
        return self._single(text, text_pair, reading, self._layout(layout))["input_ids"]

    def prepare_for_model(
        self, ids: list[int], pair_ids: list[int] | None = None, prepend_batch_axis: bool = False, **layout: Any
    ) -> BatchEncoding:
        """Model inputs from the ids of one sequence or pair; `layout` has the attributes of `Layout`."""
        resolved = self._layout(layout)
        second = None if pair_ids is None else Encoded(pair_ids)
        return self._finish_single(Encoded(ids), second, resolved, prepend_batch_axis)

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        **layout: Any,
    ) -> BatchEncoding:
        """Pad encodings to one length, as a collate function does.

        Args:
            encoded_inputs: one encoding, an encoding of a batch, or a list of encodings; lists or tensors.
            padding: see `Layout`.
            layout: further attributes of `Layout`: max_length, pad_to_multiple_of, padding_side,
                return_attention_mask, return_tensors.

        Raises:
            ValueError: there are no `input_ids`.
        """
        resolved = self._layout(layout | {"padding": padding, "truncation": False})
        if isinstance(encoded_inputs, Mapping):
            encoded = {name: to_list(value) for name, value in encoded_inputs.items()}
        else:
            names = encoded_inputs[0] if encoded_inputs else ()
            encoded = {name: [to_list(row[name]) for row in encoded_inputs] for name in names}
        if "input_ids" not in encoded:
            raise ValueError(f"there are no input_ids to pad, only {list(encoded)}")
        ids = encoded["input_ids"]
        if not ids or not isinstance(ids[0], list | tuple):
            rows = self._padded([encoded], resolved)
            return _as_tensors(BatchEncoding(rows[0]), resolved, prepend_batch_axis=False)
        batch = [{name: values[index] for name, values in encoded.items()} for index in range(len(ids))]
        return _as_tensors(_collated(self._padded(batch, resolved)), resolved, prepend_batch_axis=False)

    # The format of a sequence

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`<s> A </s>` or `<s> A </s> B </s>`."""
        bos, sep = self.role_id("bos_token"), self.role_id("sep_token")
        if token_ids_1 is None:
            return [bos, *token_ids_0, sep]
        return [bos, *token_ids_0, sep, *token_ids_1, sep]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """0 for `<s> A </s>`, 1 for `B </s>`. XLM looks these up in the *word* embedding: see the library's README."""
        types = [0] * (len(token_ids_0) + 2)
        return types if token_ids_1 is None else types + [1] * (len(token_ids_1) + 1)

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 where `build_inputs_with_special_tokens` puts a special token, 0 elsewhere.

        With `already_has_special_tokens`, `token_ids_0` is a finished sequence: 1 for the ids of special tokens.

        Raises:
            ValueError: a second sequence beside a finished one.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError("a sequence that has its special tokens takes no second sequence")
            special = set(self.all_special_ids)
            return [int(index in special) for index in token_ids_0]
        mask = [1, *[0] * len(token_ids_0), 1]
        return mask if token_ids_1 is None else [*mask, *[0] * len(token_ids_1), 1]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a sequence, or a pair, gets."""
        return 3 if pair else 2

    # From inputs to rows, from rows to the result

    def _layout(self, options: dict[str, Any]) -> Layout:
        if not options:
            return _PLAIN
        return Layout(**options).resolved(self.model_max_length, self.padding_side)

    def _single(self, text: Any, text_pair: Any, reading: Reading, layout: Layout) -> BatchEncoding:
        first = self._encode_input(text, reading, layout)
        second = None if text_pair is None else self._encode_input(text_pair, reading, layout)
        return self._finish_single(first, second, layout, prepend_batch_axis=True)

    def _finish_single(
        self, first: Encoded, second: Encoded | None, layout: Layout, prepend_batch_axis: bool
    ) -> BatchEncoding:
        row = self._row(first, second, layout)
        if layout.padding != "do_not_pad":
            (row,) = self._padded([row], layout)
        if layout.return_length:
            row["length"] = len(row["input_ids"])
        return _as_tensors(BatchEncoding(row), layout, prepend_batch_axis)

    def _batch(self, inputs: list[tuple[Any, Any]], reading: Reading, layout: Layout) -> BatchEncoding:
        rows = []
        for text, text_pair in inputs:
            first = self._encode_input(text, reading, layout)
            second = None if text_pair is None else self._encode_input(text_pair, reading, layout)
            row = self._row(first, second, layout)
            if layout.return_length:
                row["length"] = len(row["input_ids"])
            rows.append(row)
        if layout.padding != "do_not_pad":
            rows = self._padded(rows, layout)
        return _as_tensors(_collated(rows), layout, prepend_batch_axis=False)

    def _encode_input(self, given: Any, reading: Reading, layout: Layout) -> Encoded:
        if isinstance(given, str):
            return self._encode_text(given, reading, layout.return_offsets_mapping)
        if isinstance(given, list | tuple) and given and all(isinstance(item, str) for item in given):
            if not reading.is_split_into_words:
                return Encoded(self.convert_tokens_to_ids(given))
            words = [self._encode_text(word, reading, layout.return_offsets_mapping) for word in given]
            offsets = [offset for word in words for offset in word.offsets or ()]
            return Encoded([index for word in words for index in word.ids], offsets)
        if isinstance(given, list | tuple) and all(isinstance(item, int) for item in given):
            return Encoded(list(given))
        raise TypeError(f"a text is a string, a list of strings or a list of ids, not {given!r:.80}")

    def _row(self, first: Encoded, second: Encoded | None, layout: Layout) -> Row:
        """One sequence or pair, truncated and with its special tokens; not padded."""
        row: Row = {}
        excess = len(first.ids) + (len(second.ids) if second else 0) - (layout.max_length or 0)
        if layout.add_special_tokens:
            excess += self.num_special_tokens_to_add(second is not None)
        if layout.return_overflowing_tokens:
            if layout.truncation == "longest_first" and second is not None:
                raise ValueError("the overflow of a pair is not defined under longest_first")
            row["overflowing_tokens"] = []
            row["num_truncated_tokens"] = excess if layout.max_length is not None else 0
        if layout.truncation != "do_not_truncate" and layout.max_length and excess > 0:
            first, second, overflowing = self._truncated(first, second, excess, layout)
            if layout.return_overflowing_tokens:
                row["overflowing_tokens"] = overflowing
        ids, pair_ids = first.ids, None if second is None else second.ids
        if layout.add_special_tokens:
            row["input_ids"] = self.build_inputs_with_special_tokens(ids, pair_ids)
            types = self.create_token_type_ids_from_sequences(ids, pair_ids)
        else:
            row["input_ids"] = ids if pair_ids is None else ids + pair_ids
            types = [0] * len(row["input_ids"])
        if layout.return_token_type_ids is not False:
            row["token_type_ids"] = types
        if layout.return_special_tokens_mask:
            row["special_tokens_mask"] = (
                self.get_special_tokens_mask(ids, pair_ids) if layout.add_special_tokens else types
            )
        if layout.return_attention_mask is not False:
            row["attention_mask"] = [1] * len(row["input_ids"])
        if layout.return_offsets_mapping:
            row["offset_mapping"] = _offsets(first, second, layout.add_special_tokens)
        if layout.max_length is None:
            self._warn_of_length(len(row["input_ids"]))
        return row

    def _truncated(
        self, first: Encoded, second: Encoded | None, excess: int, layout: Layout
    ) -> tuple[Encoded, Encoded | None, list[int]]:
        """Both sequences without what is too much, and the ids cut off (with `stride` more)."""
        side = self.truncation_side
        cuts = tokens_to_cut(
            len(first.ids), None if second is None else len(second.ids), excess, str(layout.truncation)
        )
        overflowing: list[int] = []
        if cuts[0]:
            overflowing = overflow(first.ids, cuts[0] + layout.stride, side)
        elif cuts[1] and second is not None:
            overflowing = overflow(second.ids, cuts[1] + layout.stride, side)
        first = _shortened(first, cuts[0], side)
        return first, None if second is None else _shortened(second, cuts[1], side), overflowing

    def _padded(self, rows: list[Row], layout: Layout) -> list[Row]:
        """The rows with every per-token list at one length."""
        length = padded_length([len(row["input_ids"]) for row in rows], layout)
        fillers: dict[str, Any] = {
            "input_ids": None if length is None else self.role_id("pad_token"),
            "token_type_ids": 0,
            "attention_mask": 0,
            "special_tokens_mask": 1,
            "offset_mapping": (0, 0),
        }
        side = str(layout.padding_side)
        padded = []
        for row in rows:
            if layout.return_attention_mask is not False:
                row = {**row, "attention_mask": row.get("attention_mask") or [1] * len(row["input_ids"])}
            if length is not None:
                row = {
                    name: pad_row(list(value), length, fillers[name], side) if name in fillers else value
                    for name, value in row.items()
                }
            padded.append(row)
        return padded

    def _warn_of_length(self, length: int) -> None:
        if length > self.model_max_length and not self._warned_of_length:
            self._warned_of_length = True
            _log.warning(
                "a sequence of %d tokens is longer than the model's limit of %d", length, self.model_max_length
            )


def _pairs(text: Sequence[Any], text_pair: Any, is_split_into_words: bool) -> list[tuple[Any, Any]]:
    """A batch as (text, second text or None)."""
    if not isinstance(text, list | tuple):
        raise TypeError(f"a text is a string or a list, not {text!r:.80}")
    if text_pair is not None:
        if not isinstance(text_pair, list | tuple) or len(text_pair) != len(text):
            raise ValueError(f"text_pair must be a list of {len(text)}, as many as there are texts")
        return list(zip(text, text_pair, strict=True))
    if is_split_into_words and all(not item or isinstance(item[0], str) for item in text):
        return [(item, None) for item in text]
    return [tuple(item) if isinstance(item, list | tuple) else (item, None) for item in text]


def _shortened(encoded: Encoded, count: int, side: str) -> Encoded:
    offsets = encoded.offsets
    return Encoded(cut(encoded.ids, count, side), None if offsets is None else cut(offsets, count, side))


def _offsets(first: Encoded, second: Encoded | None, special: bool) -> list[Offset]:
    """The offsets of a whole row; (0, 0) for special tokens and for ids that came without a text."""
    edge: list[Offset] = [(0, 0)] if special else []
    offsets = [*edge, *(first.offsets or [(0, 0)] * len(first.ids)), *edge]
    if second is not None:
        offsets += [*(second.offsets or [(0, 0)] * len(second.ids)), *edge]
    return offsets


def _collated(rows: list[Row]) -> BatchEncoding:
    names = rows[0] if rows else ("input_ids", "token_type_ids", "attention_mask")
    return BatchEncoding({name: [row[name] for row in rows] for name in names})


def _as_tensors(encoding: BatchEncoding, layout: Layout, prepend_batch_axis: bool) -> BatchEncoding:
    if layout.return_tensors is None:
        return encoding
    return encoding.convert_to_tensors(layout.return_tensors, prepend_batch_axis)
