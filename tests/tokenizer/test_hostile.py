"""Input nobody would type: never a crash, never quadratic time, and still the oracle's ids."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tokenizer.toy import ALL_SENTENCES
from xlmstream_worker.xlm.tokenizer import XLMTokenizer

ODD = [
    "",
    " ",
    "\n",
    "\t \r\n",
    "\x00",
    "a\x00b",
    "\ud800",
    "x\udfffy \ud83d",
    "\ufeff\u200b\u202e",
    "\u0301",
    "\u0301a",
    "a" + "\u0301" * 300,
    "\U0010ffff\ue000",
    "".join(map(chr, range(0x250))),
    "".join(map(chr, range(0x2000, 0x2070))) + "x",
    " ".join(map(chr, range(0x3000, 0x3040))),
    "." * 50,
    "'" * 51,
    '"' * 9 + "." * 9,
    "<s><s><pad></s>",
    "<special1",
    "<special1>>",
    "x" * 300,
    "а" * 300,
    "中" * 300,
    " ." * 40,
]


@pytest.mark.parametrize("text", ODD, ids=lambda text: ascii(text)[:30])
def test_odd_texts(sides: Any, text: str) -> None:
    ours = sides.ours(text)
    assert dict(ours) == dict(sides.oracle(text))
    assert sides.ours(text, return_offsets_mapping=True)["input_ids"] == ours["input_ids"]
    assert sides.ours.tokenize(text, bypass_tokenizer=True, split_special_tokens=True) is not None


# Each would take minutes or hours if any rule looked back at what it has seen for every character.
LONG = [
    "a",
    "ab",
    ".",
    "'",
    '"',
    '."',
    ",",
    "DOT",
    "(",
    ") ",
    "\xa0",
    " ",
    "。 ",
    "-",
    "5,",
    "é",
    "中",
    "<",
    "<s>",
    "a ",
    "a. ",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", LONG)
def test_long_texts_take_linear_time(toy: XLMTokenizer, unit: str) -> None:
    lang = "de"  # its rules include the most dangerous one
    assert toy.encode(unit * (100_000 // len(unit)), lang=lang)
    text = unit * (8_000 // len(unit))
    assert toy(text, lang=lang, return_offsets_mapping=True)["input_ids"] == toy.encode(text, lang=lang)


def test_a_word_of_two_thousand_characters(sides: Any) -> None:
    text = "".join(chr(97 + (index * index) % 26) for index in range(2000))
    assert sides.ours.encode(text) == sides.oracle.encode(text)


def test_threads_share_a_tokenizer(toy_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With caches so small that their generations change all the time."""
    expected = [XLMTokenizer.from_pretrained(toy_directory).encode(text, lang="fr") for text in ALL_SENTENCES]
    monkeypatch.setattr("xlmstream_worker.xlm.pieces._CACHED_ENTRIES", 20)
    tokenizer = XLMTokenizer.from_pretrained(toy_directory)

    def encode(_: int) -> list[list[int]]:
        return [tokenizer.encode(text, lang="fr") for text in ALL_SENTENCES]

    with ThreadPoolExecutor(4) as pool:
        assert all(result == expected for result in pool.map(encode, range(8)))
