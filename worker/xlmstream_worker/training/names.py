"""Names in aligned text and what they name, found by rules: labels of the entity tagger, and what questions ask for.

A name is a word that is written with a capital letter inside sentences and hardly ever without. Where all nouns are
(German), a name must also meet, again and again, one that is spelled like it in the rows' translations. What a name
names is decided by the words around it in English (`land of`, `son of`, `said`) and carried over to its translations.
Nothing here is learned or annotated by hand: the labels are as good as these rules.
"""

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from .corpus import Row

ENTITIES = ("O", "DIVINE", "NUMBER", "PEOPLE", "PERSON", "PLACE")
PIVOT = "en"
NOUNS_ARE_CAPITALISED = frozenset({"de"})
WORD = re.compile(r"[^\W\d_]+")
_AFTER_A_WORD = re.compile(r"[\w,]\s$|\w'$")
# Capitalised for other reasons.
_NO_NAMES = {
    "I",
    "O",
    "Oh",
    "Yes",
    "No",
    "Behold",
    "Meeting",
    "Musician",
    "Passover",
    "Sabbath",
    "Sabbaths",
    "Chroniques",
}
# Share of the rows with either of two words that hold both, from which on they are one name however they are spelled.
ALWAYS_TOGETHER = 0.8
_LEAST, _MOST_LOWER_CASE = 2, 0.05

DIVINE = {
    "de": "HERR HERRN Herr Herrn Gott Gottes Jesus Jesu Jesum Christus Christi Christo Christum Zebaoth",
    "en": "LORD Lord God Jesus Christ Almighty",
    "es": "Jehová Señor Dios Jesús Cristo Jesucristo",
    "fr": "Éternel Seigneur Dieu Jésus Christ",
}
NUMBERS = {
    "de": "zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn "
    "achtzehn neunzehn zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig hundert tausend",
    "en": "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand",
    "es": "dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete "
    "dieciocho diecinueve veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa ciento cien doscientos "
    "trescientos cuatrocientos quinientos seiscientos setecientos ochocientos novecientos mil",
    "fr": "deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize vingt trente quarante "
    "cinquante soixante cent cents mille",
}
_VERBS = "said answered went came took sent spoke died lived reigned slept made built gave saw heard called rose became"
_CUES = {
    "PLACE": (
        rf"\b(?:in|at|into|toward|land of|city of|cities of|inhabitants of|valley of|wilderness of|way to|Mount|"
        rf"gate of|king of|kings of|mountains of|went to|came to|near|beyond the|over the) (?P<name>{WORD.pattern})",
    ),
    "PERSON": (
        rf"\b(?:(?:son|daughter|father|mother|wife|brother|sons) of|named|Rabbi) (?P<name>{WORD.pattern})",
        rf"(?P<name>{WORD.pattern}),? (?:{'|'.join(_VERBS.split())}|the son of|the king|the priest|the prophet)\b",
        rf"(?P<name>{WORD.pattern})'s\b",
    ),
    "PEOPLE": (rf"\b[Tt]he (?P<name>{WORD.pattern}(?:s|im|ite))\b", rf"(?P<name>{WORD.pattern}ites?)\b"),
}


class NameTable:
    """Kinds of names and numbers by word, one table a language: `table["fr"]["Moïse"]` is "PERSON"."""

    def __init__(self, rows: Sequence[Row], languages: Iterable[str]) -> None:
        """`rows`: aligned text with English among its languages."""
        self._kinds: dict[str, dict[str, str]] = {}
        names = {lang: _capitalised(rows, lang) for lang in languages}
        kinds = _pivot_kinds(rows, names[PIVOT])
        for lang, found in names.items():
            table = dict(kinds) if lang == PIVOT else _carried_over(rows, lang, found, kinds)
            table |= dict.fromkeys(DIVINE[lang].split(), "DIVINE") | dict.fromkeys(NUMBERS[lang].split(), "NUMBER")
            self._kinds[lang] = table

    def __getitem__(self, lang: str) -> Mapping[str, str]:
        return self._kinds[lang]


def _capitalised(rows: Iterable[Row], lang: str) -> set[str]:
    """Words that stand capitalised inside sentences and hardly ever otherwise."""
    capital: Counter[str] = Counter()
    lower: Counter[str] = Counter()
    for row in rows:
        text = row.texts.get(lang, "")
        for match in WORD.finditer(text):
            word = match.group()
            if not word[0].isupper():
                lower[word] += 1
            elif _AFTER_A_WORD.search(text, max(0, match.start() - 2), match.start()):
                capital[word] += 1
    return {
        word
        for word, count in capital.items()
        if count >= _LEAST and lower[word.lower()] <= _MOST_LOWER_CASE * count and word not in _NO_NAMES
    }


def _pivot_kinds(rows: Iterable[Row], names: set[str]) -> dict[str, str]:
    """What each English name names, by the cue that it meets most often; a person where it meets none, as in the long
    lists of these books."""
    met: defaultdict[str, Counter[str]] = defaultdict(Counter)
    cues = [(kind, re.compile(pattern)) for kind, patterns in _CUES.items() for pattern in patterns]
    for row in rows:
        text = row.texts.get(PIVOT, "")
        for kind, pattern in cues:
            for match in pattern.finditer(text):
                met[match["name"]][kind] += 1
    return {name: max(met[name], key=lambda kind: met[name][kind], default="PERSON") for name in names}


def _carried_over(rows: Iterable[Row], lang: str, found: set[str], kinds: Mapping[str, str]) -> dict[str, str]:
    """Kinds of the names of `lang`: each that of the English name it shares most rows with, if it resembles it enough
    for a language where every noun has a capital letter."""
    pivots: Counter[str] = Counter()
    own: Counter[str] = Counter()
    both: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        here = {word for word in WORD.findall(row.texts.get(PIVOT, "")) if word in kinds}
        there = {word for word in WORD.findall(row.texts.get(lang, "")) if word in found}
        pivots.update(here)
        own.update(there)
        for word in there:
            both[word].update(here)
    table = {}
    for word in found:
        shares = {pivot: 2 * count / (own[word] + pivots[pivot]) for pivot, count in both[word].items()}
        likely = sorted(shares, key=lambda pivot: (-shares[pivot], pivot))[:5]
        alike = [pivot for pivot in likely if resemble(word, pivot)]
        fitting = alike or [pivot for pivot in likely if shares[pivot] > ALWAYS_TOGETHER]
        if fitting and (lang not in NOUNS_ARE_CAPITALISED or both[word][fitting[0]] > 0.5 * own[word]):
            table[word] = kinds[fitting[0]]
    return table


def resemble(one: str, other: str) -> bool:
    """Whether two words may be spellings of one name: Chîriath and Kiriath, Schemaeja and Shemaiah."""
    return difflib.SequenceMatcher(None, _sounds(one), _sounds(other), autojunk=False).ratio() >= 0.6


def _sounds(word: str) -> str:
    plain = "".join(char for char in unicodedata.normalize("NFD", word.lower()) if not unicodedata.combining(char))
    for old, new in (("sch", "s"), ("sh", "s"), ("ch", "k"), ("ph", "f"), ("th", "t"), ("c", "k"), ("qu", "k")):
        plain = plain.replace(old, new)
    return plain.translate(str.maketrans("jyzvw", "iisff"))
