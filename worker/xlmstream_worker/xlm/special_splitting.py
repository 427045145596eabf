"""Finding special and added tokens in a text, before anything else looks at it."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from xlmstream_worker.xlm.aligned import AlignedText
from xlmstream_worker.xlm.rewriting import Rule
from xlmstream_worker.xlm.special_tokens import AddedToken


class Span(NamedTuple):
    """A slice of a text; `is_token` where it is a special or added token."""

    start: int
    end: int
    is_token: bool


class SpecialSplitter:
    """Lower-cases a text around special tokens and splits it at special and added ones. Immutable.

    Args:
        special: the texts of all special tokens.
        added: the special and added tokens to split at.
    """

    def __init__(self, special: Iterable[str], added: Iterable[AddedToken]) -> None:
        self._tokens = {token.content: token for token in added}
        self._adjusts = any(t.single_word or t.lstrip or t.rstrip for t in self._tokens.values())
        # At one place the longest token wins.
        contents = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, contents)) or r"(?!)")
        kept = [*special, *(t.content for t in self._tokens.values() if not t.special and t.normalized)]
        self._lower_all = all(content == content.lower() for content in kept)
        # "." leaves out the line feed, which has no case.
        self._lowering = Rule(
            "", re.compile(f"({'|'.join(map(re.escape, kept)) or '(?!)'})|."), lambda m: m[1] or m[0].lower()
        )

    def lower(self, text: str) -> str:
        """Lower-case each character by itself, but no special token."""
        if self._lower_all:
            # str.lower looks at a capital sigma's neighbours; a character by itself has none.
            return text.replace("Σ", "σ").lower()
        _, pattern, lowered = self._lowering
        return pattern.sub(lowered, text)

    def lower_aligned(self, text: AlignedText) -> None:
        """The same in place."""
        lowered = self.lower(text.value)
        if len(lowered) == len(text.value):
            text.value = lowered
        else:  # some character became two
            text.rewrite((self._lowering,))

    def split(self, text: str) -> list[Span]:
        """The tokens and the pieces between them, from left to right; empty pieces are left out."""
        spans: list[Span] = []
        position = 0
        for match in self._pattern.finditer(text):
            spans += (Span(position, match.start(), False), Span(match.start(), match.end(), True))
            position = match.end()
        spans.append(Span(position, len(text), False))
        spans = [span for span in spans if span.start < span.end]
        return self._adjusted(text, spans) if self._adjusts and len(spans) > 1 else spans

    def _adjusted(self, text: str, spans: list[Span]) -> list[Span]:
        """Let tokens swallow white space or give themselves up, as their flags say."""
        bounds = [[span.start, span.end] for span in spans]
        for index, (start, end) in enumerate(bounds):
            token = self._tokens.get(text[start:end])
            if token is None:
                continue
            left = text[slice(*bounds[index - 1])] if index else ""
            right = text[slice(*bounds[index + 1])] if index + 1 < len(bounds) else ""
            if token.rstrip and right:
                bounds[index + 1][0] += len(right) - len(right.lstrip())
            if token.lstrip and left:
                bounds[index - 1][1] -= len(left) - len(left.rstrip())
            if token.single_word and left and left[-1] != " ":
                bounds[index - 1][1] = end
                bounds[index] = [end, end]
            elif token.single_word and right and right[0] != " ":
                bounds[index + 1][0] = start
                bounds[index] = [start, start]
        return [Span(start, end, text[start:end] in self._tokens) for start, end in bounds if start < end]
