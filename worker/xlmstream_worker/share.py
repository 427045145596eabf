"""Drawing among the fewest preferred tokens that reach a share of the probability, without finding out which they are.

Draw from all tokens. A token is among the fewest exactly if the tokens preferred to it weigh less than the share, and
one pass over the weights tells. If it is not, neither are those that it is preferred to: draw again from what is
preferred to it. Each accepted token was drawn in proportion to the weights from a set that holds all acceptable ones,
so it is distributed as by sorting, cutting off and drawing. About 1 + ln(1 / share) draws are needed, one for most rows
in use. Source: the rejection of FlashInfer's samplers (Ye et al. 2025, arXiv:2501.01005).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .draws import uniforms
from .picking import block_sums, pick

# How rarely a device that computes ahead of the host may run out of attempts, per token.
_RARE = 1e-7


@dataclass(frozen=True, slots=True)
class Preferred:
    """What B rows draw from."""

    weights: Tensor
    """(B, V) in proportion to the probabilities, 0 for excluded tokens."""
    sums: Tensor
    """(B, blocks), their `block_sums`."""
    keys: Tensor
    """(B, V): a token is preferred to those with a lower key."""
    wanted: Tensor
    """(B,): what the fewest preferred tokens are to weigh; infinity for all."""
    highest: Tensor | None
    """(B, blocks): the highest key of each block, where they are known."""

    def select(self, rows: Tensor) -> Preferred:
        highest = None if self.highest is None else self.highest[rows]
        return Preferred(self.weights[rows], self.sums[rows], self.keys[rows], self.wanted[rows], highest)

    def undecided(self, chosen: Tensor) -> Tensor:
        """bool (B,): for which rows it takes a look at all weights to tell that chosen (B,) is inside the share."""
        if self.highest is None:
            return torch.ones_like(chosen, dtype=torch.bool)
        # What is preferred weighs at most as much as the blocks that hold something preferred.
        holding = self.highest > self.keys.gather(1, chosen[:, None])
        return (self.sums * holding).sum(-1) >= self.wanted

    def narrow(self, chosen: Tensor) -> Preferred:
        """Leave the tokens that are preferred to chosen (B,), in place; keys change by a constant."""
        key = self.keys.gather(1, chosen[:, None])
        keys = self.keys.sub_(key)
        # The weights where the keys are above 0, in one pass; a comparison and a selection take ten times as long.
        weights = torch.ops.aten.threshold_backward.grad_input(self.weights, keys, 0.0, grad_input=self.weights)
        highest = None if self.highest is None else self.highest.sub_(key)
        return Preferred(weights, block_sums(weights), keys, self.wanted, highest)

    def outside(self) -> Tensor:
        """bool (B,), after `narrow`: whether the token narrowed to was outside the share."""
        return self.sums.sum(-1) >= self.wanted


def draw_preferred(given: Preferred, streams: Tensor, index: Tensor, smallest_share: float) -> Tensor:
    """Draw token number `index` (B,) of each row; `given` is overwritten. `smallest_share` is the smallest of a row."""
    if given.weights.device.type != "cpu":
        return draw_ahead(given, streams, index, smallest_share)
    chosen = ids = pick(given.weights, given.sums, uniforms(streams, index))
    rows = torch.arange(chosen.shape[0])
    for attempt in itertools.count(1):
        rows, given, ids = _only(given.undecided(ids), rows, given, ids)
        if not rows.shape[0]:
            break
        given = given.narrow(ids)
        rows, given, ids = _only(given.outside(), rows, given, ids)
        if not rows.shape[0]:
            break
        ids = pick(given.weights, given.sums, uniforms(streams[rows], index[rows], attempt))
        chosen[rows] = ids
    return chosen


def draw_ahead(given: Preferred, streams: Tensor, index: Tensor, smallest_share: float) -> Tensor:
    """The same without a look at any result, for a device that computes ahead of the host: as many attempts as are
    ever needed, for all rows. A row that would need more, one in ten million, takes its most preferred token."""
    best = given.keys.argmax(-1)
    chosen = ids = pick(given.weights, given.sums, uniforms(streams, index))
    settled = torch.zeros_like(chosen, dtype=torch.bool)
    for attempt in range(1, attempts_for(smallest_share) + 1):
        given = given.narrow(ids)
        settled = settled | ~given.outside()
        ids = pick(given.weights, given.sums, uniforms(streams, index, attempt))
        chosen = torch.where(settled, chosen, ids)
    settled = settled | ~given.narrow(ids).outside()
    return torch.where(settled, chosen, best)


def attempts_for(share: float) -> int:
    """After how many failures to give up. Each leaves a uniform part of the weight, so that there are at most as many
    as a Poisson variable of mean ln(1 / share) says."""
    mean = -math.log(share)
    count, term = 0, math.exp(-mean)
    left = 1.0 - term
    while left > _RARE:
        count += 1
        term *= mean / count
        left -= term
    return count + 1


def _only(wanted: Tensor, rows: Tensor, given: Preferred, ids: Tensor) -> tuple[Tensor, Preferred, Tensor]:
    """The rows that `wanted` bool (B,) says."""
    places = wanted.nonzero()[:, 0]
    if places.shape[0] == rows.shape[0]:
        return rows, given, ids
    return rows[places], given.select(places), ids[places]
