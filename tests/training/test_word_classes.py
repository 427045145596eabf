"""What a word may be, before its neighbours are asked: lists, names, marks, capitals, endings."""

import pytest
from xlmstream_worker.training.word_classes import TAGS, WordClasses

TEXT = {
    "en": ["The", "king", "saw", "Moses", "and", "the", "lamp", ",", "but", "the", "king", "said", "nothing", "."],
    "de": ["Und", "der", "König", "sah", "die", "Lampe", ",", "aber", "der", "König", "schwieg", "."],
    "fr": ["Le", "roi", "vit", "Moïse", "et", "l'", "Éternel", "parla", ",", "éternel", "."],
    "es": ["Y", "el", "rey", "vio", "la", "lámpara", "."],
}
NAMES = {"en": {"Moses"}, "fr": {"Moïse", "Éternel"}, "de": {"Mose"}, "es": {"Moisés"}}


def likely(lang: str, word: str) -> set[str]:
    """The classes that share the first place."""
    shares = WordClasses(lang, [TEXT[lang]], NAMES[lang]).shares(word)
    assert shares.sum() == pytest.approx(1)
    return {tag for tag, share in zip(TAGS, shares, strict=True) if share == shares.max()}


@pytest.mark.parametrize(
    ("lang", "word", "classes"),
    [
        ("en", "the", {"DET"}),
        ("en", "to", {"ADP", "PART"}),
        ("en", "Moses", {"PROPN"}),
        ("en", "Obama", {"PROPN"}),
        ("en", "happiness", {"NOUN"}),
        ("en", "quickly", {"ADV"}),
        ("en", "walking", {"VERB"}),
        ("en", "1,234", {"NUM"}),
        ("en", "21st", {"ADJ"}),
        ("en", "...", {"PUNCT"}),
        ("en", "%", {"SYM"}),
        ("de", "zu", {"ADP", "PART"}),
        ("de", "Freiheit", {"NOUN"}),
        ("de", "freundlich", {"ADJ"}),
        ("de", "dreiundzwanzig", {"NUM"}),
        ("fr", "l'", {"DET", "PRON"}),
        ("fr", "rapidement", {"ADV"}),
        ("fr", "est-il", {"AUX"}),
        ("fr", "peux-tu", {"VERB"}),
        ("es", "rápidamente", {"ADV"}),
        ("es", "del", {"ADP"}),
    ],
)
def test_likely_classes(lang: str, word: str, classes: set[str]) -> None:
    assert likely(lang, word) == classes


def test_a_word_marked_as_seldom_weighs_less() -> None:
    shares = dict(zip(TAGS, WordClasses("en", [], []).shares("that"), strict=True))
    assert shares["SCONJ"] == shares["PRON"] > shares["ADV"] > 0
    assert shares["VERB"] == 0


@pytest.mark.parametrize(
    ("lang", "words", "inside"),
    [
        ("en", "The Lamp said : But Moses", "the lamp said : but Moses"),
        ("en", "Obama said that", "Obama said that"),
        ("de", "Und der König", "und der König"),
        ("de", "der Und", "der Und"),
        ("fr", "Le roi Moïse , l' Éternel", "le roi Moïse , l' Éternel"),
    ],
)
def test_capitals_of_the_place_alone_are_dropped(lang: str, words: str, inside: str) -> None:
    classes = WordClasses(lang, [TEXT[lang]], NAMES[lang])
    assert classes.spelled_inside(words.split()) == inside.split()


@pytest.mark.parametrize("lang", sorted(TEXT))
def test_lists_name_only_tags_and_hold_each_language_s_commonest_words(lang: str) -> None:
    classes = WordClasses(lang, [TEXT[lang]], NAMES[lang])
    for mark in (".", ",", "(", "?"):
        assert dict(zip(TAGS, classes.shares(mark), strict=True))["PUNCT"] == 1
    assert classes.family(TEXT[lang][1].lower()) == ""
    assert classes.family("unbekannt") == "nnt"
