"""Score against the library: left to right for causal models, one masked token at a time for the others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tasks.conftest import Zoo
from tasks.zoo import answer
from xlmstream.v1.common_pb2 import TASK_SCORE, TextInput, TokenIds
from xlmstream.v1.scoring_pb2 import ScoreOutput, ScoreParameters, ScoreRequest
from xlmstream_worker.models import LoadedModel

TEXTS = ["Paris is a big city of France.", "Who?", "the nice one, and the other, in 1999"]


def score(model: LoadedModel, *texts: str | TextInput, **parameters: object) -> list[ScoreOutput]:
    inputs = [TextInput(text=text) if isinstance(text, str) else text for text in texts]
    request = ScoreRequest(inputs=inputs, parameters=ScoreParameters(**parameters))
    return list(answer(model, TASK_SCORE, request).outputs)


def left_to_right(model: LoadedModel, ids: list[int]) -> list[float]:
    """Log-probability of each id but the first; in the model's default language, as generation reads it."""
    given = torch.tensor([ids])
    with torch.inference_mode():
        logs = model.network(given, langs=torch.zeros_like(given)).logits[0].log_softmax(-1)
    return [logs[place, token].item() for place, token in enumerate(ids[1:])]


def each_masked(model: LoadedModel, ids: list[int], places: list[int], lang: int | None, types: bool) -> list[float]:
    logs = []
    for place in places:
        given = torch.tensor([ids])
        given[0, place] = 5
        with torch.inference_mode():
            logits = model.network(
                given,
                langs=None if lang is None else torch.full_like(given, lang),
                token_type_ids=torch.zeros_like(given) if types else None,
            ).logits
        logs.append(logits[0, place].log_softmax(-1)[ids[place]].item())
    return logs


@pytest.mark.parametrize("end", [False, True])
def test_causal(zoo: Zoo, end: bool) -> None:
    model = zoo("causal")
    for text, output in zip(TEXTS, score(model, *TEXTS, score_end=end, include_tokens=True), strict=True):
        ids = model.tokenizer(text)["input_ids"]
        expected = left_to_right(model, ids if end else ids[:-1])
        result = output.result
        np.testing.assert_allclose([token.log_probability for token in result.tokens], expected, atol=1e-5)
        assert [token.token.id for token in result.tokens] == (ids[1:] if end else ids[1:-1])
        assert result.scored_tokens == len(expected)
        assert result.log_probability == pytest.approx(sum(expected), abs=1e-4)
        assert result.perplexity == pytest.approx(math.exp(-sum(expected) / len(expected)), rel=1e-4)
        words = [text[token.token.start : token.token.end].lower() for token in result.tokens]
        assert words[0] == result.tokens[0].token.piece.removesuffix("</w>")
        assert (words[-1] == "") == end


@pytest.mark.parametrize("name", ["masked", "original"])
@pytest.mark.parametrize("end", [False, True])
def test_masked(zoo: Zoo, name: str, end: bool) -> None:
    model = zoo(name)
    for text, output in zip(TEXTS, score(model, *TEXTS, score_end=end, include_tokens=True), strict=True):
        ids = model.tokenizer(text)["input_ids"]
        if name == "original":
            ids[0] = 1
        places = list(range(1, len(ids) if end else len(ids) - 1))
        expected = each_masked(model, ids, places, 0 if name == "original" else None, types=name == "masked")
        np.testing.assert_allclose([token.log_probability for token in output.result.tokens], expected, atol=1e-5)
        assert output.result.log_probability == pytest.approx(sum(expected), abs=1e-4)
        assert output.result.usage.prompt_tokens == len(ids) * len(places)


def test_token_ids_are_scored_as_they_are(zoo: Zoo) -> None:
    ids = [20, 30, 40, 50]
    given = TextInput(token_ids=TokenIds(ids=ids))
    (causal,) = score(zoo("causal"), given, include_tokens=True)
    first, *rest = causal.result.tokens
    assert not first.HasField("log_probability")
    np.testing.assert_allclose([token.log_probability for token in rest], left_to_right(zoo("causal"), ids), atol=1e-5)
    assert causal.result.scored_tokens == 3
    (masked,) = score(zoo("masked"), given, include_tokens=True)
    expected = each_masked(zoo("masked"), ids, [0, 1, 2, 3], None, types=False)
    np.testing.assert_allclose([token.log_probability for token in masked.result.tokens], expected, atol=1e-5)


def test_tokens_are_only_sent_if_asked_for_and_bad_inputs_fail_alone(zoo: Zoo) -> None:
    good, long, single = score(zoo("causal"), "the city", "a " * 200, TextInput(token_ids=TokenIds(ids=[20])))
    assert good.result.scored_tokens == 2
    assert not good.result.tokens
    assert long.error.message.startswith("inputs[1].text: 202 tokens")
    assert single.error.message.startswith("inputs[2].token_ids.ids: nothing comes before the only id")
