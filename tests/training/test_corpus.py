"""Reading tab-separated text, packing ids, and the cache of encoded files."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from xlmstream_worker.training.corpus import CorpusError, Row, Sentences, encode_files, read_rows


def test_aligned_columns_with_gaps_and_splits(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write('ref\tsplit\ten\tfr\tru\n1\ttrain\tone "two\tun\tодин\n2\ttest\tthree\t\t\n')
    assert list(read_rows(path, ["en", "fr"])) == [
        Row("train", {"en": 'one "two', "fr": "un"}),
        Row("test", {"en": "three"}),
    ]


def test_pairs_name_their_language_and_every_fiftieth_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("lang\ten\ttranslation\n" + "de\thouse\tHaus\n" * 52, encoding="utf-8")
    rows = list(read_rows(path, ["en", "de", "fr"]))
    assert rows[2].texts == {"de": "Haus", "en": "house"}
    assert [row.split for row in rows[:3]] == ["valid", "test", "train"]
    assert [row.split for row in rows].count("train") == 48


@pytest.mark.parametrize(
    ("content", "problem"),
    [("ref\tit\n1\tuno\n", "no column is named"), ("split\ten\nheld\tone\n", "split 'held' is none of")],
)
def test_files_of_another_form_are_refused_by_name(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "odd.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=f"odd.tsv.*{problem}"):
        list(read_rows(path, ["en"]))


def test_sentences_give_back_what_they_were_made_of() -> None:
    sentences = Sentences.of([[5, 6], [], [7]])
    assert [ids.tolist() for ids in (sentences[index] for index in range(3))] == [[5, 6], [], [7]]
    assert sentences.lengths.tolist() == [2, 0, 1]


def test_encoded_files_are_cached_until_file_or_encoder_change(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.tsv", tmp_path / "cache.npz"
    path.write_text("split\ten\tfr\ntrain\tab\tc\ntrain\td\t\n", encoding="utf-8")
    calls: list[str] = []

    def encode(text: str, lang: str) -> list[int]:
        calls.append(text)
        return [ord(char) for char in text]

    first = encode_files([path], ["en", "fr"], encode, cache)
    calls.clear()
    again = encode_files([path], ["en", "fr"], encode, cache)
    assert "ab" not in calls
    assert np.array_equal(first["train"]["fr"].offsets, [0, 1, 1])
    assert np.array_equal(again["train"]["en"].ids, first["train"]["en"].ids)

    assert encode_files([path], ["en", "fr"], lambda text, lang: [1], cache)["train"]["en"].ids.tolist() == [1, 1]
    path.write_text("split\ten\tfr\ntrain\tx\ty\n", encoding="utf-8")
    assert encode_files([path], ["en", "fr"], encode, cache)["train"]["en"].ids.tolist() == [ord("x")]
