"""The engine against the plain computation: every row gets what it would get alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from decoder.plain import MARGIN, Transcript, build_model, next_scores, plain_greedy, run
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.isolation import run_isolated
from xlmstream_worker.linear import Linear, rows_for
from xlmstream_worker.sequences import (
    BeamParameters,
    BeamRules,
    DecodingMode,
    EarlyStopping,
    EndReason,
    EngineConfig,
    FailureKind,
    SamplingParameters,
    SequenceRequest,
)
from xlmstream_worker.xlm import XLMWithLMHeadModel

CONTEXT = 48
SMALL = EngineConfig(max_slots=5, prefill_tokens=7)


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


def assert_greedy(model: XLMWithLMHeadModel, transcript: Transcript, requests: list[SequenceRequest]) -> None:
    for request in requests:
        expected, margin = plain_greedy(model, request, CONTEXT)
        got = transcript.ids(request.key)
        if margin > MARGIN:
            assert got == expected, f"{request.key}: margin {margin:.2g}"
        last = transcript.outputs[request.key, 0][-1]
        assert last.finished is (EndReason.EOS if got[-1] == request.eos_id else EndReason.LENGTH)


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


def test_beams_end_together_or_not_at_all(causal_model: XLMWithLMHeadModel) -> None:
    """A candidate of a search is no beam: ending one, at any moment, ends nothing."""
    request = SequenceRequest("a", (8, 9, 10), max_new_tokens=6, candidates=2, beam_search=BeamParameters(3))
    whole = run(DecoderEngine(causal_model, SMALL), [(0, request)])
    engine = DecoderEngine(causal_model, SMALL)
    again = run(engine, [(0, request)], lambda step: engine.finish("a", step % 2))
    assert [again.ids("a", c) for c in (0, 1)] == [whole.ids("a", c) for c in (0, 1)]


@pytest.mark.parametrize("beam", [0, 1])
def test_a_failing_beam_fails_its_search_only(
    causal_model: XLMWithLMHeadModel, monkeypatch: pytest.MonkeyPatch, beam: int
) -> None:
    engine = DecoderEngine(causal_model, SMALL)
    compute = engine._forward.scores

    def faulty(batch):  # type: ignore[no-untyped-def]  # same as what it wraps
        if any(row.request.key == "bad" and row.candidate == beam and row.produced == 2 for row in batch.rows):
            raise RuntimeError("this row cannot be computed")
        return compute(batch)

    monkeypatch.setattr(engine._forward, "scores", faulty)
    bad = SequenceRequest("bad", (5, 6), max_new_tokens=6, candidates=2, beam_search=BeamParameters(2))
    good = replace(bad, key="good")
    transcript = run(engine, [(0, good), (0, bad), (0, SequenceRequest("c", (5, 6), max_new_tokens=6))])
    for candidate in range(2):
        assert [output.finished for output in transcript.outputs["bad", candidate]] == [EndReason.FAILED]
    alone = run(DecoderEngine(causal_model, SMALL), [(0, good)])
    assert [transcript.ids("good", c) for c in (0, 1)] == [alone.ids("good", c) for c in (0, 1)]
    resumed = run(engine, [(0, replace(bad, ended_candidates=frozenset({0})))])
    assert set(resumed.outputs) == {("bad", 1)}


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


@pytest.mark.parametrize("end", ["cancel", "finish"])
def test_cancelled_rows_free_their_slots_at_the_next_step(causal_model: XLMWithLMHeadModel, end: str) -> None:
    engine = DecoderEngine(causal_model, SMALL)
    for number in range(5):
        engine.add(SequenceRequest(f"r{number}", (5, 6, 7), max_new_tokens=30))
    assert engine.free_slots == 0
    for _ in range(3):
        engine.step()
    survivors = [f"r{number}" for number in (0, 2, 4)]
    for number in (1, 3):
        engine.cancel(f"r{number}") if end == "cancel" else engine.finish(f"r{number}", 0)
    assert engine.free_slots == 2
    engine.cancel("never heard of")
    result = engine.step()
    assert result.batch_size == 3
    assert {output.key for output in result.tokens} == set(survivors)
    engine.add(SequenceRequest("r1", (5, 6, 7), max_new_tokens=30))  # the key is free again
    transcript = run(engine, [])
    assert len(transcript.ids("r1")) == 30
    for key in survivors:
        assert transcript.ids(key) == transcript.ids("r1")[-len(transcript.ids(key)) :]


def test_a_candidate_that_is_ended_while_it_waits_never_runs(causal_model: XLMWithLMHeadModel) -> None:
    engine = DecoderEngine(causal_model, EngineConfig(max_slots=2))
    engine.add(SequenceRequest("first", (5, 6), max_new_tokens=4, candidates=2))
    for key in ("both", "one"):
        engine.add(SequenceRequest(key, (5, 6), max_new_tokens=4, candidates=2))
    engine.step()
    for key, candidate in (("both", 0), ("both", 1), ("one", 0), ("one", 7)):
        engine.finish(key, candidate)
    assert engine.spare_slots == -1
    engine.add(SequenceRequest("both", (5, 6), max_new_tokens=1))  # the key is free again
    transcript = run(engine, [])
    assert set(transcript.outputs) == {("first", 0), ("first", 1), ("one", 1), ("both", 0)}


def test_a_last_token_that_is_not_read_back_yet_can_be_cancelled(causal_model: XLMWithLMHeadModel) -> None:
    engine = DecoderEngine(causal_model, replace(SMALL, late_readback=True))
    request = SequenceRequest("a", (5, 6), max_new_tokens=3, candidates=2)
    engine.add(request)
    said = [output.index for _ in range(3) for output in engine.step().tokens]
    assert said == [0, 0, 1, 1]
    engine.finish("a", 0)
    with pytest.raises(ValueError, match="already"):
        engine.add(request)
    engine.cancel("a")
    assert engine.step().tokens == ()
    assert engine.idle


def test_an_end_that_is_not_reported_yet_can_be_cancelled(causal_model: XLMWithLMHeadModel) -> None:
    """A resumed candidate that was complete ends without a step; the end comes with the next one."""
    engine = DecoderEngine(causal_model, SMALL)
    complete = SequenceRequest("a", (5, 6), max_new_tokens=2, candidates=2, forced_ids=((7, 8), (7,)))
    engine.add(complete)
    engine.add(replace(complete, key="b"))
    engine.cancel("a")
    assert {output.key for _ in range(3) for output in engine.step().tokens} == {"b"}


def test_a_candidate_whose_prompt_waits_can_be_cancelled(causal_model: XLMWithLMHeadModel) -> None:
    """The candidates of a resumed request begin with different tokens, and so not at the same step."""
    first = run(DecoderEngine(causal_model, SMALL), [(0, SequenceRequest("a", (5, 6), max_new_tokens=1))]).ids("a")[0]
    engine = DecoderEngine(causal_model, replace(SMALL, prefill_tokens=1))
    forced = ((), (first - 1,), (first - 2,))
    engine.add(SequenceRequest("a", (5, 6), max_new_tokens=5, eos_id=first, candidates=3, forced_ids=forced))
    [end] = engine.step().tokens
    assert (end.candidate, end.finished) == (0, EndReason.EOS)
    assert (engine.idle, engine.busy_slots) == (False, 2)
    engine.cancel("a")
    assert run(engine, []).outputs == {}


def test_no_token_beyond_the_vocabulary_comes_out(causal_model: XLMWithLMHeadModel) -> None:
    """Scores are computed for 256 tokens, of which the model has 97: where few are left to choose from, and where all
    are as good as equal."""
    allowed = tuple((token,) for token in range(97) if token not in (40, 41))
    requests = [
        SequenceRequest("hot", (5, 6), max_new_tokens=40, sampling=SamplingParameters(temperature=100.0)),
        SequenceRequest(
            "wide", (5, 6), max_new_tokens=40, sampling=SamplingParameters(temperature=100.0, top_k=97, top_p=0.999)
        ),
        SequenceRequest("top", (5, 6), max_new_tokens=4, top_logprobs=97),
        *(
            SequenceRequest(
                f"beams {rules.value} {limit}", (5, 6), max_new_tokens=limit, candidates=5,
                stop_ids=tuple(range(42, 97)), sampling=SamplingParameters(bad_words=allowed),
                beam_search=BeamParameters(5, rules=rules),
            )
            for rules in BeamRules
            for limit in (1, 2, 4)  # of two tokens there are fewer sequences than beams
        ),
    ]  # fmt: skip
    transcript = run(DecoderEngine(causal_model, EngineConfig(max_slots=40)), [(0, request) for request in requests])
    assert set(transcript.outputs) == {(one.key, candidate) for one in requests for candidate in range(one.candidates)}
    for output in (output for said in transcript.outputs.values() for output in said):
        assert output.failure is None
        assert output.token_id is None or output.token_id < 97
        if output.key == "top":
            assert sorted(token for token, _ in output.top_logprobs) == list(range(97))
        if output.key.startswith("beams"):
            assert output.token_id in (40, 41, None)


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


BAD = {
    "prompt_ids must be 1 to 47 ids": {"prompt_ids": ()},
    "prompt_ids must be 1 to 47 ids, got 48": {"prompt_ids": (5,) * 48},
    r"prompt_ids\[1\] must be 0 to 96": {"prompt_ids": (5, 97)},
    "max_new_tokens": {"max_new_tokens": 0},
    "min_new_tokens": {"min_new_tokens": 65},
    "eos_id": {"eos_id": -1},
    "candidates": {"candidates": 6},
    "forced_ids": {"forced_ids": ((1,), (2,))},
    "language_id": {"language_id": 3},
    "mask_id": {"mask_id": 97},
    "temperature": {"sampling": SamplingParameters(temperature=float("nan"))},
    "top_k": {"sampling": SamplingParameters(top_k=98)},
    "top_p": {"sampling": SamplingParameters(top_p=0.0)},
    "min_p": {"sampling": SamplingParameters(min_p=1.1)},
    "typical_p": {"sampling": SamplingParameters(typical_p=0.0)},
    "repetition_penalty": {"sampling": SamplingParameters(repetition_penalty=0.0)},
    "presence_penalty": {"sampling": SamplingParameters(presence_penalty=float("inf"))},
    "no_repeat_ngram_size": {"sampling": SamplingParameters(no_repeat_ngram_size=-1)},
    "bad_words must": {"sampling": SamplingParameters(bad_words=((),))},
    r"bad_words\[1\]": {"sampling": SamplingParameters(bad_words=((5, 97),))},
    "logit_bias must": {"sampling": SamplingParameters(logit_bias=((5, 1.0), (5, 2.0)))},
    r"logit_bias\[0\]": {"sampling": SamplingParameters(logit_bias=((-1, 1.0),))},
    r"stop_ids\[0\]": {"stop_ids": (97,)},
    "top_logprobs must be 0": {"top_logprobs": -1},
    "beams must": {"beam_search": BeamParameters(6)},
    "beams must be 1 to 5, got 0": {"beam_search": BeamParameters(0)},
    # More would be an overflow in the middle of a step, which ends everybody's.
    "max_new_tokens must be 1 to": {"max_new_tokens": 2**70, "beam_search": BeamParameters(2)},
    "no_repeat_ngram_size must be 0 to": {"sampling": SamplingParameters(no_repeat_ngram_size=2**70)},
    "length_penalty": {"beam_search": BeamParameters(2, 1000.0)},
    "length_penalty must be -10 to 10, got nan": {"beam_search": BeamParameters(2, float("nan"))},
    "temperature must be 0 to 100": {"sampling": SamplingParameters(temperature=1e300)},
    r"ended_candidates must be 0 to 0, got \[1\]": {"ended_candidates": frozenset({1})},
    "candidates must be at most": {"candidates": 3, "beam_search": BeamParameters(2)},
    "temperature must be 0 in": {"sampling": SamplingParameters(temperature=1.0), "beam_search": BeamParameters(2)},
    "top_logprobs must be unset": {"top_logprobs": 1, "beam_search": BeamParameters(2)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_requests_are_refused_by_name(causal_model: XLMWithLMHeadModel, message: str) -> None:
    engine = DecoderEngine(causal_model, SMALL)
    with pytest.raises(ValueError, match=message):
        engine.add(replace(SequenceRequest("a", (5, 6)), **BAD[message]))
    assert engine.idle


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


def test_next_token_needs_a_causal_model(masked_model: XLMWithLMHeadModel) -> None:
    with pytest.raises(ValueError, match="NEXT_TOKEN"):
        DecoderEngine(masked_model, SMALL).add(SequenceRequest("a", (5, 6)))


def test_a_key_may_be_in_the_engine_once(causal_model: XLMWithLMHeadModel) -> None:
    engine = DecoderEngine(causal_model, SMALL)
    engine.add(SequenceRequest("a", (5, 6)))
    with pytest.raises(ValueError, match="already"):
        engine.add(SequenceRequest("a", (5, 6)))


def test_only_the_row_at_fault_fails(causal_model: XLMWithLMHeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose computation raises is found by halving; a device short of memory serves smaller batches."""
    engine = DecoderEngine(causal_model, SMALL)
    compute = engine._forward.scores
    largest: list[int] = []

    def faulty(batch):  # type: ignore[no-untyped-def]  # same as what it wraps
        keys = [row.request.key for row in batch.rows]
        if len(keys) > 2:
            raise torch.OutOfMemoryError("too many at once")
        if "bad" in keys:
            raise RuntimeError("this row cannot be computed")
        largest.append(len(keys))
        return compute(batch)

    monkeypatch.setattr(engine._forward, "scores", faulty)
    requests = [
        SequenceRequest(key, (5, 6, number), max_new_tokens=6) for number, key in enumerate(["a", "b", "bad", "c"])
    ]
    transcript = run(engine, [(0, request) for request in requests])
    failed = transcript.outputs["bad", 0][-1]
    assert failed.finished is EndReason.FAILED
    assert failed.failure is not None
    assert failed.failure.kind is FailureKind.COMPUTE
    assert "this row" in failed.failure.message
    assert max(largest) == 2
    assert_greedy(causal_model, transcript, [request for request in requests if request.key != "bad"])


