"""Sentences with Universal Dependencies tags that people made, read from JSON lines: `lang`, `id`, `tokens`, `upos`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xlmstream_worker.xlm import XLMTokenizer

from .bpe import END_OF_WORD
from .corpus import CorpusError
from .word_classes import TAGS

APOSTROPHES = ("'", "’")
# Words that are written onto the next, or onto the one before.
ELIDING = frozenset({"fr"})
CLITICS = frozenset({"en"})


@dataclass(frozen=True)
class Annotated:
    """A sentence: its syntactic words and their tags. Translations share their `key`."""

    lang: str
    key: str
    words: tuple[str, ...]
    tags: tuple[str, ...]

    def written(self) -> tuple[str, list[int]]:
        """The sentence as one text, and for each word the place in it of its last code point. Words stand apart, but
        for those that apostrophes join; a fused word stays split as the treebank has it (`de le`)."""
        text, ends = "", []
        for place, word in enumerate(self.words):
            joined = place and (
                (self.lang in ELIDING and self.words[place - 1].endswith(APOSTROPHES))
                or (self.lang in CLITICS and (word.startswith(APOSTROPHES) or word[1:2] in APOSTROPHES) and word[1:])
            )
            text += word if joined or not place else f" {word}"
            ends.append(len(text) - 1)
        return text, ends


def read_annotated(path: Path) -> Iterator[Annotated]:
    """The sentences of a file, in its order. Raises CorpusError for a line that is none, with its number."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            words, tags = tuple(entry["tokens"]), tuple(entry["upos"])
            if len(words) != len(tags) or not set(tags) <= set(TAGS):
                raise ValueError("one tag of Universal Dependencies a word is needed")
            yield Annotated(entry["lang"], entry["id"], words, tags)
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{path}, line {number}: no sentence with tags: {error!r}") from error


def pieces_of(sentence: Annotated, tokenizer: XLMTokenizer) -> tuple[list[int], list[tuple[int, str]]]:
    """The ids of the written sentence, without special tokens, and for each word the place of the first piece of the
    tokenizer's word that it ends in, and its tag. Of two words in one (`cannot`) the last counts."""
    text, ends = sentence.written()
    encoded = tokenizer(text, lang=sentence.lang, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    pieces = tokenizer.tokenize(text, lang=sentence.lang)
    firsts = [place for place in range(len(ids)) if place == 0 or pieces[place - 1].endswith(END_OF_WORD)]
    found: dict[int, str] = {}
    for end, tag in zip(ends, sentence.tags, strict=True):
        holders = [first for first in firsts if offsets[first][0] <= end]
        if holders:
            found[holders[-1]] = tag
    return ids, sorted(found.items())
