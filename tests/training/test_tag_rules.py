"""The hidden Markov model of the tag rules, against sums over all sequences of tags; and translations of words."""

from itertools import pairwise, product

import numpy as np
import pytest
from xlmstream_worker.training.tag_rules import TagModel, forward_backward, translated_shares
from xlmstream_worker.training.word_classes import TAGS, WordClasses

STATES, STEPS = 3, 4


@pytest.fixture
def chain() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    emitted, first, follow = rng.random((2, STEPS, STATES)), rng.random(STATES), rng.random((STATES, STATES))
    return emitted, first / first.sum(), follow / follow.sum(1, keepdims=True)


def test_forward_backward_equals_the_sum_over_all_sequences(chain: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    emitted, first, follow = chain
    lengths = np.array([STEPS, STEPS - 1])
    shares, successions = forward_backward(emitted, lengths, first, follow)
    expected = np.zeros_like(follow)
    for row, length in enumerate(lengths):
        marginal, pairs, total = np.zeros((length, STATES)), np.zeros_like(follow), 0.0
        for path in product(range(STATES), repeat=int(length)):
            weight = first[path[0]] * np.prod([emitted[row, step, state] for step, state in enumerate(path)])
            weight *= np.prod([follow[a, b] for a, b in pairwise(path)])
            total += weight
            for step, state in enumerate(path):
                marginal[step, state] += weight
            for a, b in pairwise(path):
                pairs[a, b] += weight
        np.testing.assert_allclose(shares[row, :length], marginal / total)
        expected += pairs / total
    np.testing.assert_allclose(successions, expected)


def test_rows_do_not_depend_on_their_neighbours(chain: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    emitted, first, follow = chain
    together, _ = forward_backward(emitted, np.array([STEPS, 2]), first, follow)
    alone, _ = forward_backward(emitted[1:, :2], np.array([2]), first, follow)
    np.testing.assert_allclose(together[1, :2], alone[0])


def model_of(lang: str, lines: list[str]) -> TagModel:
    cut = [line.split() for line in lines]
    model = TagModel(WordClasses(lang, cut, []), cut)
    model.fit()
    return model


def test_an_unlisted_word_is_what_its_neighbours_make_of_it() -> None:
    model = model_of(
        "en", ["the florp is good .", "my florp and your florp .", "we blick it .", "they will blick him ."]
    )
    assert next(model.tags([["his", "florp", "will", "blick", "us", "."]])) == [
        "PRON",
        "NOUN",
        "AUX",
        "VERB",
        "PRON",
        "PUNCT",
    ]


def test_a_word_leans_towards_its_translations() -> None:
    english = ["florp , florp .", "zum , zum ."] * 4
    german = ["die Lampe .", "er redete ."] * 4
    models = {"en": model_of("en", english), "de": model_of("de", german)}
    rows = [{"en": mine.split(), "de": theirs.split()} for mine, theirs in zip(english, german, strict=True)]
    found = translated_shares(models, rows)["en"]
    assert TAGS[int(found["florp"].argmax())] == "NOUN"
    assert found["florp"].sum() == pytest.approx(1)
