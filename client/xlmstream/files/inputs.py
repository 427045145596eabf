"""From rows to what a task takes: which field is the text, which the key, and what is wrong with a row without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xlmstream.files.rows import BadRow, Row, rows
from xlmstream.files.source import Format, Source
from xlmstream.jobs import JobItem
from xlmstream.keywords import Prompt
from xlmstream.tasks import Choices, Question, TextPair
from xlmstream.v1.common_pb2 import TextInput, TokenIds

_TEXT = ("text", "sentence", "prompt", "content", "token_ids")
DEFAULTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    **{task: {"text": _TEXT} for task in ("generate", "translate", "embed", "fill_mask", "tag", "score")},
    "classify": {
        "text": (*_TEXT, "sentence1", "premise"),
        "pair": ("pair", "text_pair", "sentence2", "hypothesis"),
    },
    "answer": {"question": ("question",), "context": ("context", "passage")},
    "choose": {"text": _TEXT, "choices": ("choices", "endings")},
}
"""For each task its parts, and the names of fields that are looked for, in their order."""
KEYS = ("key", "id")
LANGUAGES = ("language", "lang")

# Limits of JobItem, with room for what surrounds the texts; beyond them the service refuses the whole upload.
MAX_KEY_BYTES = 256
MAX_INPUT_BYTES = 255 << 10

_PLAIN_COLUMNS = {"classify": ("text", "pair"), "answer": ("question", "context"), "choose": ("text", "choices*")}
_OPTIONAL = frozenset({"pair"})
_NUMBERED_CHOICES = ("choice", "ending")


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of fields that a user gives; None takes the first of the usual names that a row has.

    Attributes:
        choices: several where each choice is a field of its own.
        key: left out, and none of the usual ones there: the line number.
        language: "" reads none, for a model that has one language.
    """

    text: str | None = None
    pair: str | None = None
    question: str | None = None
    context: str | None = None
    choices: tuple[str, ...] = ()
    key: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A row that gives no input."""

    source: str
    line: int
    field: str
    """Empty where the row as a whole cannot be read."""
    problem: str

    def __str__(self) -> str:
        field = f" field {self.field!r}:" if self.field else ""
        return f"{self.source}:{self.line}:{field} {self.problem}"


class _Wrong(Exception):
    """What is wrong with a field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field, self.problem = field, problem


class Items:
    """The inputs of a file, for `job.upload`, read anew each time they are iterated. Rows without one are left out."""

    def __init__(
        self,
        source: Source,
        task: str,
        fields: Fields | None = None,
        *,
        header: bool = True,
        allow_special_tokens: bool = False,
    ) -> None:
        """Reads nothing yet.

        task: the name of a verb, such as "classify".
        header: whether the first line of CSV and TSV has the names; otherwise the fields are "1", "2" and so on.
        allow_special_tokens: whether "</s>" and the like in a text mean the special tokens.
        """
        self._source = source
        self._reader = _Reader(task, fields or Fields(), allow_special_tokens)
        self._columns = _PLAIN_COLUMNS.get(task, ("text",))
        self._header = header

    def __iter__(self) -> Iterator[JobItem]:
        return (one for one in self.checked() if isinstance(one, JobItem))

    def checked(self) -> Iterator[JobItem | BadLine]:
        """Every row, as an input or as what is wrong with it. Raises FileError where the whole file is wrong."""
        name = self._source.name
        wanted = self._reader.names if self._source.format is Format.PARQUET else None
        for row in rows(self._source, header=self._header, columns=self._columns, wanted=wanted):
            if isinstance(row, BadRow):
                yield BadLine(name, row.line, "", row.problem)
                continue
            try:
                yield self._reader.item(row)
            except _Wrong as wrong:
                yield BadLine(name, row.line, wrong.field, wrong.problem)


