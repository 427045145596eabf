"""What the rows of a batch ask of the choice of their tokens, as plain arrays: compiled code is called quickest with
those, and makes a `Wish` of a row's part of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xlmstream_worker.draws import signed_seed, stream_of
from xlmstream_worker.lanes import Row

from .compiling import Scalar, compiled
from .constants import RANGE, SHARPEST

Ids = npt.NDArray[np.int64]


class Wish(NamedTuple):
    """One row's: float32 up to `typical_p`, then int64."""

    repetition_penalty: Scalar
    presence_penalty: Scalar
    frequency_penalty: Scalar
    sharpness: Scalar
    """log2(e) / temperature: what makes of a score a power of two; 0 takes the best token."""
    top_p: Scalar
    min_key: Scalar
    """The log2 of min-p."""
    typical_p: Scalar

    stream: Scalar
    """Where the row's numbers come from, an unsigned number in the bits of a signed one."""
    top_k: Scalar
    prompt_length: Scalar
    penalties_from: Scalar
    """The first place that the repetition penalty looks at."""
    no_repeat_ngram_size: Scalar
    min_new_tokens: Scalar
    report: Scalar
    """Which of the rows that report log-probabilities it is; -1 for the others."""
    biases: Scalar
    """Where these begin among the biased ids and biases of all rows; they end where the next row's begin."""
    words: Scalar
    """Where these begin among the bad words of all rows, of each of which there is its length, then its ids."""
    ends: Scalar
    """Where these begin among the ids that end rows."""


_FLOATS = 7


@compiled
def wish_at(floats: npt.NDArray[np.float32], ints: Ids) -> Wish:
    """Of one row of `Wishes`."""
    f, i = floats, ints
    return Wish(
        f[0], f[1], f[2], f[3], f[4], f[5], f[6], i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9]
    )  # fmt: skip


@dataclass(slots=True)
class _Lists:
    """What the rows so far have asked for in lists."""

    biased: list[int] = field(default_factory=list)
    biases: list[float] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)


class Wishes(NamedTuple):
    """Those of B rows."""

    floats: npt.NDArray[np.float32]
    """(B, 7)"""
    ints: Ids
    """(B + 1, 10): the last row is there for where lists end."""
    biased: Ids
    biases: npt.NDArray[np.float32]
    words: Ids
    ends: Ids

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Wishes:
        lists, reports = _Lists(), 0
        wishes = []
        for row in rows:
            reporting = row.request.top_logprobs is not None
            wishes.append(_wish(row, lists, reports if reporting else -1))
            reports += reporting
            sampling = row.request.sampling
            lists.biased += (id_ for id_, _ in sampling.logit_bias)
            lists.biases += (bias for _, bias in sampling.logit_bias)
            lists.words += (value for word in sampling.bad_words for value in (len(word), *word))
            lists.ends += row.request.end_ids
        wishes.append(_wish(rows[-1], lists, -1))
        return cls(
            np.array([wish[:_FLOATS] for wish in wishes[:-1]], np.float32),
            np.array([wish[_FLOATS:] for wish in wishes], np.int64),
            np.array(lists.biased, np.int64),
            np.array(lists.biases, np.float32),
            np.array(lists.words, np.int64),
            np.array(lists.ends, np.int64),
        )


def _wish(row: Row, lists: _Lists, report: int) -> Wish:
    request, wish = row.request, row.request.sampling
    return Wish(
        repetition_penalty=wish.repetition_penalty,
        presence_penalty=wish.presence_penalty,
        frequency_penalty=wish.frequency_penalty,
        sharpness=min(math.log2(math.e) / wish.temperature, SHARPEST) if wish.temperature else 0.0,
        top_p=wish.top_p,
        min_key=max(math.log2(wish.min_p), -RANGE) if wish.min_p else -RANGE,
        typical_p=wish.typical_p,
        stream=signed_seed(stream_of(wish.seed, row.candidate)),
        top_k=wish.top_k,
        prompt_length=len(request.prompt_ids),
        # The prompt of a translation is no text of anybody.
        penalties_from=0 if request.source is None else len(request.prompt_ids),
        no_repeat_ngram_size=wish.no_repeat_ngram_size,
        min_new_tokens=request.min_new_tokens,
        report=report,
        biases=len(lists.biased),
        words=len(lists.words),
        ends=len(lists.ends),
    )
