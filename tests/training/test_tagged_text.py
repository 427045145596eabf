"""Parts of speech by rules, on real sentences that are ambiguous word by word; text dressed up; treebanks as text."""

import runpy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from xlmstream_worker.training.corpus import CorpusError, Row
from xlmstream_worker.training.labelled_batches import lang_ids
from xlmstream_worker.training.tag_examples import ruled_examples
from xlmstream_worker.training.tagged_text import Tagged, TagRules, alike, dressed
from xlmstream_worker.training.treebank import Annotated, pieces_of, read_annotated
from xlmstream_worker.training.word_classes import TAGS
from xlmstream_worker.xlm import XLMTokenizer

SENTENCES = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "sentences.py"))["SENTENCES"]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """A few sentences in four languages."""
    return [Row("train", dict(zip(SENTENCES, texts, strict=True))) for texts in zip(*SENTENCES.values(), strict=True)]


@pytest.fixture(scope="module")
def rules(rows: list[Row]) -> TagRules:
    return TagRules(rows, sorted(SENTENCES))


@pytest.fixture(scope="module")
def toy_rules(rows: list[Row], toy_tokenizer: XLMTokenizer) -> TagRules:
    """For the languages of the toy tokenizer."""
    return TagRules(rows, sorted(lang_ids(toy_tokenizer)))


@pytest.mark.parametrize(
    ("lang", "text", "tags"),
    [
        ("en", "I have to go to the city.", "PRON VERB PART VERB ADP DET NOUN PUNCT"),
        ("en", "They have seen that man.", "PRON AUX VERB PRON NOUN PUNCT"),
        ("en", "The man that I saw has a house.", "DET NOUN PRON PRON VERB VERB DET NOUN PUNCT"),
        ("en", "He said that he will not come.", "PRON VERB SCONJ PRON AUX PART VERB PUNCT"),
        ("en", "His love is great; they love him.", "PRON NOUN AUX ADJ PUNCT PRON VERB PRON PUNCT"),
        ("en", "They like bread like this.", "PRON VERB NOUN ADP PRON PUNCT"),
        ("en", "We didn't see them.", "PRON AUX PART VERB PRON PUNCT"),
        (
            "de",
            "Der Mann, der das sah, ging in die Stadt.",
            "DET NOUN PUNCT PRON PRON VERB PUNCT VERB ADP DET NOUN PUNCT",
        ),
        ("de", "Ich will zu dem Haus gehen.", "PRON AUX ADP DET NOUN VERB PUNCT"),
        ("de", "Er hat ein Haus.", "PRON VERB DET NOUN PUNCT"),
        ("de", "Er hat das Haus gesehen.", "PRON AUX DET NOUN VERB PUNCT"),
        ("de", "Die gute Frau weiß das.", "DET ADJ NOUN VERB PRON PUNCT"),
        ("de", "Das Leben ist gut, sie leben lange.", "DET NOUN AUX ADJ PUNCT PRON VERB ADJ PUNCT"),
        ("fr", "Il la voit dans la maison.", "PRON PRON VERB ADP DET NOUN PUNCT"),
        ("fr", "Je les donne à leur père.", "PRON PRON VERB ADP DET NOUN PUNCT"),
        ("fr", "Il a une maison.", "PRON VERB DET NOUN PUNCT"),
        ("fr", "Il a vu la maison.", "PRON AUX VERB DET NOUN PUNCT"),
        ("fr", "Il dit que l'homme est bon.", "PRON VERB SCONJ DET NOUN AUX ADJ PUNCT"),
        ("fr", "C'est l'homme que je vois.", "PRON AUX DET NOUN PRON PRON VERB PUNCT"),
        ("es", "El hombre que vino lo vio.", "DET NOUN PRON VERB PRON VERB PUNCT"),
        ("es", "Él la vio en la casa.", "PRON PRON VERB ADP DET NOUN PUNCT"),
        ("es", "No sabe que el rey vino.", "ADV VERB SCONJ DET NOUN VERB PUNCT"),
    ],
)
def test_ambiguous_words_are_told_apart(rules: TagRules, lang: str, text: str, tags: str) -> None:
    assert " ".join(rules.tag(text, lang).tags) == tags


def test_rows_are_tagged_in_their_order_and_as_alone(rules: TagRules, rows: list[Row]) -> None:
    tagged = rules.tag_rows(rows)
    for lang, texts in SENTENCES.items():
        assert tagged["train"][lang] == [rules.tag(text, lang) for text in texts]
        assert tagged["test"][lang] == []


SENTENCE = Tagged(
    ("The", "seven", "walls", "of", "the", "cities", "fell", "."),
    ("DET", "NUM", "NOUN", "ADP", "DET", "NOUN", "VERB", "PUNCT"),
)


