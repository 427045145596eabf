"""Sampling against textbook definitions with full sorts, and the quality of the counter-based draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xlmstream_worker import draws
from xlmstream_worker.drawing import draw, drawings_of, weights_left
from xlmstream_worker.draws import signed_seed, streams_of, uniforms
from xlmstream_worker.lanes import Row
from xlmstream_worker.penalties import History, Occurrence
from xlmstream_worker.picking import block_sums, pick
from xlmstream_worker.selection import BLOCK, SMALL_BLOCK, best_k, best_token, block_maxima, mass_floor, share_floor
from xlmstream_worker.sequences import SamplingParameters, SequenceRequest


def shifted(rows: int, vocabulary: int, scale: float, seed: int) -> Tensor:
    scores = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale
    return scores - scores.amax(-1, keepdim=True)


def nucleus_by_sorting(scores: Tensor, top_p: float) -> float:
    """Probability mass, in float64, that the smallest sufficient set of best tokens has."""
    probabilities = scores.double().softmax(-1).sort(descending=True).values
    sums = probabilities.cumsum(0)
    return float(sums[int((sums < top_p - 1e-9).sum())])


@given(
    scale=st.sampled_from([0.01, 0.3, 1.0, 4.0, 20.0]),
    top_p=st.floats(0.01, 1.0),
    vocabulary=st.sampled_from([3, 255, 1000, 5000]),
    seed=st.integers(0, 10),
)
@settings(max_examples=examples(80))
def test_nuclei_are_the_smallest_that_suffice(scale: float, top_p: float, vocabulary: int, seed: int) -> None:
    scores = shifted(3, vocabulary, scale, seed)
    wanted = torch.full((3,), top_p)
    scores = scores * math.log2(math.e)
    weights = scores.exp2()
    floors = [share_floor(scores, weights, wanted), mass_floor(scores, weights, wanted * weights.sum(-1))]
    for floor in floors:
        for row in range(3):
            probabilities = (scores[row].double() * math.log(2)).softmax(-1)
            mass = float(probabilities[scores[row] >= floor[row]].sum())
            # One token more than the sorted answer may slip in or out where float32 cannot tell.
            assert mass >= top_p - 1e-4
            assert mass <= nucleus_by_sorting(scores[row] * math.log(2), top_p) + 1e-4 + 2 * float(
                probabilities[scores[row] >= floor[row]].min()
            )


@pytest.mark.parametrize("vocabulary", [5, 64, 256, 1000, 4096, 30208])
def test_selection_equals_that_of_torch(vocabulary: int) -> None:
    scores = shifted(6, vocabulary, 1.0, 2)
    scores[0] = 0.5  # all equal: the first wins
    scores[1, vocabulary // 2 :] = -torch.inf
    for size in (SMALL_BLOCK, BLOCK):
        maxima = block_maxima(scores, size)
        assert maxima.amax(-1).tolist() == scores.amax(-1).tolist()
        assert best_token(scores, maxima).tolist() == [0, *scores[1:].argmax(-1).tolist()]
    for k in (1, 3, 40, 300):
        if k <= vocabulary // 2:
            expected = scores[1:].topk(k)
            for maxima in (None, block_maxima(scores[1:], SMALL_BLOCK)):
                values, ids = best_k(scores[1:], k, maxima)
                assert values.equal(expected.values)
                assert ids.equal(expected.indices)


@pytest.mark.parametrize("vocabulary", [1, 7, 256, 257, 1000])
def test_pick_follows_the_weights(vocabulary: int) -> None:
    weights = torch.rand(vocabulary, generator=torch.Generator().manual_seed(1))
    weights[:: max(2, vocabulary // 5)] = 0.0
    if vocabulary == 1:
        weights[0] = 1.0
    edges = weights.double().cumsum(0) / weights.double().sum()
    targets = torch.linspace(0.0005, 0.9995, 2000)
    spread = weights.expand(2000, -1).contiguous()
    chosen = pick(spread, block_sums(spread), targets)
    expected = torch.searchsorted(edges, targets.double(), right=True)
    assert (weights[chosen] > 0).all()
    differing = chosen != expected
    near = (edges[expected] - targets).abs().minimum((edges[(expected - 1).clamp(0)] - targets).abs()) < 1e-6
    assert not (differing & ~near).any()


def test_pick_never_leaves_the_support() -> None:
    weights = torch.zeros(4, 600)
    weights[0, 0] = weights[1, 599] = weights[2, 300] = weights[3, 255] = 1e-30
    for uniform in (1e-9, 0.5, 1 - 2**-22):
        assert pick(weights, block_sums(weights), torch.full((4,), uniform)).tolist() == [0, 599, 300, 255]


def test_draws_are_uniform_and_uncorrelated() -> None:
    seeds = torch.arange(200, dtype=torch.int64)[:, None].expand(200, 500).flatten()
    index = torch.arange(500)[None].expand(200, 500).flatten()
    draws = uniforms(streams_of(seeds, torch.zeros_like(seeds)), index).view(200, 500).double()
    assert draws.min() > 0
    assert draws.max() < 1
    counts = torch.histc(draws, 100, 0, 1)
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert 50 < chi_square < 160  # 99 degrees of freedom
    for a, b in ((draws[:, 1:], draws[:, :-1]), (draws[1:], draws[:-1])):
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.012


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 7), st.integers(0, 511))
def test_a_draw_is_a_function_of_seed_candidate_and_index(seed: int, other: int, candidate: int, index: int) -> None:
    def one(s: int, c: int, i: int) -> float:
        return float(uniforms(streams_of(torch.tensor([signed_seed(s)]), torch.tensor([c])), torch.tensor([i])))

    assert one(seed, candidate, index) == one(seed, candidate, index)
    assert one(seed, candidate, index) != one(seed, candidate + 1, index)
    assert one(seed, candidate, index) != one(seed, candidate, index + 1)
    if seed != other:
        assert one(seed, candidate, index) != one(other, candidate, index)


def test_draws_match_splitmix_in_plain_integers() -> None:
    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    for seed, candidate, index in ((0, 0, 0), (2**64 - 1, 3, 17), (12345, 1, 511)):
        stream = mix((seed + (candidate + 1) * golden) % 2**64)
        expected = ((mix((stream + (index + 1) * golden) % 2**64) >> 40) + 0.5) / 2**24
        got = uniforms(streams_of(torch.tensor([signed_seed(seed)]), torch.tensor([candidate])), torch.tensor([index]))
        assert float(got) == pytest.approx(expected, rel=1e-7)


def test_numbers_ahead_are_those_of_each_token() -> None:
    streams = streams_of(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    numbers, index = draws.Numbers(streams), torch.tensor([0, 7, 500])
    for step in range(60):
        assert numbers.at(index).equal(uniforms(streams, index))
        index = index + torch.tensor([1, 1, step % 3 == 0])  # a step may be done again


def rows_of(*wishes: SamplingParameters, prompt: tuple[int, ...] = (5,)) -> list[Row]:
    return [Row(SequenceRequest("a", prompt, sampling=wish), 0, 0, 10) for wish in wishes]


WISHES = [
    SamplingParameters(temperature=0.7),
    SamplingParameters(temperature=1.3, top_k=7),
    SamplingParameters(temperature=1.0, top_p=0.8),
    SamplingParameters(temperature=1.0, min_p=0.05),
    SamplingParameters(temperature=1.0, typical_p=0.6),
    SamplingParameters(temperature=0.9, top_k=200, top_p=0.95, min_p=0.01, typical_p=0.9),
    SamplingParameters(temperature=2.0, top_k=30, typical_p=0.3),
    SamplingParameters(temperature=1.0, top_k=2000, top_p=0.7),
    SamplingParameters(temperature=1.0, top_p=0.9, typical_p=0.6),
    SamplingParameters(temperature=1.0, top_p=0.8, min_p=0.02, typical_p=0.9),
    SamplingParameters(temperature=1.0, top_k=2000, top_p=0.7, min_p=0.01, typical_p=0.7),
    SamplingParameters(temperature=1.2, top_p=0.9, min_p=0.02),
    SamplingParameters(temperature=1.0, min_p=0.01, typical_p=0.8),
]


def restricted_by_transformers(scores: Tensor, wish: SamplingParameters) -> Tensor:
    """Probabilities float64 (V,)."""
    warpers = pytest.importorskip("transformers", reason="the oracle is not installed").generation.logits_process
    left = warpers.TemperatureLogitsWarper(wish.temperature)(None, scores[None])
    if wish.top_k:
        left = warpers.TopKLogitsWarper(wish.top_k)(None, left)
    if wish.top_p < 1:
        left = warpers.TopPLogitsWarper(wish.top_p)(None, left)
    if wish.min_p > 0:
        left = warpers.MinPLogitsWarper(wish.min_p)(None, left)
    if wish.typical_p < 1:
        left = warpers.TypicalLogitsWarper(wish.typical_p)(None, left)
    return left.double().softmax(-1)[0]


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_restrictions_leave_what_those_of_transformers_leave(scale: float) -> None:
    for wish in WISHES:
        scores = shifted(2, 3072, scale, 3)
        expected = restricted_by_transformers(scores[1], wish)
        (drawing,) = drawings_of(rows_of(wish, wish), scores.device)
        keys = (scores - scores.amax(-1, keepdim=True)) * drawing.sharpness
        if drawing.few:  # what is left of the best k, the rest is out
            values, ids = best_k(keys, drawing.widest_k)
            weights = torch.zeros(2, 3072).scatter_(1, ids, weights_left(values, drawing))[1].double()
        else:
            weights = weights_left(keys, drawing)[1].double()
        # A token at the very edge may fall on either side.
        edge = float(expected[expected > 0].min())
        assert (weights / weights.sum() - expected).abs().sum() < 2.5 * edge + 1e-5


def drawn_together(scores: Tensor, wishes: Sequence[SamplingParameters], index: Tensor) -> Tensor:
    maxima = block_maxima(scores, SMALL_BLOCK)
    drawn = torch.full((len(wishes),), -1)
    for drawing in drawings_of(rows_of(*wishes), scores.device):
        rows = torch.arange(len(wishes)) if drawing.rows is None else drawing.rows
        own = maxima[rows]
        drawn[rows] = draw(scores[rows], own, own.amax(-1, keepdim=True), drawing, index[rows])
    return drawn


def uniform(wish: SamplingParameters, index: int) -> float:
    streams = streams_of(torch.tensor([signed_seed(wish.seed)]), torch.tensor([0]))
    return float(uniforms(streams, torch.tensor([index])))


@pytest.mark.parametrize("wish", WISHES, ids=range(len(WISHES)))
def test_draws_are_distributed_as_restricted(wish: SamplingParameters) -> None:
    count = 4000
    scores = shifted(1, 256, 1.5, 8)
    expected = restricted_by_transformers(scores[0], wish)
    drawn = drawn_together(scores.expand(count, -1).contiguous(), [wish] * count, torch.arange(count))
    counts = torch.bincount(drawn, minlength=256).double()
    assert not counts[expected == 0].any()
    likely = expected * count > 5
    chi_square = float(((counts - expected * count) ** 2 / (expected * count))[likely].sum())
    degrees = int(likely.sum())
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("scale", [0.2, 4.0])
def test_all_ways_of_drawing_draw_the_same(scale: float) -> None:
    """Where one uniform number decides, it is the one that falls on the token in the distribution that is left."""
    wishes = [replace(wish, seed=seed) for wish in WISHES for seed in range(12)]
    scores = shifted(len(wishes), 3072, scale, 5)
    drawn = drawn_together(scores.clone(), wishes, torch.arange(len(wishes)))
    for place, wish in enumerate(wishes):
        cumulated = restricted_by_transformers(scores[place], wish).cumsum(0)
        got = int(drawn[place])
        below = float(cumulated[got - 1]) if got else 0.0
        assert below - 1e-3 <= uniform(wish, place) <= float(cumulated[got]) + 1e-3


@pytest.mark.parametrize("temperature", [1e-40, 1e-3, 1e3])
def test_extreme_temperatures(temperature: float) -> None:
    scores = shifted(2, 1024, 5.0, 1)
    scores[1, 5:] = -torch.inf
    drawn = drawn_together(
        scores.clone(), [SamplingParameters(temperature=temperature, top_p=0.9)] * 2, torch.arange(2)
    )
    if temperature < 1:
        assert drawn.tolist() == scores.argmax(-1).tolist()
    assert drawn[1] < 5


@pytest.mark.parametrize("wish", WISHES, ids=range(len(WISHES)))
def test_rows_without_usable_scores_disturb_no_other(wish: SamplingParameters) -> None:
    scores = shifted(3, 3072, 1.0, 4)
    alone = drawn_together(scores[1:2].clone(), [wish], torch.arange(1))
    scores[0] = torch.nan
    scores[2] = -torch.inf
    assert drawn_together(scores, [wish] * 3, torch.zeros(3, dtype=torch.int64))[1] == alone[0]


def test_presence_and_frequency_count_the_output_only() -> None:
    tokens = torch.tensor([[3, 4, 5, 5, 6, 5, 9], [3, 3, 0, 0, 0, 0, 0]])
    history = History(tokens, torch.tensor([6, 2]), torch.tensor([2, 2]))
    wishes = [SamplingParameters(presence_penalty=0.5, frequency_penalty=0.25)] * 2
    penalty = Occurrence.of(rows_of(*wishes), tokens.device)
    assert penalty is not None
    scores = torch.zeros(2, 10)
    penalty.apply(scores, history)
    assert scores[0].tolist() == [0, 0, 0, 0, 0, -0.5 - 3 * 0.25, -0.75, 0, 0, 0]
    assert scores[1].tolist() == [0.0] * 10
