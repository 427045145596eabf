"""MASK_APPEND as requests reach it: prompts, masks and limits are those of `generate` of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worker.oracle import Oracle, make_directory
from worker.requests import generate, row
from xlmstream.v1.common_pb2 import (
    FINISH_REASON_LENGTH,
    TRUNCATION_KEEP_END,
    TRUNCATION_KEEP_START,
    TextInput,
    TokenIds,
)
from xlmstream.v1.generation_pb2 import GenerationParameters
from xlmstream.v1.inference_pb2 import GenerateStreamRequest
from xlmstream.v1.models_pb2 import DECODING_MODE_MASK_APPEND, DECODING_MODE_NEXT_TOKEN, DECODING_MODE_UNSPECIFIED
from xlmstream_server.broker.v1.messages_pb2 import Event
from xlmstream_worker.config import DeviceConfig, ModelConfig
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.decoding_modes import mask_to_append
from xlmstream_worker.models import LoadedModel, load_model
from xlmstream_worker.sequences import DecodingMode, EngineConfig
from xlmstream_worker.tasks.generate import Generation
from xlmstream_worker.tasks.inputs import Refused

EQUAL = ["a b c d", "the e f g", "and lord x y", "x é 1 ."]
RAGGED = ["a", "the lord and the king", "in", "and on the other day he sang, and the lord 12", "é à ü"]


@pytest.fixture(scope="module", params=[True, False], ids=["causal", "masked"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("models") / "toy", causal=request.param)


@pytest.fixture(scope="module")
def model(directory: Path) -> LoadedModel:
    return load_model(ModelConfig(directory, "toy"), DeviceConfig())


@pytest.fixture(scope="module")
def oracle(directory: Path) -> Oracle:
    return Oracle(directory)


@pytest.fixture(scope="module")
def engine(model: LoadedModel) -> DecoderEngine:
    return DecoderEngine(model.network, EngineConfig(max_slots=12))


def run(requests: list[GenerateStreamRequest], model: LoadedModel, engine: DecoderEngine) -> list[list[Event]]:
    """The events of requests that arrive a step after each other and then share the engine."""
    generations = {f"{n}#0": Generation(row(one, execution_id=f"{n}"), model, "w") for n, one in enumerate(requests)}
    events = {key: list(generation.opening()) for key, generation in generations.items()}
    waiting = list(generations.values())
    while waiting or not engine.idle:
        if waiting:
            engine.add(waiting.pop(0).begin())
        result = engine.step()
        for output in result.tokens:
            events[output.key] += generations[output.key].push(output, result.batch_size)
    assert all(generation.ended for generation in generations.values())
    return list(events.values())


def ids_of(events: list[Event], candidates: int = 1) -> list[list[int]]:
    deltas = [event.delta for event in events if event.HasField("delta")]
    return [[token for delta in deltas if delta.candidate == c for token in delta.token_ids] for c in range(candidates)]


def begun(request: GenerateStreamRequest, model: LoadedModel) -> Generation:
    return Generation(row(request), model, "w")


@pytest.mark.parametrize("texts", [EQUAL, RAGGED], ids=["equal", "ragged"])
def test_greedy_ids(texts: list[str], model: LoadedModel, engine: DecoderEngine, oracle: Oracle) -> None:
    requests = [generate(text, max_new_tokens=20, decoding_mode=DECODING_MODE_MASK_APPEND) for text in texts]
    expected = [oracle.ids(oracle.prompt(text), max_new_tokens=20) for text in texts]
    assert [ids_of(events) for events in run(requests, model, engine)] == expected
    assert len({tuple(ids[0]) for ids in expected}) > 1


@pytest.mark.parametrize("texts", [EQUAL, RAGGED], ids=["equal", "ragged"])
def test_beams(texts: list[str], model: LoadedModel, engine: DecoderEngine, oracle: Oracle) -> None:
    shared = {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}
    requests = [generate(text, decoding_mode=DECODING_MODE_MASK_APPEND, **shared) for text in texts]
    expected = [oracle.ids(oracle.prompt(text), **shared) for text in texts]
    assert [ids_of(events, 2) for events in run(requests, model, engine)] == expected


def test_the_prompts_are_as_told_and_some_end_early(oracle: Oracle) -> None:
    assert len({len(oracle.prompt(text)) for text in EQUAL}) == 1
    assert len({len(oracle.prompt(text)) for text in RAGGED}) > 3
    for texts in (EQUAL, RAGGED):
        assert len({len(oracle.ids(oracle.prompt(text), max_new_tokens=20)[0]) for text in texts}) > 1


def test_the_language_is_fed(model: LoadedModel, engine: DecoderEngine, oracle: Oracle) -> None:
    [events] = run(
        [generate("the lord", language="fr", max_new_tokens=9, decoding_mode=DECODING_MODE_MASK_APPEND)], model, engine
    )
    prompt = oracle.prompt("the lord")
    assert ids_of(events) == oracle.ids(prompt, 1, max_new_tokens=9) != oracle.ids(prompt, 0, max_new_tokens=9)


def test_positions_end_where_those_of_generate_do(model: LoadedModel, engine: DecoderEngine, oracle: Oracle) -> None:
    positions = model.card.max_input_tokens
    ids = oracle.prompt("b " * (positions - 4))[1:]
    assert len(ids) == positions - 3
    request = GenerateStreamRequest(
        input=TextInput(token_ids=TokenIds(ids=ids)),
        parameters=GenerationParameters(
            max_new_tokens=10, ignore_eos=True, decoding_mode=DECODING_MODE_MASK_APPEND, logit_bias={1: -100}
        ),
    )
    [events] = run([request], model, engine)
    (given,) = ids_of(events)
    assert [given] == oracle.ids(ids, max_new_tokens=3, sequence_bias=[[[1], -100.0]])
    assert events[-2].candidate_finished.finish_reason == FINISH_REASON_LENGTH
    with pytest.raises((IndexError, RuntimeError)):
        oracle.ids([20] * positions, max_new_tokens=1)


def test_a_prompt_is_what_the_tokenizer_gives(model: LoadedModel, oracle: Oracle) -> None:
    positions = model.card.max_input_tokens
    request = generate("the lord", decoding_mode=DECODING_MODE_MASK_APPEND)
    assert list(begun(request, model).begin().prompt_ids) == oracle.prompt("the lord")
    assert begun(request, model).opening()[0].started.prompt_tokens == len(oracle.prompt("the lord"))
    request.input.text = "b " * (positions - 3)
    assert len(begun(request, model).begin().prompt_ids) == positions - 1
    request.input.text = "b " * (positions - 2)
    with pytest.raises(Refused, match=f"{positions} tokens, the model takes at most {positions - 1}"):
        begun(request, model)
    for keep in (TRUNCATION_KEEP_START, TRUNCATION_KEEP_END):
        request.options.truncation, request.parameters.max_new_tokens = keep, 20
        prompt = begun(request, model).begin().prompt_ids
        assert (len(prompt), prompt[0], prompt[-1]) == (positions - 20, 0, 1)


def test_the_model_chooses_where_the_request_does_not(model: LoadedModel) -> None:
    causal = model.config.causal
    both = [DECODING_MODE_NEXT_TOKEN, DECODING_MODE_MASK_APPEND]
    assert list(model.card.decoding_modes) == (both if causal else both[1:])
    for parameters in ({}, {"decoding_mode": DECODING_MODE_UNSPECIFIED}):
        generation = begun(generate(**parameters), model)
        effective = generation.opening()[0].started.parameters.decoding_mode
        assert effective == (DECODING_MODE_NEXT_TOKEN if causal else DECODING_MODE_MASK_APPEND)
        assert generation.begin().mode is (DecodingMode.NEXT_TOKEN if causal else DecodingMode.MASK_APPEND)


@pytest.mark.parametrize(
    ("config", "mask"),
    [
        ({"causal": True, "mask_token_id": 0}, 0),
        ({"causal": True, "mask_token_id": 7}, 7),
        ({"causal": False, "mask_token_id": 0}, 5),
        ({"causal": False, "mask_token_id": 7}, 7),
    ],
)
def test_which_mask_is_appended(directory: Path, tmp_path: Path, config: dict[str, object], mask: int) -> None:
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    known = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(known | config))
    loaded = load_model(ModelConfig(tmp_path, "toy"), DeviceConfig())
    assert mask_to_append(loaded.config, loaded.tokenizer) == mask
    assert begun(generate(decoding_mode=DECODING_MODE_MASK_APPEND), loaded).begin().mask_id == mask
