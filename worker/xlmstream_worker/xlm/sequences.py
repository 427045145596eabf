"""Sequences as an XLM model takes them: special tokens in their places, truncated, padded."""

import logging
from typing import Any, NamedTuple

from xlmstream_worker.xlm.layout import Layout, Offset, cut, overflow, pad_row, padded_length, tokens_to_cut
from xlmstream_worker.xlm.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

# The named lists of one sequence.
Row = dict[str, Any]


class Encoded(NamedTuple):
    """The ids of one text, without special tokens around it, and where each comes from if asked for."""

    ids: list[int]
    offsets: list[Offset] | None = None


class SequenceBuilder(Vocabulary):
    """Builds `<s> A </s>` and `<s> A </s> B </s>` from ids."""

    model_max_length: int
    truncation_side: str
    _warned_of_length = False

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

    def row(self, first: Encoded, second: Encoded | None, layout: Layout) -> Row:
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
                self.get_special_tokens_mask(ids, pair_ids) if layout.add_special_tokens else [0] * len(types)
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

    def padded(self, rows: list[Row], layout: Layout) -> list[Row]:
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
