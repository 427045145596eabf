"""Drawing from a share of the probability row by row, looking at each result: for a CPU.

It draws what `share.draw_ahead` draws, from the same numbers, but touches only what it must: the weights of one row,
which stay in the processor's cache, and of few rows. Most tokens are known to be in the share from the sums and the
highest weights of blocks, or from one pass over their row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from .draws import Numbers, uniform
from .picking import block_sums, pick
from .share import LOWEST_KEY, Preferred, surely_typical

Interval = tuple[float, float]
"""Weights between these two, neither of them included."""
# Tries to find an edge, and how many of them interpolate; the others halve.
_TRIES, _INTERPOLATED = 64, 24
_NORMAL = NormalDist()
_PASS_BETWEEN = torch.ops.aten.hardtanh_backward.grad_input
# Less than any weight but 0.
_TINY = 2.0**-126
# Weights nearer to each other than this, as a factor, count as equal at an edge.
_SAME = 1.0 + 2.0**-20


def draw_looking(given: Preferred, numbers: Numbers, index: Tensor) -> Tensor:
    """Draw token number `index` (B,) of each row."""
    chosen = pick(given.weights, given.sums, numbers.at(index))
    open_ = (~given.certain(chosen)).nonzero()[:, 0].tolist()
    if not open_:
        return chosen
    settling = _Settling(given, chosen.tolist(), numbers.streams.tolist(), index.tolist(), given.spare[0])
    settling.settle(open_, given.weights.gather(1, chosen[:, None])[:, 0].tolist())
    return torch.tensor(settling.chosen)


@dataclass(slots=True)
class _Settling:
    given: Preferred
    chosen: list[int]
    """Replaced until all are as asked."""
    streams: list[int]
    index: list[int]
    spare: Tensor
    """Memory for (V,)."""

    def settle(self, open_: list[int], drawn: list[float]) -> None:
        """See to the rows `open_`. `drawn`: the weights of all rows' tokens."""
        given = self.given
        wanted, shares, left = given.wanted.tolist(), [1.0] * len(drawn), given.wanted.tolist()
        if given.typical is not None:
            shares, left = given.typical.share.tolist(), given.typical.left.tolist()
        above: dict[int, float] = {}

        def outside(row: int) -> Interval | None:
            above[row] = self._weigh(row, (drawn[row], math.inf))
            return (drawn[row], math.inf) if above[row] >= wanted[row] else None

        self._redraw_while(open_, outside, drawn, 1)
        if given.typical is None:
            return
        doubtful = [
            row for row in open_ if not surely_typical(shares[row], left[row], drawn[row], above[row], above[row])
        ]
        middles = {row: self._middle(row, drawn[row], above[row], wanted[row]) for row in doubtful}

        def atypical(row: int) -> Interval | None:
            expected, total, edge = middles[row]
            mirror = 2.0 ** (2 * expected - math.log2(max(drawn[row], _TINY)))
            interval = max(min(drawn[row], mirror), edge), max(drawn[row], mirror)
            return interval if self._weigh(row, interval) >= shares[row] * total else None

        self._redraw_while(doubtful, atypical, drawn, -1)

    def _redraw_while(
        self, rows: list[int], refused: Callable[[int], Interval | None], drawn: list[float], sign: int
    ) -> None:
        """Draw again in the rows whose token is refused, from what is preferred to it; `sign` of the numbers of the
        attempts."""
        for attempt in itertools.count(1):
            again = {row: interval for row in rows if (interval := refused(row)) is not None}
            if not again:
                return
            for row, (token, weight) in zip(again, self._redraw(again, sign * attempt), strict=True):
                self.chosen[row], drawn[row] = token, weight
            rows = list(again)

    def _redraw(self, intervals: Mapping[int, Interval], attempt: int) -> Iterable[tuple[int, float]]:
        """Tokens and their weights."""
        weights = self.given.spare[: len(intervals)]
        for (row, interval), place in zip(intervals.items(), weights, strict=True):
            _between(self.given.weights[row], interval, place)
        numbers = torch.tensor([uniform(self.streams[row], self.index[row], attempt) for row in intervals])
        ids = pick(weights, block_sums(weights), numbers)
        return zip(ids.tolist(), weights.gather(1, ids[:, None])[:, 0].tolist(), strict=True)

    def _weigh(self, row: int, interval: Interval) -> float:
        return _between(self.given.weights[row], interval, self.spare).sum().item()

    def _middle(self, row: int, inside: float, above: float, wanted: float) -> tuple[float, float, float]:
        """The log2 of the weight that a row expects, what the tokens weigh that top-p leaves, and the weight that they
        exceed. `above`: what is likelier than some token that is left, of weight `inside`."""
        weights, total, edge = self.given.weights[row], float(self.given.sums[row].sum()), 0.0
        if wanted < total:
            # Tokens up to here together weigh no more than what is to be left out.
            low = 0.999 * (total - wanted) / weights.shape[0]
            edge = edge_of_share(
                lambda weight: _between(weights, (weight, math.inf), self.spare).sum().item(),
                total, wanted, low, inside, above,
            )  # fmt: skip
            weights = _between(weights, (edge, math.inf), self.spare)
            total = float(weights.sum())
        keys = self.given.keys[row].clamp_(min=LOWEST_KEY)  # minus infinity times a weight of 0 is no number
        return float(torch.dot(weights, keys)) / total, total, edge


def edge_of_share(
    above: Callable[[float], float], total: float, wanted: float, low: float, high: float, above_high: float
) -> float:
    """A weight such that the tokens that exceed it are the fewest that weigh `wanted`, of all that weigh `total`.

    `above` tells what the tokens weigh that exceed a weight: at least `wanted` for `low`, above 0, and less for `high`,
    namely `above_high`. Interpolates as if logarithms of weights were normally distributed, as they nearly are, by the
    Illinois method (Dowell & Jarratt 1971).
    """

    def deviation(weight: float) -> float:
        return _NORMAL.inv_cdf(min(max(weight / total, 1e-6), 1 - 1e-6))

    above_low, target = above(low), deviation(wanted + 0.5 * low)
    excess, lack = deviation(above_low) - target, target - deviation(above_high)
    kept_low = kept_high = False
    for attempt in range(_TRIES):
        # Exact where not even the lightest of the tokens can be missed.
        if above_low - low < wanted or high <= low * _SAME:
            break
        both = excess + lack
        share = excess / both if both > 0 and attempt < _INTERPOLATED else 0.5
        middle = low * (high / low) ** min(max(share, 0.01), 0.99)
        above_middle = above(middle)
        difference = deviation(above_middle) - target
        if above_middle >= wanted:
            low, above_low, excess = middle, above_middle, difference
            lack, kept_low, kept_high = lack / 2 if kept_high else lack, False, True
        else:
            high, lack = middle, -difference
            excess, kept_low, kept_high = excess / 2 if kept_low else excess, True, False
    return low


def _between(weights: Tensor, interval: Interval, out: Tensor) -> Tensor:
    """Weights (V,) with 0 for those outside, in one pass; a comparison and a selection take ten times as long."""
    left: Tensor = _PASS_BETWEEN(weights, weights, *interval, grad_input=out)
    return left
