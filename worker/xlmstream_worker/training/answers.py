"""Examples of extractive question answering: made from aligned text by templates, or read from a file in SQuAD's terms.

A sequence is `</s> question </s> context </s>` with plain positions, as questions are served.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xlmstream_worker.xlm import XLMTokenizer

from .batches import EOS, IGNORED
from .bpe import END_OF_WORD
from .corpus import SPLITS, CorpusError, read_rows
from .labelled_batches import Example, lang_ids
from .names import NameTable
from .questions import QuestionMaker

SPECIAL_TOKENS = 3
# Of the sentences before and after the one that answers, at most this many each join the context.
NEIGHBOURS = 2
CONTEXT_SEED = 11


@dataclass(frozen=True)
class Reading:
    """A question on a context: token ids, the pieces of the context, the answer's first and last token in it, and the
    words of the answer; see `words`."""

    lang: str
    lang_id: int
    question: tuple[int, ...]
    context: tuple[int, ...]
    pieces: tuple[str, ...]
    first: int
    last: int
    answer: tuple[str, ...]

    @property
    def example(self) -> Example:
        """The sequence; its first two labels are the places of the answer's first and last token."""
        ids = np.array([EOS, *self.question, EOS, *self.context, EOS], dtype=np.int32)
        labels = np.full(len(ids), IGNORED, dtype=np.int32)
        before = len(self.question) + 2
        labels[0], labels[1] = before + self.first, before + self.last
        return Example(ids, labels, self.lang_id)


def words(text: str) -> tuple[str, ...]:
    """The words of a text in lower case, without punctuation: what answers are compared by."""
    return tuple(re.findall(r"\w+", text.casefold()))


def answered_words(pieces: Sequence[str], first: int, last: int) -> tuple[str, ...]:
    """The words that the pieces from `first` to `last` belong to."""
    start = first
    while start > 0 and not pieces[start - 1].endswith(END_OF_WORD):
        start -= 1
    stop = last
    while stop < len(pieces) - 1 and not pieces[stop].endswith(END_OF_WORD):
        stop += 1
    return words("".join(pieces[start : stop + 1]).replace(END_OF_WORD, " "))


def made_readings(
    files: Sequence[Path],
    languages: Sequence[str],
    tokenizer: XLMTokenizer,
    max_positions: int,
    splits: Collection[str] = SPLITS,
) -> dict[str, list[Reading]]:
    """Template questions on the aligned texts of `files`, by split. A context is the sentence that answers and up to
    two on either side; a question that these answer twice is left out."""
    rows = [row for path in files for row in read_rows(path, languages)]
    names = NameTable(rows, languages)
    rng = np.random.default_rng(CONTEXT_SEED)
    readings: dict[str, list[Reading]] = {split: [] for split in splits}
    for lang in sorted(languages):
        maker = QuestionMaker(lang, names[lang])
        made = [maker.questions(row.texts.get(lang, "")) for row in rows]
        for index, questions in enumerate(made):
            for question in questions:
                before, after = rng.integers(0, NEIGHBOURS + 1, 2).tolist()
                if rows[index].split not in splits:
                    continue
                window = [
                    place
                    for place in range(max(0, index - before), min(len(rows), index + after + 1))
                    if rows[place].split == rows[index].split and lang in rows[place].texts
                ]
                if sum(other.text == question.text for place in window for other in made[place]) > 1:
                    continue
                parts = [rows[place].texts[lang] for place in window]
                start = sum(len(part) + 1 for place, part in zip(window, parts, strict=True) if place < index)
                found = _reading(
                    tokenizer, lang, question.text, " ".join(parts), start + question.start, start + question.end
                )
                if found and len(found.question) + len(found.context) + SPECIAL_TOKENS <= max_positions:
                    readings[rows[index].split].append(found)
    return readings


def asked_readings(path: Path, languages: Sequence[str], tokenizer: XLMTokenizer) -> list[Reading]:
    """Questions that people asked: a JSON object a line, with `lang`, `question`, `context`, `answer` and
    `answer_start`, which counts characters."""
    readings = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            start, answer = int(entry["answer_start"]), str(entry["answer"])
            texts = str(entry["lang"]), str(entry["question"]), str(entry["context"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{path}, line {number}: no question with its answer: {error!r}") from error
        if texts[0] in languages:
            found = _reading(tokenizer, *texts, start, start + len(answer))
            readings.extend([found] if found else [])
    return readings


def _reading(tokenizer: XLMTokenizer, lang: str, question: str, context: str, start: int, end: int) -> Reading | None:
    """None where no token lies in the answer."""
    encoding = tokenizer(context, lang=lang, add_special_tokens=False, return_offsets_mapping=True)
    spans = encoding["offset_mapping"]
    inside = [place for place, span in enumerate(spans) if span[0] < end and span[1] > start]
    if not inside:
        return None
    ids = tuple(encoding["input_ids"])
    return Reading(
        lang=lang,
        lang_id=lang_ids(tokenizer)[lang],
        question=tuple(tokenizer(question, lang=lang, add_special_tokens=False)["input_ids"]),
        context=ids,
        pieces=tuple(tokenizer.convert_ids_to_tokens(list(ids))),
        first=inside[0],
        last=inside[-1],
        answer=words(context[start:end]),
    )
