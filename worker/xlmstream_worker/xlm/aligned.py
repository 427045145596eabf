"""Text that remembers which part of the original each of its characters stands for."""

import re
from collections.abc import Callable, Iterable

from xlmstream_worker.xlm.bpe import END_OF_WORD
from xlmstream_worker.xlm.rewriting import Rule, Template, fold, is_unprintable

_GROUP = re.compile(r"\\(\d)")


class AlignedText:
    """`Text` with memory: character i stands for the code points from `starts[i]` to `ends[i]` of the original.

    Neither list ever decreases. What a rule put in stands for what it replaced; where a rule exchanged two
    stretches, each stands for both together; an inserted space stands for nothing.
    """

    __slots__ = ("ends", "starts", "value")

    def __init__(self, value: str, starts: list[int], ends: list[int]) -> None:
        self.value = value
        self.starts = starts
        self.ends = ends

    @classmethod
    def of(cls, original: str) -> "AlignedText":
        """A text at the beginning of its way."""
        return cls(original, list(range(len(original))), list(range(1, len(original) + 1)))

    def part(self, start: int, end: int) -> "AlignedText":
        """The characters from `start` to `end`."""
        return AlignedText(self.value[start:end], self.starts[start:end], self.ends[start:end])

    def rewrite(self, rules: Iterable[Rule]) -> None:
        for guard, pattern, template in rules:
            if guard in self.value:
                self._substitute(pattern, template)

    def strip(self) -> None:
        start = len(self.value) - len(self.value.lstrip())
        self._become([self.part(start, max(start, len(self.value.rstrip())))])

    def remove_unprintable(self) -> None:
        if not self.value.isprintable():
            kept = (i for i, c in enumerate(self.value) if c.isprintable() or not is_unprintable(c))
            self._become([self.part(i, i + 1) for i in kept])

    def detach_full_stops(self, choose: Callable[[list[str]], list[int]]) -> None:
        words = self.split()
        chosen = set(choose([word.value for word in words]))
        parts = []
        for index, word in enumerate(words):
            last = len(word.value) - 1
            parts += [word.part(0, last), word.part(last, last + 1)] if index in chosen else [word]
        self._become(_spaced(parts))

    def fold(self) -> None:
        # Stretch by stretch: where one cannot be folded character by character, only its own spans blur.
        parts: list[AlignedText] = []
        for match in re.finditer(r"\S+|\s+", self.value):
            stretch = self.part(*match.span())
            folded = _folded(stretch)
            before = next((part for part in reversed(parts) if not part.value.isspace()), None)
            if folded.value:
                parts.append(folded)
            elif before and before.ends[-1] == stretch.starts[0]:  # an accent that Moses had cut off its letter
                before.ends[-1] = stretch.ends[-1]
        self._become(parts)

    def split(self, separator: str | None = None) -> list["AlignedText"]:
        """As `str.split`, but never with empty parts."""
        pattern = r"\S+" if separator is None else f"[^{re.escape(separator)}]+"
        return [self.part(*match.span()) for match in re.finditer(pattern, self.value)]

    def segments(self, parts: list[str]) -> list["AlignedText"]:
        """A part that does not occur is taken to have replaced as many characters at its place."""
        found = []
        position = 0
        for part in parts:
            start = self.value.find(part, position)
            if start >= 0:
                position = start + len(part)
                found.append(self.part(start, position))
            else:
                start, position = position, min(position + len(part), len(self.value))
                found.append(self._literal(part, start, position))
        return found

    def spaced(self, parts: list[str]) -> "AlignedText":
        result = AlignedText("", [], [])
        result._become(_spaced(self.segments(parts)))
        return result

    def _become(self, parts: list["AlignedText"]) -> None:
        self.value = "".join([part.value for part in parts])
        self.starts = [start for part in parts for start in part.starts]
        self.ends = [end for part in parts for end in part.ends]

    def _substitute(self, pattern: re.Pattern[str], template: Template) -> None:
        parts = []
        position = 0
        for match in pattern.finditer(self.value):
            parts += [self.part(position, match.start()), self._filled(match, template)]
            position = match.end()
        if parts:
            self._become([*parts, self.part(position, len(self.value))])

    def _filled(self, match: re.Match[str], template: Template) -> "AlignedText":
        """What a match becomes."""
        if not isinstance(template, str):
            replacement = template(match)
            unchanged = replacement == match[0]
            return self.part(*match.span()) if unchanged else self._literal(replacement, *match.span())
        fields = _GROUP.split(template)  # a literal, a group, a literal, ...
        parts = []
        position = match.start()
        for index, field in enumerate(fields):
            if index % 2:
                start, end = match.span(int(field))
                parts.append(self.part(max(start, 0), max(end, 0)))  # (-1, -1) if it took no part
                position = max(position, end)
            elif field:
                following = match.start(int(fields[index + 1])) if index + 1 < len(fields) else match.end()
                parts.append(self._literal(field, position, max(position, following)))
        filled = AlignedText("", [], [])
        filled._become(parts)
        filled._put_in_order()
        return filled

    def _literal(self, text: str, start: int, end: int) -> "AlignedText":
        """`text` in place of the characters from `start` to `end`, white space around them left aside."""
        if not text.isspace():
            while end - start > 1 and self.value[start].isspace():
                start += 1
            while end - start > 1 and self.value[end - 1].isspace():
                end -= 1
        if start < end:
            first, last = self.starts[start], self.ends[end - 1]
        else:
            first = last = self.ends[start - 1] if start else self.starts[0] if self.starts else 0
        return AlignedText(text, [first] * len(text), [last] * len(text))

    def _put_in_order(self) -> None:
        """Where the spans go backwards, let all characters concerned stand for all of it."""
        blocks: list[tuple[int, int, int]] = []
        for start, end in zip(self.starts, self.ends, strict=True):
            characters = 1
            while blocks and (blocks[-1][0] > start or blocks[-1][1] > end):
                before = blocks.pop()
                start, end, characters = min(start, before[0]), max(end, before[1]), characters + before[2]
            blocks.append((start, end, characters))
        self.starts = [start for start, _, characters in blocks for _ in range(characters)]
        self.ends = [end for _, end, characters in blocks for _ in range(characters)]


