"""Where in the original text every token comes from."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizer.texts import examples, texts
from tokenizer.toy import SENTENCES
from xlmstream_worker.xlm.aligned import AlignedText
from xlmstream_worker.xlm.rewriting import PlainText, fold, rule
from xlmstream_worker.xlm.tokenizer import XLMTokenizer
from xlmstream_worker.xlm.words import WordCutter

LANGUAGES = ["en", "fr", "de", "ro", "el", "ko"]

words = st.one_of(
    st.text(alphabet="abcdeABCxyz", min_size=1, max_size=8),
    st.text(alphabet="éüñçßøÉÜÅäöįŉ", min_size=1, max_size=6),
    st.lists(st.sampled_from(["e\u0301", "u\u0308", "a", "o\u0323\u0302"]), min_size=1, max_size=4).map("".join),
    st.text(alphabet="абвгдЖЗИ", min_size=1, max_size=8),
    st.text(alphabet="αβγδΣΩς", min_size=1, max_size=8),
    st.text(alphabet="سلامعربي", min_size=1, max_size=8),
    st.text(alphabet="中文字符漢", min_size=1, max_size=4),
    st.text(alphabet="한국어가나", min_size=1, max_size=4),
    st.text(alphabet="😀👍🎉𝔘", min_size=1, max_size=3),
)
separators = st.sampled_from([" ", "  ", ", ", "! ", " (", ") ", " — ", "…", " “", "” ", "，", "? ", "：", " ;"])


def located(tokenizer: XLMTokenizer, text: str, **options: Any) -> list[tuple[str, tuple[int, int]]]:
    """Each piece with its span."""
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, **options)
    pieces = tokenizer.tokenize(text, **options)
    return list(zip(pieces, encoding["offset_mapping"], strict=True))


@given(text=texts, lang=st.sampled_from(LANGUAGES))
@example(text='a". b." c,". "d ...". ".', lang="fr")
@example(text="İİ ŉ <s>İ", lang="en")
@examples
def test_of_any_text(sides: Any, text: str, lang: str) -> None:
    tokenizer = sides.ours
    encoding = tokenizer(text, lang=lang, return_offsets_mapping=True, add_special_tokens=False)
    plain = tokenizer(text, lang=lang, add_special_tokens=False)
    spans = encoding["offset_mapping"]
    assert encoding["input_ids"] == plain["input_ids"]
    assert len(spans) == len(plain["input_ids"])
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(spans))
    covered = {index for start, end in spans for index in range(start, end)}
    missed = {text[index] for index in range(len(text)) if text[index].isalnum()} - {text[index] for index in covered}
    assert not any(fold(character) for character in missed), "a letter or digit belongs to no token"


@given(parts=st.lists(st.tuples(words, separators), min_size=1, max_size=8))
@examples
def test_words_are_exact(sides: Any, parts: list[tuple[str, str]]) -> None:
    """No token reaches over the edge of a word, and a word's tokens cover all of it."""
    text = "".join(word + separator for word, separator in parts)
    spans = [span for _, span in located(sides.ours, text)]
    position = 0
    for word, separator in parts:
        start, end = position, position + len(word)
        inside = [span for span in spans if span[0] < end and span[1] > start]
        assert all(start <= a and b <= end for a, b in inside), (word, inside)
        assert (inside[0][0], inside[-1][1]) == (start, end)
        position = end + len(separator)


@given(text=st.text(alphabet="abcXYZ 0123!?,():;%&", max_size=40))
@examples
def test_pieces_are_exact(sides: Any, text: str) -> None:
    for piece, (start, end) in located(sides.ours, text):
        folded = fold(text[start:end]) if sides.ours.do_lowercase_and_remove_accent else text[start:end]
        assert folded == piece.removesuffix("</w>")


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("Hi…", "en", ["Hi", "…"]),
        ("it’s", "en", ["it", "’s"]),
        ("l’eau", "fr", ["l’", "eau"]),
        ("say “so”.", "en", ["say", "“", "so", "”.", "”."]),
        ("a — b", "en", ["a", "—", "b"]),
        ("5\xa0%", "fr", ["5", "%"]),
        ("«\xa0x\xa0»", "fr", ["«", "x", "»"]),
        ("1\xa0234", "de", ["1\xa0234"]),
        ("（１）", "en", ["（", "１", "）"]),
        ("soft\u00adhyphen", "en", ["soft\u00adhyphen"]),
        ("cafe\u0301 au", "en", ["cafe\u0301", "au"]),
        ("end.'", "en", ["end", ".", "'"]),
        ("a\u0301\u0302b\u0301.", "en", ["a\u0301\u0302", "b\u0301", "."]),
        ("\u0301a \u0301", "en", ["a"]),
        ("ﬁn Å", "en", ["ﬁn", "Å"]),
        ("가 나", "ko", ["가", "나"]),
        ("Țară", "ro", ["Țară"]),
        ("ΟΔΟΣ", "el", ["ΟΔΟΣ"]),
        ("👩‍👧 x", "en", ["👩", "👧", "x"]),
        ("A<s>B", "en", ["A", "<s>", "B"]),
        ("a <special1>.", "en", ["a", "<special1>", "."]),
    ],
)
def test_words_of_known_texts(toy: XLMTokenizer, text: str, lang: str, expected: list[str]) -> None:
    found: list[tuple[int, int]] = []
    open_word = False
    for piece, (start, end) in located(toy, text, lang=lang):
        if open_word:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
        open_word = not piece.endswith("</w>") and piece not in toy.all_special_tokens
    assert [text[start:end] for start, end in found] == expected


