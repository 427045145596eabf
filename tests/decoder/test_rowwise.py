"""The compiled choice of tokens, row by row, against the choice by operations on all rows and against plain sorting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from decoder.test_sampling import WISHES, restricted_by_transformers, shifted
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xlmstream_worker.cache import SlotCache
from xlmstream_worker.choice import Chooser
from xlmstream_worker.drawing import is_few
from xlmstream_worker.draws import signed_seed, stream_of
from xlmstream_worker.lanes import Row
from xlmstream_worker.rowwise import RowwiseChooser, drawing
from xlmstream_worker.sampling import BatchwiseChooser
from xlmstream_worker.sequences import SamplingParameters, SequenceRequest, Source

# Those that draw from all tokens, and again outside a share.
SHARES = [wish for wish in WISHES if not is_few(wish) and (wish.top_p < 1 or wish.typical_p < 1)]
PROMPT = 3


class Batch:
    """Rows with a history of random tokens, and their choosers."""

    def __init__(self, requests: Sequence[SequenceRequest], produced: Sequence[int], vocabulary: int) -> None:
        self.rows = [Row(request, 0, n, 10**6) for request, n in zip(requests, produced, strict=True)]
        longest = max(row.tokens for row in self.rows)
        cache = SlotCache(len(self.rows), 0, longest + 1, [], 1, torch.float32, torch.device("cpu"))
        generator = torch.Generator().manual_seed(1)
        for slot, row in enumerate(self.rows):
            made = torch.randint(0, 12, (row.produced,), generator=generator)
            cache.tokens[slot, : row.tokens] = torch.cat([torch.tensor(row.request.prompt_ids), made])
            cache.lengths[slot] = row.tokens
        self.rowwise = RowwiseChooser(cache, vocabulary)
        self.batchwise = BatchwiseChooser(cache)

    def choose(self, chooser: Chooser, scores: Tensor) -> list[int]:
        return chooser.plan(self.rows, slice(0, len(self.rows))).choose(scores).ids.tolist()


def batch_of(wishes: Sequence[SamplingParameters], vocabulary: int, produced: Sequence[int] | None = None) -> Batch:
    requests = [SequenceRequest(str(n), (1, 2, 3), sampling=wish) for n, wish in enumerate(wishes)]
    return Batch(requests, produced or [n % 7 for n in range(len(wishes))], vocabulary)


def drawn_rowwise(scores: Tensor, wishes: Sequence[SamplingParameters]) -> list[int]:
    """Row n draws its token number n % 7."""
    batch = batch_of(wishes, scores.shape[1])
    return batch.choose(batch.rowwise, scores.clone())


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_it_draws_what_the_other_way_draws(scale: float) -> None:
    wishes = [replace(wish, seed=seed) for wish in WISHES if wish not in SHARES for seed in range(40)]
    wishes += [SamplingParameters(temperature=t, seed=seed) for t in (1e-40, 0.1, 1.0, 50.0) for seed in range(20)]
    scores = shifted(len(wishes), 3072, scale, 2) + 7.0
    batch = batch_of(wishes, 3072)
    assert batch.choose(batch.rowwise, scores.clone()) == batch.choose(batch.batchwise, scores.clone())


# -- shares --------------------------------------------------------------------------------------------------------


def number(wish: SamplingParameters, index: int, attempt: int) -> float:
    """SplitMix64 in whole numbers."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    bits = mix((mix((wish.seed + golden) % 2**64) + (index + 1) * golden) % 2**64)
    if attempt:
        bits = mix((bits + attempt * golden) % 2**64)
    return ((bits >> 40) + 0.5) / 2**24


def weight_before(weights: Tensor, keys: Tensor) -> Tensor:
    """What the tokens weigh that are preferred to each."""
    order = keys.sort(descending=True).indices
    before = torch.zeros_like(weights)
    before[order[1:]] = weights[order].cumsum(0)[:-1]
    return before


