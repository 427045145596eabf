"""Recorded steps give what computed ones do: on a CPU that treats a recording as a GPU does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from decoder.emulated_graphs import EmulatedGraphs
from decoder.plain import build_model, run
from decoder.test_gpu import requests
from decoder.translators import build_translator, random_translations
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.graphs import padded_rows
from xlmstream_worker.sequences import EngineConfig, SequenceRequest
from xlmstream_worker.xlm import XLMEncoderDecoder, XLMWithLMHeadModel

SLOTS = 6
AS_ON_A_GPU = EngineConfig(max_slots=SLOTS, prefill_tokens=7, static_shapes=True, late_readback=True, rowwise=False)


def computed(model: XLMWithLMHeadModel | XLMEncoderDecoder) -> DecoderEngine:
    engine = DecoderEngine(model, AS_ON_A_GPU)
    engine._cache._in_memory = None  # what a CPU stores by compiled code is no operation of torch
    return engine


def graphed(model: XLMWithLMHeadModel | XLMEncoderDecoder) -> DecoderEngine:
    engine = computed(model)
    head = engine._forward.network.head
    engine._forward._graphs = EmulatedGraphs(padded_rows(SLOTS), head.bias.shape[0], torch.device("cpu"))
    engine.warm_up()
    return engine


@pytest.fixture
def computed_steps(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each step that no recording stood for."""
    seen: list[object] = []
    replay = EmulatedGraphs.replay

    def watched(self: EmulatedGraphs, *step: object) -> torch.Tensor | None:
        scores = replay(self, *step)  # type: ignore[arg-type]
        if scores is None:
            seen.append(step)
        return scores

    monkeypatch.setattr(EmulatedGraphs, "replay", watched)
    return seen


def test_recordings_give_the_ids_of_computed_steps(computed_steps: list[object]) -> None:
    model = build_model(max_position_embeddings=140)
    long = [
        SequenceRequest(f"long{n}", tuple(range(3, 90)), n, max_new_tokens=45, candidates=2) for n in range(3)
    ]  # beyond the first 128 positions, which are other recordings
    arrivals = [*requests(), *((30, request) for request in long)]
    assert run(graphed(model), arrivals).outputs == run(computed(model), arrivals).outputs
    assert not computed_steps


def test_recordings_translate_as_computed_steps_do(computed_steps: list[object]) -> None:
    model = build_translator()
    arrivals = random_translations(3)
    assert run(graphed(model), arrivals).outputs == run(computed(model), arrivals).outputs
    assert not computed_steps


def test_a_part_of_a_batch_needs_no_recording(computed_steps: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the parts of a batch lie where no recording is of: they are computed, and right."""
    model = build_model()
    engine = graphed(model)
    appended = engine._cache.append
    failures = iter([True])

    def failing_once(slots: slice, ids: torch.Tensor) -> None:
        if slots.stop - slots.start == 4 and next(failures, False):
            raise torch.OutOfMemoryError("no room")
        appended(slots, ids)

    monkeypatch.setattr(engine._cache, "append", failing_once)
    wanted = [SequenceRequest(f"r{n}", (5, n, 7), max_new_tokens=9) for n in range(4)]
    recorded = run(engine, [(0, request) for request in wanted])
    assert next(failures, None) is None
    assert computed_steps
    plain = run(DecoderEngine(model, replace(AS_ON_A_GPU, static_shapes=False)), [(0, request) for request in wanted])
    for request in wanted:
        assert recorded.ids(request.key) == plain.ids(request.key)
