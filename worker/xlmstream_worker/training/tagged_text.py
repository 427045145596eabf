"""Aligned text with a part of speech for each word, by the rules of `word_classes` and `tag_rules`."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xlmstream_worker.xlm.words import WordCutter

from .corpus import SPLITS, Row
from .names import NameTable
from .tag_rules import TagModel, translated_shares
from .word_classes import WordClasses

# As many sentences of a language are enough to fit its model, and as many rows to find translations; evenly drawn.
SENTENCES_TO_FIT = 16_000
# What a table of names calls peoples are names in English alone; elsewhere they are nouns or adjectives.
PEOPLES_ARE_NAMED = frozenset({"en"})
# Words of a text are changed as follows before they train a model, in this share of sentences or of numbers: books of
# verses have neither digits nor quotation marks, and what people write has.
QUOTED, BRACKETED, IN_DIGITS = 0.15, 0.05, 0.3
# Share of the words of open classes that give way to a random one with the same tag and ending, so that rare words are
# read as often as frequent ones.
SWAPPED, OPEN, ENDING = 0.2, frozenset({"ADJ", "ADV", "NOUN", "PROPN", "VERB"}), 2
_QUOTES = (('"', '"'), ('"', '"'), ("'", "'"))


@dataclass(frozen=True)
class Tagged:
    """The words of a sentence, as the tokenizer cuts them, and their tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


class TagRules:
    """The fitted rules of several languages.

    Args:
        rows: aligned text with English among its languages; all but the training split is labelled only.
        languages: those to label.
    """

    def __init__(self, rows: Sequence[Row], languages: Sequence[str]) -> None:
        self._cutter = WordCutter(fold=False)
        self._known: dict[tuple[str, str], list[str]] = {}
        train = [row for row in rows if row.split == "train"]
        table = NameTable(train, languages)
        self._models: dict[str, TagModel] = {}
        for lang in languages:
            spoken = [self._cut(row.texts[lang], lang) for row in train if lang in row.texts]
            named = (
                name
                for name, kind in table[lang].items()
                if kind != "NUMBER" and (kind != "PEOPLE" or lang in PEOPLES_ARE_NAMED)
            )
            chosen = spoken[:: 1 + len(spoken) // SENTENCES_TO_FIT]
            self._models[lang] = TagModel(WordClasses(lang, spoken, named), chosen)
        for model in self._models.values():
            model.fit()
        # Of rows in many languages and pairs, the former: their sentences are longer, and serve all languages alike.
        aligned = [row for row in train if len(row.texts) > 2 or len(languages) <= 2]
        shares = translated_shares(
            self._models,
            [
                {
                    lang: self._models[lang].classes.spelled_inside(self._cut(text, lang))
                    for lang, text in row.texts.items()
                    if lang in self._models
                }
                for row in aligned[:: 1 + len(aligned) // SENTENCES_TO_FIT]
            ],
        )
        for lang, model in self._models.items():
            model.fit(translated=shares[lang])

    def tag(self, text: str, lang: str) -> Tagged:
        """One text."""
        words = tuple(self._cut(text, lang))
        return Tagged(words, self.tag_words(words, lang))

    def tag_words(self, words: Sequence[str], lang: str) -> tuple[str, ...]:
        """The tags of a sentence's words."""
        plain = [word.replace("’", "'") for word in words]
        return tuple(next(self._models[lang].tags([plain])))

    def tag_rows(self, rows: Sequence[Row]) -> dict[str, dict[str, list[Tagged]]]:
        """All texts, as {split: {language: sentences}}, in the order of the rows."""
        found: dict[str, dict[str, list[Tagged]]] = {split: {} for split in SPLITS}
        for split, lang in ((split, lang) for split in SPLITS for lang in self._models):
            texts = [self._cut(row.texts[lang], lang) for row in rows if row.split == split and lang in row.texts]
            tags = self._models[lang].tags(texts)
            found[split][lang] = [Tagged(tuple(words), tuple(each)) for words, each in zip(texts, tags, strict=True)]
        return found

    def _cut(self, text: str, lang: str) -> list[str]:
        """Each text is cut once: it is read to list words, to fit, to translate and to be tagged."""
        words = self._known.get((lang, text))
        if words is None:
            words = self._known[lang, text] = self._cutter.plain_words(text, lang)
        return words


# Words by tag and ending.
Alike = Mapping[tuple[str, str], Sequence[str]]


def alike(sentences: Iterable[Tagged]) -> Alike:
    """The words of the open classes that hold a tag most of the time, in alphabetical order."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            counts[word][tag] += 1
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for word in sorted(counts):
        ((tag, count),) = counts[word].most_common(1)
        if tag in OPEN and count > 0.8 * counts[word].total():
            found[tag, word[-ENDING:]].append(word)
    return dict(found)


def dressed(sentence: Tagged, others: Alike, rng: np.random.Generator) -> Tagged:
    """The sentence as modern text might have it: some of its words quoted or in brackets, some numbers in digits, some
    words replaced by `others`."""
    words, tags = list(sentence.words), list(sentence.tags)
    for place, tag in enumerate(tags):
        if tag == "NUM" and rng.random() < IN_DIGITS:
            words[place] = _digits(rng)
        elif tag in OPEN and rng.random() < SWAPPED:
            choice = others.get((tag, words[place][-ENDING:]), [words[place]])
            words[place] = choice[int(rng.integers(len(choice)))]
    for share, pairs in ((QUOTED, _QUOTES), (BRACKETED, (("(", ")"),))):
        if rng.random() < share and len(words) > 1:
            first = int(rng.integers(len(words)))
            last = int(rng.integers(first + 1, len(words) + 1))
            opening, closing = pairs[int(rng.integers(len(pairs)))]
            words[first:last] = [opening, *words[first:last], closing]
            tags[first:last] = ["PUNCT", *tags[first:last], "PUNCT"]
    return Tagged(tuple(words), tuple(tags))


def _digits(rng: np.random.Generator) -> str:
    """A number as people write it: 7, 1998, 12,500 or 3.5."""
    whole = str(int(10 ** rng.uniform(0, 4.5)))
    mark = ".,"[int(rng.integers(2))]
    if len(whole) > 4:
        return f"{whole[:-3]}{mark}{whole[-3:]}"
    return f"{whole}{mark}{rng.integers(10)}" if rng.random() < 0.15 else whole
