"""What the engine does not take, and what it says then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decoder.plain import SMALL, run
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import (
    BeamParameters,
    BeamRules,
    EngineConfig,
    SamplingParameters,
    SequenceRequest,
)
from xlmstream_worker.xlm import XLMWithLMHeadModel


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


def test_next_token_needs_a_causal_model(masked_model: XLMWithLMHeadModel) -> None:
    with pytest.raises(ValueError, match="NEXT_TOKEN"):
        DecoderEngine(masked_model, SMALL).add(SequenceRequest("a", (5, 6)))


def test_a_key_may_be_in_the_engine_once(causal_model: XLMWithLMHeadModel) -> None:
    engine = DecoderEngine(causal_model, SMALL)
    engine.add(SequenceRequest("a", (5, 6)))
    with pytest.raises(ValueError, match="already"):
        engine.add(SequenceRequest("a", (5, 6)))
