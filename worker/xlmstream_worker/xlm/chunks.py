"""Stretches of text between spaces whose words do not depend on their neighbours.

Most of a text needs none of the rules of `normalize` and `moses`, and those that it needs mostly look no further
than the spaces around. A chunk that is self-contained in this sense can be cut into words alone, once, and be
remembered. What a full stop at its end becomes depends on what follows; a chunk's key says so.
"""

import re

from xlmstream_worker.xlm.moses import MARKER
from xlmstream_worker.xlm.rewriting import fold
from xlmstream_worker.xlm.words import WordCutter, moses_of

# What becomes an apostrophe, a comma or a full stop looks at the characters around it: not at an edge.
_APOSTROPHES = "'`’‘´‚"
# These swallow the spaces after them.
_SWALLOWING = "。．"
_SELF_CONTAINED = re.compile(f"(?=[^.,，、{_APOSTROPHES}])[^{_SWALLOWING}]*(?<![{_APOSTROPHES}])", re.DOTALL)
# Here a full stop and a quotation mark after it change places, except at the end of the text.
_QUOTE_MOVING_LANGUAGES = ("de", "es", "fr")
_QUOTES = tuple('"„“”«»《》「」')

# A key is a chunk, or a chunk that ends in a full stop and one of these. They show what follows.
AT_END, _BEFORE_LOWER, _BEFORE_DIGIT, _BEFORE_OTHER = " ", " a", " 1", " A"
_DIGITS = frozenset("0123456789０１２３４５６７８９")


class ChunkCutter:
    """Cuts text of one language, written with spaces, into chunks and chunks into words. Threads may share it."""

    def __init__(self, cutter: WordCutter, lang: str) -> None:
        self._cutter = cutter
        self._lang = lang
        self._moses = moses_of(lang)
        self._quotes_move = lang in _QUOTE_MOVING_LANGUAGES
        # A plain word, perhaps with a mark or a full stop; in Romanian, letters are not plain.
        plain = self._moses.plain if lang != "ro" else "(?!)"
        self._simple = re.compile(f"({plain})(?:([,;:?!])|(\\.)( .?))?").fullmatch

    def keys(self, text: str) -> list[str]:
        """The chunks; a full stop before the end of the text is marked, others are for `key` to mark."""
        chunks = text.split(" ")
        if "" in chunks:
            chunks = [chunk for chunk in chunks if chunk]
        if chunks and chunks[-1][-1] == ".":
            chunks[-1] += AT_END
        return chunks

    def key(self, chunk: str, following: str) -> str:
        """The key of a chunk that ends in a full stop, before another chunk."""
        first = following[0]
        if first in self._moses.lower:
            return chunk + _BEFORE_LOWER
        return chunk + (_BEFORE_DIGIT if first in _DIGITS else _BEFORE_OTHER)

    def words(self, key: str) -> list[str] | None:
        """The words of a chunk, or None if it is not self-contained."""
        simple = self._simple(key)
        if simple is not None and MARKER not in key:
            word, mark, full_stop, following = simple.groups()
            if full_stop:
                mark = "" if self._moses.keeps_full_stop(word + ".", following.strip()) else "."
            return self._folded(word + "." if full_stop and not mark else word, mark)
        chunk, _, following = key.partition(" ")
        if not chunk.isprintable() or not _SELF_CONTAINED.fullmatch(chunk):
            return None
        if self._quotes_move and chunk.endswith(_QUOTES):
            return None
        words = self._cutter.plain_words(key, self._lang)
        return words[:-1] if following else words

    def _folded(self, word: str, mark: str | None) -> list[str]:
        """A word, unless folding leaves nothing of it, and the mark behind it, if there is one."""
        if self._cutter.folds:
            word = fold(word)
        if not mark:
            return [word] if word else []
        return [word, mark] if word else [mark]
