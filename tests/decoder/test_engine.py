"""The engine against the plain computation: every row gets what it would get alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from decoder.plain import CONTEXT, SMALL, assert_greedy, build_model, next_scores, run
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.linear import Linear, rows_for
from xlmstream_worker.sequences import (
    BeamParameters,
    DecodingMode,
    EndReason,
    EngineConfig,
    SamplingParameters,
    SequenceRequest,
)
from xlmstream_worker.xlm import XLMWithLMHeadModel


def random_requests(seed: int, modes: list[DecodingMode], count: int = 16) -> list[tuple[int, SequenceRequest]]:
    rng = random.Random(seed)
    return [
        (
            rng.randint(0, 30),
            SequenceRequest(
                key=f"r{number}",
                prompt_ids=tuple(rng.randrange(3, 97) for _ in range(rng.randint(1, 30))),
                language_id=rng.choice([None, 0, 1, 2]),
                mode=rng.choice(modes),
                mask_id=rng.choice([None, 5]),
                max_new_tokens=rng.randint(1, 24),
                eos_id=rng.choice([None, 1, 11, 23]),
                min_new_tokens=rng.randint(0, 1),
            ),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_join_and_leave_equal_the_plain_forward(causal_model: XLMWithLMHeadModel, seed: int) -> None:
    arrivals = random_requests(seed, list(DecodingMode))
    transcript = run(DecoderEngine(causal_model, SMALL), arrivals)
    assert_greedy(causal_model, transcript, [request for _, request in arrivals])


@pytest.mark.parametrize("slots", [1, 5, 13])
def test_fixed_shapes_change_nothing(causal_model: XLMWithLMHeadModel, slots: int) -> None:
    """As a GPU decodes: more slots and positions computed than there are, ids read back one step late."""
    arrivals = random_requests(slots, list(DecodingMode))
    engine = DecoderEngine(causal_model, replace(SMALL, max_slots=slots, static_shapes=True, late_readback=True))
    engine.warm_up()
    transcript = run(engine, arrivals)
    assert_greedy(causal_model, transcript, [request for _, request in arrivals])


def test_masked_models_equal_the_plain_forward(masked_model: XLMWithLMHeadModel) -> None:
    arrivals = random_requests(5, [DecodingMode.MASK_APPEND])
    transcript = run(DecoderEngine(masked_model, SMALL), arrivals)
    assert_greedy(masked_model, transcript, [request for _, request in arrivals])


@pytest.mark.parametrize(
    "overrides",
    [
        {"n_langs": 1},
        {"sinusoidal_embeddings": True},
        {"gelu_activation": False},
        {"tie_word_embeddings": False},
        {"pruned_heads": {0: [1], 2: [0, 3]}},
        {"use_lang_emb": False},
    ],
    ids=str,
)
def test_every_kind_of_model(overrides: dict[str, object]) -> None:
    model = build_model(**overrides)  # type: ignore[arg-type]
    arrivals = random_requests(9, list(DecodingMode), count=6)
    transcript = run(DecoderEngine(model, SMALL), arrivals)
    assert_greedy(model, transcript, [request for _, request in arrivals])


def test_sampling_does_not_depend_on_batch_mates(causal_model: XLMWithLMHeadModel) -> None:
    rng = random.Random(3)
    arrivals = []
    for step, request in random_requests(3, list(DecodingMode)):
        sampling = SamplingParameters(
            temperature=rng.choice([0.0, 0.7, 1.5]),
            top_k=rng.choice([0, 1, 5, 40]),
            top_p=rng.choice([1.0, 0.9, 0.5]),
            seed=rng.getrandbits(64),
        )
        arrivals.append((step, replace(request, sampling=sampling)))
    together = run(DecoderEngine(causal_model, SMALL), arrivals)
    for _, request in arrivals:
        alone = run(DecoderEngine(causal_model, SMALL), [(0, request)])
        assert alone.ids(request.key) == together.ids(request.key)


def test_seed_and_candidate_change_the_draw_and_nothing_else_does(causal_model: XLMWithLMHeadModel) -> None:
    base = SequenceRequest(
        "a", (5, 6), max_new_tokens=20, sampling=SamplingParameters(temperature=1.0, seed=4), candidates=3
    )
    other = replace(base, key="b", sampling=SamplingParameters(temperature=1.0, seed=5))
    first = run(DecoderEngine(causal_model, SMALL), [(0, base), (0, other)])
    again = run(DecoderEngine(causal_model, EngineConfig(max_slots=9)), [(3, base)])
    texts = [tuple(first.ids("a", c)) for c in range(3)]
    assert texts == [tuple(again.ids("a", c)) for c in range(3)]
    assert len(set(texts)) == 3
    assert tuple(first.ids("b")) != texts[0]


def test_a_resumed_request_continues_as_it_would_have(causal_model: XLMWithLMHeadModel) -> None:
    request = SequenceRequest(
        "a", (8, 9, 10), max_new_tokens=15, eos_id=1, sampling=SamplingParameters(temperature=1.2, seed=9), candidates=2
    )
    whole = run(DecoderEngine(causal_model, SMALL), [(0, request)])
    prefixes = (tuple(whole.ids("a", 0)[:7]), tuple(whole.ids("a", 1)[:2]))
    resumed = run(DecoderEngine(causal_model, SMALL), [(0, replace(request, forced_ids=prefixes))])
    for candidate, prefix in enumerate(prefixes):
        assert resumed.outputs["a", candidate][0].index == len(prefix)
        assert list(prefix) + resumed.ids("a", candidate) == whole.ids("a", candidate)


def test_candidates_that_ended_earlier_are_not_run_again(causal_model: XLMWithLMHeadModel) -> None:
    request = SequenceRequest(
        "a", (8, 9), max_new_tokens=4, candidates=4, eos_id=1, forced_ids=((3,), (1, 2, 3, 4), (3, 1), (3, 4)),
        ended_candidates=frozenset({3}),
    )  # fmt: skip
    transcript = run(DecoderEngine(causal_model, SMALL), [(0, request)])
    assert set(transcript.outputs) == {("a", 0), ("a", 1), ("a", 2)}
    assert [(o.token_id, o.index, o.finished) for o in transcript.outputs["a", 1]] == [(None, 4, EndReason.LENGTH)]
    assert [(o.token_id, o.index, o.finished) for o in transcript.outputs["a", 2]] == [(None, 2, EndReason.EOS)]
    assert len(transcript.ids("a", 0)) == 3


def test_length_ends_at_the_last_position(causal_model: XLMWithLMHeadModel) -> None:
    for mode in DecodingMode:
        for prompt in (CONTEXT - 1, CONTEXT - 5):
            request = SequenceRequest("a", (7,) * prompt, mode=mode, max_new_tokens=100)
            transcript = run(DecoderEngine(causal_model, SMALL), [(0, request)])
            assert len(transcript.ids("a")) == CONTEXT - prompt
            assert transcript.outputs["a", 0][-1].finished is EndReason.LENGTH


def test_stop_ids_end_as_the_end_of_sequence_does(causal_model: XLMWithLMHeadModel) -> None:
    free = SequenceRequest("a", (8, 9), max_new_tokens=12)
    greedy = run(DecoderEngine(causal_model, SMALL), [(0, free)]).ids("a")
    stopped = run(DecoderEngine(causal_model, SMALL), [(0, replace(free, eos_id=1, stop_ids=(96, greedy[4])))])
    assert stopped.ids("a") == greedy[: greedy.index(greedy[4]) + 1]
    assert stopped.outputs["a", 0][-1].finished is EndReason.EOS


def test_log_probabilities_are_the_models_own(causal_model: XLMWithLMHeadModel) -> None:
    sampling = SamplingParameters(temperature=1.5, repetition_penalty=2.0, seed=1)
    requests = [
        SequenceRequest("none", (5, 6), max_new_tokens=5, sampling=sampling),
        SequenceRequest("own", (5, 6), max_new_tokens=5, sampling=sampling, top_logprobs=0),
        SequenceRequest("top", (7, 6), max_new_tokens=5, sampling=sampling, top_logprobs=3),
    ]
    transcript = run(DecoderEngine(causal_model, SMALL), [(0, request) for request in requests])
    assert transcript.ids("own") == transcript.ids("none")
    assert all(output.logprob is None for output in transcript.outputs["none", 0])
    for request in requests[1:]:
        ids = transcript.ids(request.key)
        for output in transcript.outputs[request.key, 0]:
            scores = next_scores(causal_model, request, [*request.prompt_ids, *ids[: output.index]]).log_softmax(-1)
            assert output.token_id is not None
            assert output.logprob == pytest.approx(float(scores[output.token_id]), abs=1e-4)
            best = scores.topk(request.top_logprobs or 0)
            assert [token for token, _ in output.top_logprobs] == best.indices.tolist()
            assert [value for _, value in output.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_beam_search_resumes_behind_what_was_delivered(causal_model: XLMWithLMHeadModel) -> None:
    request = SequenceRequest("a", (8, 9), max_new_tokens=6, candidates=2, beam_search=BeamParameters(3))
    whole = run(DecoderEngine(causal_model, SMALL), [(0, request)])
    again = replace(request, forced_ids=(tuple(whole.ids("a", 0)[:4]), ()), ended_candidates=frozenset({1}))
    resumed = run(DecoderEngine(causal_model, SMALL), [(0, again)])
    assert set(resumed.outputs) == {("a", 0)}
    assert resumed.outputs["a", 0][0].index == 4
    assert resumed.ids("a", 0) == whole.ids("a", 0)[4:]


def test_min_new_tokens_holds_back_the_end(causal_model: XLMWithLMHeadModel) -> None:
    free = SequenceRequest("a", (8, 9), max_new_tokens=12)
    greedy = run(DecoderEngine(causal_model, SMALL), [(0, free)]).ids("a")
    stopper = greedy[2]
    early = replace(free, eos_id=stopper)
    late = replace(early, min_new_tokens=greedy.index(stopper) + 2)
    assert run(DecoderEngine(causal_model, SMALL), [(0, early)]).ids("a") == greedy[: greedy.index(stopper) + 1]
    held = run(DecoderEngine(causal_model, SMALL), [(0, late)]).ids("a")
    assert len(held) > greedy.index(stopper) + 1
    assert stopper not in held[: late.min_new_tokens]


def test_a_quarantined_request_runs_alone(causal_model: XLMWithLMHeadModel) -> None:
    engine = DecoderEngine(causal_model, SMALL)
    for key, alone in (("a", False), ("b", True), ("c", False)):
        engine.add(SequenceRequest(key, (5,) * 20, max_new_tokens=4, alone=alone))
    seen: list[set[str]] = []
    while not engine.idle:
        seen.append({output.key for output in engine.step().tokens})
    assert {frozenset(keys) for keys in seen} == {frozenset(), frozenset("a"), frozenset("b"), frozenset("c")}


def test_a_long_prompt_never_stalls_the_others(causal_model: XLMWithLMHeadModel) -> None:
    engine = DecoderEngine(causal_model, SMALL)
    engine.add(SequenceRequest("short", (5, 6), max_new_tokens=20))
    engine.step()
    engine.add(SequenceRequest("long", (5,) * 40, max_new_tokens=2))
    for _ in range(5):
        result = engine.step()
        assert [output.key for output in result.tokens] == ["short"]
        assert result.prefill_tokens == SMALL.prefill_tokens
    assert {output.key for output in engine.step().tokens} == {"short", "long"}


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_model_decodes_from_its_cache_and_a_masked_one_without(
    causal_model: XLMWithLMHeadModel, masked_model: XLMWithLMHeadModel, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = DecoderEngine(causal_model if causal else masked_model, SMALL)
    network, fed = engine._forward.network, list[int]()
    decode, recompute = network.decode, network.recompute
    monkeypatch.setattr(
        network, "decode", lambda ids, *rest, **more: fed.append(ids.numel()) or decode(ids, *rest, **more)
    )
    monkeypatch.setattr(network, "recompute", lambda it, *rest: fed.append(it.ids.numel()) or recompute(it, *rest))
    run(engine, [(0, SequenceRequest("a", (5,) * 9, mode=DecodingMode.MASK_APPEND, max_new_tokens=4))])
    assert fed == ([2, 2, 2, 2] if causal else [10, 11, 12, 13])  # the newest token and the mask, or all and the mask


def test_lower_precision_runs_and_mostly_agrees(causal_model: XLMWithLMHeadModel) -> None:
    requests = [SequenceRequest(f"r{n}", (5, n, 9), max_new_tokens=10) for n in range(10)]
    exact = run(DecoderEngine(causal_model, SMALL), [(0, request) for request in requests])
    for dtype in ("bfloat16", "float16"):
        engine = DecoderEngine(causal_model, replace(SMALL, dtype=dtype))
        rough = run(engine, [(0, request) for request in requests])
        agreeing = sum(exact.ids(r.key)[0] == rough.ids(r.key)[0] for r in requests)
        assert agreeing >= 8


def test_warm_up_leaves_an_idle_engine(causal_model: XLMWithLMHeadModel, masked_model: XLMWithLMHeadModel) -> None:
    for model in (causal_model, masked_model):
        engine = DecoderEngine(model, SMALL)
        engine.warm_up()
        assert engine.idle
        assert engine.free_slots == SMALL.max_slots
        assert engine.step().tokens == ()


@pytest.mark.parametrize("weights", [(24, 16), (2048, 1024)])
def test_linear_layers_equal_the_plain_product_for_any_number_of_rows(weights: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(weights) * 0.1, torch.randn(weights[0])
    linear = Linear(weight, bias)
    for rows in (1, 2, 3, 5, 8, 9, 13, 17, 33, 65):
        x = torch.randn(rows, weights[1])
        assert torch.allclose(linear(x), torch.nn.functional.linear(x, weight, bias), atol=1e-4)


def test_few_different_numbers_of_rows_are_computed() -> None:
    assert all(rows <= rows_for(rows) <= 1.25 * rows for rows in range(1, 3000))
    assert all(rows_for(rows) == rows for rows in range(1, 9))
    assert len({rows_for(rows) for rows in range(1, 257)}) == 28


def test_rows_of_a_masked_model_begin_in_the_same_step(masked_model: XLMWithLMHeadModel) -> None:
    engine = DecoderEngine(masked_model, EngineConfig(max_slots=9))
    for number in range(9):
        engine.add(SequenceRequest(f"r{number}", (5, 6, number), mode=DecodingMode.MASK_APPEND, max_new_tokens=2))
    assert engine.step().batch_size == 9
