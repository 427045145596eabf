"""The calls that turn texts or ids into model inputs, over whatever turns one text into ids."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xlmstream_worker.xlm.encoding import BatchEncoding, to_list
from xlmstream_worker.xlm.layout import Layout
from xlmstream_worker.xlm.sequences import Encoded, Row, SequenceBuilder

# A text, its words or tokens, or its ids.
Input = str | Sequence[str] | Sequence[int]

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


class TokenizerCalls(SequenceBuilder):
    """Adds `__call__`, `encode`, `prepare_for_model` and `pad`."""

    padding_side: str
    split_special_tokens: bool

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
            lang: language code of the texts. English is read as transformers reads every text (it ignores `lang`):
                where the model folds case, Moses sees no capitals. Texts in other languages are cut by their own
                rules as they are, and folded after, as XLM's own preprocessing does.
            bypass_tokenizer, is_split_into_words, split_special_tokens: see `Reading`; the default of the last is
                the tokenizer's setting.
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
            rows = self.padded([encoded], resolved)
            return _as_tensors(BatchEncoding(rows[0]), resolved, prepend_batch_axis=False)
        batch = [{name: values[index] for name, values in encoded.items()} for index in range(len(ids))]
        return _as_tensors(_collated(self.padded(batch, resolved)), resolved, prepend_batch_axis=False)

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
        row = self.row(first, second, layout)
        if layout.padding != "do_not_pad":
            (row,) = self.padded([row], layout)
        if layout.return_length:
            row["length"] = len(row["input_ids"])
        return _as_tensors(BatchEncoding(row), layout, prepend_batch_axis)

    def _batch(self, inputs: list[tuple[Any, Any]], reading: Reading, layout: Layout) -> BatchEncoding:
        rows = []
        for text, text_pair in inputs:
            first = self._encode_input(text, reading, layout)
            second = None if text_pair is None else self._encode_input(text_pair, reading, layout)
            row = self.row(first, second, layout)
            if layout.return_length:
                row["length"] = len(row["input_ids"])
            rows.append(row)
        if layout.padding != "do_not_pad":
            rows = self.padded(rows, layout)
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
    pairs = [tuple(item) if isinstance(item, list | tuple) else (item, None) for item in text]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("a text of a batch is a string or a pair of them (or a list with is_split_into_words)")
    return pairs


def _collated(rows: list[Row]) -> BatchEncoding:
    names = rows[0] if rows else ("input_ids", "token_type_ids", "attention_mask")
    return BatchEncoding({name: [row[name] for row in rows] for name in names})


def _as_tensors(encoding: BatchEncoding, layout: Layout, prepend_batch_axis: bool) -> BatchEncoding:
    if layout.return_tensors is None:
        return encoding
    return encoding.convert_to_tensors(layout.return_tensors, prepend_batch_axis)
