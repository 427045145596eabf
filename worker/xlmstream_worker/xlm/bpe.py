"""Byte-pair encoding of one word, in the dialect of XLM: the last symbol of a word carries `</w>`.

Knows merges, and nothing of vocabularies, languages or text.

Source: Sennrich et al. 2016 (arXiv 1508.07909), section 3.2; facebookresearch/XLM through fastBPE.
"""

from heapq import heapify, heappop, heappush
from itertools import pairwise, repeat
from sys import intern

END_OF_WORD = "</w>"

# More than any rank, and still one machine digit of a Python integer.
_UNKNOWN = (1 << 30) - 1
# Up to this many symbols, scanning a short list is quicker than keeping a heap.
_SCAN_UP_TO_SYMBOLS = 64


class BytePairEncoder:
    """Applies merges to words. Immutable, so threads may share it.

    Args:
        ranks: for each pair of symbols that merges, its rank, at least 0; no two pairs share one, lower ranks
            merge first.
    """

    def __init__(self, ranks: dict[tuple[str, str], int]) -> None:
        # Interned symbols compare by identity, and the merged ones need not be joined again.
        self._ranks = {(intern(left), intern(right)): rank for (left, right), rank in ranks.items()}
        # Where every word starts, in a table small enough for the processor's cache.
        letters = {
            (left, right) for left, right in self._ranks if len(left) == len(right.removesuffix(END_OF_WORD)) == 1
        }
        self._letter_ranks = {pair: self._ranks[pair] for pair in letters}
        self._merged = [""] * (max(ranks.values(), default=-1) + 1)
        for (left, right), rank in ranks.items():
            self._merged[rank] = intern(left + right)

    def pieces(self, word: str) -> list[str]:
        """The symbols that `word` (not empty) ends up as; their concatenation is `word` + `</w>`.

        The known pair of lowest rank merges at all its places, left to right without overlap, until no pair is
        known. Takes O(n log n) for n characters. A word with spaces (Thai tokenizers make such) loses them and
        leaves empty pieces, as in the original, where pieces travel joined by spaces.
        """
        symbols = list(word)
        symbols[-1] += END_OF_WORD
        short = len(symbols) <= _SCAN_UP_TO_SYMBOLS
        symbols = self._merge_by_scanning(symbols) if short else self._merge_by_heap(symbols)
        return " ".join(symbols).split(" ") if " " in word else symbols

    def _merge_by_scanning(self, symbols: list[str]) -> list[str]:
        """O(n^2) with a small constant."""
        rank_of = self._ranks.get
        ranks = list(map(self._letter_ranks.get, pairwise(symbols), repeat(_UNKNOWN)))
        while ranks and (lowest := min(ranks)) != _UNKNOWN:
            if ranks.count(lowest) > 1:
                symbols = _merge_everywhere(symbols, ranks, lowest)
                ranks = list(map(rank_of, pairwise(symbols), repeat(_UNKNOWN)))
                continue
            place = ranks.index(lowest)
            symbols[place] = merged = self._merged[lowest]
            del symbols[place + 1], ranks[place]
            if place:
                ranks[place - 1] = rank_of((symbols[place - 1], merged), _UNKNOWN)
            if place < len(ranks):
                ranks[place] = rank_of((merged, symbols[place + 1]), _UNKNOWN)
        return symbols

    def _merge_by_heap(self, symbols: list[str]) -> list[str]:
        """O(n log n): a linked list of symbols, the places of each rank in a bucket, the ranks in a heap."""
        rank_of = self._ranks.get
        end = len(symbols)
        following = [*range(1, end), end]
        preceding = list(range(-1, end - 1))
        merged_away = bytearray(end)
        buckets: dict[int, list[int]] = {}
        for place, pair in enumerate(pairwise(symbols)):
            if (rank := rank_of(pair, _UNKNOWN)) != _UNKNOWN:
                buckets.setdefault(rank, []).append(place)
        heap = list(buckets)
        heapify(heap)

        while heap:
            rank = heappop(heap)
            grown = []
            for place in sorted(buckets.pop(rank)):
                right = following[place]
                # The bucket may be stale: either symbol can have changed since the place was noted.
                if merged_away[place] or right == end or rank_of((symbols[place], symbols[right])) != rank:
                    continue
                symbols[place] += symbols[right]
                merged_away[right] = True
                following[place] = after = following[right]
                if after != end:
                    preceding[after] = place
                grown.append(place)
            # Only now: the new pairs must not overtake the places that were still to be merged.
            for place in grown:
                for left in (preceding[place], place):
                    right = following[left] if left >= 0 else end
                    if right == end:
                        continue
                    rank = rank_of((symbols[left], symbols[right]), _UNKNOWN)
                    if rank == _UNKNOWN:
                        continue
                    if rank not in buckets:
                        buckets[rank] = []
                        heappush(heap, rank)
                    buckets[rank].append(left)
        return [symbol for symbol, gone in zip(symbols, merged_away, strict=True) if not gone]


def _merge_everywhere(symbols: list[str], ranks: list[int], rank: int) -> list[str]:
    """Merge the pair of `rank` at all its places; `ranks[i]` belongs to the pair at i and i + 1."""
    result = []
    place = 0
    while place < len(symbols):
        if place < len(ranks) and ranks[place] == rank:
            result.append(symbols[place] + symbols[place + 1])
            place += 2
        else:
            result.append(symbols[place])
            place += 1
    return result