def _spaced(parts: list[AlignedText]) -> list[AlignedText]:
    """The parts with spaces between them."""
    result: list[AlignedText] = []
    for part in parts:
        if result and part.value:
            result.append(AlignedText(" ", part.starts[:1], part.starts[:1]))
        result.append(part)
    return result


def _folded(word: AlignedText) -> AlignedText:
    """A stretch without or of white space, folded; a dropped accent belongs to the character before it."""
    value = fold(word.value)
    if len(value) == len(word.value) and word.value.isascii():
        return AlignedText(value, word.starts, word.ends)
    starts: list[int] = []
    ends: list[int] = []
    for character, start, end in zip(word.value, word.starts, word.ends, strict=True):
        folded = fold(character)
        if not folded and ends:
            ends[-1] = max(ends[-1], end)
        starts += [start] * len(folded)
        ends += [end] * len(folded)
    if len(starts) != len(value):  # its characters change each other
        return word._literal(value, 0, len(word.value))
    return AlignedText(value, starts, ends)


def piece_offsets(word: AlignedText, pieces: list[str]) -> list[tuple[int, int]]:
    """The span of the original that each piece of a word stands for; the whole word's for a piece without text."""
    offsets = []
    position = 0
    for index, piece in enumerate(pieces):
        text = piece.removesuffix(END_OF_WORD) if index == len(pieces) - 1 else piece
        # Pieces skip the word's spaces, if it has any.
        position = word.value.index(text, position)
        end = position + len(text)
        start, stop = (position, end) if text else (0, len(word.value))
        offsets.append((word.starts[start], word.ends[stop - 1]))
        position = end
    return offsets
