"""Learn a byte-pair vocabulary in XLM's format: `vocab.json` and `merges.txt`.

Knows words and how often each occurs; knows nothing of languages, files of text or how words were cut.
Source: Sennrich et al. 2016 (arXiv:1508.07909), the end-of-word mark inside the last symbol as in facebookresearch/XLM.
"""

import heapq
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

END_OF_WORD = "</w>"
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<unk>", *(f"<special{index}>" for index in range(10)))

Pair = tuple[str, str]


class VocabularyError(ValueError):
    """The wanted vocabulary is smaller than the alphabet."""


@dataclass(frozen=True)
class Vocabulary:
    """`tokens` in id order, the 14 special tokens first; `merges` in rank order with the count each had when chosen."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[Pair, int], ...]

    def save(self, directory: str | Path) -> None:
        """Write `vocab.json` (token: id) and `merges.txt` (`left right count`), as XLM tokenizers read them."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        ids = {token: index for index, token in enumerate(self.tokens)}
        (target / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        lines = "".join(f"{left} {right} {count}\n" for (left, right), count in self.merges)
        (target / "merges.txt").write_text(lines, encoding="utf-8")


def learn_vocabulary(words: Mapping[str, int], size: int, alphabet: Iterable[str] = ()) -> Vocabulary:
    """A vocabulary of exactly `size` tokens, or fewer when every word has become one token.

    `words` maps a word (non-empty, no spaces) to its count. `alphabet` adds characters that the words may lack, so
    that they are not unknown later. Each character is held twice: inside a word, and closing one.
    Equal counts are broken by the order of the pair's text, so the result does not depend on the order of `words`.
    Ids after the special tokens run from frequent to rare, as counted in the segmented words.

    Raises VocabularyError if `size` does not even hold the special tokens and the characters.
    """
    segmented = {word: [*word[:-1], word[-1] + END_OF_WORD] for word in words}
    characters = set(alphabet).union(*words)
    symbols = {form for char in characters for form in (char, char + END_OF_WORD)}
    room = size - len(SPECIAL_TOKENS) - len(symbols)
    if room < 0:
        raise VocabularyError(f"a vocabulary of {size} cannot hold {len(symbols)} characters and the special tokens")
    merges: list[tuple[Pair, int]] = []
    pairs = _PairIndex(segmented, words)
    while len(merges) < room and (best := pairs.most_frequent()) is not None:
        merges.append(best)
        joined = "".join(best[0])
        # Two different pairs can spell the same token; it takes one id.
        room += joined in symbols
        symbols.add(joined)
        pairs.merge(best[0])
    counts: Counter[str] = Counter(dict.fromkeys(symbols, 0))
    for word, pieces in segmented.items():
        for piece in pieces:
            counts[piece] += words[word]
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    return Vocabulary((*SPECIAL_TOKENS, *ranked), tuple(merges))


class _PairIndex:
    """Counts of adjacent pairs over all words, kept up to date as words are merged in place.

    `most_frequent` reads a heap whose stale entries are skipped: an entry counts only if it still holds the pair's
    present count. Each merge touches the words that hold the pair, no others.
    """

    def __init__(self, segmented: dict[str, list[str]], word_counts: Mapping[str, int]) -> None:
        self._segmented = segmented
        self._word_counts = word_counts
        self._counts: Counter[Pair] = Counter()
        self._words_with: defaultdict[Pair, set[str]] = defaultdict(set)
        for word in segmented:
            self._add(word)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self) -> tuple[Pair, int] | None:
        """The pair with the highest count, the smallest of equals; None when no word has two symbols left."""
        while self._heap:
            count, pair = self._heap[0]
            if self._counts.get(pair) == -count:
                return pair, -count
            heapq.heappop(self._heap)
        return None

    def merge(self, pair: Pair) -> None:
        """Join `pair` wherever it occurs, left to right without overlap."""
        touched: set[Pair] = set()
        for word in tuple(self._words_with[pair]):
            touched |= self._remove(word)
            self._segmented[word][:] = merge_pair(self._segmented[word], pair)
            touched |= self._add(word)
        for changed in touched:
            if self._counts[changed]:
                heapq.heappush(self._heap, (-self._counts[changed], changed))
            else:
                del self._counts[changed], self._words_with[changed]

    def _add(self, word: str) -> set[Pair]:
        pairs = self._pairs_of(word)
        for pair in pairs:
            self._counts[pair] += self._word_counts[word]
            self._words_with[pair].add(word)
        return set(pairs)

    def _remove(self, word: str) -> set[Pair]:
        pairs = self._pairs_of(word)
        for pair in pairs:
            self._counts[pair] -= self._word_counts[word]
            self._words_with[pair].discard(word)
        return set(pairs)

    def _pairs_of(self, word: str) -> list[Pair]:
        symbols = self._segmented[word]
        return list(itertools.pairwise(symbols))


def merge_pair(symbols: list[str], pair: Pair) -> list[str]:
    """`symbols` with every non-overlapping occurrence of `pair`, from the left, joined into one symbol."""
    merged: list[str] = []
    index = 0
    while index < len(symbols):
        if tuple(symbols[index : index + 2]) == pair:
            merged.append(symbols[index] + symbols[index + 1])
            index += 2
        else:
            merged.append(symbols[index])
            index += 1
    return merged
