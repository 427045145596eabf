"""The commands of all tasks but generation: inputs in, one stream to the service, rows or JSON out."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xlmstream.cli.commands import connect, generation_json, given_keywords, print_json, texts_of
from xlmstream.cli.failures import explain
from xlmstream.cli.progress import Progress, lines_of_stdin
from xlmstream.errors import InvalidInput
from xlmstream.messages import Generation
from xlmstream.results import Answers, Choice, Classification, Embedding, FilledMask, Score, Tagging
from xlmstream.tasks import TASKS, Choices, Question, TextPair

Row = Sequence[str]

# Inputs on the way at once.
IN_FLIGHT = 256
# Numbers of a vector that a row shows; --json has them all.
SHOWN_NUMBERS = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """How results of one task look.

    Attributes:
        inputs: the inputs of a command line.
        heading: names of the columns; empty where results are plain lines.
        widths: least widths of all columns but the last.
        rows: what is shown of a result, given its input.
    """

    inputs: Callable[[argparse.Namespace], Iterator[Any]]
    heading: Row
    widths: Sequence[int]
    rows: Callable[[Any, Any], list[Row]]


def run(name: str, arguments: argparse.Namespace) -> int:
    """Do one task for all inputs, in their order. Returns the worst exit code among them."""
    layout, worst, headed = LAYOUTS[name], 0, False
    keywords = given_keywords(arguments, TASKS[name].keywords.__annotations__)
    keywords.pop("request_id", None)
    given = getattr(arguments, "texts", None) or getattr(arguments, "question", None)
    with (
        connect(arguments) as client,
        Progress(lambda: None if given else lines_of_stdin()) as progress,
        client.map(  # type: ignore[call-overload]  # the name is a variable
            name, layout.inputs(arguments), max_in_flight=IN_FLIGHT, timeout_s=arguments.timeout, **keywords
        ) as stream,
    ):
        for mapped in stream:
            if mapped.error is not None:
                code, message = explain(mapped.error, arguments.address)
                worst = max(worst, code)
                if arguments.json:
                    error = {"reason": mapped.error.reason, "message": mapped.error.message}
                    print_json({"input": _input_json(mapped.input), "error": error})
                else:
                    print(f"xlmstream: input {mapped.index + 1}: {message}", file=sys.stderr)
            elif arguments.json:
                print_json({"input": _input_json(mapped.input), **_result_json(mapped.result)})
            else:
                rows = layout.rows(mapped.input, mapped.result)
                _print_rows(layout, rows if headed or not layout.heading else [layout.heading, *rows])
                headed = True
            progress.count(failed=mapped.error is not None)
    return worst


def _print_rows(layout: Layout, rows: list[Row]) -> None:
    """Rows as they come: widths are fixed, because what follows is not known yet."""
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], layout.widths, strict=True)]
        print("  ".join([*cells, row[-1]]).rstrip())


def _input_json(given: Any) -> Any:
    return given._asdict() if isinstance(given, TextPair | Question | Choices) else given


def _result_json(result: Any) -> Mapping[str, object]:
    if isinstance(result, Generation):
        return generation_json(result)
    if isinstance(result, Embedding):
        tokens = [dataclasses.asdict(token) for token in result.tokens]
        usage, timing = dataclasses.asdict(result.usage), dataclasses.asdict(result.timing)
        return {"embedding": result.tensor.tolist(), "tokens": tokens, "usage": usage, "timing": timing}
    return dataclasses.asdict(result)


def _fields(line: str, least: int, what: str) -> list[str]:
    parts = line.split("\t")
    if len(parts) < least:
        raise InvalidInput(f"each line must be {what}, with tabs between; this is not: {line[:60]!r}")
    return parts


def _pairs(arguments: argparse.Namespace) -> Iterator[str | TextPair]:
    """Texts; with a tab inside, pairs of texts."""
    for line in texts_of(arguments.texts):
        text, tab, pair = line.partition("\t")
        yield TextPair(text, pair) if tab else text


def _questions(arguments: argparse.Namespace) -> Iterator[Question]:
    if arguments.question is not None:
        if arguments.context is None:
            raise InvalidInput("answer takes a question and the text to find its answer in")
        yield Question(arguments.question, arguments.context)
        return
    for line in texts_of(()):
        question, context, *_ = _fields(line, 2, "a question and a text")
        yield Question(question, context)


def _choices(arguments: argparse.Namespace) -> Iterator[Choices]:
    if arguments.texts:
        prompt, *choices = arguments.texts
        yield Choices(prompt, choices)
        return
    for line in texts_of(()):
        prompt, *choices = _fields(line, 2, "a text and its choices")
        yield Choices(prompt, choices)


def _embed_rows(given: str, result: Embedding) -> list[Row]:
    shape = "x".join(map(str, result.tensor.shape))
    numbers = " ".join(f"{number:+.4f}" for number in result.tensor.numbers()[:SHOWN_NUMBERS])
    return [(shape, f"{numbers} ...", given)]


def _fill_rows(given: str, result: FilledMask) -> list[Row]:
    return [
        (f"{one.score:.4f}", f"{mask.start}:{mask.end}", one.text) for mask in result.masks for one in mask.candidates
    ]


def _classify_rows(given: str | TextPair, result: Classification) -> list[Row]:
    text = " | ".join(given) if isinstance(given, TextPair) else given  # type: ignore[arg-type]  # both are str here
    return [(f"{one.score:.4f}", one.label, text) for one in result.labels]


def _tag_rows(given: str, result: Tagging) -> list[Row]:
    return [(f"{one.score:.4f}", f"{one.start}:{one.end}", one.label, one.text) for one in result.entities]


def _answer_rows(given: Question, result: Answers) -> list[Row]:
    return [(f"{one.score:.4f}", f"{one.start}:{one.end}", one.text) for one in result.answers]


def _choose_rows(given: Choices, result: Choice) -> list[Row]:
    return [(f"{one.score:.4f}", str(given.choices[one.index])) for one in result.choices]


def _score_rows(given: str, result: Score) -> list[Row]:
    return [(f"{result.log_probability:.3f}", f"{result.perplexity:.2f}", str(result.scored_tokens), given)]


def _translate_rows(given: str, result: Generation) -> list[Row]:
    """The translation; of several, each behind its score."""
    if len(result.candidates) == 1:
        return [(result.text,)]
    return [(f"{one.score:8.4f}  {one.text}" if one.score is not None else one.text,) for one in result.candidates]


def _texts(arguments: argparse.Namespace) -> Iterator[str]:
    return texts_of(arguments.texts)


LAYOUTS: Mapping[str, Layout] = {
    "translate": Layout(_texts, (), (), _translate_rows),
    "embed": Layout(_texts, ("SHAPE", "NUMBERS", "TEXT"), (8, 8 * SHOWN_NUMBERS + 3), _embed_rows),
    "fill_mask": Layout(_texts, ("SCORE", "PLACE", "TEXT"), (6, 9), _fill_rows),
    "classify": Layout(_pairs, ("SCORE", "LABEL", "TEXT"), (6, 12), _classify_rows),
    "tag": Layout(_texts, ("SCORE", "PLACE", "LABEL", "TEXT"), (6, 9, 8), _tag_rows),
    "answer": Layout(_questions, ("SCORE", "PLACE", "ANSWER"), (6, 9), _answer_rows),
    "choose": Layout(_choices, ("SCORE", "CHOICE"), (6,), _choose_rows),
    "score": Layout(_texts, ("LOG P", "PERPLEXITY", "TOKENS", "TEXT"), (9, 10, 6), _score_rows),
}
