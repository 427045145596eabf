"""Vocabularies, our tokenizer and transformers' on each, and text for hypothesis."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import effort
import pytest
from tokenizer.toy import ALL_SENTENCES, SENTENCES, write_vocabulary
from xlmstream_worker.xlm.tokenizer import XLMTokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


class Sides(NamedTuple):
    """The same vocabulary in our tokenizer and in transformers'."""

    ours: XLMTokenizer
    oracle: Any
    name: str


@pytest.fixture(scope="session")
def toy_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vocabulary trained on our own sentences, folded."""
    return write_vocabulary(tmp_path_factory.mktemp("toy"), ALL_SENTENCES)


@pytest.fixture(scope="session")
def cased_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, case and accents kept (as the 17- and 100-language models)."""
    return write_vocabulary(tmp_path_factory.mktemp("cased"), ALL_SENTENCES, lowercase=False)


@pytest.fixture(scope="session")
def genuine_directory() -> Path:
    """XLM's own English-French vocabulary."""
    if not SHARED.is_dir():
        pytest.skip("the published vocabulary (../shared/data) is not here")
    return SHARED / "xlm-enfr"


@pytest.fixture
def toy(toy_directory: Path) -> XLMTokenizer:
    return XLMTokenizer.from_pretrained(toy_directory)


@pytest.fixture(scope="session")
def transformers_tokenizer() -> Any:
    """The oracle's class."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity(50)
    return transformers.XLMTokenizer


@pytest.fixture(scope="session", params=["toy", "cased", "genuine"])
def sides(request: pytest.FixtureRequest, transformers_tokenizer: Any) -> Sides:
    """Both tokenizers on each vocabulary; for tests that leave them as they are."""
    directory = request.getfixturevalue(f"{request.param}_directory")
    return Sides(
        XLMTokenizer.from_pretrained(directory), transformers_tokenizer.from_pretrained(directory), request.param
    )


@pytest.fixture
def fresh(toy_directory: Path, transformers_tokenizer: Any) -> Sides:
    """Both tokenizers on the toy vocabulary, to be changed."""
    # transformers appends to its own default list, which then is another tokenizer's default too.
    special = [f"<special{index}>" for index in range(10)]
    oracle = transformers_tokenizer.from_pretrained(toy_directory, additional_special_tokens=special)
    return Sides(XLMTokenizer.from_pretrained(toy_directory), oracle, "toy")


@pytest.fixture(scope="session")
def all_sentences() -> list[tuple[str, str]]:
    """(language, text): our own, and all the published ones where they are."""
    rows = [(lang, text) for lang, texts in SENTENCES.items() for text in texts]
    if SHARED.is_dir():
        lines = (SHARED / "sentences.jsonl").read_text(encoding="utf-8").splitlines()
        rows += [(row["lang"], row["text"]) for row in map(json.loads, lines)]
    return rows


@pytest.fixture(scope="session")
def sentences(all_sentences: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Our own, and a part of the published ones, for tests that look at each in several ways."""
    own = len(ALL_SENTENCES)
    return all_sentences[:own] + all_sentences[own :: 4 if effort.DEEP else 12]
