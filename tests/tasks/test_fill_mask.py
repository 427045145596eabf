"""FillMask against the library and transformers' pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks.conftest import Zoo
from tasks.oracle import pipeline_of
from tasks.zoo import answer
from xlmstream.v1.common_pb2 import TASK_FILL_MASK, TRUNCATION_KEEP_START, RequestOptions, TextInput, TokenIds
from xlmstream.v1.fill_mask_pb2 import FillMaskOutput, FillMaskParameters, FillMaskRequest
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.tasks.inputs import Refused

MASK = "<special1>"
TEXTS = [
    f"{MASK} is a city",
    f"Paris is the {MASK} of France.",
    f"the {MASK} {MASK} in {MASK}, and",
    f"Who lives in{MASK}?",
]


def fill(model: LoadedModel, *inputs: str | TextInput, **parameters: object) -> list[FillMaskOutput]:
    given = [TextInput(text=each) if isinstance(each, str) else each for each in inputs]
    request = FillMaskRequest(inputs=given, parameters=FillMaskParameters(**parameters))
    return list(answer(model, TASK_FILL_MASK, request).outputs)


@pytest.mark.parametrize("top_k", [1, 7, 50])
def test_equal_to_the_pipeline(zoo: Zoo, directory_of: Callable[[str], Path], top_k: int) -> None:
    pipeline = pipeline_of("fill-mask", directory_of("masked"), top_k=top_k)
    for text, output in zip(TEXTS, fill(zoo("masked"), *TEXTS, top_k=top_k), strict=True):
        expected = pipeline(text)
        expected = expected if isinstance(expected[0], list) else [expected]
        assert len(output.result.masks) == text.count(MASK)
        for mask, theirs in zip(output.result.masks, expected, strict=True):
            assert text[mask.start : mask.end] == MASK
            np.testing.assert_allclose(
                [candidate.score for candidate in mask.candidates], [one["score"] for one in theirs], atol=1e-5
            )
            assert [candidate.token_id for candidate in mask.candidates] == [one["token"] for one in theirs]


def test_candidates_come_with_the_text_they_make(zoo: Zoo) -> None:
    (output,) = fill(zoo("masked"), TEXTS[2], top_k=2)
    masks = output.result.masks
    for number, mask in enumerate(masks):
        for candidate in mask.candidates:
            start, end = mask.start, mask.end
            word = candidate.piece.removesuffix("</w>")
            assert candidate.text == TEXTS[2][:start] + word + TEXTS[2][end:]
            assert candidate.text.count(MASK) == 2
        assert mask.start == [place for place in range(len(TEXTS[2])) if TEXTS[2].startswith(MASK, place)][number]
    words = [mask.candidates[0].piece.removesuffix("</w>") for mask in masks]
    assert output.result.text == "the {} {} in {}, and".format(*words)


def test_targets_are_words_or_entries_of_the_vocabulary(zoo: Zoo) -> None:
    model = zoo("masked")
    vocabulary = model.tokenizer.encoder
    (output,) = fill(model, TEXTS[0], targets=["Paris", "fran", "nice", "nice</w>"], top_k=9)
    (mask,) = output.result.masks
    # A word is the token that ends it, not the entry of the same letters that begins another.
    assert {candidate.piece for candidate in mask.candidates} == {"paris</w>", "fran", "nice</w>"}
    ids = model.tokenizer(TEXTS[0])["input_ids"]
    with torch.inference_mode():
        logits = model.network(torch.tensor([ids]), token_type_ids=torch.zeros(1, len(ids), dtype=torch.long)).logits
    scores = logits[0, mask.token_index].softmax(-1)
    assert {candidate.token_id for candidate in mask.candidates} == {
        vocabulary[piece] for piece in ("paris</w>", "fran", "nice</w>")
    }
    for candidate in mask.candidates:
        assert candidate.score == pytest.approx(scores[candidate.token_id].item(), abs=1e-6)


def test_a_target_of_several_tokens_is_refused_telling_them(zoo: Zoo) -> None:
    with pytest.raises(Refused, match=r"parameters.targets\[1\]: is not one token of the model but x y z</w>"):
        fill(zoo("masked"), TEXTS[0], targets=["paris", "xyz"])


def test_only_the_mask_is_special_in_a_text(zoo: Zoo) -> None:
    plain, special = fill(
        zoo("masked"),
        f"the </s> {MASK}",
        TextInput(text=f"the </s> {MASK}", allow_special_tokens=True),
    )
    assert plain.result.usage.prompt_tokens > special.result.usage.prompt_tokens == 5


def test_token_ids(zoo: Zoo) -> None:
    (output,) = fill(zoo("masked"), TextInput(token_ids=TokenIds(ids=[0, 20, 5, 30, 1])), top_k=1)
    (mask,) = output.result.masks
    assert (mask.token_index, mask.start, mask.end) == (2, 0, 0)
    assert mask.candidates[0].text == output.result.text
    assert mask.candidates[0].piece.replace("</w>", " ") in output.result.text + " "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no gap here", "inputs[1].text: no gap to fill: write <special1>"),
        (MASK * 65, "inputs[1].text: 65 gaps; at most 64"),
        ("<SPECIAL1>", "inputs[1].text: no gap"),
    ],
)
def test_inputs_without_gaps_or_with_too_many_fail_alone(zoo: Zoo, text: str, message: str) -> None:
    good, bad, also_good = fill(zoo("masked"), TEXTS[0], text, TEXTS[1])
    assert bad.error.message.startswith(message)
    assert good.result.masks
    assert also_good.result.masks


def test_more_bytes_of_filled_texts_than_are_given_fail_alone(zoo: Zoo) -> None:
    """A long text whose beginning counts comes back with every candidate."""
    long = f"{MASK} " + "é " * 150_000
    given = [TextInput(text=text) for text in (TEXTS[0], long, TEXTS[1])]
    options = RequestOptions(truncation=TRUNCATION_KEEP_START)
    good, bad, also_good = answer(zoo("masked"), TASK_FILL_MASK, FillMaskRequest(options=options, inputs=given)).outputs
    size = 5 * len(long.encode())
    assert bad.error.message.startswith(f"inputs[1].text: 5 candidates of 1 gaps are {size} bytes of filled texts;")
    assert "at most 2097152" in bad.error.message
    assert good.result.masks
    assert also_good.result.masks
