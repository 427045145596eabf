"""Questions and answers made from sentences by templates, in English, French, German and Spanish.

"And Moses went up to God" becomes "Who went up to God?" with the answer "Moses"; "forty days" becomes "How many days?".
A question repeats the words of its sentence: a model trained on these learns to find a stretch of text by what stands
around it, and to give the kind of thing that is asked for. It learns no facts and no paraphrases.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .names import NUMBERS, WORD
from .question_rules import DETERMINERS, GRAMMARS, NOUNS


@dataclass(frozen=True)
class Question:
    """A question about a sentence; the answer is `sentence[start:end]`."""

    text: str
    start: int
    end: int


_CLAUSE = re.compile(r"[^.,;:?!¿¡()]+")
_LEAST_STATEMENT_WORDS = 2
_AND = {"de": "und", "en": "and", "es": "y", "fr": "et"}


class QuestionMaker:
    """Makes the questions that a sentence of one language answers."""

    def __init__(self, lang: str, kinds: Mapping[str, str]) -> None:
        """`kinds`: the language's names; see `NameTable`."""
        self._kinds = kinds
        self._numbers = frozenset(NUMBERS[lang].split())
        self._grammar = grammar = GRAMMARS[lang]
        any_number = f"(?:{'|'.join(NUMBERS[lang].split())})"
        number = rf"{any_number}(?:(?:[ -]| {_AND[lang]} ){any_number})*"

        def compiled(pattern: str) -> re.Pattern[str]:
            return re.compile(pattern.replace(">N)", f">{grammar.name})").replace("NUMBER", number))

        joints = "|".join(form for word in grammar.joints.split() for form in (word, word.capitalize()))
        self._clauses = [(compiled(rf"\s*(?:(?:{joints}) )?{pattern}\s*$"), text) for pattern, text in grammar.clauses]
        self._sentences = [(compiled(pattern), text) for pattern, text in grammar.sentences]

    def questions(self, sentence: str) -> list[Question]:
        """Each question once; those with two different answers are left out."""
        found: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        for question in self._all(sentence):
            found[question.text].add((question.start, question.end))
        return [Question(text, *next(iter(spans))) for text, spans in found.items() if len(spans) == 1]

    def _all(self, sentence: str) -> Iterator[Question]:
        for clause in _CLAUSE.finditer(sentence):
            for pattern, text in self._clauses:
                if (match := pattern.match(clause.group())) and self._is_sound(match.groupdict()):
                    yield _question(match, text, clause.start())
        for pattern, text in self._sentences:
            for match in pattern.finditer(sentence):
                if self._is_sound(match.groupdict()):
                    yield _question(match, text, 0)

    def _is_sound(self, parts: Mapping[str, str]) -> bool:
        """Whether names are names, an answer says something, and a statement begins with what may be a verb."""
        if "what" in parts:
            return parts["what"] not in self._numbers
        answer_is_name = "rest" in parts or "of" in parts or parts["answer"][0].isupper()
        names = [parts[sign] for sign in ("who", "of") if sign in parts]
        return (
            all(map(self._is_name, [*names, *([parts["answer"]] if answer_is_name else [])]))
            and self._says_something(parts["answer"])
            and ("rest" not in parts or self._is_statement(f"{parts.get('verb', '')} {parts['rest']}".split()))
        )

    def _is_name(self, phrase: str) -> bool:
        """Whether each of its words with a capital letter names somebody or something, as far as we know."""
        words = WORD.findall(phrase)
        if words[0].lower() in DETERMINERS and len(words) > 1:
            words = words[1:]
        capitals = (word for word in words if word[0].isupper() and word not in NOUNS)
        return all(self._kinds.get(word, "NUMBER") != "NUMBER" for word in capitals)

    def _says_something(self, answer: str) -> bool:
        return {word.lower() for word in WORD.findall(answer)}.isdisjoint(self._grammar.vague.split())

    def _is_statement(self, words: list[str]) -> bool:
        first = words[0].partition("'")[0]
        return (
            len(words) >= _LEAST_STATEMENT_WORDS
            and first.islower()
            and first not in self._grammar.no_verbs.split()
            and not first.endswith("ndo")  # a gerund in Spanish
        )


def _question(match: re.Match[str], text: str, offset: int) -> Question:
    parts = {sign: value for sign, value in match.groupdict().items() if value}
    if "who" in parts and WORD.findall(parts["who"])[0].lower() in DETERMINERS:
        parts["who"] = parts["who"][0].lower() + parts["who"][1:]
    start, end = match.span("answer")
    return Question(text.format(**parts), offset + start, offset + end)