def plain_draw(scores: Tensor, wish: SamplingParameters, index: int) -> tuple[int, float]:
    """The token, by sorting in float64 and drawing again until one is in both shares; and how near it was to being
    another."""
    probabilities = (scores.double() / wish.temperature).softmax(-1)
    before = weight_before(probabilities, probabilities)
    inside = probabilities * (before < wish.top_p)
    inside /= inside.sum()
    surprisal = -inside.log()
    keys = -(surprisal - (inside * surprisal).nan_to_num(0.0).sum()).abs()
    near = 1.0

    def pick_from(weights: Tensor, attempt: int) -> int:
        nonlocal near
        running, u = weights.cumsum(0) / weights.sum(), number(wish, index, attempt)
        near = min(near, float((running - u).abs().min()))
        return int(torch.searchsorted(running, u, right=True))

    token = pick_from(probabilities, 0)
    for sign, weights, preference, share in (
        (1, probabilities, probabilities, wish.top_p),
        (-1, inside, keys, wish.typical_p),
    ):
        before = weight_before(weights, preference)
        for attempt in range(1, 1000):
            near = min(near, abs(float(before[token]) - share))
            if share == 1 or before[token] < share:
                break
            token = pick_from(weights * (preference > preference[token]), sign * attempt)
    return token, near


@pytest.mark.parametrize("scale", [0.2, 1.0, 4.0])
def test_draws_from_a_share_equal_sorting_and_trying_again(scale: float) -> None:
    wishes = [
        replace(wish, seed=seed)
        for wish in (
            SamplingParameters(temperature=0.7),
            SamplingParameters(temperature=1.0, top_p=0.9),
            SamplingParameters(temperature=0.3, top_p=0.5),
            SamplingParameters(temperature=1.5, top_p=0.05),
            SamplingParameters(temperature=1.0, typical_p=0.9),
            SamplingParameters(temperature=1.0, typical_p=0.2),
            SamplingParameters(temperature=1.0, top_p=0.9, typical_p=0.9),
            SamplingParameters(temperature=0.6, top_p=0.5, typical_p=0.6),
        )
        for seed in range(40)
    ]
    scores = shifted(len(wishes), 3072, scale, 6)
    drawn = drawn_rowwise(scores, wishes)
    clear = 0
    for place, wish in enumerate(wishes):
        expected, near = plain_draw(scores[place], wish, place % 7)
        if near > 1e-5:
            clear += 1
            assert drawn[place] == expected, wish
    assert clear > 0.8 * len(wishes)


@pytest.mark.parametrize("wish", WISHES, ids=range(len(WISHES)))
def test_draws_are_distributed_as_restricted(wish: SamplingParameters) -> None:
    count = 4000
    scores = shifted(1, 256, 1.5, 8)
    expected = restricted_by_transformers(scores[0], wish)
    wishes = [replace(wish, seed=seed) for seed in range(count)]
    drawn = torch.tensor(drawn_rowwise(scores.expand(count, -1), wishes))
    counts = torch.bincount(drawn, minlength=256).double()
    assert not counts[expected == 0].any()
    likely = expected * count > 5
    chi_square = float(((counts - expected * count) ** 2 / (expected * count))[likely].sum())
    degrees = int(likely.sum())
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5


@given(
    scale=st.sampled_from([0.01, 0.3, 1.0, 4.0, 20.0]),
    top_p=st.sampled_from([1e-9, 1e-5, 0.1, 0.5, 0.9, 0.99, 1 - 1e-5, 1 - 1e-7]),
    seed=st.integers(0, 10),
)
@settings(max_examples=examples(60))
def test_the_edge_of_a_share(scale: float, top_p: float, seed: int) -> None:
    weights = (shifted(1, 30208, scale, seed)[0] * math.log2(math.e)).exp2()
    total = float(weights.double().sum())
    low = np.float32(0.999 * (1 - top_p) * total / len(weights))
    wanted, none = np.float32(top_p * total), np.float32(0.0)
    edge = drawing.edge_of_share(weights.numpy(), total, wanted, low, np.float32(1.0), none)
    kept = weights[weights > float(edge)].double()
    assert kept.sum() >= (top_p - 1e-5) * total
    # Hardly different weights count as equal: a token or two more.
    assert kept.sum() - kept.min() <= (top_p + (1e-4 if scale == 0.01 else 1e-5)) * total


