"""Encoding chunk by chunk, with a cache, equals encoding the whole text by all rules."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer.texts import examples, texts
from xlmstream_worker.xlm.chunks import ChunkCutter
from xlmstream_worker.xlm.pieces import PieceEncoder
from xlmstream_worker.xlm.words import WordCutter

LANGUAGES = ["en", "fr", "de", "it", "ro", "ru", "ko"]


@pytest.fixture(scope="module", params=[True, False], ids=["folded", "cased"])
def encoder(request: pytest.FixtureRequest) -> PieceEncoder[str]:
    """Words instead of pieces, so that nothing hides; one for all examples, so that its cache fills."""
    return PieceEncoder(WordCutter(fold=request.param), lambda word: [word])


@given(text=texts, lang=st.sampled_from(LANGUAGES))
@example(text="word. next word. 5 word. Next word.", lang="en")
@example(text="no. 5 no. x No. ５ Nr. 5", lang="de")
@example(text='a". b." c,". "d', lang="fr")
@example(text="5, 6,a ,b 7,8 a,5 ,", lang="en")
@example(text="  (a ) .b ) ; c ( d", lang="en")
@examples
def test_chunks_agree_with_whole_texts(encoder: PieceEncoder[str], text: str, lang: str) -> None:
    assert encoder.encode(text, lang) == encoder.encode_fully(text, lang)


@given(chunks=st.lists(st.text(alphabet="aB5.,'\"()-:;!%—«»„“…’ş", min_size=1, max_size=5), max_size=6))
@examples
def test_chunks_of_marks_agree_too(encoder: PieceEncoder[str], chunks: list[str]) -> None:
    for lang in ("en", "de", "it"):
        assert encoder.encode(" ".join(chunks), lang) == encoder.encode_fully(" ".join(chunks), lang)


def test_real_sentences(encoder: PieceEncoder[str], sentences: list[tuple[str, str]]) -> None:
    for lang, text in sentences:
        lang = lang if lang in LANGUAGES else "en"
        assert encoder.encode(text, lang) == encoder.encode_fully(text, lang)


def test_most_chunks_are_self_contained(sentences: list[tuple[str, str]]) -> None:
    chunks = ChunkCutter(WordCutter(fold=True), "en")
    keys = [key for lang, text in sentences if lang in ("en", "fr", "de") for key in chunks.keys(text)]
    found = [chunks.words(key) is not None for key in keys]
    assert sum(found) > 0.9 * len(found)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("word", ["word"]),
        ("word,", ["word", ","]),
        ("word. ", ["word", "."]),
        ("word. a", ["word."]),
        ("word. A", ["word", "."]),
        ("no. 1", ["no", "."]),
        ("No. 1", ["No."]),
        ("(it's", ["(", "it", "'s"]),
        ("'tis", None),
        ("dogs'", None),
        (".5", None),
        ("a\xa0b", None),
        ("a\u200bb", None),
        ("文。", None),
    ],
)
def test_words_of_chunks(key: str, words: Any) -> None:
    assert ChunkCutter(WordCutter(fold=False), "en").words(key) == words


def test_a_small_cache_changes_nothing(monkeypatch: pytest.MonkeyPatch, sentences: list[tuple[str, str]]) -> None:
    monkeypatch.setattr("xlmstream_worker.xlm.pieces._CACHED_ENTRIES", 8)
    encoder = PieceEncoder(WordCutter(fold=True), lambda word: [word])
    for _, text in sentences[:200]:
        assert encoder.encode(text, "en") == encoder.encode_fully(text, "en")
