"""Rows that cannot be computed fail alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from decoder.plain import SMALL, assert_greedy, build_model, run
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.isolation import run_isolated
from xlmstream_worker.sequences import (
    BeamParameters,
    BeamRules,
    EarlyStopping,
    EndReason,
    EngineConfig,
    FailureKind,
    SamplingParameters,
    SequenceRequest,
)
from xlmstream_worker.xlm import XLMWithLMHeadModel


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
