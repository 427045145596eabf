"""MASK_APPEND and beam search against `generate` of transformers, id for id."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from decoder.plain import build_model, run
from decoder.scripted import Scripted
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.sequences import (
    BeamParameters,
    DecodingMode,
    EarlyStopping,
    EngineConfig,
    SamplingParameters,
    SequenceRequest,
)
from xlmstream_worker.xlm import XLMWithLMHeadModel

transformers = pytest.importorskip("transformers", reason="the oracle of these tests is not installed")

PAD, EOS = 2, 1
STOPPING = {
    False: EarlyStopping.HEURISTIC,
    True: EarlyStopping.WHEN_FULL,
    "never": EarlyStopping.NEVER,
}


def oracle_of(model: XLMWithLMHeadModel):  # type: ignore[no-untyped-def]  # transformers has no types
    config = transformers.XLMConfig(**{k: v for k, v in model.config.to_dict().items() if k != "architectures"})
    oracle = transformers.XLMWithLMHeadModel(config).eval()
    oracle.load_state_dict(model.state_dict())
    return oracle


@pytest.fixture(scope="module", params=[True, False], ids=["causal", "masked"])
def pair(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]  # (ours, transformers')
    # A sharp enough model that beams differ, with one id often ending a sequence.
    model = build_model(causal=request.param, mask_token_id=5, lang_id=1, init_std=0.2)
    with torch.no_grad():
        model.pred_layer.proj.bias[EOS] = 3.0
        model.pred_layer.proj.bias[PAD] = -50.0
    return model, oracle_of(model)


def generate(oracle, prompt: tuple[int, ...], **options: object) -> list[list[int]]:  # type: ignore[no-untyped-def]
    """Generated ids per returned sequence, the end of sequence included, the fill not."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequences = oracle.generate(torch.tensor([prompt]), do_sample=False, pad_token_id=PAD, **options)
    results = []
    for ids in sequences[:, len(prompt) :].tolist():
        end_ids = options.get("eos_token_id")
        ends = [
            place for place, token in enumerate(ids) if token in (end_ids if isinstance(end_ids, list) else [end_ids])
        ]
        results.append(ids[: ends[0] + 1] if ends else ids)
    return results


def ours(model: XLMWithLMHeadModel, requests: list[SequenceRequest], **config: object) -> list[list[list[int]]]:
    rng = random.Random(1)
    engine = DecoderEngine(model, EngineConfig(max_slots=12, prefill_tokens=9, **config))  # type: ignore[arg-type]
    transcript = run(engine, [(rng.randint(0, 6), request) for request in requests])
    return [[transcript.ids(request.key, c) for c in range(request.candidates)] for request in requests]


def prompts(count: int, seed: int) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(6, 97) for _ in range(rng.randint(1, 20))) for _ in range(count)]


