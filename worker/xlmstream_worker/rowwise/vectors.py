"""What takes a pass over one row of V scores or weights, V a multiple of `BLOCK`, or over one block of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .compiling import (
    LANES,
    Scalar,
    any_from,
    as_bits,
    compiled,
    exp2,
    fetch,
    larger,
    of_bits,
    part_of_a_loop,
    reduction,
)
from .constants import RANGE

Floats = npt.NDArray[np.float32]

BLOCK = 256
# The log2 of the least weight that counts, as a share of the best one's: what is smaller slows the arithmetic.
LEAST_KEY = np.float32(-RANGE)
_ZERO, _ALL_BUT_SIGN = np.float32(0.0), np.int32(0x7FFFFFFF)
_SMALLEST_KEY = np.float32(-126.0)
_TRIES = 24


@reduction
def highest(values: Floats) -> Scalar:
    """None of them may be not a number."""
    best = values[0]
    for i in range(values.shape[0]):
        best = larger(values[i], best)
    return best


@reduction
def _highest_and_sum(block: Floats) -> tuple[Scalar, Scalar]:
    best, total = block[0], _ZERO
    for i in range(BLOCK):
        best = larger(block[i], best)
        total += block[i]
    return best, total


@compiled
def block_maxima(scores: Floats, maxima: Floats) -> Scalar:
    """Find the highest score of each block, and whether all scores are numbers and one of them is finite."""
    total = _ZERO
    for block in range(maxima.shape[0]):
        maxima[block], part = _highest_and_sum(scores[block * BLOCK : (block + 1) * BLOCK])
        total += part
    # Minus infinity takes a token out; only together with infinity is the sum no number, and then so is the row.
    return not np.isnan(total) and np.isfinite(highest(maxima))


@compiled
def first_of(values: Floats, wanted: Scalar) -> Scalar:
    """The first place of a number that is there."""
    for i in range(values.shape[0]):
        if values[i] == wanted:
            return i
    return values.shape[0] - 1


@reduction
def _weigh_block(scores: Floats, best: Scalar, sharpness: Scalar, least: Scalar) -> Scalar:
    total = _ZERO
    for i in range(BLOCK):
        key = larger((scores[i] - best) * sharpness, _SMALLEST_KEY)
        weight = exp2(key)
        total += weight if key >= least else _ZERO
    return total


@part_of_a_loop
def fill_block(scores: Floats, best: Scalar, sharpness: Scalar, least: Scalar, weights: Floats) -> Scalar:
    """The weights of a block and their sum: 2**key, 0 where the key is below `least`; the key of a score is (score -
    best) * sharpness, and `least` is at least `LEAST_KEY`."""
    total = _ZERO
    for i in range(BLOCK):
        key = larger((scores[i] - best) * sharpness, _SMALLEST_KEY)
        weight = exp2(key)
        weights[i] = weight if key >= least else _ZERO
        total += weights[i]
    return total


@compiled
def _fetch_next(scores: Floats, block: Scalar) -> None:
    """Rows of scores lie one after the other: have this block of the next one in the cache when it is its turn."""
    for place in range(block * BLOCK, (block + 1) * BLOCK, LANES):
        fetch(scores, scores.shape[0] + place)


@compiled
def weigh(scores: Floats, best: Scalar, sharpness: Scalar, least: Scalar, sums: Floats) -> Scalar:
    """What the weights of the scores sum to, by block and in all."""
    total = 0.0
    for block in range(sums.shape[0]):
        _fetch_next(scores, block)
        sums[block] = _weigh_block(scores[block * BLOCK : (block + 1) * BLOCK], best, sharpness, least)
        total += sums[block]
    return total


@compiled
def fill(scores: Floats, best: Scalar, sharpness: Scalar, least: Scalar, weights: Floats, sums: Floats) -> Scalar:
    """The same with the weights."""
    total = 0.0
    for block in range(sums.shape[0]):
        _fetch_next(scores, block)
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        sums[block] = fill_block(scores[part], best, sharpness, least, weights[part])
        total += sums[block]
    return total


@reduction
def _sum_block_between(weights: Floats, low: Scalar, high: Scalar) -> Scalar:
    total = _ZERO
    for i in range(BLOCK):
        total += weights[i] if (low < weights[i]) & (weights[i] < high) else _ZERO
    return total


@compiled
def sum_between(weights: Floats, low: Scalar, high: Scalar, sums: Floats) -> Scalar:
    """What the weights between these two, neither included, weigh, by block and in all."""
    total = 0.0
    for block in range(sums.shape[0]):
        sums[block] = _sum_block_between(weights[block * BLOCK : (block + 1) * BLOCK], low, high)
        total += sums[block]
    return total


@reduction
def sum_above(weights: Floats, low: Scalar) -> Scalar:
    """What the weights above this one weigh."""
    total = _ZERO
    for i in range(weights.shape[0]):
        total += weights[i] if weights[i] > low else _ZERO
    return total


@reduction
def sum_keys(scores: Floats, best: Scalar, sharpness: Scalar, weights: Floats, low: Scalar) -> Scalar:
    """The sum of weight * key over the weights above `low`, at least 0."""
    total = _ZERO
    for i in range(weights.shape[0]):
        key = larger((scores[i] - best) * sharpness, _SMALLEST_KEY)
        total += weights[i] * key if weights[i] > low else _ZERO
    return total


@reduction
def _count_from(values: Floats, least: Scalar) -> Scalar:
    count = np.int32(0)
    for i in range(values.shape[0]):
        count += np.int32(values[i] >= least)
    return count


@compiled
def kth_highest(values: Floats, k: Scalar) -> Scalar:
    """Of at least k numbers, by halving the range of their bits."""
    low, high = _in_order(np.float32(-np.inf)), _in_order(highest(values))
    while low < high:
        middle = np.int32((np.int64(low) + np.int64(high) + 1) >> 1)
        if _count_from(values, _number_at(middle)) >= k:
            low = middle
        else:
            high = np.int32(middle - 1)
    return _number_at(low)


@compiled
def deviation(share: Scalar) -> Scalar:
    """How many standard deviations from the middle a normal distribution reaches this share, nearly: Tukey's lambda
    distribution (Hastings et al. 1947)."""
    share = min(max(share, 1e-6), 1 - 1e-6)
    return (share**0.135 - (1 - share) ** 0.135) / 0.1975


@compiled
def _in_order(number: Scalar) -> Scalar:
    """An int for each number, in the order of the numbers."""
    bits = as_bits(number)
    return np.int32(bits ^ ((bits >> np.int32(31)) & _ALL_BUT_SIGN))


@compiled
def _number_at(order: Scalar) -> Scalar:
    return of_bits(np.int32(order ^ ((order >> np.int32(31)) & _ALL_BUT_SIGN)))


@compiled
def collect_best(scores: Floats, maxima: Floats, k: Scalar, ids: npt.NDArray[np.int32], values: Floats) -> Scalar:
    """The ids and scores of the k best tokens and of those as good as the k-th, in the order of the vocabulary, and how
    many they are. `maxima` are those of the blocks."""
    found = _collect_from(scores, maxima, _reached_by(scores, maxima, k), ids, values)
    least, count = kth_highest(values[:found], k), 0
    for i in range(found):
        if values[i] >= least:
            ids[count], values[count] = ids[i], values[i]
            count += 1
    return count


@compiled
def _reached_by(scores: Floats, maxima: Floats, k: Scalar) -> Scalar:
    """A score that k tokens reach and not many more."""
    if 2 * k <= maxima.shape[0]:
        return kth_highest(maxima, k)  # as many blocks have one that does, and seldom more than two
    best, low = highest(maxima), kth_highest(maxima, maxima.shape[0])
    high, count, above = best, _count_from(scores, low), 0
    while count < k:
        high, above = low, count
        low -= max(np.float32(2.0) * (best - low), np.float32(1.0))
        count = _count_from(scores, low)
    wanted = deviation((k + max(k // 8, 32)) / scores.shape[0])
    for _ in range(_TRIES):
        if count <= k + max(k // 4, 64) or low == -np.inf:
            break
        # Between the two, as if scores were normally distributed.
        least, most = deviation(above / scores.shape[0]), deviation(count / scores.shape[0])
        middle = low + (high - low) * np.float32(min(max((most - wanted) / (most - least), 0.05), 0.95))
        between = _count_from(scores, middle)
        if between >= k:
            low, count = middle, between
        else:
            high, above = middle, between
    return low


@compiled
def _collect_from(scores: Floats, maxima: Floats, least: Scalar, ids: npt.NDArray[np.int32], values: Floats) -> Scalar:
    count = 0
    for block in range(maxima.shape[0]):
        _fetch_next(scores, block)
        if maxima[block] >= least:
            for group in range(block * BLOCK, (block + 1) * BLOCK, LANES):
                if any_from(scores, group, least):
                    for i in range(group, group + LANES):
                        ids[count], values[count] = i, scores[i]
                        count += scores[i] >= least
    return count


@compiled
def sort_descending(values: Floats, places: npt.NDArray[np.int64]) -> None:
    """Write the places (n,) of n values, that of the highest first and of equals the first first: Shell's sort."""
    n = places.shape[0]
    for i in range(n):
        places[i] = i
    gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            place, j = places[i], i
            while j >= gap and _precedes(values, place, places[j - gap]):
                places[j] = places[j - gap]
                j -= gap
            places[j] = place
        gap //= 3


@compiled
def _precedes(values: Floats, place: Scalar, other: Scalar) -> Scalar:
    return values[place] > values[other] or (values[place] == values[other] and place < other)
