"""Drawing among the fewest preferred tokens that reach a share of the probability, without finding out which they are.

Draw from all tokens. A token is among the fewest exactly if the tokens preferred to it weigh less than the share, and
one pass over the weights tells. If it is not, neither are those that it is preferred to: draw again from what is
preferred to it. Each accepted token was drawn in proportion to the weights from a set that holds all acceptable ones,
so it is distributed as by sorting, cutting off and drawing. About 1 + ln(1 / share) draws are needed, one for most rows
in use. Source: the rejection of FlashInfer's samplers (Ye et al. 2025, arXiv:2501.01005).

top-p prefers the likelier tokens; typical-p, among those that top-p leaves, the more typical ones. What is more typical
than a token lies on one side of it: all of it weighs less than what is likelier, or less than what is left and not
likelier. So after top-p most tokens are typical whatever a row expects, and only for the others is it found out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from .draws import Numbers, uniforms
from .picking import block_sums, pick
from .selection import drop_below, mass_floor

# How rarely a device that computes ahead of the host may run out of attempts, per token.
_RARE = 1e-7
# Keys from here on down stand for a weight of 0.
LOWEST_KEY = -1000.0


@dataclass(frozen=True, slots=True)
class Typical:
    """What typical-p asks of tokens that top-p may leave, in B rows."""

    share: Tensor
    """(B,), below 1."""
    left: Tensor
    """(B,): what the tokens that top-p leaves weigh, at most less the last of them."""


@overload
def surely_typical(share: Tensor, left: Tensor, own: Tensor, least_above: Tensor, most_above: Tensor) -> Tensor: ...
@overload
def surely_typical(share: float, left: float, own: float, least_above: float, most_above: float) -> bool: ...
def surely_typical(
    share: Tensor | float,
    left: Tensor | float,
    own: Tensor | float,
    least_above: Tensor | float,
    most_above: Tensor | float,
) -> Tensor | bool:
    """Whether a token that weighs `own` is typical whatever its row expects, where those likelier than it weigh at
    least and at most so much. `share` and `left` as in `Typical`.

    Either the likelier ones or the less likely ones that are left hold all that is more typical: where both weigh
    less than the share, so does that. Of the last token that is left, which weighs at most `own`, `left` may lack.
    """
    likelier_is_little = most_above < share * left
    less_likely_is_little = least_above + share * own > (1 - share) * left
    return likelier_is_little & less_likely_is_little


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
    spare: Tensor
    """Memory for (B, V) more."""
    highest: Tensor | None = None
    """(B, blocks): the highest key of each block, where they are known."""
    typical: Typical | None = None
    """What else is asked, where the keys are the log2 of the weights."""

    def certain(self, chosen: Tensor) -> Tensor:
        """bool (B,): for which rows it takes no look at all weights to tell that chosen (B,) is as asked."""
        if self.highest is None:
            return torch.zeros_like(chosen, dtype=torch.bool)
        # What is preferred weighs at most as much as the blocks that hold something preferred, and at least as much as
        # the best of each.
        holding = self.highest > _at(self.keys, chosen)[:, None]
        most = (self.sums * holding).sum(-1)
        if self.typical is None:
            return most < self.wanted
        least = self.highest.exp2().mul_(holding).sum(-1)
        return surely_typical(self.typical.share, self.typical.left, _at(self.weights, chosen), least, most)

    def narrow(self, chosen: Tensor) -> Preferred:
        """Leave the weights of the tokens that are preferred to chosen (B,), in place."""
        above = torch.sub(self.keys, _at(self.keys, chosen)[:, None], out=self.spare)
        # The weights where that is above 0, in one pass; a comparison and a selection take ten times as long.
        weights = torch.ops.aten.threshold_backward.grad_input(self.weights, above, 0.0, grad_input=self.weights)
        return replace(self, weights=weights, sums=block_sums(weights))


def draw_ahead(given: Preferred, numbers: Numbers, index: Tensor, smallest_shares: tuple[float, float]) -> Tensor:
    """Draw token number `index` (B,) of each row without a look at any result, for a device that computes ahead of the
    host; the weights of `given` are overwritten. `smallest_shares` are those of any row's top-p and typical-p."""
    top_p, typical_p = smallest_shares
    chosen = pick(given.weights, given.sums, numbers.at(index))
    streams = numbers.streams
    if top_p < 1:
        chosen = settle_ahead(given, chosen, streams, index, attempts_for(top_p))
    if typical_p < 1:
        typical = most_typical(given, top_p < 1)
        chosen = settle_ahead(typical, chosen, streams, index, attempts_for(typical_p), -1)
    return chosen


def settle_ahead(
    given: Preferred, chosen: Tensor, streams: Tensor, index: Tensor, attempts: int, sign: int = 1
) -> Tensor:
    """As many attempts as are ever needed, for all rows. A row that would need more, one in ten million, takes its most
    preferred token."""
    best = given.keys.argmax(-1)
    ids, settled = chosen, torch.zeros_like(chosen, dtype=torch.bool)
    for attempt in range(1, attempts + 1):
        given = given.narrow(ids)
        settled = settled | (given.sums.sum(-1) < given.wanted)
        ids = pick(given.weights, given.sums, uniforms(streams, index, sign * attempt))
        chosen = torch.where(settled, chosen, ids)
    settled = settled | (given.narrow(ids).sums.sum(-1) < given.wanted)
    return torch.where(settled, chosen, best)


def most_typical(given: Preferred, cut: bool) -> Preferred:
    """The same rows with the more typical tokens preferred, in place. `cut`: only those inside the share, whose edge is
    found; the weights of `given` are not read then."""
    assert given.typical is not None
    keys, weights, sums = given.keys, given.weights, given.sums
    if cut:
        drop_below(keys, mass_floor(keys, torch.exp2(keys, out=weights), given.wanted))
        weights = torch.exp2(keys, out=weights)
        sums = block_sums(weights)
    total = sums.sum(-1)
    keys = typicality(keys, weights, total, given.spare)
    return Preferred(weights, sums, keys, given.typical.share * total, given.spare)


def typicality(keys: Tensor, weights: Tensor, total: Tensor, spare: Tensor) -> Tensor:
    """(B, C), at most 0: how near a token's information content is to what the row expects. `keys`, the log2 of the
    weights, and `spare` are overwritten; tokens without weight get any value.

    Source: Meister et al. 2022 (arXiv:2202.00666).
    """
    keys.clamp_(min=LOWEST_KEY)  # minus infinity times a weight of 0 is no number
    expected = torch.mul(weights, keys, out=spare).sum(-1, keepdim=True).div_(total[:, None])
    return keys.sub_(expected).abs_().neg_()


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


def _at(values: Tensor, places: Tensor) -> Tensor:
    """(B,): one of each row's values (B, C)."""
    return values.gather(1, places[:, None])[:, 0]
