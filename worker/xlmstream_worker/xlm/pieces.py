"""From running text to pieces or ids, remembering the words and the chunks of text it has seen."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Generic, TypeVar

from xlmstream_worker.xlm.chunks import ChunkCutter
from xlmstream_worker.xlm.word_cache import GenerationCache
from xlmstream_worker.xlm.words import SEGMENTED_LANGUAGES, WordCutter

Item = TypeVar("Item")

_CACHED_ENTRIES = 200_000
# Longer words and chunks are rare, and not worth their memory.
_CACHED_CHARACTERS = 64


class _Chunks(Generic[Item]):
    """What one language needs: its chunks, and the items of those seen."""

    def __init__(self, cutter: ChunkCutter) -> None:
        self.cutter = cutter
        self.items: GenerationCache[tuple[Item, ...]] = GenerationCache(_CACHED_ENTRIES)


class PieceEncoder(Generic[Item]):
    """Cuts text into words and looks each word's items up. Threads may share it.

    Args:
        cutter: text to words.
        encode_word: word to its items: pieces or ids.
    """

    def __init__(self, cutter: WordCutter, encode_word: Callable[[str], Iterable[Item]]) -> None:
        self._cutter = cutter
        self._encode_word = encode_word
        # Tuples: the garbage collector stops looking at them.
        self._words: GenerationCache[tuple[Item, ...]] = GenerationCache(_CACHED_ENTRIES)
        self._chunks: dict[str, _Chunks[Item]] = {}

    def encode(self, text: str, lang: str) -> list[Item]:
        """The items of a text (lower-cased already where the model folds case).

        Chunks seen before cost a look-up each; one that depends on its neighbours sends the whole text through
        all rules.
        """
        if lang in SEGMENTED_LANGUAGES:
            return self.encode_fully(text, lang)
        chunks = self._chunks.get(lang)
        if chunks is None:
            chunks = self._chunks[lang] = _Chunks(ChunkCutter(self._cutter, lang))
        keys = chunks.cutter.keys(text)
        found = chunks.items.get_many(keys)
        if None in found and not self._complete(found, keys, chunks):
            return self.encode_fully(text, lang)
        return list(chain.from_iterable(found))  # type: ignore[arg-type]

    def encode_fully(self, text: str, lang: str) -> list[Item]:
        """The same by all rules, without looking at chunks."""
        return self.encode_words(self._cutter.plain_words(text, lang))

    def encode_words(self, words: list[str]) -> list[Item]:
        """The items of words, one word after the other."""
        found = self._words.get_many(words)
        if None in found:
            for index, word in enumerate(words):
                if found[index] is None:
                    found[index] = self._word(word)
        return list(chain.from_iterable(found))  # type: ignore[arg-type]

    def _word(self, word: str) -> tuple[Item, ...]:
        """The items of a word."""
        items = self._words.get(word)
        if items is None:
            items = tuple(self._encode_word(word))
            if len(word) <= _CACHED_CHARACTERS:
                self._words.put(word, items)
        return items

    def _complete(self, found: list[tuple[Item, ...] | None], keys: list[str], chunks: _Chunks[Item]) -> bool:
        """Fill the gaps of `found`; False if a chunk is not self-contained."""
        for index, items in enumerate(found):
            if items is not None:
                continue
            key = keys[index]
            if key[-1] == ".":
                key = chunks.cutter.key(key, keys[index + 1])
                items = chunks.items.get(key)
            if items is None:
                words = chunks.cutter.words(key)
                if words is None:
                    return False
                items = self._word(words[0]) if len(words) == 1 else tuple(self.encode_words(words))
                if len(key) <= _CACHED_CHARACTERS:
                    chunks.items.put(key, items)
            found[index] = items
        return True
