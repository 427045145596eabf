"""Anything with anything: random mixes of modes, parameters, lengths, arrivals and cancellations equal each request's
solo run, also with ids read back one step late and with batches padded to fixed shapes."""

from __future__ import annotations

from decoder.plain import build_model, run
from effort import examples
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import (
    BeamParameters,
    DecodingMode,
    EarlyStopping,
    EngineConfig,
    SamplingParameters,
    SequenceRequest,
)

MODELS = {causal: build_model(causal=causal, n_layers=2, max_position_embeddings=32) for causal in (True, False)}
IDS = st.integers(3, 96)

sampling = st.builds(
    SamplingParameters,
    logit_bias=st.lists(st.tuples(IDS, st.floats(-5, 5)), max_size=3, unique_by=lambda bias: bias[0]).map(tuple),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    presence_penalty=st.sampled_from([0.0, 0.4, -0.3]),
    frequency_penalty=st.sampled_from([0.0, 0.2]),
    no_repeat_ngram_size=st.sampled_from([0, 0, 1, 2, 3]),
    bad_words=st.lists(st.lists(IDS, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    temperature=st.sampled_from([0.0, 0.0, 0.6, 1.0, 1.8]),
    top_k=st.sampled_from([0, 0, 1, 3, 50]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.1]),
    typical_p=st.sampled_from([1.0, 0.7]),
    seed=st.integers(0, 2**64 - 1),
)
beam_search = st.builds(
    BeamParameters,
    beams=st.integers(2, 3),
    length_penalty=st.sampled_from([1.0, 0.0, 2.0]),
    early_stopping=st.sampled_from(EarlyStopping),
)


@st.composite
def requests(draw: st.DrawFn, causal: bool) -> list[tuple[int, SequenceRequest]]:
    arrivals = []
    for number in range(draw(st.integers(1, 7))):
        wish = draw(sampling)
        beams = draw(st.none() | beam_search) if wish.temperature == 0 else None
        arrivals.append(
            (
                draw(st.integers(0, 12)),
                SequenceRequest(
                    key=f"r{number}",
                    prompt_ids=tuple(draw(st.lists(IDS, min_size=1, max_size=20))),
                    language_id=draw(st.none() | st.integers(0, 2)),
                    mode=draw(st.sampled_from(DecodingMode)) if causal else DecodingMode.MASK_APPEND,
                    mask_id=draw(st.sampled_from([None, 5])),
                    max_new_tokens=draw(st.integers(2, 14)),
                    min_new_tokens=draw(st.integers(0, 2)),
                    eos_id=draw(st.none() | IDS),
                    stop_ids=tuple(draw(st.lists(IDS, max_size=2))),
                    sampling=wish,
                    beam_search=beams,
                    candidates=draw(st.integers(1, beams.beams if beams else 3)),
                    top_logprobs=None if beams else draw(st.none() | st.integers(0, 4)),
                    alone=draw(st.integers(0, 9)) == 0,
                ),
            )
        )
    return arrivals


@given(st.data(), st.booleans(), st.booleans(), st.booleans())
@settings(
    phases=[Phase.generate],  # shrinking takes minutes
    max_examples=examples(25),
)
def test_every_request_gets_what_it_gets_alone(data: st.DataObject, causal: bool, late: bool, static: bool) -> None:
    arrivals = data.draw(requests(causal))
    cancelled = {request.key: data.draw(st.none() | st.integers(0, 20)) for _, request in arrivals}
    engine = DecoderEngine(
        MODELS[causal], EngineConfig(max_slots=4, prefill_tokens=5, late_readback=late, static_shapes=static)
    )

    def cancel(step: int) -> None:
        for key, when in cancelled.items():
            if when == step:
                engine.cancel(key)

    together = run(engine, arrivals, cancel)
    for _, request in arrivals:
        alone = run(DecoderEngine(MODELS[causal], EngineConfig(max_slots=3)), [(0, request)])
        for candidate in range(request.candidates):
            expected, got = alone.ids(request.key, candidate), together.outputs.get((request.key, candidate), [])
            ids = [output.token_id for output in got if output.token_id is not None]
            if cancelled[request.key] is None:
                assert ids == expected
                assert got[-1].finished is alone.outputs[request.key, candidate][-1].finished
            else:
                assert ids == expected[: len(ids)]