def test_greedy_ids(pair) -> None:  # type: ignore[no-untyped-def]
    model, oracle = pair
    requests = [
        SequenceRequest(f"r{n}", prompt, 1, DecodingMode.MASK_APPEND, max_new_tokens=20, eos_id=EOS)
        for n, prompt in enumerate(prompts(8, 0))
    ]
    expected = [generate(oracle, r.prompt_ids, max_new_tokens=20, eos_token_id=EOS) for r in requests]
    assert ours(model, requests) == expected
    assert len({len(ids[0]) for ids in expected}) > 1, "no row ended early: the test shows little"


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ({"repetition_penalty": 1.7}, SamplingParameters(repetition_penalty=1.7)),
        ({"no_repeat_ngram_size": 2}, SamplingParameters(no_repeat_ngram_size=2)),
        ({"no_repeat_ngram_size": 1}, SamplingParameters(no_repeat_ngram_size=1)),
        (
            {"bad_words_ids": [[13], [41, 23], [7, 8, 9]]},
            SamplingParameters(bad_words=((13,), (41, 23), (7, 8, 9))),
        ),
        (
            {"sequence_bias": [[[11], 2.5], [[12], -4.0]]},
            SamplingParameters(logit_bias=((11, 2.5), (12, -4.0))),
        ),
        (
            {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3, "bad_words_ids": [[30]]},
            SamplingParameters(repetition_penalty=0.8, no_repeat_ngram_size=3, bad_words=((30,),)),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("beams", [1, 3])
def test_processors(pair, options: dict[str, object], sampling: SamplingParameters, beams: int) -> None:  # type: ignore[no-untyped-def]
    model, oracle = pair
    requests = [
        SequenceRequest(
            f"r{n}", prompt, 1, DecodingMode.MASK_APPEND, max_new_tokens=14, eos_id=EOS, min_new_tokens=4,
            sampling=sampling, beam_search=BeamParameters(beams) if beams > 1 else None,
        )
        for n, prompt in enumerate(prompts(4, 1))
    ]  # fmt: skip
    options = {"max_new_tokens": 14, "eos_token_id": EOS, "min_new_tokens": 4, "num_beams": beams, **options}
    assert ours(model, requests) == [generate(oracle, r.prompt_ids, **options) for r in requests]


@pytest.mark.parametrize("early_stopping", STOPPING)
@pytest.mark.parametrize(("beams", "length_penalty"), [(4, 1.0), (2, 0.0), (4, -1.0), (2, 2.5)])
def test_beam_search(pair, beams: int, length_penalty: float, early_stopping: object) -> None:  # type: ignore[no-untyped-def]
    model, oracle = pair
    parameters = BeamParameters(beams, length_penalty, STOPPING[early_stopping])
    requests = [
        SequenceRequest(
            f"r{n}", prompt, 1, DecodingMode.MASK_APPEND, max_new_tokens=12, eos_id=EOS, candidates=beams,
            beam_search=parameters,
        )
        for n, prompt in enumerate(prompts(3, beams))
    ]  # fmt: skip
    expected = [
        generate(
            oracle, r.prompt_ids, max_new_tokens=12, eos_token_id=EOS, num_beams=beams, num_return_sequences=beams,
            length_penalty=length_penalty, early_stopping=early_stopping,
        )
        for r in requests
    ]  # fmt: skip
    assert ours(model, requests, late_readback=beams == 2) == expected


@pytest.mark.parametrize("early_stopping", STOPPING)
@pytest.mark.parametrize("limit", [1, 2, 9])
def test_beam_search_with_several_ends(pair, limit: int, early_stopping: object) -> None:  # type: ignore[no-untyped-def]
    """So many that among twice the beams of candidates fewer than the beams may go on."""
    model, _ = pair
    ends = [EOS, 7, 11, 13]
    ending = build_model(causal=model.config.causal, mask_token_id=5, lang_id=1, init_std=0.2)
    with torch.no_grad():
        ending.pred_layer.proj.bias[ends] = 4.0
        ending.pred_layer.proj.bias[PAD] = -50.0
    oracle = oracle_of(ending)
    requests = [
        SequenceRequest(
            f"r{n}", prompt, 1, DecodingMode.MASK_APPEND, max_new_tokens=limit, eos_id=EOS, stop_ids=tuple(ends[1:]),
            candidates=3, beam_search=BeamParameters(3, 2.0, STOPPING[early_stopping]),
        )
        for n, prompt in enumerate(prompts(4, 7))
    ]  # fmt: skip
    expected = [
        generate(
            oracle, r.prompt_ids, max_new_tokens=limit, eos_token_id=ends, num_beams=3, num_return_sequences=3,
            length_penalty=2.0, early_stopping=early_stopping,
        )
        for r in requests
    ]  # fmt: skip
    assert ours(ending, requests) == expected


# The last ones tell apart what few do: which length counts, and that what is over stays as it is.
@pytest.mark.parametrize("seed", [*range(16), 92, 96, 445])
@pytest.mark.parametrize("early_stopping", STOPPING)
def test_beam_search_on_scores_of_any_kind(masked_model: XLMWithLMHeadModel, seed: int, early_stopping: object) -> None:
    script = Scripted(seed)
    oracle = oracle_of(masked_model)

    def forward(input_ids: torch.Tensor, **_: object):  # type: ignore[no-untyped-def]
        scores = script.scores(input_ids.shape[1] - 1, input_ids[:, -2])  # behind the last token is the mask
        return transformers.modeling_outputs.CausalLMOutput(logits=scores[:, None])

    oracle.forward = forward
    options = {"length_penalty": script.length_penalty, "early_stopping": early_stopping} if script.beams > 1 else {}
    expected = generate(
        oracle, (9, 8), max_new_tokens=script.limit, eos_token_id=EOS, num_beams=script.beams,
        num_return_sequences=script.beams, **options,
    )  # fmt: skip
    request = SequenceRequest(
        "a", (9, 8), None, DecodingMode.MASK_APPEND, max_new_tokens=script.limit, eos_id=EOS, candidates=script.beams,
        beam_search=BeamParameters(script.beams, script.length_penalty, STOPPING[early_stopping]),
    )  # fmt: skip
    engine = script.engine(masked_model, max_slots=script.beams, late_readback=seed % 2 == 0)
    transcript = run(engine, [(0, request)])
    assert [transcript.ids("a", candidate) for candidate in range(script.beams)] == expected


@pytest.mark.parametrize("length_penalty", [0.5, 2.0])
def test_the_scores_of_beams(pair, length_penalty: float) -> None:  # type: ignore[no-untyped-def]
    model, oracle = pair
    request = SequenceRequest(
        "a", (9, 8, 7), 1, DecodingMode.MASK_APPEND, max_new_tokens=12, eos_id=EOS, candidates=4,
        beam_search=BeamParameters(4, length_penalty),
    )  # fmt: skip
    with torch.inference_mode():
        expected = oracle.generate(
            torch.tensor([request.prompt_ids]), do_sample=False, pad_token_id=PAD, eos_token_id=EOS, max_new_tokens=12,
            num_beams=4, num_return_sequences=4, length_penalty=length_penalty,
            output_scores=True, return_dict_in_generate=True,
        ).sequences_scores  # fmt: skip
    outputs = run(DecoderEngine(model, EngineConfig(max_slots=4)), [(0, request)]).outputs
    scores = [{output.score for output in outputs["a", candidate]} for candidate in range(4)]
    assert [one for said in scores for one in said] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_with_padding_inside(pair, beams: int) -> None:  # type: ignore[no-untyped-def]
    """The lengths that XLM infers are then short, and `generate` reads a zeroed position."""
    model, _ = pair
    likely = build_model(causal=model.config.causal, mask_token_id=5, lang_id=1, init_std=0.2)
    with torch.no_grad():
        likely.pred_layer.proj.bias[PAD] = 6.0
    oracle = oracle_of(likely)
    beam_search = BeamParameters(beams) if beams > 1 else None
    requests = [
        SequenceRequest(f"r{n}", prompt, 1, DecodingMode.MASK_APPEND, max_new_tokens=12, beam_search=beam_search)
        for n, prompt in enumerate([*prompts(5, 4), (8, PAD, 9, 10)])
    ]
    expected = [generate(oracle, r.prompt_ids, max_new_tokens=12, num_beams=beams) for r in requests]
    assert any(PAD in ids[0] for ids in expected)
    assert ours(likely, requests) == expected


def test_beam_search_without_an_end(pair) -> None:  # type: ignore[no-untyped-def]
    model, oracle = pair
    request = SequenceRequest(
        "a", (9, 8, 7), 1, DecodingMode.MASK_APPEND, max_new_tokens=8, candidates=2, beam_search=BeamParameters(3)
    )
    assert ours(model, [request]) == [
        generate(oracle, (9, 8, 7), max_new_tokens=8, num_beams=3, num_return_sequences=2)
    ]
