"""A toy corpus in three languages: word-for-word translations of short sentences, and what is made from it."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from xlmstream_worker.training.corpus import Aligned, encode_files
from xlmstream_worker.training.pipeline import learn_tokenizer
from xlmstream_worker.training.recipe import Recipe, recipe_from
from xlmstream_worker.training.vocabulary import encode_words
from xlmstream_worker.xlm import XLMTokenizer

WORDS = {
    "de": ["der", "Hund", "die", "Katze", "sieht", "hört", "ruft", "und", "heute", "nicht", "König", "Stadt"],
    "en": ["the", "dog", "a", "cat", "sees", "hears", "calls", "and", "today", "not", "king", "city"],
    "fr": ["le", "chien", "la", "chatte", "voit", "entend", "appelle", "et", "aujourd'hui", "pas", "roi", "ville"],
}


def toy_lines(rows: int) -> list[str]:
    """A header and rows: split, then one sentence in each language, the same words in the same order."""
    random_source = random.Random(5)
    lines = ["\t".join(["ref", "split", *WORDS])]
    for row in range(rows):
        picks = [random_source.randrange(12) for _ in range(random_source.randint(3, 9))]
        texts = [" ".join(words[pick] for pick in picks) + "." for words in WORDS.values()]
        lines.append("\t".join([str(row), {0: "valid", 1: "test"}.get(row % 10, "train"), *texts]))
    return lines


def toy_recipe(**changes: object) -> Recipe:
    """A causal recipe that trains in a second or two; keywords replace whole entries of the document."""
    document: dict[str, object] = {
        "name": "toy",
        "languages": ["de", "en", "fr"],
        "vocabulary_size": 420,
        "validate_every": 20,
        "architecture": {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_positions": 32, "dropout": 0.1},
        "objectives": {"clm": {"batch_tokens": 128}},
        "schedule": {"steps": 40, "warmup_steps": 5, "peak_lr": 1e-2},
    }
    return recipe_from(document | changes)


@pytest.fixture(scope="session")
def toy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy corpus on disk."""
    path = tmp_path_factory.mktemp("corpus") / "toy.tsv"
    path.write_text("\n".join(toy_lines(400)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def toy_tokenizer(toy_file: Path, tmp_path_factory: pytest.TempPathFactory) -> XLMTokenizer:
    """Its tokenizer."""
    return learn_tokenizer(toy_recipe(), [toy_file], tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def toy_corpus(toy_file: Path, toy_tokenizer: XLMTokenizer) -> dict[str, Aligned]:
    """The corpus as ids."""
    return encode_files([toy_file], ["de", "en", "fr"], partial(encode_words, toy_tokenizer))


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    """`toy_recipe`, for tests that vary it."""
    return toy_recipe
