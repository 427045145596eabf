"""Anything with anything: random mixes of modes, parameters, lengths, arrivals, cancellations of requests and of single
candidates, common beginnings (with memory for few of them) and resumed attempts equal each request's solo run, also
with ids read back one step late and with batches padded to fixed shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decoder.plain import build_model, run
from decoder.translators import BEGIN, SOURCE_POSITIONS, build_translator
from effort import examples
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.prefix import BLOCK_TOKENS
from xlmstream_worker.sequences import (
    BeamParameters,
    BeamRules,
    DecodingMode,
    EarlyStopping,
    EngineConfig,
    SamplingParameters,
    SequenceRequest,
    Source,
)

MODELS = {
    "causal": build_model(n_layers=2, max_position_embeddings=32),
    "masked": build_model(causal=False, n_layers=2, max_position_embeddings=32),
    "translator": build_translator(),
}
IDS = st.integers(3, 96)
# Long enough to be shared by requests of one scope and language.
COMMON = tuple(range(20, 20 + BLOCK_TOKENS))
NEARLY = (*COMMON[:-1], 60)
BLOCK_BYTES = 2 * 2 * 32 * 4 * BLOCK_TOKENS
prompts = st.builds(
    lambda beginning, rest: beginning + tuple(rest),
    st.sampled_from([(), COMMON[:3], COMMON, NEARLY]),
    st.lists(IDS, min_size=1, max_size=8),
)

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
    rules=st.sampled_from(BeamRules),
)
sources = st.builds(
    Source,
    ids=st.lists(IDS, min_size=1, max_size=SOURCE_POSITIONS).map(tuple),
    language_id=st.none() | st.integers(0, 2),
)


@st.composite
def requests(draw: st.DrawFn, kind: str) -> list[tuple[int, SequenceRequest]]:
    mode = {"causal": st.sampled_from(DecodingMode), "masked": st.just(DecodingMode.MASK_APPEND)}
    translates = kind == "translator"
    arrivals = []
    for number in range(draw(st.integers(1, 7))):
        wish = draw(sampling)
        beams = draw(st.none() | beam_search) if wish.temperature == 0 else None
        arrivals.append(
            (
                draw(st.integers(0, 12)),
                SequenceRequest(
                    key=f"r{number}",
                    prompt_ids=(BEGIN,) if translates else draw(prompts),
                    source=draw(sources) if translates else None,
                    language_id=draw(st.none() | st.integers(0, 2)),
                    mode=draw(mode.get(kind, st.just(DecodingMode.NEXT_TOKEN))),
                    mask_id=draw(st.sampled_from([None, 5])),
                    max_new_tokens=draw(st.integers(2, 14)),
                    min_new_tokens=draw(st.integers(0, 2)),
                    eos_id=draw(st.none() | IDS),
                    stop_ids=tuple(draw(st.lists(IDS, max_size=2))),
                    sampling=wish,
                    beam_search=beams,
                    candidates=draw(st.integers(1, beams.beams if beams else 3)),
                    top_logprobs=None if beams else draw(st.none() | st.integers(0, 4)),
                    prefix_scope=draw(st.sampled_from([None, "t", "u"])),
                    alone=draw(st.integers(0, 9)) == 0,
                ),
            )
        )
    return arrivals


@pytest.mark.parametrize("kind", MODELS)
@given(data=st.data())
@settings(phases=[Phase.generate], max_examples=examples(20))
def test_a_second_attempt_goes_on_as_the_first_would_have(data: st.DataObject, kind: str) -> None:
    """Whatever of each candidate was delivered, and which were complete, when the first attempt broke off."""
    drawn = data.draw(requests(kind))
    arrivals = [(step, replace(request, alone=False)) for step, request in drawn]
    first = run(DecoderEngine(MODELS[kind], EngineConfig(max_slots=4)), arrivals)
    again = []
    for step, request in arrivals:
        whole = [first.ids(request.key, candidate) for candidate in range(request.candidates)]
        delivered = [data.draw(st.integers(0, len(ids))) for ids in whole]
        again.append(
            (
                step,
                replace(
                    request,
                    forced_ids=tuple(tuple(ids[:count]) for ids, count in zip(whole, delivered, strict=True)),
                    ended_candidates=frozenset(
                        candidate
                        for candidate, (ids, count) in enumerate(zip(whole, delivered, strict=True))
                        if count == len(ids) and data.draw(st.booleans())
                    ),
                ),
            )
        )
    second = run(DecoderEngine(MODELS[kind], EngineConfig(max_slots=4)), again)
    for _, request in again:
        for candidate, forced in enumerate(request.forced_ids):
            whole = first.ids(request.key, candidate)
            if candidate in request.ended_candidates:
                assert (request.key, candidate) not in second.outputs
            else:
                assert [*forced, *second.ids(request.key, candidate)] == whole
                end = second.outputs[request.key, candidate][-1].finished
                assert end is first.outputs[request.key, candidate][-1].finished


@pytest.mark.parametrize("kind", MODELS)
@given(data=st.data(), late=st.booleans(), static=st.booleans(), blocks=st.sampled_from([0, 1, 100]))
@settings(
    phases=[Phase.generate],  # shrinking takes minutes
    max_examples=examples(40),
)
def test_every_request_gets_what_it_gets_alone(
    data: st.DataObject, kind: str, late: bool, static: bool, blocks: int
) -> None:
    arrivals = data.draw(requests(kind))
    moments = st.none() | st.integers(0, 20)
    cancelled = {request.key: data.draw(moments) for _, request in arrivals}
    finished = {
        (request.key, candidate): data.draw(moments)
        for _, request in arrivals
        for candidate in range(request.candidates)
        if request.beam_search is None
    }
    engine = DecoderEngine(
        MODELS[kind],
        EngineConfig(
            max_slots=4,
            prefill_tokens=5,
            late_readback=late,
            static_shapes=static,
            prefix_cache_bytes=blocks * BLOCK_BYTES,
        ),
    )

    def end(step: int) -> None:
        for key, when in cancelled.items():
            if when == step:
                engine.cancel(key)
        for (key, candidate), when in finished.items():
            if when == step:
                engine.finish(key, candidate)

    together = run(engine, arrivals, end)
    for _, request in arrivals:
        alone = run(DecoderEngine(MODELS[kind], EngineConfig(max_slots=3)), [(0, request)])
        for candidate in range(request.candidates):
            expected, got = alone.ids(request.key, candidate), together.outputs.get((request.key, candidate), [])
            ids = [output.token_id for output in got if output.token_id is not None]
            if cancelled[request.key] is None and finished.get((request.key, candidate)) is None:
                assert ids == expected
                assert got[-1].finished is alone.outputs[request.key, candidate][-1].finished
            else:
                assert ids == expected[: len(ids)]