def test_a_prompt_that_cannot_be_computed_fails_alone(
    causal_model: XLMWithLMHeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = DecoderEngine(causal_model, EngineConfig(max_slots=5))
    prefill = engine._forward.network.prefill

    def faulty(ids, *rest):  # type: ignore[no-untyped-def]  # same as what it wraps
        if 66 in ids.tolist():
            raise torch.OutOfMemoryError("no room")
        prefill(ids, *rest)

    monkeypatch.setattr(engine._forward.network, "prefill", faulty)
    good = [SequenceRequest(f"r{n}", (5, n, 7), max_new_tokens=6) for n in range(3)]
    bad = SequenceRequest("bad", (5, 66, 7), candidates=2)
    transcript = run(engine, [(0, good[0]), (0, good[1]), (0, bad), (0, good[2])])
    assert_greedy(causal_model, transcript, good)
    for candidate in range(2):
        (output,) = transcript.outputs["bad", candidate]
        assert output.failure is not None
        assert output.failure.kind is FailureKind.OUT_OF_MEMORY


def test_scores_that_are_not_numbers_fail_their_row_only() -> None:
    model = build_model()
    with torch.no_grad():
        model.transformer.embeddings.weight[40] = torch.nan  # its tied score is NaN: every row has one
        model.pred_layer.proj.weight = torch.nn.Parameter(torch.randn(97, 32))
    engine = DecoderEngine(model, SMALL)
    requests = [SequenceRequest("good", (5, 6), max_new_tokens=1), SequenceRequest("bad", (5, 40), max_new_tokens=3)]
    transcript = run(engine, [(0, request) for request in requests])
    assert transcript.outputs["bad", 0][-1].finished is EndReason.FAILED
    assert transcript.outputs["good", 0][-1].finished is EndReason.LENGTH


def test_a_search_without_a_usable_score_fails_alone(causal_model: XLMWithLMHeadModel) -> None:
    everything = SamplingParameters(bad_words=tuple((token,) for token in range(97)))
    nothing = replace(everything, bad_words=(*((token,) for token in range(1, 97)), (5, 0), (0, 0)))
    requests = [
        SequenceRequest(key, (5, 6), max_new_tokens=6, candidates=2, sampling=wish, beam_search=BeamParameters(2))
        for key, wish in (("at once", everything), ("later", nothing), ("good", SamplingParameters()))
    ]
    transcript = run(DecoderEngine(causal_model, EngineConfig(max_slots=6)), [(0, request) for request in requests])
    for key in ("at once", "later"):
        for candidate in range(2):
            [output] = transcript.outputs[key, candidate]
            assert (output.finished, output.token_id) == (EndReason.FAILED, None)
    assert len(transcript.ids("good", 0)) == len(transcript.ids("good", 1)) == 6


# Leaves two sequences: the end, and 40, which must not come twice, before the end. Then there is nothing to choose.
TWO_SEQUENCES = SamplingParameters(
    bad_words=tuple((token,) for token in range(97) if token not in (1, 40)), no_repeat_ngram_size=1
)


@pytest.mark.parametrize("rules", BeamRules)
@pytest.mark.parametrize("late", [False, True])
def test_what_follows_the_end_of_a_search_cannot_fail_it(
    causal_model: XLMWithLMHeadModel, late: bool, rules: BeamRules
) -> None:
    request = SequenceRequest(
        "a", (5, 6), max_new_tokens=6, eos_id=1, candidates=2, sampling=TWO_SEQUENCES,
        beam_search=BeamParameters(2, early_stopping=EarlyStopping.WHEN_FULL, rules=rules),
    )  # fmt: skip
    transcript = run(DecoderEngine(causal_model, replace(SMALL, late_readback=late)), [(0, request)])
    assert sorted(transcript.ids("a", candidate) for candidate in range(2)) == [[1], [40, 1]]


def test_a_search_ends_at_its_limit_with_fewer_sequences_than_beams(causal_model: XLMWithLMHeadModel) -> None:
    request = SequenceRequest(
        "a", (5, 6), max_new_tokens=2, eos_id=1, candidates=2, sampling=TWO_SEQUENCES, beam_search=BeamParameters(5)
    )
    transcript = run(DecoderEngine(causal_model, SMALL), [(0, request)])
    assert sorted(transcript.ids("a", candidate) for candidate in range(2)) == [[1], [40, 1]]


def test_the_item_at_fault_is_found_by_halving() -> None:
    runs: list[int] = []
    failed: list[int] = []

    def compute(items: Sequence[int]) -> None:
        runs.append(len(items))
        if 13 in items:
            raise RuntimeError("thirteen")

    run_isolated(compute, range(64), lambda item, failure: failed.append(item))
    assert failed == [13]
    assert len(runs) == 1 + 2 * 6


def test_an_unusable_device_is_nobodys_fault() -> None:
    def compute(items: Sequence[int]) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    failed: list[int] = []
    with pytest.raises(torch.AcceleratorError):
        run_isolated(compute, range(4), lambda item, failure: failed.append(item))
    assert failed == []


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
