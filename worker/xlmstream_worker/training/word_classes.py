"""Which parts of speech a word may have: the closed classes and the commonest words from hand-written lists, names from
`names`, and for all others what capital letters and endings tell.

The lists are `lexicon/LANGUAGE.toml`; the classes and their limits are those of Universal Dependencies. A `?` after a
word says that it seldom has that part of speech. Nothing here is learned; `tag_rules` decides between the classes.
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from .names import NOUNS_ARE_CAPITALISED

# Universal Dependencies' universal parts of speech, alphabetical.
TAGS = (
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM",
    "VERB", "X",
)  # fmt: skip
LEXICON = resources.files(__package__) / "lexicon"
SELDOM = 0.1
# What an ending that tells leaves to the other classes.
UNTOLD = 0.15
# Shares of the classes among words that tell nothing.
PLAIN = {"NOUN": 0.58, "VERB": 0.3, "ADJ": 0.1, "ADV": 0.02}
PLAIN_WITHOUT_NOUNS = {"VERB": 0.6, "ADJ": 0.35, "ADV": 0.05}
CAPITALISED = {"PROPN": 0.95, "NOUN": 0.03, "ADJ": 0.02}
CAPITALISED_NOUNS = {"NOUN": 1.0}
_NUMBER = re.compile(r"\d+([.,:/]?\d+)*")
_ENDS_SENTENCE = frozenset(".!?:;")
_SHORTEST_STEM = 2

Shares = npt.NDArray[np.float64]


class WordClasses:
    """The classes of the words of one language.

    Args:
        lang: one of the languages with a lexicon.
        sentences: cut text of the language, which tells how words are spelled inside sentences.
        names: words that name somebody or something.
    """

    def __init__(self, lang: str, sentences: Iterable[Sequence[str]], names: Iterable[str]) -> None:
        document = tomllib.loads((LEXICON / f"{lang}.toml").read_text(encoding="utf-8"))
        self._lang = lang
        self._names = frozenset(names)
        self._listed = _listed(document["words"])
        self._endings = [(ending, tag) for tag, endings in document["endings"].items() for ending in endings.split()]
        self.auxiliaries: Mapping[str, frozenset[str]] = {
            place: frozenset(words.split()) for place, words in document["auxiliaries"].items()
        }
        self.relatives = frozenset(document.get("relatives", {}).get("behind_nouns", "").split())
        self._ordinals = tuple(document["numbers"]["ordinals"].split())
        self._clitics = tuple(document.get("clitics", {}).get("behind", "").split())
        self._lower = Counter(word for words in sentences for word in words if not word[0].isupper())
        self._capital = Counter(
            word
            for words in sentences
            for before, word in pairwise(words)
            if word[0].isupper() and before not in _ENDS_SENTENCE
        )

    def spelled_inside(self, words: Sequence[str]) -> list[str]:
        """The words without the capital letters that they have for their place alone."""
        return [
            self._inside(word, starts=place == 0 or words[place - 1][-1] in _ENDS_SENTENCE)
            for place, word in enumerate(words)
        ]

    def _inside(self, word: str, *, starts: bool) -> str:
        lower = word.lower()
        if word == lower or (word in self._names and not self._lower[lower]):
            return word
        if starts:
            at_home = self._lower[lower] > self._capital[word]
            return lower if at_home or (lower in self._listed and not self._capital[word]) else word
        if self._lang in NOUNS_ARE_CAPITALISED:
            return lower if "PRON" in self._listed.get(lower, {}) else word
        at_home = self._lower[lower] > self._capital[word]
        return lower if at_home or (lower in self._listed and word not in self._names) else word

    def shares(self, word: str) -> Shares:
        """(17,) how likely each class is for a word, spelled as inside sentences; 0: never."""
        return _vector(self._shares(word))

    def may_be(self, word: str, tag: str) -> bool:
        """Whether a word, spelled as inside sentences, may be of a class."""
        return self._shares(word).get(tag, 0.0) > 0

    def _shares(self, word: str) -> Mapping[str, float]:
        lower = word.lower()
        if word in self._names:
            return {"PROPN": 1.0}
        if lower in self._listed and (word == lower or self._lang not in NOUNS_ARE_CAPITALISED):
            return self._listed[lower]
        for clitic in self._clitics:
            if word.endswith(clitic):
                return self._shares(word.removesuffix(clitic) or word[1:])
        if _NUMBER.fullmatch(word):
            return {"NUM": 1.0}
        if self._ordinals and word[0].isdigit() and word.endswith(self._ordinals):
            return {"ADJ": 1.0}
        if not any(char.isalnum() for char in word):
            return {"PUNCT": 1.0}
        if word[0].isupper():
            return CAPITALISED_NOUNS if self._lang in NOUNS_ARE_CAPITALISED else CAPITALISED
        plain = PLAIN_WITHOUT_NOUNS if self._lang in NOUNS_ARE_CAPITALISED else PLAIN
        told = self._told(word)
        if not told:
            return plain
        # Endings of adverbs are few and sure: what ends otherwise is none.
        rest = {tag: UNTOLD * share for tag, share in plain.items() if tag != "ADV"}
        return rest | {tag: rest.get(tag, 0.0) + (1 - UNTOLD) / len(told) for tag in told}

    def _told(self, word: str) -> set[str]:
        """The classes of the longest ending that tells any."""
        fitting = [
            (len(ending), tag)
            for ending, tag in self._endings
            if word.endswith(ending) and len(word) >= len(ending) + _SHORTEST_STEM
        ]
        longest = max(fitting, default=(0, ""))[0]
        return {tag for length, tag in fitting if length == longest}

    def family(self, word: str) -> str:
        """What unlisted words with like endings have in common; empty for listed words, names and marks."""
        if word.lower() in self._listed or word in self._names or not word.isalpha():
            return ""
        return ("^" if word[0].isupper() else "") + word[-3:].lower()


def _listed(words: Mapping[str, str]) -> dict[str, Mapping[str, float]]:
    weights: dict[str, dict[str, float]] = {}
    for tag, names in words.items():
        for name in names.split():
            word = name.removesuffix("?") or name
            weights.setdefault(word, {})[tag] = SELDOM if word != name else 1.0
    return {word: {tag: share / sum(tags.values()) for tag, share in tags.items()} for word, tags in weights.items()}


def _vector(shares: Mapping[str, float]) -> Shares:
    weights = np.array([shares.get(tag, 0.0) for tag in TAGS])
    vector: Shares = weights / weights.sum()
    return vector