class _Reader:
    """Reads the rows of one task."""

    def __init__(self, task: str, fields: Fields, allow_special_tokens: bool) -> None:
        self._candidates = {
            part: (given,) if (given := _given(fields, part)) else names for part, names in DEFAULTS[task].items()
        }
        self._choices = fields.choices
        self._keys = (fields.key,) if fields.key else KEYS
        self._languages = LANGUAGES if fields.language is None else (fields.language,) if fields.language else ()
        self._key_needed = fields.key is not None
        self._allow_special_tokens = allow_special_tokens
        self._room = MAX_INPUT_BYTES
        self._input = _INPUTS.get(task, _Reader._text_input)

    def names(self, present: str) -> bool:
        """Whether a column may be needed."""
        named = any(present in names for names in self._candidates.values())
        return named or present in (*self._keys, *self._languages, *self._choices) or _numbered(present)

    def item(self, row: Row) -> JobItem:
        self._room = MAX_INPUT_BYTES
        return JobItem(self._key(row), self._input(self, row.fields, self._language(row.fields)))

    def _key(self, row: Row) -> str:
        field, value = _first(row.fields, self._keys)
        if value is None or value == "":
            if self._key_needed:
                raise _Wrong(field, "missing, but it is to be the key")
            return str(row.line)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise _Wrong(field, f"a key is a string or a whole number, not {_shown(value)}")
        key = str(value)
        size = len(_encoded(field, key))
        if size > MAX_KEY_BYTES:
            raise _Wrong(field, f"a key has at most {MAX_KEY_BYTES} bytes, not {size}")
        return key

    def _language(self, fields: Mapping[str, object]) -> str:
        field, value = _first(fields, self._languages) if self._languages else ("", None)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _Wrong(field, f"a language is a string, not {_shown(value)}")
        _encoded(field, value)
        return value

    def _text_input(self, fields: Mapping[str, object], language: str) -> Prompt:
        return self._text(*self._needed(fields, "text"), language)

    def _pair_input(self, fields: Mapping[str, object], language: str) -> Prompt | TextPair:
        text = self._text_input(fields, language)
        field, pair = _first(fields, self._candidates["pair"])
        return text if pair is None or pair == "" else TextPair(text, self._text(field, pair, language))

    def _question_input(self, fields: Mapping[str, object], language: str) -> Question:
        question = self._text(*self._needed(fields, "question"), language)
        return Question(question, self._text(*self._needed(fields, "context"), language))

    def _choices_input(self, fields: Mapping[str, object], language: str) -> Choices:
        text = self._text_input(fields, language)
        return Choices(text, [self._text(field, value, language) for field, value in self._choice_fields(fields)])

    def _choice_fields(self, fields: Mapping[str, object]) -> list[tuple[str, object]]:
        """The choices with their places: one field that lists them, or a field for each."""
        names = self._choices
        if not names:
            field, value = _first(fields, self._candidates["choices"])
            names = (field,) if value is not None else tuple(filter(_numbered, fields))
        if not names:
            raise _Wrong(self._candidates["choices"][0], f"missing; the line has {_listing(fields)}")
        found: list[tuple[str, object]] = []
        for name in names:
            value = fields.get(name)
            if isinstance(value, list):
                found += [(f"{name}[{index}]", one) for index, one in enumerate(value)]
            elif value is not None and value != "":
                found.append((name, value))
        if not found:
            raise _Wrong(names[0], "no choice is given")
        return found

    def _needed(self, fields: Mapping[str, object], part: str) -> tuple[str, object]:
        field, value = _first(fields, self._candidates[part])
        if value is None:
            problem = "null" if field in fields else f"missing; the line has {_listing(fields)}"
            raise _Wrong(field, f"{problem} (name another field with --{part}-field)")
        return field, value

    def _text(self, field: str, value: object, language: str) -> Prompt:
        if isinstance(value, str):
            self._take(field, len(_encoded(field, value)))
            if not language and not self._allow_special_tokens:
                return value
            text = TextInput(text=value, allow_special_tokens=self._allow_special_tokens)
        elif isinstance(value, list) and all(type(one) is int for one in value):
            try:
                text = TextInput(token_ids=TokenIds(ids=value))
            except ValueError as error:
                raise _Wrong(field, f"token ids: {error}") from error
            self._take(field, text.ByteSize())
        else:
            raise _Wrong(field, f"a text is a string, or a list of token ids, not {_shown(value)}")
        if language:
            text.language = language
        return text

    def _take(self, field: str, size: int) -> None:
        """Count what a text of the present row needs."""
        self._room -= size + 8  # and its place in the message
        if self._room < 0:
            raise _Wrong(field, f"an input has at most {MAX_INPUT_BYTES} bytes in all")


_INPUTS: Mapping[str, Callable[[_Reader, Mapping[str, object], str], Any]] = {
    "classify": _Reader._pair_input,
    "answer": _Reader._question_input,
    "choose": _Reader._choices_input,
}


def _given(fields: Fields, part: str) -> str | None:
    given = getattr(fields, part)
    return given if isinstance(given, str) else None


def _first(fields: Mapping[str, object], names: tuple[str, ...]) -> tuple[str, object]:
    """The first of the names that has a value; the first name and None where none has."""
    for name in names:
        value = fields.get(name)
        if value is not None:
            return name, value
    return names[0], None


def _numbered(name: str) -> bool:
    """Whether a name is like "choice1" or "ending0"."""
    return any(name.startswith(stem) and name[len(stem) :].isdigit() for stem in _NUMBERED_CHOICES)


def _encoded(field: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise _Wrong(field, f"not valid Unicode at character {error.start} (is the file UTF-8?)") from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _listing(fields: Mapping[str, object]) -> str:
    names = [repr(name) for name in list(fields)[:8]]
    return ", ".join(names) + (" and more" if len(fields) > 8 else "") if names else "no fields"