def test_rows_with_special_tokens_pairs_truncation_and_padding(toy: XLMTokenizer) -> None:
    first, second = "Hello, wörld.", "Again and again."
    encoding = toy(first, second, return_offsets_mapping=True, padding="max_length", max_length=60, padding_side="left")
    spans, special = encoding["offset_mapping"], toy.get_special_tokens_mask
    assert len(spans) == 60
    alone = [toy(text, return_offsets_mapping=True)["offset_mapping"] for text in (first, second)]
    row = alone[0] + alone[1][1:]
    assert spans == [(0, 0)] * (60 - len(row)) + row
    assert row[0] == row[-1] == (0, 0)
    assert special([5], [6])[0] == 1
    cut = toy(first, second, return_offsets_mapping=True, truncation=True, max_length=9)
    assert len(cut["offset_mapping"]) == len(cut["input_ids"]) == 9
    batch = toy([first, second], return_offsets_mapping=True, padding=True, return_tensors="pt")
    assert batch["offset_mapping"].shape == (*batch["input_ids"].shape, 2)


def test_split_words_have_offsets_of_their_own(toy: XLMTokenizer) -> None:
    encoding = toy(["Hello", "wörld"], is_split_into_words=True, return_offsets_mapping=True, add_special_tokens=False)
    apart = [toy(word, return_offsets_mapping=True, add_special_tokens=False) for word in ("Hello", "wörld")]
    assert encoding["offset_mapping"] == [span for row in apart for span in row["offset_mapping"]]


def test_ids_without_text_have_none(toy: XLMTokenizer) -> None:
    assert toy.prepare_for_model([20, 21], return_offsets_mapping=True)["offset_mapping"] == [(0, 0)] * 4


@given(text=texts, lang=st.sampled_from(LANGUAGES))
@examples
def test_both_carriers_give_the_same_words(text: str, lang: str) -> None:
    for cutter in (FOLDED, CASED):
        aligned = cutter.words(AlignedText.of(text), lang)
        assert [word.value for word in aligned] == [word.value for word in cutter.words(PlainText(text), lang)]
        assert all(len(word.value) == len(word.starts) == len(word.ends) for word in aligned)


FOLDED, CASED = WordCutter(fold=True), WordCutter(fold=False)


@pytest.mark.parametrize("sentence", [sentence for texts in SENTENCES.values() for sentence in texts])
def test_bypassing(toy: XLMTokenizer, sentence: str) -> None:
    for piece, (start, end) in located(toy, sentence, bypass_tokenizer=True, split_special_tokens=True):
        # "İ" becomes two characters, which stand for it both.
        assert piece.removesuffix("</w>") in "".join(map(str.lower, sentence[start:end]))


def test_segments_that_a_segmenter_changed() -> None:
    text = AlignedText.of("abcdef")
    parts = text.segments(["ab", "XY", "ef"])
    assert [(part.value, part.starts, part.ends) for part in parts] == [
        ("ab", [0, 1], [1, 2]),
        ("XY", [2, 2], [4, 4]),
        ("ef", [4, 5], [5, 6]),
    ]


def test_exchanged_stretches_stand_for_both() -> None:
    text = AlignedText.of('x".y')
    text.rewrite([rule('"', r'(")(\.)', r"\2\1")])
    assert (text.value, text.starts, text.ends) == ('x."y', [0, 1, 1, 3], [1, 3, 3, 4])
