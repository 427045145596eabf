"""What goes into the encoder engine and what comes out of it: plain values, no tensors, no text, no protobuf.

A task turns each of its inputs into one or more `EncoderInput`s: the ids that the model sees, and a `Reading`: what is
read from the hidden states they give. Inputs of any readings share a batch.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .sequences import Failure

Values = tuple[NDArray[np.float32] | NDArray[np.int64], ...]
"""What a reading gives for one input; the shapes stand with each reading."""


class Pooling(enum.Enum):
    """How T vectors become one."""

    FIRST = "first"
    MEAN = "mean"
    MAX = "max"
    LAST = "last"
    NONE = "none"
    """They do not."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Hidden states: float32 (E,), or (T, E) with Pooling.NONE; E at most `dimensions`."""

    pooling: Pooling
    layer: int | None = None
    """After this many layers; None: after all."""
    dimensions: int | None = None
    """Only the first so many; None: all."""
    normalize: bool = False
    """Scaled to length 1, after the cut; zeros stay zeros."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The most probable tokens at each of P `places`: ids int64 (P, k), probabilities float32 (P, k), falling."""

    k: int
    targets: tuple[int, ...] = ()
    """Only among these ids, unless empty. The probabilities stay those of the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Log-probability, float32 (P,), of the token `targets[i]` as predicted at `places[i]`."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Scores of the sequence's labels before any function: float32 (labels,)."""


@dataclass(frozen=True, slots=True)
class TokenLabels:
    """Scores of each token's labels before any function: float32 (T, labels)."""


@dataclass(frozen=True, slots=True)
class ChoiceFit:
    """How well the sequence fits, to be compared with its rivals: float32 (1,)."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Scores of an answer's starting and ending at each token: float32 (T,) and (T,)."""


@dataclass(frozen=True, slots=True)
class SpanBeam:
    """The best starts and, for each, the best ends, among the `places`: n starts at most, m ends each.

    Probabilities of the starts float32 (n,), their places int64 (n,), probabilities of the ends float32 (m, n), their
    places int64 (m, n), and the score of "no answer" float32 (1,). `targets` is one place: the classification token's.
    """


Reading = Vectors | Candidates | Likelihoods | Labels | TokenLabels | ChoiceFit | Spans | SpanBeam


@dataclass(frozen=True, slots=True)
class EncoderInput:
    """One sequence of T tokens and what to read from it."""

    ids: tuple[int, ...]
    reading: Reading
    languages: tuple[int, ...] | None = None
    """One per token, or None for no language."""
    token_types: tuple[int, ...] | None = None
    """One per token, or None for none, which is not the same as zeros."""
    places: tuple[int, ...] = ()
    """Tokens that the reading is about, where it is not about all."""
    targets: tuple[int, ...] = ()
    """See the reading."""
    replaced: tuple[int, int] | None = None
    """(place, id): this id instead at this place. Many inputs that differ in one token thus share their ids."""


@dataclass(frozen=True, slots=True)
class EncoderRequest:
    """Inputs that belong together, in any number; each is computed and reported by itself."""

    key: str
    inputs: tuple[EncoderInput, ...]
    alone: bool = False
    """Share no batch with other requests: this one is suspected of bringing workers down."""
    bulk: bool = False
    """Nobody waits for it: all other requests go first, yet it is never left out for ever."""


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """What came of one input: values or a failure."""

    key: str
    index: int
    """Its place among the inputs of its request."""
    values: Values = ()
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class EncoderStep:
    """One batch."""

    outputs: tuple[EncoderOutput, ...] = ()
    batch_size: int = 0
    """Inputs that were computed together."""
