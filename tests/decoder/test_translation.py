"""Translations in the engine against the library's plain translation: every row gets what it would get alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from decoder.plain import MARGIN, Transcript, run
from decoder.scripted import Scripted
from decoder.translators import (
    BEGIN,
    END,
    POSITIONS,
    SOURCE_POSITIONS,
    VOCABULARY,
    build_translator,
    library_translations,
    margin,
    random_translations,
    translation,
)
from xlmstream_worker.decoder import DecoderEngine
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
from xlmstream_worker.xlm import BeamSearch, XLMEncoderDecoder, XLMWithLMHeadModel

SMALL = EngineConfig(max_slots=5, prefill_tokens=11)


@pytest.fixture(scope="module")
def model() -> XLMEncoderDecoder:
    return build_translator()


def assert_greedy(model: XLMEncoderDecoder, transcript: Transcript, requests: list[SequenceRequest]) -> int:
    """Returns how many were compared to the last token."""
    compared = 0
    for request in requests:
        [expected] = library_translations(model, request)
        got = transcript.ids(request.key)
        limit = min(request.max_new_tokens, POSITIONS - 1)
        ids = [*expected.ids, END] if expected.finished else expected.ids
        if len(ids) < limit and not expected.finished:  # at the last position the library writes the end
            got = got[: len(ids)]
        if margin(model, request, expected.ids) > MARGIN:
            assert got == ids[:limit]
            compared += 1
        last = transcript.outputs[request.key, 0][-1]
        assert last.finished is (EndReason.EOS if last.token_id == END else EndReason.LENGTH)
    return compared


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_join_and_leave_equal_the_library(model: XLMEncoderDecoder, seed: int) -> None:
    arrivals = random_translations(seed)
    transcript = run(DecoderEngine(model, SMALL), arrivals)
    assert assert_greedy(model, transcript, [request for _, request in arrivals]) >= 12


@pytest.mark.parametrize("slots", [1, 5, 13])
def test_fixed_shapes_change_nothing(model: XLMEncoderDecoder, slots: int) -> None:
    """As a GPU decodes: more slots and positions computed than there are, ids read back one step late."""
    arrivals = random_translations(slots)
    engine = DecoderEngine(model, replace(SMALL, max_slots=slots, static_shapes=True, late_readback=True))
    engine.warm_up()
    transcript = run(engine, arrivals)
    assert assert_greedy(model, transcript, [request for _, request in arrivals]) >= 12


@pytest.mark.parametrize(
    "overrides",
    [
        {"sinusoidal_embeddings": True},
        {"gelu_activation": False},
        {"tie_word_embeddings": False},
        {"pruned_heads": {0: [1], 1: [0, 3]}},
    ],
    ids=str,
)
def test_every_kind_of_model(overrides: dict[str, object]) -> None:
    model = build_translator(**overrides)
    arrivals = random_translations(9, count=6)
    transcript = run(DecoderEngine(model, SMALL), arrivals)
    assert assert_greedy(model, transcript, [request for _, request in arrivals]) >= 4


@pytest.mark.parametrize("early", [EarlyStopping.NEVER, EarlyStopping.WHEN_FULL])
@pytest.mark.parametrize("penalty", [0.6, 1.0, 2.0])
def test_beam_search_equals_the_library(model: XLMEncoderDecoder, penalty: float, early: EarlyStopping) -> None:
    """The n best, their scores and how they ended; beside rows that decode one token a step."""
    searches = [
        (step, replace(one, key=f"b{n}", beam_search=BeamParameters(n % 3 + 2, penalty, early, BeamRules.ORIGINAL)))
        for n, (step, one) in enumerate(random_translations(3, count=8))
    ]
    searches = [(step, replace(one, candidates=one.rows)) for step, one in searches]
    transcript = run(DecoderEngine(model, SMALL), [*searches, *random_translations(4, count=5)])
    for _, request in searches:
        expected = library_translations(model, request)
        assert len(expected) == request.candidates
        for candidate, hypothesis in enumerate(expected):
            ids = [*hypothesis.ids, END] if hypothesis.finished else hypothesis.ids
            assert transcript.ids(request.key, candidate) == ids
            last = transcript.outputs[request.key, candidate][-1]
            assert last.score == pytest.approx(hypothesis.score, abs=1e-4)
            assert last.finished is (EndReason.EOS if hypothesis.finished else EndReason.LENGTH)


@pytest.mark.parametrize("early", [EarlyStopping.NEVER, EarlyStopping.WHEN_FULL])
@pytest.mark.parametrize("seed", range(24))
def test_beam_search_equals_the_library_on_scores_of_any_kind(
    masked_model: XLMWithLMHeadModel, seed: int, early: EarlyStopping
) -> None:
    script = Scripted(seed)
    plain = BeamSearch(
        torch.tensor([script.limit + 1]), script.beams, length_penalty=script.length_penalty,
        early_stopping=early is EarlyStopping.WHEN_FULL,
    )  # fmt: skip
    last = torch.full((1, script.beams), BEGIN)
    while not plain.done.all():
        _, last = plain.advance(script.scores(plain.length, last))
    request = SequenceRequest(
        "a", (BEGIN,), None, DecodingMode.MASK_APPEND, max_new_tokens=script.limit, eos_id=END, candidates=script.beams,
        beam_search=BeamParameters(script.beams, script.length_penalty, early, BeamRules.ORIGINAL),
    )  # fmt: skip
    engine = script.engine(masked_model, max_slots=script.beams, late_readback=seed % 2 == 0)
    transcript = run(engine, [(0, request)])
    for candidate, found in enumerate(plain.results()[0]):
        assert transcript.ids("a", candidate) == ([*found.ids, END] if found.finished else found.ids)
        assert transcript.outputs["a", candidate][-1].score == pytest.approx(found.score, abs=1e-4)


def test_a_beam_search_of_one_token(model: XLMEncoderDecoder) -> None:
    """At the limit the last token is left out, so that nothing is left here: an end without a token."""
    request = translation("one", [5, 6], max_new_tokens=1, beam_search=BeamParameters(3, rules=BeamRules.ORIGINAL))
    transcript = run(DecoderEngine(model, SMALL), [(0, request)])
    [output] = transcript.outputs["one", 0]
    assert (output.token_id, output.index, output.finished) in [(None, 0, EndReason.LENGTH), (END, 0, EndReason.EOS)]


def test_a_row_does_not_depend_on_its_company(model: XLMEncoderDecoder) -> None:
    sampling = SamplingParameters(temperature=1.0, top_p=0.9, seed=5, repetition_penalty=1.3, no_repeat_ngram_size=3)
    arrivals = random_translations(7, sampling=sampling, candidates=2)
    together = run(DecoderEngine(model, SMALL), arrivals)
    for _, request in arrivals:
        alone = run(DecoderEngine(model, EngineConfig(max_slots=9)), [(0, request)])
        for candidate in range(2):
            assert alone.ids(request.key, candidate) == together.ids(request.key, candidate)


def test_a_resumed_translation_continues_as_it_would_have(model: XLMEncoderDecoder) -> None:
    request = translation(
        "a", [8, 9, 10, 11], sampling=SamplingParameters(temperature=1.2, seed=9), candidates=2, eos_id=None
    )
    whole = run(DecoderEngine(model, SMALL), [(0, request)])
    prefixes = (tuple(whole.ids("a", 0)[:17]), tuple(whole.ids("a", 1)[:2]))
    company = random_translations(2, count=6)
    resumed = run(DecoderEngine(model, SMALL), [(0, replace(request, forced_ids=prefixes)), *company])
    for candidate, prefix in enumerate(prefixes):
        assert resumed.outputs["a", candidate][0].index == len(prefix)
        assert list(prefix) + resumed.ids("a", candidate) == whole.ids("a", candidate)


def test_a_resumed_search_says_only_what_was_not_said(model: XLMEncoderDecoder) -> None:
    request = translation("a", [8, 9, 10], beam_search=BeamParameters(3, rules=BeamRules.ORIGINAL), candidates=2)
    whole = run(DecoderEngine(model, SMALL), [(0, request)])
    said = (tuple(whole.ids("a", 0)), tuple(whole.ids("a", 1)[:3]))
    resumed = run(DecoderEngine(model, SMALL), [(0, replace(request, forced_ids=said, eos_id=END))])
    assert [(output.token_id, output.index) for output in resumed.outputs["a", 0]] == [(None, len(said[0]))]
    assert resumed.outputs["a", 0][-1].finished is whole.outputs["a", 0][-1].finished
    assert list(said[1]) + resumed.ids("a", 1) == whole.ids("a", 1)


def test_a_long_source_lets_others_decode(model: XLMEncoderDecoder) -> None:
    """Forty tokens at eleven a step take four steps; who decodes goes on at each, and one step costs no more than its
    share."""
    engine = DecoderEngine(model, SMALL)
    running = translation("running", [5, 6, 7], eos_id=None, max_new_tokens=16)
    long = translation("long", [9] * (SOURCE_POSITIONS - 2), eos_id=None, max_new_tokens=3)
    seen: list[tuple[set[str], int]] = []
    engine.add(running)
    for step in range(30):
        if step == 2:
            engine.add(long)
        result = engine.step()
        seen.append(({output.key for output in result.tokens}, result.prefill_tokens))
    began = next(step for step, (keys, _) in enumerate(seen) if "long" in keys)
    assert 2 + 3 <= began <= 2 + 4
    assert all("running" in keys for keys, _ in seen[:16])
    assert seen[began][1] == SOURCE_POSITIONS


def test_what_leaves_makes_room_at_once(model: XLMEncoderDecoder) -> None:
    """Cancelled while waiting, while its source is read, or while it decodes: no more of it comes, its slots are free,
    and who gets them is not disturbed."""
    engine = DecoderEngine(model, replace(SMALL, max_slots=2))
    for key in ("decodes", "is read", "waits"):
        engine.add(translation(key, [7] * (SOURCE_POSITIONS - 2), eos_id=None))
    while not any(output.key == "decodes" for output in engine.step().tokens):
        pass
    for key in ("decodes", "is read", "waits"):
        engine.cancel(key)
    assert engine.free_slots == 2
    arrivals = random_translations(12, count=5)
    transcript = run(engine, [(0, request) for _, request in arrivals])
    assert_greedy(model, transcript, [request for _, request in arrivals])
    assert {key for key, _ in transcript.outputs} == {request.key for _, request in arrivals}


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_source_that_is_left_half_read_leaves_no_trace(model: XLMEncoderDecoder, steps: int) -> None:
    """Its slot, and its turn, go to the next one."""
    engine = DecoderEngine(model, replace(SMALL, max_slots=1))
    for _, following in random_translations(14, count=6):
        engine.add(translation("left", list(range(40, 40 + SOURCE_POSITIONS - 2))))
        for _ in range(steps):
            engine.step()
        engine.cancel("left")
        transcript = run(engine, [(0, following)])
        assert_greedy(model, transcript, [following])


def test_a_source_that_fails_fails_alone(model: XLMEncoderDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    from xlmstream_worker.xlm import packed

    plain, poison = packed._embed, 66

    def embed(encoder: object, batch: packed.PackedBatch) -> torch.Tensor:
        if (batch.ids == poison).any():
            raise RuntimeError("poisoned")
        return plain(encoder, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(packed, "_embed", embed)
    arrivals = [(0, request) for _, request in random_translations(6, count=6)]
    arrivals = [(0, one) for _, one in arrivals if one.source is not None and poison not in one.source.ids]
    bad = translation("bad", [5, poison], candidates=2)
    transcript = run(DecoderEngine(model, replace(SMALL, prefill_tokens=100)), [(0, bad), *arrivals])
    for candidate in range(2):
        [output] = transcript.outputs["bad", candidate]
        assert output.failure is not None
        assert output.failure.kind is FailureKind.COMPUTE
    monkeypatch.undo()
    assert_greedy(model, transcript, [request for _, request in arrivals])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"source": None}, "source"),
        ({"mode": DecodingMode.MASK_APPEND}, "mode"),
        ({"source": translation("x", [VOCABULARY]).source}, "source.ids"),
        ({"source": translation("x", [5] * SOURCE_POSITIONS).source}, "source.ids"),
    ],
)
def test_what_the_engine_refuses(model: XLMEncoderDecoder, change: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}"):
        DecoderEngine(model, SMALL).add(replace(translation("a", [5, 6]), **change))  # type: ignore[arg-type]
