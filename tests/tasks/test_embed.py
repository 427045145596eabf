"""Embed against the library, for every pooling, layer, size and number format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tasks.conftest import Zoo
from tasks.zoo import answer
from xlmstream.v1 import embedding_pb2 as pb
from xlmstream.v1.common_pb2 import TASK_EMBED, TRUNCATION_KEEP_END, RequestOptions, TextInput, TokenIds
from xlmstream.v1.tensor_pb2 import (
    DATA_TYPE_BFLOAT16,
    DATA_TYPE_FLOAT16,
    DATA_TYPE_FLOAT32,
    DATA_TYPE_UNSPECIFIED,
    Tensor,
)
from xlmstream_worker.models import LoadedModel

TEXTS = ["Paris is a big city", "Who?", "the the the and the nice ones live in France, not in Paris."]


def array(tensor: Tensor) -> np.ndarray:
    kinds = {DATA_TYPE_FLOAT32: "<f4", DATA_TYPE_FLOAT16: "<f2"}
    return np.frombuffer(tensor.data, kinds[tensor.dtype]).reshape(tensor.shape)


def embed(model: LoadedModel, texts: list[TextInput], **parameters: object) -> list[pb.EmbedResult]:
    request = pb.EmbedRequest(inputs=texts, parameters=pb.EmbedParameters(**parameters))
    return [output.result for output in answer(model, TASK_EMBED, request).outputs]


def states(model: LoadedModel, text: str, layer: int, lang: int | None) -> torch.Tensor:
    """(T, E): what the library gives, in the model's input format."""
    core = model.network.transformer if hasattr(model.network, "transformer") else model.network
    encoding = model.tokenizer(text, return_tensors="pt")
    ids, types = encoding["input_ids"], encoding["token_type_ids"]
    if model.is_original:
        ids, types = ids.clone(), None
        ids[0, 0] = 1
    langs = None if lang is None else torch.full_like(ids, lang)
    with torch.inference_mode():
        return core(ids, token_type_ids=types, langs=langs, output_hidden_states=True).hidden_states[layer][0]


@pytest.mark.parametrize("name", ["masked", "original", "causal", "base", "tags"])
@pytest.mark.parametrize("layer", [None, 0, 2, 3])
def test_vectors_of_tokens(zoo: Zoo, name: str, layer: int | None) -> None:
    model = zoo(name)
    inputs = [TextInput(text=text) for text in TEXTS]
    results = embed(model, inputs, pooling=pb.POOLING_NONE, layer=layer)
    for text, result in zip(TEXTS, results, strict=True):
        # No language given: none in the huggingface format, the default one in the original format.
        expected = states(model, text, -1 if layer is None else layer, 0 if name == "original" else None)
        np.testing.assert_allclose(array(result.embedding), expected, atol=1e-5)
        assert result.tokens[0].piece == ("</s>" if name == "original" else "<s>")
        words = [text[token.start : token.end].lower() for token in result.tokens[1:-1]]
        assert [token.piece.removesuffix("</w>") for token in result.tokens[1:-1]] == words
        assert result.usage.prompt_tokens == len(result.tokens)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        (pb.POOLING_UNSPECIFIED, lambda x: x.mean(0)),
        (pb.POOLING_MEAN, lambda x: x.mean(0)),
        (pb.POOLING_MAX, lambda x: x.max(0).values),
        (pb.POOLING_FIRST, lambda x: x[0]),
        (pb.POOLING_LAST, lambda x: x[-1]),
    ],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_dimensions_and_length(zoo: Zoo, pooling: pb.Pooling.ValueType, pool, normalize: bool) -> None:
    model = zoo("masked")
    inputs = [TextInput(text=text, language="fr") for text in TEXTS]
    results = embed(model, inputs, pooling=pooling, normalize=normalize, dimensions=20)
    for text, result in zip(TEXTS, results, strict=True):
        expected = pool(states(model, text, -1, 1))[:20]
        if normalize:
            expected = expected / expected.norm()
        assert not result.tokens
        np.testing.assert_allclose(array(result.embedding), expected, atol=1e-5)


def test_number_formats(zoo: Zoo) -> None:
    (whole,) = embed(zoo("base"), [TextInput(text=TEXTS[0])], dtype=DATA_TYPE_UNSPECIFIED)
    (half,) = embed(zoo("base"), [TextInput(text=TEXTS[0])], dtype=DATA_TYPE_FLOAT16)
    (brain,) = embed(zoo("base"), [TextInput(text=TEXTS[0])], dtype=DATA_TYPE_BFLOAT16)
    values = array(whole.embedding)
    assert whole.embedding.dtype == DATA_TYPE_FLOAT32
    np.testing.assert_array_equal(array(half.embedding), values.astype(np.float16))
    assert brain.embedding.dtype == DATA_TYPE_BFLOAT16
    rounded = torch.frombuffer(bytearray(brain.embedding.data), dtype=torch.bfloat16)
    assert torch.equal(rounded, torch.tensor(values).to(torch.bfloat16))


def test_token_ids_are_used_as_they_are(zoo: Zoo) -> None:
    model = zoo("masked")
    ids = [0, 20, 30, 40, 1]
    (result,) = embed(model, [TextInput(token_ids=TokenIds(ids=ids))], pooling=pb.POOLING_NONE)
    with torch.inference_mode():
        expected = model.network.transformer(torch.tensor([ids])).last_hidden_state[0]
    np.testing.assert_allclose(array(result.embedding), expected, atol=1e-5)
    assert [token.id for token in result.tokens] == ids


def test_truncation_keeps_the_side_asked_for(zoo: Zoo) -> None:
    model = zoo("masked")
    long = TextInput(text="a b c d e f g h " * 40 + "z")
    request = pb.EmbedRequest(
        inputs=[long],
        options=RequestOptions(truncation=TRUNCATION_KEEP_END),
        parameters=pb.EmbedParameters(pooling=pb.POOLING_NONE),
    )
    (output,) = answer(model, TASK_EMBED, request).outputs
    pieces = [token.piece for token in output.result.tokens]
    assert len(pieces) == model.card.max_input_tokens
    assert pieces[0] == "<s>"
    assert pieces[-2:] == ["z</w>", "</s>"]


def test_a_megabyte_is_refused_without_reading_all_of_it(zoo: Zoo) -> None:
    request = pb.EmbedRequest(inputs=[TextInput(text="the city"), TextInput(text="big " * 250_000)])
    good, long = answer(zoo("masked"), TASK_EMBED, request).outputs
    assert good.result.embedding.data
    assert long.error.message.startswith("inputs[1].text: ")
    assert "at most 128" in long.error.message
