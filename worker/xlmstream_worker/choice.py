"""What is chosen for the rows of a batch, and what chooses it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .lanes import Row


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen ids int64 (B,), -1 where a row's scores left none (not a number, or all excluded); and, for the R
    rows that report log-probabilities, those float32 (R,) of their ids and (R, N) of the best ids int64 (R, N), best
    first, all by the scores before penalties."""

    ids: Tensor
    logprobs: Tensor | None = None
    top_logprobs: Tensor | None = None
    top_ids: Tensor | None = None


class Plan(Protocol):
    """What B rows ask for, valid as long as a batch has these rows."""

    @property
    def reporting(self) -> tuple[int, ...]:
        """The places of the R rows that report log-probabilities."""

    def choose(self, scores: Tensor) -> Choice:
        """The next token of every row. `scores` float32 (B, V) are overwritten."""


class Chooser(Protocol):
    """Chooses for rows whose tokens lie in one cache."""

    def plan(self, rows: Sequence[Row], slots: slice) -> Plan:
        """For rows that lie side by side in these slots, in their order."""
