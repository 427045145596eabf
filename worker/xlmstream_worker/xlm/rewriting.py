"""Text on its way through rewriting rules, with or without memory of where each character came from.

The steps that turn text into words are written once, against `Text`. Over `PlainText` they are fast; over
`AlignedText` every character keeps the span of the original text it stands for, which gives exact offsets.
A rule is data (`Rule`), so both carriers read the same tables.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple, Protocol, Self

Template = str | Callable[[re.Match[str]], str]

# The template that puts spaces around each match (its only group).
PADDED = r" \1 "


class Rule(NamedTuple):
    r"""Replace every match of `pattern` by `template`.

    `guard` is contained in every match: where it is absent the rule cannot fire and is skipped ("" = always
    try). In a template `\1` to `\9` are groups, and a literal stands for whatever the pattern matched between
    the groups around it. A function template gives the literal for the whole match.
    """

    guard: str
    pattern: re.Pattern[str]
    template: Template


def rule(guard: str, pattern: str, template: Template) -> Rule:
    """A `Rule` from the source of its pattern."""
    return Rule(guard, re.compile(pattern), template)


def replace_characters(table: dict[str, str]) -> Rule:
    """A rule that replaces single characters."""
    return rule("", f"[{re.escape(''.join(table))}]", lambda match: table[match[0]])


class Text(Protocol):
    """What the steps from text to words need. Methods that return None change the text in place."""

    @property
    def value(self) -> str: ...

    def rewrite(self, rules: Iterable[Rule]) -> None:
        """Apply the rules in order."""

    def strip(self) -> None:
        """Drop white space at both ends."""

    def remove_unprintable(self) -> None:
        """Drop the characters of general categories C* (control, format, surrogate, unassigned, private)."""

    def detach_full_stops(self, choose: Callable[[list[str]], list[int]]) -> None:
        """Put a space before the last character of the chosen words; white space becomes single spaces."""

    def fold(self) -> None:
        """Lower-case and drop accents: the function `fold`."""

    def split(self, separator: str | None = None) -> list[Self]:
        """As `str.split`."""

    def segments(self, parts: list[str]) -> list[Self]:
        """Cut into `parts`, which occur in this order in the text."""

    def spaced(self, parts: list[str]) -> Self:
        """Cut into `parts` and joined again by single spaces."""


@lru_cache(maxsize=1)
def _nonspacing_marks() -> re.Pattern[str]:
    """The nonspacing marks (Mn) of the basic plane, by this Python's Unicode version."""
    marks = [chr(point) for point in range(0x10000) if unicodedata.category(chr(point)) == "Mn"]
    return re.compile(f"[{re.escape(''.join(marks))}]")


def fold(text: str) -> str:
    """Lower-case, decompose (NFD) and drop nonspacing marks, as the training data of the uncased models was."""
    text = text.lower()
    if text.isascii():
        return text
    text = unicodedata.normalize("NFD", text)
    if max(text) <= "\uffff":
        return _nonspacing_marks().sub("", text).lower()
    return "".join(character for character in text if unicodedata.category(character) != "Mn").lower()


def is_unprintable(character: str) -> bool:
    """Whether the general category is one of C*."""
    return unicodedata.category(character)[0] == "C"


class PlainText:
    """`Text` without memory."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def rewrite(self, rules: Iterable[Rule]) -> None:
        value = self.value
        for guard, pattern, template in rules:
            if guard in value:
                # Splitting and joining pads too, without a template to fill at every match.
                padded = template is PADDED
                value = " ".join(pattern.split(value)) if padded else pattern.sub(template, value)
        self.value = value

    def strip(self) -> None:
        self.value = self.value.strip()

    def remove_unprintable(self) -> None:
        # isprintable is False for the categories C* and Z* except the space: a test at C speed.
        if not self.value.isprintable():
            self.value = "".join(c for c in self.value if c.isprintable() or not is_unprintable(c))

    def detach_full_stops(self, choose: Callable[[list[str]], list[int]]) -> None:
        words = self.value.split()
        for index in choose(words):
            words[index] = f"{words[index][:-1]} {words[index][-1]}"
        self.value = " ".join(words)

    def fold(self) -> None:
        self.value = fold(self.value)

    def split(self, separator: str | None = None) -> list["PlainText"]:
        return [PlainText(word) for word in self.value.split(separator)]

    def segments(self, parts: list[str]) -> list["PlainText"]:
        return [PlainText(part) for part in parts]

    def spaced(self, parts: list[str]) -> "PlainText":
        return PlainText(" ".join(parts))
