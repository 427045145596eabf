"""The Moses word tokenizer as XLM uses it: no XML escapes, no aggressive hyphen splitting.

Equal, word for word, to sacremoses 0.2.0 (`MosesTokenizer(lang).tokenize(text, escape=False)`), whose character
classes and lists of abbreviations it reads. Where sacremoses hides runs of full stops behind a marker word,
they simply stay here.

Source: moses-smt/mosesdecoder scripts/tokenizer/tokenizer.perl.
"""

import re

from xlmstream_worker.xlm.normalize import REWRITTEN_CHARACTERS
from xlmstream_worker.xlm.rewriting import PADDED, Rule, Text, rule

# The full stop, the comma, the apostrophe, the backtick and the hyphen have rules of their own.
_NOT_PADDED = r"\s\.'`\,\-"


def _ranges(characters: set[str]) -> str:
    """The inside of a regular expression's character class."""
    points = sorted(map(ord, characters))
    parts: list[str] = []
    first = previous = points[0]
    for point in [*points[1:], -1]:
        if point != previous + 1:
            parts.append(re.escape(chr(first)) + ("-" + re.escape(chr(previous)) if previous > first else ""))
            first = point
        previous = point
    return "".join(parts)


class _CharacterClasses:
    """Moses' character classes for one language: Perl's properties plus the letters it adds."""

    def __init__(self, lang: str) -> None:
        from sacremoses.corpus import Perluniprops
        from sacremoses.indic import NUKTAS, VIRAMAS

        perl = Perluniprops()
        indic = {*VIRAMAS, *NUKTAS}
        scripts = {
            "ko": ["Hangul"],
            "zh": ["Han"],
            "ja": ["Hiragana", "Katakana", "Han"],
            "cjk": ["Hangul", "Han", "Hiragana", "Katakana"],
        }
        own = {character for script in scripts.get(lang, ()) for character in perl.chars(script)}
        self.numeric = set(perl.chars("IsN"))
        self.lower = frozenset(perl.chars("IsLower"))
        self.alphabetic = set(perl.chars("IsAlpha")) | indic
        self.own_alphabetic = frozenset(self.alphabetic | own)
        self.alphanumeric = set(perl.chars("IsAlnum")) | indic | own


def _restored_multidots(match: re.Match[str]) -> str:
    """sacremoses writes its own marker for runs of full stops back, also when the text itself contained it."""
    word = match[0]
    return "." * ((len(word) - len("MULTI")) // len("DOT")) if word.endswith("MULTI") else word


_TRAILING_FULL_STOP = (rule(".'", r"(\.)(') ?$", r" \1 \2 "),)
# Moses hides runs of full stops behind such words, and turns them back into full stops wherever they are.
MARKER = "DOTMULTI"
_MULTIDOT_MARKER = (rule(MARKER, r"(?:DOT)+(?:MULTI)?", _restored_multidots),)


class MosesTokenizer:
    """Cuts normalised text into words for one language; immutable, so threads may share it.

    Attributes:
        lower: the letters that count as lower case.
        plain: pattern of letters, digits and hyphens that no rule touches, but for `MARKER` among them.

    Args:
        lang: ISO code. Codes without a list of abbreviations get the English one, as in Moses.
    """

    def __init__(self, lang: str) -> None:
        from sacremoses.corpus import NonbreakingPrefixes

        classes = _CharacterClasses(lang)
        self.lower = classes.lower
        self._alphabetic = classes.own_alphabetic
        prefixes = list(NonbreakingPrefixes().words(lang))
        self._before_number = {
            prefix.rpartition(" ")[0] for prefix in prefixes if re.search(r"\s#NUMERIC_ONLY#", prefix)
        }
        self._abbreviations = set(prefixes) - self._before_number
        plain = {letter for letter in classes.alphanumeric - REWRITTEN_CHARACTERS if letter.isprintable()}
        self.plain = f"[{_ranges(plain)}-]+"
        self._rules = (
            rule("", f"([^{_ranges(classes.alphanumeric)}{_NOT_PADDED}])", PADDED),
            rule("..", r"(\.{2,})", PADDED),
            *_comma_rules(_ranges(classes.numeric)),
            *_apostrophe_rules(lang, _ranges(classes.alphabetic), _ranges(classes.numeric)),
        )

    def tokenize(self, text: Text) -> None:
        """Put white space between the words of a text that went through `normalize`, in place."""
        text.strip()
        text.rewrite(self._rules)
        if "." in text.value:
            text.detach_full_stops(self._sentence_ends)
            text.rewrite(_TRAILING_FULL_STOP)
        text.rewrite(_MULTIDOT_MARKER)

    def keeps_full_stop(self, word: str, following: str) -> bool:
        """Whether the full stop at the end of `word` belongs to it, given the next word ("" at the end)."""
        stem = word[:-1]
        if not stem.strip("."):  # nothing but full stops
            return True
        if "." in stem and not self._alphabetic.isdisjoint(stem):
            return True
        if stem in self._abbreviations:
            return True
        if not following:
            return False
        return following[0] in self.lower or (stem in self._before_number and following[0] in "0123456789")

    def _sentence_ends(self, words: list[str]) -> list[int]:
        """Indices of the words whose final full stop is a word of its own."""
        pairs = zip(words, [*words[1:], ""], strict=True)
        return [
            index
            for index, (word, following) in enumerate(pairs)
            if word[-1] == "." and not self.keeps_full_stop(word, following)
        ]


def _comma_rules(numeric: str) -> tuple[Rule, ...]:
    """Commas are words of their own, except between two digits (5,300)."""
    return (
        rule(",", f"([^{numeric}]),", r"\1 , "),
        rule(",", f",([^{numeric}])", r" , \1"),
        rule(",", f"([{numeric}]),$", r"\1 , "),
    )


def _apostrophe_rules(lang: str, alpha: str, numeric: str) -> tuple[Rule, ...]:
    """Where an apostrophe stays: with the right part in English, with the left in French and Italian."""
    if lang == "en":
        return (
            rule("'", f"([^{alpha}])'([^{alpha}])", r"\1 ' \2"),
            rule("'", f"([^{alpha}{numeric}])'([{alpha}])", r"\1 ' \2"),
            rule("'", f"([{alpha}])'([^{alpha}])", r"\1 ' \2"),
            rule("'", f"([{alpha}])(')([{alpha}])", r"\1 \2\3"),
            rule("'", f"([{numeric}])(')(s)", r"\1 \2\3"),
        )
    if lang in ("fr", "it"):
        return (
            rule("'", f"([^{alpha}])'([^{alpha}])", r"\1 ' \2"),
            rule("'", f"([^{alpha}])'([{alpha}])", r"\1 ' \2"),
            rule("'", f"([{alpha}])'([^{alpha}])", r"\1 ' \2"),
            rule("'", f"([{alpha}])(')([{alpha}])", r"\1\2 \3"),
        )
    return (rule("'", "(')", PADDED),)