def test_dressing_up_keeps_every_word_s_tag() -> None:
    others = alike([SENTENCE, Tagged(("lies", "fries", "lies"), ("VERB", "NOUN", "NOUN"))])
    assert others["NOUN", "es"] == ["cities", "fries"]  # lies is as often a verb
    known = dict(zip(SENTENCE.words, SENTENCE.tags, strict=True)) | {"fries": "NOUN"} | dict.fromkeys("\"'()", "PUNCT")
    rng = np.random.default_rng(5)
    seen = set()
    for _ in range(400):
        found = dressed(SENTENCE, others, rng)
        assert len(found.words) == len(found.tags)
        for word, tag in zip(found.words, found.tags, strict=True):
            assert tag == ("NUM" if word[0].isdigit() else known[word])
            seen.add("digits" if word[0].isdigit() else word)
        assert sum(word in "\"'()" for word in found.words) % 2 == 0
    assert {"digits", "fries", '"', "(", ")"} <= seen


def test_ruled_examples_carry_a_tag_a_word(toy_rules: TagRules, rows: list[Row], toy_tokenizer: XLMTokenizer) -> None:
    held = [Row("valid", row.texts) for row in rows]
    examples = ruled_examples(toy_rules, [*rows, *held], toy_tokenizer, max_positions=64)
    for lang, index in lang_ids(toy_tokenizer).items():
        texts = SENTENCES[lang]
        assert len(examples["train"][lang]) == len(examples["valid"][lang]) == len(texts)
        for example, text in zip(examples["valid"][lang], texts, strict=True):
            pieces = toy_tokenizer.tokenize(text, lang=lang)
            assert example.lang_id == index
            assert example.ids[1:-1].tolist() == toy_tokenizer.convert_tokens_to_ids(pieces)[:62]
            ends = [True, *(piece.endswith("</w>") for piece in pieces)]
            assert (example.labels[1:-1] >= 0).tolist() == ends[: len(pieces)][:62]
            tags = [TAGS[label] for label in example.labels if label >= 0]
            assert tags == list(toy_rules.tag(text, lang).tags)[: len(tags)]


def test_words_shown_in_short_pieces_are_the_same_words(
    toy_rules: TagRules, rows: list[Row], toy_tokenizer: XLMTokenizer
) -> None:
    """What training shows still spells words; some in more pieces than the vocabulary needs."""
    examples = ruled_examples(toy_rules, rows, toy_tokenizer, max_positions=64)["train"]["en"]
    whole = {word.rstrip() for text in SENTENCES["en"] for word in toy_rules.tag(text, "en").words}
    longer = 0
    for example in examples:
        starts = [*np.flatnonzero(example.labels >= 0).tolist(), len(example.ids) - 1]
        for start, stop in pairwise(starts):
            pieces = toy_tokenizer.convert_ids_to_tokens(example.ids[start:stop].tolist())
            word = "".join(pieces).removesuffix("</w>")
            longer += word in whole and len(pieces) > len(toy_tokenizer.tokenize(word, bypass_tokenizer=True))
    assert longer > 10


@pytest.mark.parametrize(
    ("lang", "words", "text"),
    [
        ("en", "They did n't say it 's Ann 's .", "They didn't say it's Ann's ."),
        ("en", "the boys ' dogs", "the boys ' dogs"),
        ("fr", "C' est l' homme de le roi .", "C'est l'homme de le roi ."),
        ("de", "Er ist in dem Haus .", "Er ist in dem Haus ."),
    ],
)
def test_a_treebank_s_words_as_a_text(lang: str, words: str, text: str) -> None:
    cut = tuple(words.split())
    written, ends = Annotated(lang, "1", cut, ("X",) * len(cut)).written()
    assert written == text
    assert [written[end] for end in ends] == [word[-1] for word in cut]


def test_people_s_tags_sit_on_the_words_that_the_tokenizer_cuts(toy_tokenizer: XLMTokenizer) -> None:
    sentence = Annotated(
        "en", "1", ("You", "did", "n't", "see", "“", "it"), ("PRON", "AUX", "PART", "VERB", "PUNCT", "PRON")
    )
    ids, tags = pieces_of(sentence, toy_tokenizer)
    pieces = toy_tokenizer.tokenize("You didn't see “ it", lang="en")
    assert ids == toy_tokenizer.convert_tokens_to_ids(pieces)
    starts = [0, *(place + 1 for place, piece in enumerate(pieces[:-1]) if piece.endswith("</w>"))]
    assert [place for place, _ in tags] == starts
    assert [tag for _, tag in tags] == list(sentence.tags)  # didn, 't


def test_a_line_with_too_few_tags_is_named(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text('{"lang": "en", "id": "1", "tokens": ["a", "b"], "upos": ["DET"]}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match="line 1: no sentence with tags"):
        list(read_annotated(path))
