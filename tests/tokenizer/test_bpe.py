"""Byte-pair encoding: the quick ways against the plain definition, and words of any length."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer.texts import examples
from xlmstream_worker.xlm.bpe import END_OF_WORD, BytePairEncoder

Ranks = dict[tuple[str, str], int]

LETTERS = "abc"
SYMBOLS = [a + b for a in ("", *LETTERS, "ab", "aa", "ba") for b in LETTERS]
words = st.text(alphabet=LETTERS, min_size=1, max_size=40)
# Any order of merges, also such as no training gives: a later merge of an earlier one's result may rank lower.
ranks = st.lists(
    st.tuples(st.sampled_from(SYMBOLS), st.sampled_from([*SYMBOLS, *(s + END_OF_WORD for s in SYMBOLS)])),
    unique=True,
    max_size=25,
).map(lambda pairs: {pair: rank for rank, pair in enumerate(pairs)})


def defined(word: str, ranks: Ranks) -> list[str]:
    """Merge the known pair of lowest rank everywhere, from left to right; begin again."""
    symbols = [*word[:-1], word[-1] + END_OF_WORD]
    while True:
        known = [pair for pair in pairwise(symbols) if pair in ranks]
        if not known:
            return symbols
        best = min(known, key=ranks.__getitem__)
        place = 0
        while place + 1 < len(symbols):
            if (symbols[place], symbols[place + 1]) == best:
                symbols[place : place + 2] = ["".join(best)]
            place += 1


@given(word=words, ranks=ranks)
@examples
def test_both_ways_are_the_definition(word: str, ranks: Ranks) -> None:
    encoder = BytePairEncoder(ranks)
    symbols = [*word[:-1], word[-1] + END_OF_WORD]
    assert encoder.pieces(word) == defined(word, ranks)
    assert encoder._merge_by_heap(list(symbols)) == encoder._merge_by_scanning(list(symbols))


@given(word=st.text(alphabet="ab", min_size=65, max_size=300), ranks=ranks)
@examples
def test_long_words(word: str, ranks: Ranks) -> None:
    assert BytePairEncoder(ranks).pieces(word) == defined(word, ranks)


def test_a_million_characters_are_no_matter() -> None:
    encoder = BytePairEncoder({("a", "b"): 0, ("ab", "ab"): 1, ("abab", "abab"): 2, ("b", "a"): 3})
    pieces = encoder.pieces("ab" * 500_000)
    assert "".join(pieces) == "ab" * 500_000 + END_OF_WORD
    # The word's last "b" carries the mark, so its last "ab" stays apart; what then is left over has ranks 0 and 1.
    assert pieces == ["abababab"] * 124_999 + ["abab", "ab", "a", "b" + END_OF_WORD]


@pytest.mark.parametrize("word", ["a", "é", "\ud800", "\U0001f600"])
def test_one_character(word: str) -> None:
    assert BytePairEncoder({}).pieces(word) == [word + END_OF_WORD]


@pytest.mark.parametrize(("word", "pieces"), [(" ", ["", END_OF_WORD]), ("a b", ["a", "", "", "b" + END_OF_WORD])])
def test_words_with_spaces_lose_them(word: str, pieces: list[str]) -> None:
    assert BytePairEncoder({}).pieces(word) == pieces


def test_without_merges_letters_stay() -> None:
    assert BytePairEncoder({}).pieces("abc") == ["a", "b", "c" + END_OF_WORD]
