"""MASK_APPEND through the whole service: the Python client gets the ids of `generate` of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.service import Service
from worker.oracle import Oracle, make_directory
from xlmstream import AsyncClient, InvalidInput, Started
from xlmstream.v1.models_pb2 import DECODING_MODE_MASK_APPEND, DECODING_MODE_NEXT_TOKEN

TEXTS = ["the lord", "and the king said on", "a b c d", "the e f g", "in"]


@pytest.fixture(scope="module", params=["causal", "masked"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_directory(tmp_path_factory.mktemp("models") / request.param, causal=request.param == "causal", seed=3)


@pytest.fixture
def served(service: Service, directory: Path) -> Iterator[Service]:
    service.worker(str(directory), slots=12)
    service.wait_serving(directory.name)
    yield service
    service.wait_clean()


async def test_the_ids_of_transformers(served: Service, directory: Path) -> None:
    oracle = Oracle(directory)
    model, causal = directory.name, directory.name == "causal"
    async with AsyncClient(served.address) as client:
        card = await client.model(model)
        both = [DECODING_MODE_NEXT_TOKEN, DECODING_MODE_MASK_APPEND]
        assert (card.causal, list(card.decoding_modes)) == (causal, both if causal else both[1:])
        for text in TEXTS:
            one = await client.generate(text, model=model, max_new_tokens=16, decoding_mode="mask_append")
            assert [list(one.token_ids)] == oracle.ids(oracle.prompt(text), max_new_tokens=16)
            assert one.usage.prompt_tokens == len(oracle.prompt(text))
        beams = await client.generate(
            TEXTS, model=model, max_new_tokens=8, num_beams=3, num_return_sequences=2, decoding_mode="mask_append"
        )
        for text, generation in zip(TEXTS, beams, strict=True):
            expected = oracle.ids(oracle.prompt(text), max_new_tokens=8, num_beams=3, num_return_sequences=2)
            assert [list(candidate.token_ids) for candidate in generation.candidates] == expected
        async with client.generate_stream("the lord", model=model, max_new_tokens=3) as stream:
            started = await anext(aiter(stream))
            assert isinstance(started, Started)
            assert started.parameters.decoding_mode == card.decoding_modes[0]
        if not causal:
            with pytest.raises(InvalidInput, match=r"DECODING_MODE_NEXT_TOKEN is not supported .*MASK_APPEND"):
                await client.generate("a", model=model, decoding_mode="next_token")
