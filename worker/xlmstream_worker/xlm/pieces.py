"""From running text to pieces or ids, remembering the words it has seen."""

from collections.abc import Callable
from typing import Generic, TypeVar

from xlmstream_worker.xlm.caches import GenerationCache
from xlmstream_worker.xlm.rewriting import PlainText
from xlmstream_worker.xlm.words import WordCutter

Item = TypeVar("Item")

_CACHED_WORDS = 200_000
# Longer words are rare and not worth their memory.
_CACHED_WORD_CHARACTERS = 64


class PieceEncoder(Generic[Item]):
    """Cuts text into words and looks each word's items up. Threads may share it.

    Args:
        cutter: text to words.
        encode_word: word to its items: pieces or ids.
    """

    def __init__(self, cutter: WordCutter, encode_word: Callable[[str], list[Item]]) -> None:
        self._cutter = cutter
        self._encode_word = encode_word
        self._words: GenerationCache[list[Item]] = GenerationCache(_CACHED_WORDS)

    def encode(self, text: str, lang: str) -> list[Item]:
        """The items of a text (lower-cased already where the model folds case)."""
        return self.encode_words([word.value for word in self._cutter.words(PlainText(text), lang)])

    def encode_words(self, words: list[str]) -> list[Item]:
        """The items of words, one word after the other."""
        result: list[Item] = []
        for word in words:
            items = self._words.get(word)
            if items is None:
                items = self._encode_word(word)
                if len(word) <= _CACHED_WORD_CHARACTERS:
                    self._words.put(word, items)
            result += items
        return result
