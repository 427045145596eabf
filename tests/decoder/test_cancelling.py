"""Requests and candidates that are ended from outside, at every moment."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decoder.plain import SMALL, run
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import (
    BeamParameters,
    EndReason,
    EngineConfig,
    SequenceRequest,
)
from xlmstream_worker.xlm import XLMWithLMHeadModel


def test_beams_end_together_or_not_at_all(causal_model: XLMWithLMHeadModel) -> None:
    """A candidate of a search is no beam: ending one, at any moment, ends nothing."""
    request = SequenceRequest("a", (8, 9, 10), max_new_tokens=6, candidates=2, beam_search=BeamParameters(3))
    whole = run(DecoderEngine(causal_model, SMALL), [(0, request)])
    engine = DecoderEngine(causal_model, SMALL)
    again = run(engine, [(0, request)], lambda step: engine.finish("a", step % 2))
    assert [again.ids("a", c) for c in (0, 1)] == [whole.ids("a", c) for c in (0, 1)]


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
