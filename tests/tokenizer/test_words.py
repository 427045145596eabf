"""Words and ids against transformers and sacremoses, on real and on generated text, in many languages."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer.texts import examples, texts
from xlmstream_worker.xlm.rewriting import PlainText
from xlmstream_worker.xlm.tokenizer import XLMTokenizer
from xlmstream_worker.xlm.words import SEGMENTED_LANGUAGES, WordCutter

MOSES_LANGUAGES = ["en", "fr", "it", "de", "es", "cs", "cz", "ro", "ru", "el", "ko", "nl", "pt", "hi", "cjk", "xx"]


def oracle_words(oracle: Any, text: str, lang: str) -> list[str]:
    """Moses words by transformers' and sacremoses' code, neither folded nor encoded."""
    text = oracle.moses_pipeline(text, lang=lang)
    if lang == "ro":
        from transformers.models.xlm.tokenization_xlm import romanian_preprocessing

        text = romanian_preprocessing(text)
    return oracle.moses_tokenize(text, lang=lang)


@pytest.fixture(scope="module")
def cutter() -> WordCutter:
    return WordCutter(fold=False)


@given(text=texts, lang=st.sampled_from(MOSES_LANGUAGES))
@example(text='He said "so". Then ". x', lang="fr")
@example(text="1\xa02\xa03\xa0%\xa0:", lang="de")
@example(text="DOTMULTI DOTDOTMULTI. MULTI ..", lang="en")
@example(text="\xa0«\xa0x\xa0»\xa0 ''‘‘´´ ``a", lang="es")
@example(text="no. 5 No. x A.b. c. d. E", lang="en")
@examples
def test_words_of_any_text(sides: Any, cutter: WordCutter, text: str, lang: str) -> None:
    words = [word.value for word in cutter.words(PlainText(text), lang)]
    assert words == oracle_words(sides.oracle, text, lang)


def test_words_of_real_sentences(
    sides: Any, cutter: WordCutter, sentences: list[tuple[str, str]], all_sentences: list[tuple[str, str]]
) -> None:
    for own, text in all_sentences if sides.name == "toy" else sentences:
        lang = "en" if own in SEGMENTED_LANGUAGES else own
        words = [word.value for word in cutter.words(PlainText(text), lang)]
        assert words == oracle_words(sides.oracle, text, lang), (lang, text)


@given(text=texts)
@example(text="ΟΔΟΣ Σ. ΣΣ")
@example(text="İ <S> <SPECIAL1> <s></s> a<unk>b")
@example(text="line\nbreak\ttab\r\n")
@examples
def test_calls_of_any_text(sides: Any, text: str) -> None:
    assert sides.ours.tokenize(text) == sides.oracle.tokenize(text)
    assert dict(sides.ours(text)) == dict(sides.oracle(text))


def test_calls_of_real_sentences(
    sides: Any, sentences: list[tuple[str, str]], all_sentences: list[tuple[str, str]]
) -> None:
    for _, text in all_sentences if sides.name == "genuine" else sentences:
        assert sides.ours(text)["input_ids"] == sides.oracle(text)["input_ids"], text


@given(text=texts, lang=st.sampled_from(MOSES_LANGUAGES[1:]))
@example(text="ΟΔΟΣ ΑΘΗΝΩΝ. Σ", lang="el")
@examples
def test_other_languages_go_the_documented_way(sides: Any, text: str, lang: str) -> None:
    """What transformers' documentation promises for `lang`, which only its private routine does."""
    ours = sides.ours.tokenize(text, lang=lang, split_special_tokens=True)
    assert ours == sides.oracle._tokenize(text, lang=lang)


def test_other_languages_on_real_sentences(sides: Any, sentences: list[tuple[str, str]]) -> None:
    for lang, text in sentences:
        if lang not in SEGMENTED_LANGUAGES | {"en"}:
            assert sides.ours.tokenize(text, lang=lang) == sides.oracle._tokenize(text, lang=lang), (lang, text)


@given(text=texts)
@examples
def test_bypassing_leaves_only_byte_pair_encoding(sides: Any, text: str) -> None:
    ours = sides.ours.tokenize(text, bypass_tokenizer=True, split_special_tokens=True)
    lowered = "".join(map(str.lower, text)) if sides.ours.do_lowercase_and_remove_accent else text
    assert ours == sides.oracle._tokenize(lowered, bypass_tokenizer=True)


def test_the_recorded_ids(genuine_directory: Path) -> None:
    tokenizer = XLMTokenizer.from_pretrained(genuine_directory)
    lines = (genuine_directory.parent / "golden-enfr.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 23
    for row in rows:
        assert tokenizer(row["text"])["input_ids"] == row["hf_call_ids"]
        assert tokenizer.encode(row["text"], lang=row["lang"], add_special_tokens=False) == row["lang_ids"]


def test_an_unknown_language_is_reported_once(sides: Any, caplog: pytest.LogCaptureFixture) -> None:
    sides.ours._reported_languages.clear()
    for _ in range(2):
        sides.ours.tokenize("Guten Tag.", lang="tlh")
    assert [record.message for record in caplog.records if "tlh" in record.message][1:] == []
    assert "tlh" in caplog.text