@given(st.integers(0, 2**64 - 1), st.integers(0, 511), st.integers(-5, 5))
def test_numbers_are_those_of_splitmix(seed: int, index: int, attempt: int) -> None:
    got = drawing.uniform(np.int64(signed_seed(stream_of(seed, 0))), index, attempt)
    assert got == min(number(SamplingParameters(seed=seed), index, attempt), 1 - 2**-22)


# -- scores --------------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=examples(60), deadline=None)
def test_penalties_change_what_the_other_way_changes(data: st.DataObject) -> None:
    vocabulary, ids = 256, st.integers(0, 14)
    words = st.lists(st.lists(ids, min_size=1, max_size=4).map(tuple), max_size=3).map(tuple)
    requests = [
        SequenceRequest(
            str(n),
            tuple(data.draw(st.lists(ids, min_size=1, max_size=5))),
            stop_ids=(data.draw(ids), 1),
            min_new_tokens=data.draw(st.integers(0, 8)),
            source=data.draw(st.sampled_from([None, Source((1, 2))])),
            sampling=SamplingParameters(
                logit_bias=tuple(data.draw(st.dictionaries(ids, st.floats(-3, 3, width=32), max_size=3)).items()),
                repetition_penalty=data.draw(st.sampled_from([1.0, 1.3, 0.5])),
                presence_penalty=data.draw(st.sampled_from([0.0, 0.4, -1.0])),
                frequency_penalty=data.draw(st.sampled_from([0.0, 0.3])),
                no_repeat_ngram_size=data.draw(st.integers(0, 4)),
                bad_words=data.draw(words),
            ),
        )
        for n in range(data.draw(st.integers(1, 4)))
    ]
    # A translation's prompt is one token.
    requests = [r if r.source is None else replace(r, prompt_ids=r.prompt_ids[:1]) for r in requests]
    batch = Batch(
        requests, data.draw(st.lists(st.integers(0, 12), min_size=4, max_size=4))[: len(requests)], vocabulary
    )
    scores = shifted(len(requests), vocabulary, 2.0, 3)
    changed = [scores.clone(), scores.clone()]
    ids_ = [
        batch.choose(chooser, kept) for chooser, kept in zip((batch.rowwise, batch.batchwise), changed, strict=True)
    ]
    torch.testing.assert_close(changed[0], changed[1], rtol=1e-6, atol=1e-6)
    assert ids_[0] == ids_[1]


def test_rows_longer_than_the_vocabulary() -> None:
    wish = SamplingParameters(repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.1)
    batch = batch_of([wish] * 2, 256, [700, 2])
    one, other = torch.full((2, 256), 2.0), torch.full((2, 256), 2.0)
    assert batch.choose(batch.rowwise, one) == batch.choose(batch.batchwise, other)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert len(batch.rowwise._spare[0][0]) > 700


