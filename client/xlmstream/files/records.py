"""From results to records: rows of named columns, the same columns for every result of a job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xlmstream.jobs import JobResult
from xlmstream.messages import Generation
from xlmstream.results import Answers, Choice, Classification, Embedding, FilledMask, Score, Tagging

Record = dict[str, Any]
"""Column names to values: numbers, strings, None, lists and dicts of those; a Tensor stays one."""

_FIRST = ("index", "key", "attempt")
_LAST = ("prompt_tokens", "completion_tokens", "error_reason", "error_message")


@dataclass(frozen=True, slots=True)
class Shape:
    """The columns that the results of a task have of their own, and how they are filled."""

    columns: tuple[str, ...]
    values: Callable[[Any], Sequence[Any]]


def columns_of(task: str) -> tuple[str, ...]:
    """The columns of a task's results, in their order; `task` is the name of a verb."""
    return (*_FIRST, *SHAPES[task].columns, *_LAST)


def record_of(task: str, result: JobResult[Any]) -> Record:
    """One result: the columns of its task, or None in them and what went wrong."""
    shape = SHAPES[task]
    record: Record = {"index": result.index, "key": result.key, "attempt": result.attempt}
    if result.error is None:
        value = result.result
        record.update(zip(shape.columns, shape.values(value), strict=True))
        usage = value.usage
        record |= {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        return record | {"error_reason": None, "error_message": None}
    record.update(dict.fromkeys(shape.columns))
    record |= {"prompt_tokens": None, "completion_tokens": None}
    reason = result.error.reason or result.error.code.name
    return record | {"error_reason": reason, "error_message": result.error.message}


def _generation(result: Generation) -> Sequence[Any]:
    """The first candidate; all of them with their likelihoods, where more was asked for than one text."""
    several = len(result.candidates) > 1 or any(one.logprobs or one.score is not None for one in result.candidates)
    candidates = [
        {
            "text": one.text,
            "token_ids": list(one.token_ids),
            "finish_reason": str(one.finish_reason),
            "score": one.score,
            "logprobs": [
                {
                    "logprob": step.logprob,
                    "top": [{"token_id": token, "logprob": logprob} for token, logprob in step.top],
                }
                for step in one.logprobs
            ],
        }
        for one in result.candidates
    ]
    seed = result.parameters.seed if result.parameters.HasField("seed") else None
    return result.text, str(result.finish_reason), list(result.token_ids), seed, candidates if several else None


def _plain(values: Sequence[Any]) -> list[Record]:
    return [dataclasses.asdict(one) for one in values]


def _embedding(result: Embedding) -> Sequence[Any]:
    """With pooling "none" a vector for each token, in a column of its own."""
    nested = len(result.tensor.shape) > 1
    vectors = (None, result.tensor) if nested else (result.tensor, None)
    return *vectors, _plain(result.tokens) or None


def _filled(result: FilledMask) -> Sequence[Any]:
    return result.text, _plain(result.masks)


def _classification(result: Classification) -> Sequence[Any]:
    return result.label, result.score, _plain(result.labels)


def _tagging(result: Tagging) -> Sequence[Any]:
    tokens = [dataclasses.asdict(one.token) | {"scores": list(one.scores)} for one in result.tokens]
    return _plain(result.entities), _plain(result.words), tokens or None


def _answers(result: Answers) -> Sequence[Any]:
    return result.text, result.score, result.no_answer_score, _plain(result.answers)


def _choice(result: Choice) -> Sequence[Any]:
    return result.index, result.score, _plain(result.choices)


def _score(result: Score) -> Sequence[Any]:
    tokens = [dataclasses.asdict(one.token) | {"log_probability": one.log_probability} for one in result.tokens]
    return result.log_probability, result.perplexity, result.scored_tokens, tokens or None


_GENERATION = ("text", "finish_reason", "token_ids", "seed", "candidates")
SHAPES: Mapping[str, Shape] = {
    "generate": Shape(_GENERATION, _generation),
    "translate": Shape(_GENERATION, _generation),
    "embed": Shape(("embedding", "token_embeddings", "tokens"), _embedding),
    "fill_mask": Shape(("text", "masks"), _filled),
    "classify": Shape(("label", "score", "labels"), _classification),
    "tag": Shape(("entities", "words", "tokens"), _tagging),
    "answer": Shape(("text", "score", "no_answer_score", "answers"), _answers),
    "choose": Shape(("choice", "score", "choices"), _choice),
    "score": Shape(("log_probability", "perplexity", "scored_tokens", "tokens"), _score),
}
