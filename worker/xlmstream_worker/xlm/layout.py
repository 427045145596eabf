"""How sequences of ids become model inputs: truncation, special tokens' places, padding. Pure list work."""

import logging
from typing import NamedTuple, TypeVar

_log = logging.getLogger(__name__)

Item = TypeVar("Item")

Offset = tuple[int, int]

# Lengths from here on mean "no limit" (transformers writes 1e30 where none is known).
NO_LIMIT_TOKENS = int(1e30)
_LARGE_TOKENS = int(1e20)

PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
SIDES = ("right", "left")


class Layout(NamedTuple):
    """What a caller asks of the result.

    Attributes:
        add_special_tokens: `<s> A </s>` and `<s> A </s> B </s>` instead of the bare ids.
        padding: False or "do_not_pad"; True or "longest" (to the batch's longest); "max_length".
        truncation: None, False or "do_not_truncate"; True or "longest_first"; "only_first"; "only_second". None
            with a `max_length` and no padding means "longest_first".
        max_length: limit in tokens, special ones included. Default: the tokenizer's `model_max_length`.
        stride: tokens of the kept part that the overflow repeats.
        pad_to_multiple_of: round the padded length up.
        padding_side: "right" or "left"; default: the tokenizer's.
        return_tensors: None for lists, "pt" or "np" for tensors of shape (B, T).
        return_token_type_ids, return_attention_mask: None means yes.
        return_overflowing_tokens: what truncation cut off, with `num_truncated_tokens`; not for pairs under
            "longest_first".
        return_special_tokens_mask: 1 for special tokens and padding, 0 for text.
        return_offsets_mapping: for each token its (start, end) in code points of the text it comes from; (0, 0)
            for special tokens and padding.
        return_length: the number of tokens, before the batch is padded.
    """

    add_special_tokens: bool = True
    padding: bool | str = False
    truncation: bool | str | None = None
    max_length: int | None = None
    stride: int = 0
    pad_to_multiple_of: int | None = None
    padding_side: str | None = None
    return_tensors: str | None = None
    return_token_type_ids: bool | None = None
    return_attention_mask: bool | None = None
    return_overflowing_tokens: bool = False
    return_special_tokens_mask: bool = False
    return_offsets_mapping: bool = False
    return_length: bool = False

    def resolved(self, model_max_length: int, padding_side: str) -> "Layout":
        """The same with every default and shorthand spelled out.

        Raises:
            ValueError: a value is not one of those above, or two contradict each other.
        """
        truncation = self.truncation
        if truncation is None and self.max_length is not None and self.padding is False:
            truncation = True
        padding = _spelled_out("padding", self.padding, PADDING)
        truncation = _spelled_out("truncation", truncation, TRUNCATION)
        side = padding_side if self.padding_side is None else self.padding_side
        if side not in SIDES:
            raise ValueError(f"padding_side must be one of {SIDES}, got {side!r}")
        max_length = self.max_length
        if max_length is None and (padding == "max_length" or truncation != "do_not_truncate"):
            if model_max_length > _LARGE_TOKENS:  # nothing to pad or to cut to
                padding = "do_not_pad" if padding == "max_length" else padding
                truncation = "do_not_truncate"
            else:
                max_length = model_max_length
        multiple = self.pad_to_multiple_of
        truncates_and_pads = truncation != "do_not_truncate" and padding != "do_not_pad"
        if truncates_and_pads and multiple and max_length and max_length % multiple:
            raise ValueError(f"truncation to {max_length} tokens contradicts padding to a multiple of {multiple}")
        if self.return_token_type_ids and not self.add_special_tokens:
            raise ValueError("token_type_ids are not defined without special tokens")
        return self._replace(padding=padding, truncation=truncation, max_length=max_length, padding_side=side)


def _spelled_out(name: str, value: bool | str | None, choices: tuple[str, ...]) -> str:
    """The first choice for True, the last for False and None."""
    if value is True:
        return choices[0]
    if value is False or value is None:
        return choices[-1]
    if value not in choices:
        raise ValueError(f"{name} must be a boolean or one of {choices}, got {value!r}")
    return value


def tokens_to_cut(first: int, second: int | None, excess: int, strategy: str) -> tuple[int, int]:
    """How many tokens each sequence loses so that `excess` (> 0) disappear.

    "longest_first" takes from the longer sequence until both are equal, then from both in turn. A sequence that
    is not longer than what it should lose alone loses nothing, and an error is logged.

    Args:
        first, second: lengths in tokens without special ones; `second` is None without a pair.
        strategy: one of `TRUNCATION`.
    """
    if strategy == "longest_first" and second is not None:
        lead = min(abs(second - first), excess)
        half = (excess - lead) // 2
        return (lead + half, excess - lead - half) if first > second else (half, excess - half)
    if strategy == "only_second" and second is None:
        return 0, 0
    length = second if strategy == "only_second" and second is not None else first
    if length <= excess:
        _log.error("%s: cannot cut %d tokens off a sequence of %d; nothing is cut", strategy, excess, length)
        return 0, 0
    return (0, excess) if strategy == "only_second" else (excess, 0)


def cut(items: list[Item], count: int, side: str) -> list[Item]:
    """`items` without `count` of them at the "right" or the "left" end."""
    return items[count:] if side == "left" else items[: max(len(items) - count, 0)]


def overflow(items: list[Item], count: int, side: str) -> list[Item]:
    """The `count` items at that end."""
    count = min(count, len(items))
    return items[:count] if side == "left" else items[len(items) - count :]


def padded_length(lengths: list[int], layout: Layout) -> int | None:
    """The common length in tokens of a batch of rows, or None if a resolved `layout` does not pad."""
    if layout.padding == "do_not_pad":
        return None
    length = max(lengths, default=0) if layout.padding == "longest" else layout.max_length
    assert length is not None  # resolved
    multiple = layout.pad_to_multiple_of
    return -(-length // multiple) * multiple if multiple else length


def pad_row(row: list[Item], length: int, filler: Item, side: str) -> list[Item]:
    """`row` with `filler` at the given side up to `length`; longer rows stay as they are."""
    padding = [filler] * (length - len(row))
    return padding + row if side == "left" else row + padding