def test_log_probabilities_are_those_before_penalties() -> None:
    wishes = [
        SamplingParameters(),
        SamplingParameters(temperature=1.0, top_p=0.5, seed=3),
        SamplingParameters(logit_bias=((7, 50.0),)),
        SamplingParameters(temperature=1.0, top_k=4),
    ]
    counts = (0, 5, 3, None)
    requests = [
        SequenceRequest(str(n), (1, 2), sampling=wish, top_logprobs=count)
        for n, (wish, count) in enumerate(zip(wishes, counts, strict=True))
    ]
    batch = Batch(requests, [4] * 4, 1024)
    scores = shifted(4, 1024, 3.0, 1)
    expected = scores.double().log_softmax(-1)
    plan = batch.rowwise.plan(batch.rows, slice(0, 4))
    choice = plan.choose(scores.clone())
    assert plan.reporting == (0, 1, 2)
    assert choice.ids[2] == 7
    assert choice.logprobs is not None
    assert choice.top_logprobs is not None
    assert choice.top_ids is not None
    for place in plan.reporting:
        best = expected[place].topk(5)
        assert float(choice.logprobs[place]) == pytest.approx(float(expected[place, choice.ids[place]]), abs=1e-5)
        assert choice.top_ids[place].tolist() == best.indices.tolist()
        torch.testing.assert_close(choice.top_logprobs[place].double(), best.values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("wish", [SamplingParameters(), *WISHES], ids=range(len(WISHES) + 1))
def test_rows_without_usable_scores_get_no_token_and_disturb_no_other(wish: SamplingParameters) -> None:
    scores = shifted(7, 3072, 1.0, 4)
    expected = drawn_rowwise(scores, [wish] * 7)
    scores[0] = torch.nan
    scores[2] = -torch.inf
    scores[4, 100] = torch.nan
    scores[5, 200] = torch.inf
    scores[6, 1:] = -torch.inf
    assert drawn_rowwise(scores, [wish] * 7) == [-1, expected[1], -1, expected[3], -1, -1, 0]


def test_rows_without_usable_scores_report_nothing_of_others() -> None:
    requests = [SequenceRequest(str(n), (1,), top_logprobs=20) for n in range(4)]
    batch = Batch(requests, [0] * 4, 1024)
    scores = shifted(4, 1024, 3.0, 1)
    expected = scores[3].double().log_softmax(-1).topk(20).values
    scores[0], scores[1, 5:], scores[2, 7] = torch.nan, -torch.nan, torch.inf
    choice = batch.rowwise.plan(batch.rows, slice(0, 4)).choose(scores)
    assert choice.ids[:3].tolist() == [-1, -1, -1]
    assert choice.top_logprobs is not None
    assert choice.top_logprobs[:3].isnan().all()
    torch.testing.assert_close(choice.top_logprobs[3].double(), expected, atol=1e-5, rtol=0)


def test_the_first_of_equally_good_tokens_is_taken() -> None:
    scores = torch.zeros(3, 1024)
    scores[1, [300, 299, 900]] = 1.0
    scores[2, 1023] = 1.0
    assert drawn_rowwise(scores, [SamplingParameters()] * 3) == [0, 299, 1023]


@pytest.mark.parametrize("temperature", [1e-40, 1e-3, 1e3])
@pytest.mark.parametrize("top_k", [0, 3, 5000])
def test_extreme_temperatures(temperature: float, top_k: int) -> None:
    scores = shifted(2, 1024, 5.0, 1)
    scores[1, 5:] = -torch.inf
    drawn = drawn_rowwise(scores, [SamplingParameters(temperature=temperature, top_p=0.9, top_k=top_k)] * 2)
    if temperature < 1:
        assert drawn == scores.argmax(-1).tolist()
    assert drawn[1] < 5


@pytest.mark.parametrize("top_k", [1, 2, 300, 1024, 1100, 10**6])
def test_any_number_of_best_tokens(top_k: int) -> None:
    """More than blocks, than is collected, than there are; and with equals."""
    wishes = [SamplingParameters(temperature=5.0, top_k=top_k, seed=seed) for seed in range(200)]
    scores = shifted(1, 2048, 1.0, 7).round(decimals=1).expand(200, -1)
    floor = scores[0].topk(min(top_k, 2048)).values[-1]
    drawn = drawn_rowwise(scores, wishes)
    assert (scores[0, drawn] >= floor).all()
    assert len(set(drawn)) > min(top_k, 100) * 0.6
