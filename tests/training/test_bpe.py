"""The vocabulary learner against a reference that recounts everything after every merge."""

from collections import Counter
from pathlib import Path

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from xlmstream_worker.training.bpe import END_OF_WORD, SPECIAL_TOKENS, learn_vocabulary, merge_pair
from xlmstream_worker.xlm import XLMTokenizer

WORDS = st.dictionaries(st.text("abcé", min_size=1, max_size=7), st.integers(1, 9), min_size=1, max_size=12)


def naive_merges(words: dict[str, int], count: int) -> list[tuple[tuple[str, str], int]]:
    """The first `count` merges, each found by counting all pairs of all words anew."""
    segmented = {word: [*word[:-1], word[-1] + END_OF_WORD] for word in words}
    merges = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in segmented.items():
            for index in range(len(symbols) - 1):
                pairs[symbols[index], symbols[index + 1]] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append((best, pairs[best]))
        segmented = {word: merge_pair(symbols, best) for word, symbols in segmented.items()}
    return merges


@given(words=WORDS, extra=st.integers(0, 40))
@settings(max_examples=examples(150))
def test_merges_equal_those_of_a_full_recount(words: dict[str, int], extra: int) -> None:
    characters = len({char for word in words for char in word})
    vocabulary = learn_vocabulary(words, len(SPECIAL_TOKENS) + 2 * characters + extra)
    assert list(vocabulary.merges) == naive_merges(words, len(vocabulary.merges))
    full = len(vocabulary.tokens) == len(SPECIAL_TOKENS) + 2 * characters + extra
    assert full or len(vocabulary.merges) == len(naive_merges(words, 10_000))


@given(words=WORDS)
@settings(max_examples=examples(50))
def test_order_of_words_does_not_matter(words: dict[str, int]) -> None:
    assert learn_vocabulary(words, 60) == learn_vocabulary(dict(reversed(words.items())), 60)


def test_tokens_begin_with_the_special_ones_then_run_from_frequent_to_rare() -> None:
    vocabulary = learn_vocabulary({"aa": 5, "ab": 3, "b": 1}, 14 + 4 + 1)
    assert vocabulary.tokens[:14] == SPECIAL_TOKENS
    assert vocabulary.tokens[14:] == ("aa" + END_OF_WORD, "b" + END_OF_WORD, "a", "a" + END_OF_WORD, "b")
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens)


def test_two_spellings_of_one_token_take_one_id() -> None:
    words = {"abc": 10, "xab": 8, "xbc": 8, "aabcx": 3, "ab": 4, "bc": 5}
    vocabulary = learn_vocabulary(words, 200)
    assert len(set(vocabulary.tokens)) == len(vocabulary.tokens)


def test_a_vocabulary_too_small_for_the_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold 6 characters"):
        learn_vocabulary({"abc": 1}, 19)


def test_files_make_a_tokenizer_that_cuts_words_as_they_were_learned(tmp_path: Path) -> None:
    words = {"newest": 6, "lowest": 4, "low": 9, "été": 3}
    vocabulary = learn_vocabulary(words, 14 + 2 * 11 + 6, alphabet="xyz")
    vocabulary.save(tmp_path)
    tokenizer = XLMTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt", do_lowercase_and_remove_accent=False)
    assert tokenizer.tokenize("low lowest") == ["low</w>", "lo", "west</w>"]
    assert tokenizer.tokenize("xyz") == ["x", "y", "z</w>"]
    assert tokenizer.encoder == {token: index for index, token in enumerate(vocabulary.tokens)}
