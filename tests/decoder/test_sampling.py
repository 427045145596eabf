"""Sampling against textbook definitions with full sorts, and the quality of the counter-based draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xlmstream_worker.draws import signed_seed, uniforms
from xlmstream_worker.penalties import History, Occurrence
from xlmstream_worker.sampling import Drawing, mass_floor, pick, share_floor, top_k_floor, weights_left
from xlmstream_worker.scheduler import Row
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
@settings(deadline=None, max_examples=80)
def test_nuclei_are_the_smallest_that_suffice(scale: float, top_p: float, vocabulary: int, seed: int) -> None:
    scores = shifted(3, vocabulary, scale, seed)
    wanted = torch.full((3,), top_p)
    weights = scores.exp()
    for floor in (
        share_floor(scores, weights, wanted),
        mass_floor(scores, weights, wanted * weights.sum(-1)),
    ):
        for row in range(3):
            probabilities = scores[row].double().softmax(-1)
            mass = float(probabilities[scores[row] >= floor[row]].sum())
            # One token more than the sorted answer may slip in or out where float32 cannot tell.
            assert mass >= top_p - 1e-4
            assert mass <= nucleus_by_sorting(scores[row], top_p) + 1e-4 + 2 * float(
                probabilities[scores[row] >= floor[row]].min()
            )


def test_the_nucleus_lies_within_the_best_k() -> None:
    scores = torch.tensor([[0.5, 0.25, 0.125, 0.0625, 0.0625]]).log()
    scores -= scores.amax()
    floor = top_k_floor(scores, torch.tensor([2]), 2)
    assert (scores >= floor[:, None]).sum() == 2
    # Among these two the first has 2/3 of the weight: it alone reaches 0.6.
    weights = scores.exp().masked_fill_(scores < floor[:, None], 0.0)
    narrow = share_floor(scores, weights, torch.tensor([0.6]))
    assert (scores >= narrow[:, None]).tolist() == [[True, False, False, False, False]]


def test_top_k_keeps_k_per_row() -> None:
    scores = shifted(4, 1000, 1.0, 0)
    floor = top_k_floor(scores, torch.tensor([1, 7, 0, 1000]), 1000)
    assert (scores >= floor[:, None]).sum(-1).tolist() == [1, 7, 1000, 1000]


@pytest.mark.parametrize("vocabulary", [1, 7, 256, 257, 1000])
def test_pick_follows_the_weights(vocabulary: int) -> None:
    weights = torch.rand(vocabulary, generator=torch.Generator().manual_seed(1))
    weights[:: max(2, vocabulary // 5)] = 0.0
    if vocabulary == 1:
        weights[0] = 1.0
    edges = weights.double().cumsum(0) / weights.double().sum()
    targets = torch.linspace(0.0005, 0.9995, 2000)
    chosen = pick(weights.expand(2000, -1).contiguous(), targets)
    expected = torch.searchsorted(edges, targets.double(), right=True)
    assert (weights[chosen] > 0).all()
    differing = chosen != expected
    near = (edges[expected] - targets).abs().minimum((edges[(expected - 1).clamp(0)] - targets).abs()) < 1e-6
    assert not (differing & ~near).any()


def test_pick_never_leaves_the_support() -> None:
    weights = torch.zeros(4, 600)
    weights[0, 0] = weights[1, 599] = weights[2, 300] = weights[3, 255] = 1e-30
    for uniform in (1e-9, 0.5, 1 - 2**-24, 1.0):
        assert pick(weights, torch.full((4,), uniform)).tolist() == [0, 599, 300, 255]


def test_draws_are_uniform_and_uncorrelated() -> None:
    seeds = torch.arange(200, dtype=torch.int64)[:, None].expand(200, 500).flatten()
    index = torch.arange(500)[None].expand(200, 500).flatten()
    draws = uniforms(seeds, torch.zeros_like(seeds), index).view(200, 500).double()
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
        return float(uniforms(torch.tensor([signed_seed(s)]), torch.tensor([c]), torch.tensor([i])))

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
        got = uniforms(torch.tensor([signed_seed(seed)]), torch.tensor([candidate]), torch.tensor([index]))
        assert float(got) == pytest.approx(expected, rel=1e-7)


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
]


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_restrictions_leave_what_those_of_transformers_leave(scale: float) -> None:
    warpers = pytest.importorskip("transformers", reason="the oracle is not installed").generation.logits_process
    scores = shifted(len(WISHES), 3000, scale, 3)
    drawing = Drawing.of(rows_of(*WISHES), scores.device)
    assert drawing is not None
    weights = weights_left(scores.clone(), drawing)
    for row, wish in enumerate(WISHES):
        expected = warpers.TemperatureLogitsWarper(wish.temperature)(None, scores[row : row + 1])
        if wish.top_k:
            expected = warpers.TopKLogitsWarper(wish.top_k)(None, expected)
        if wish.top_p < 1:
            expected = warpers.TopPLogitsWarper(wish.top_p)(None, expected)
        if wish.min_p > 0:
            expected = warpers.MinPLogitsWarper(wish.min_p)(None, expected)
        if wish.typical_p < 1:
            expected = warpers.TypicalLogitsWarper(wish.typical_p)(None, expected)
        probabilities = expected.double().softmax(-1)[0]
        ours = weights[row].double() / weights[row].double().sum()
        # A token at the very edge may fall on either side.
        assert (ours - probabilities).abs().sum() < 2.5 * float(probabilities[probabilities > 0].min()) + 1e-5


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
