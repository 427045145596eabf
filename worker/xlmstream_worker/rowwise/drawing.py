"""Drawing the token of one row at random, from the numbers of `xlmstream_worker.draws`.

Of a row that asks for few best tokens these are collected and all else happens among them, as on a device, and with the
same result. Otherwise a token is drawn from all. It is among the fewest likeliest that reach top-p exactly if those
likelier than it weigh less than that, and one look at all weights tells. If it is not, neither are those less likely:
draw again from what is likelier. Each accepted token was drawn in proportion to the weights from a set that holds all
acceptable ones, so it is distributed as by sorting, cutting off and drawing. About 1 + ln(1 / top-p) draws are needed.
Source: the rejection of FlashInfer's samplers (Ye et al. 2025, arXiv:2501.01005).

Likewise with typical-p, which prefers the more typical of the tokens that top-p leaves. What is more typical than a
token lies on one side of it: all of it weighs less than what is likelier, or less than what is left and not likelier.
So most tokens are typical whatever a row expects, and only for the others is it found out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .compiling import Scalar, compiled, exp2
from .constants import MOST_FEW, ROUNDING
from .vectors import (
    BLOCK,
    LEAST_KEY,
    Floats,
    collect_best,
    deviation,
    fill,
    fill_block,
    kth_highest,
    sort_descending,
    sum_above,
    sum_between,
    sum_keys,
    weigh,
)
from .wishes import Wish

_ROUNDING = np.float32(ROUNDING)
# Weights nearer to each other than this, as a factor, count as equal at an edge.
_SAME = np.float32(1.0 + 2.0**-20)
# Tries to find an edge, and how many of them interpolate; the others halve.
_TRIES, _INTERPOLATED = 64, 24
_ZERO, _INFINITY = np.float32(0.0), np.float32(np.inf)
# A share this large of a sum is still less than the sum.
_LARGEST = 1.0 - 2.0**-22


class Memory(NamedTuple):
    """What choosing the token of one row needs; overwritten for each."""

    maxima: Floats
    """(V / BLOCK,)"""
    sums: Floats
    """(V / BLOCK,)"""
    weights: Floats
    """(V,)"""
    ids: npt.NDArray[np.int32]
    """(V,)"""


@compiled
def draw(scores: Floats, best: Scalar, index: Scalar, wish: Wish, memory: Memory) -> Scalar:
    """Token number `index` of a row with these scores (V,), of which `best` is the highest; the maxima of their blocks
    are in the memory."""
    if 0 < wish.top_k <= MOST_FEW:
        return _draw_few(scores, best, index, wish, memory)
    sharpness, least = wish.sharpness, LEAST_KEY
    if wish.top_k > 0:
        k = min(wish.top_k, scores.shape[0])
        count = collect_best(scores, memory.maxima, k, memory.ids, memory.weights)
        least = max(least, (kth_highest(memory.weights[:count], k) - best) * sharpness)
    if wish.top_p == 1 and wish.typical_p == 1:
        least = max(least, wish.min_key - _ROUNDING)
        total = weigh(scores, best, sharpness, least, memory.sums)
        return _pick_unweighed(scores, best, sharpness, least, uniform(wish.stream, index, 0) * total, memory)
    total = fill(scores, best, sharpness, least, memory.weights, memory.sums)
    wanted = np.float32(wish.top_p * total) if wish.top_p < 1 else _INFINITY
    low = _ZERO
    if wish.min_key > least:  # what min-p drops has a say in which weights are in the share
        low = exp2(wish.min_key - _ROUNDING)
        total = sum_between(memory.weights, low, _INFINITY, memory.sums)
    token = _pick(memory, uniform(wish.stream, index, 0) * total, low, _INFINITY)
    return _settle(scores, best, index, wish, memory, token, total, wanted, low)


@compiled
def _settle(
    scores: Floats,
    best: Scalar,
    index: Scalar,
    wish: Wish,
    memory: Memory,
    token: Scalar,
    total: Scalar,
    wanted: Scalar,
    low: Scalar,
) -> Scalar:
    """The token, or another where it is not in the shares. Only weights above `low` count, `total` in all; the fewest
    likeliest that weigh `wanted` are in the share of top-p."""
    weights, sums = memory.weights, memory.sums
    own, attempt = weights[token], 0
    above = sum_above(weights, own)
    while above >= wanted:
        attempt += 1
        above = sum_between(weights, own, _INFINITY, sums)
        token = _pick(memory, uniform(wish.stream, index, attempt) * above, own, _INFINITY)
        own = weights[token]
        above = sum_above(weights, own)
    if wish.typical_p == 1 or _surely_typical(wish.typical_p, min(wanted, np.float32(total)), own, above):
        return token
    if wanted < total:
        # Tokens up to here together weigh no more than what is to be left out.
        least = max(np.float32(0.999 * (total - wanted) / weights.shape[0]), low)
        low = edge_of_share(weights, total, wanted, least, own, above)
        total = float(sum_above(weights, low))
    expected = sum_keys(scores, best, wish.sharpness, weights, low) / np.float32(total)
    attempt = 0
    while True:
        # What is more typical lies between the token's weight and that as far on the other side of the expected one.
        mirror = np.float32(2.0) ** (np.float32(2.0) * expected - np.log2(own))
        inner, outer = max(min(own, mirror), low), max(own, mirror)
        nearer = sum_between(weights, inner, outer, sums)
        if nearer < wish.typical_p * total:
            return token
        attempt -= 1
        token = _pick(memory, uniform(wish.stream, index, attempt) * nearer, inner, outer)
        own = weights[token]


@compiled
def _surely_typical(share: Scalar, left: Scalar, own: Scalar, above: Scalar) -> Scalar:
    """Whether a token that weighs `own` is typical whatever the row expects, where those likelier than it weigh `above`
    and those that top-p leaves `left`, which may lack the last of them.

    Either the likelier ones or the less likely ones that are left hold all that is more typical: where both weigh less
    than the share, so does that.
    """
    return above < share * left and above + share * own > (np.float32(1.0) - share) * left


@compiled
def edge_of_share(
    weights: Floats, total: Scalar, wanted: Scalar, low: Scalar, high: Scalar, above_high: Scalar
) -> Scalar:
    """A weight such that the weights that exceed it are the fewest that sum to `wanted`, of all that sum to `total`.

    Those above `low` sum to at least that, and those above `high` to less, namely `above_high`. Interpolates as if
    logarithms of weights were normally distributed, by the Illinois method (Dowell & Jarratt 1971).
    """
    above_low, target = sum_above(weights, low), deviation((wanted + 0.5 * low) / total)
    excess, lack = deviation(above_low / total) - target, target - deviation(above_high / total)
    kept_low = kept_high = False
    for attempt in range(_TRIES):
        # Exact where not even the lightest of the tokens can be missed.
        if above_low - low < wanted or high <= low * _SAME:
            break
        both = excess + lack
        share = excess / both if both > 0 and attempt < _INTERPOLATED else 0.5
        middle = np.float32(low * (high / low) ** min(max(share, 0.01), 0.99))
        above_middle = sum_above(weights, middle)
        difference = deviation(above_middle / total) - target
        if above_middle >= wanted:
            low, above_low, excess = middle, above_middle, difference
            lack = lack / 2 if kept_high else lack
            kept_low, kept_high = False, True
        else:
            high, lack = middle, -difference
            excess = excess / 2 if kept_low else excess
            kept_low, kept_high = True, False
    return low


@compiled
def _draw_few(scores: Floats, best: Scalar, index: Scalar, wish: Wish, memory: Memory) -> Scalar:
    """The restrictions one after the other: each sees what those before it left."""
    count = collect_best(scores, memory.maxima, min(wish.top_k, scores.shape[0]), memory.ids, memory.weights)
    keys, weights, places = np.empty(count, np.float32), memory.weights[:count], np.empty(count, np.int64)
    for i in range(count):
        keys[i] = (weights[i] - best) * wish.sharpness
        weights[i] = exp2(keys[i]) if keys[i] >= LEAST_KEY else _ZERO
    if wish.top_p < 1:
        sort_descending(keys, places)
        _keep_share(weights, places, wish.top_p)
    for i in range(count):
        if keys[i] < wish.min_key - _ROUNDING:
            weights[i] = _ZERO
    if wish.typical_p < 1:
        expected = sum_keys(keys, _ZERO, np.float32(1.0), weights, _ZERO) / sum_above(weights, _ZERO)
        for i in range(count):
            keys[i] = -abs(keys[i] - expected)
        sort_descending(keys, places)
        _keep_share(weights, places, wish.typical_p)
    total = 0.0
    for i in range(count):
        total += weights[i]
    return int(memory.ids[_place_of(weights, uniform(wish.stream, index, 0) * total, _ZERO, _INFINITY)])


@compiled
def _keep_share(weights: Floats, places: npt.NDArray[np.int64], share: Scalar) -> None:
    """Leave the fewest tokens, in the order of their places, that have this share of all weights."""
    wanted, running = share * sum_above(weights, _ZERO), _ZERO
    for place in places:
        if running >= wanted:
            weights[place] = _ZERO
        running += weights[place]


@compiled
def _pick(memory: Memory, target: Scalar, low: Scalar, high: Scalar) -> Scalar:
    """Where the running sum of the weights between these two passes the target, a share of their sum; `memory.sums` are
    those of the blocks."""
    block, rest = _block_of(memory.sums, target)
    part = memory.weights[block * BLOCK : (block + 1) * BLOCK]
    return block * BLOCK + _place_of(part, rest, low, high)


@compiled
def _pick_unweighed(
    scores: Floats, best: Scalar, sharpness: Scalar, least: Scalar, target: Scalar, memory: Memory
) -> Scalar:
    """The same among all weights of a row, where only their sums are known."""
    block, rest = _block_of(memory.sums, target)
    part = memory.weights[:BLOCK]
    fill_block(scores[block * BLOCK : (block + 1) * BLOCK], best, sharpness, least, part)
    return block * BLOCK + _place_of(part, rest, _ZERO, _INFINITY)


@compiled
def _block_of(sums: Floats, target: Scalar) -> tuple[Scalar, Scalar]:
    """Where the running sum passes the target, and what of the target is left there."""
    last = 0
    for block in range(sums.shape[0]):
        if target < sums[block]:
            return block, target
        if sums[block] > 0:
            last = block
        target -= sums[block]
    return last, np.inf  # rounding


@compiled
def _place_of(weights: Floats, target: Scalar, low: Scalar, high: Scalar) -> Scalar:
    last = 0
    for i in range(weights.shape[0]):
        if low < weights[i] and weights[i] < high:
            if target < weights[i]:
                return i
            last = i
            target -= weights[i]
    return last


_GOLDEN, _MIX1, _MIX2 = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@compiled
def uniform(stream: Scalar, index: Scalar, attempt: Scalar) -> Scalar:
    """The number of `draws.uniforms` for token number `index` at this attempt."""
    bits = _mix(np.uint64(stream) + np.uint64(index + 1) * _GOLDEN)
    if attempt != 0:
        bits = _mix(bits + np.uint64(attempt) * _GOLDEN)
    return min((np.float64(bits >> np.uint64(40)) + 0.5) * 2.0**-24, _LARGEST)


@compiled
def _mix(x: Scalar) -> Scalar:
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))
