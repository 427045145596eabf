"""ClassifySequence, ClassifyTokens and ChooseMultiple against the library and transformers' pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks.conftest import Zoo
from tasks.oracle import pipeline_of
from tasks.zoo import answer
from xlmstream.v1 import classification_pb2 as pb
from xlmstream.v1.common_pb2 import (
    TASK_CHOOSE_MULTIPLE,
    TASK_CLASSIFY_SEQUENCE,
    TASK_CLASSIFY_TOKENS,
    TRUNCATION_KEEP_END,
    TRUNCATION_KEEP_START,
    RequestOptions,
    TextInput,
    TokenIds,
)
from xlmstream.v1.models_pb2 import PROBLEM_TYPE_MULTI_LABEL, PROBLEM_TYPE_REGRESSION, PROBLEM_TYPE_SINGLE_LABEL
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.tasks.classify_tokens import Labelled, groups_of
from xlmstream_worker.tasks.inputs import Refused
from xlmstream_worker.tasks.words import Word

TEXTS = ["Paris is a big city.", "Who?", "The nice city of France, and the big one - who lives in it?"]
DirectoryOf = Callable[[str], Path]


def classify(model: LoadedModel, *inputs: pb.ClassifySequenceInput, **parameters: object) -> list:
    request = pb.ClassifySequenceRequest(inputs=inputs, parameters=pb.ClassifySequenceParameters(**parameters))
    return list(answer(model, TASK_CLASSIFY_SEQUENCE, request).outputs)


def one(text: str, other: str | None = None) -> pb.ClassifySequenceInput:
    return pb.ClassifySequenceInput(
        text=TextInput(text=text), text_pair=None if other is None else TextInput(text=other)
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("single", PROBLEM_TYPE_SINGLE_LABEL),
        ("multi", PROBLEM_TYPE_MULTI_LABEL),
        ("value", PROBLEM_TYPE_REGRESSION),
    ],
)
def test_labels_equal_the_pipeline(zoo: Zoo, directory_of: DirectoryOf, name: str, kind: int) -> None:
    model = zoo(name)
    assert model.card.problem_type == kind
    pipeline = pipeline_of("text-classification", directory_of(name), top_k=None)
    pairs = [(text, None) for text in TEXTS] + [(TEXTS[0], TEXTS[2]), (TEXTS[2], TEXTS[1])]
    for (text, other), output in zip(pairs, classify(model, *(one(*pair) for pair in pairs)), strict=True):
        expected = pipeline({"text": text, "text_pair": other} if other else text)
        expected = expected if other else expected[0]
        assert [label.label for label in output.result.labels] == [label["label"] for label in expected]
        scores = [label.score for label in output.result.labels]
        np.testing.assert_allclose(scores, [label["score"] for label in expected], atol=1e-5)


def test_logits_functions_filters_and_counts(zoo: Zoo) -> None:
    model = zoo("single")
    encoding = model.tokenizer(TEXTS[0], return_tensors="pt")
    with torch.inference_mode():
        logits = model.network(encoding["input_ids"], token_type_ids=encoding["token_type_ids"]).logits[0]
    for function, expected in (
        (pb.SCORE_FUNCTION_SOFTMAX, logits.softmax(-1)),
        (pb.SCORE_FUNCTION_SIGMOID, logits.sigmoid()),
        (pb.SCORE_FUNCTION_NONE, logits),
    ):
        (output,) = classify(model, one(TEXTS[0]), function=function)
        labels = output.result.labels
        assert sorted(label.index for label in labels) == [0, 1, 2]
        assert [label.score for label in labels] == sorted((label.score for label in labels), reverse=True)
        for label in labels:
            assert label.label == model.card.labels[label.index]
            assert label.logit == pytest.approx(logits[label.index].item(), abs=1e-5)
            assert label.score == pytest.approx(expected[label.index].item(), abs=1e-5)
    (all_of_them,) = classify(model, one(TEXTS[0]))
    (best,) = classify(model, one(TEXTS[0]), top_k=1)
    assert list(best.result.labels) == list(all_of_them.result.labels)[:1]
    (some,) = classify(model, one(TEXTS[0]), labels=["glad", "sad"])
    kept = [label for label in all_of_them.result.labels if label.label != "so so"]
    assert list(some.result.labels) == kept
    with pytest.raises(Refused, match=r"parameters.labels\[1\]: unknown label; the model's labels: sad, so so, glad"):
        classify(model, one(TEXTS[0]), labels=["sad", "mad"])


def test_pairs_in_both_input_formats_and_truncation(zoo: Zoo) -> None:
    model = zoo("single")
    long = "a " * 200
    request = pb.ClassifySequenceRequest(
        inputs=[one(long, "b c"), one("b c", long), one(long, long), one("a", "b")],
        options=RequestOptions(truncation=TRUNCATION_KEEP_START),
    )
    results = [output.result for output in answer(model, TASK_CLASSIFY_SEQUENCE, request).outputs]
    for result, (first, second) in zip(results, [(123, 2), (2, 123), (63, 62), (1, 1)], strict=True):
        encoding = model.tokenizer("a " * first if first != 2 else "b c", "a " * second if second != 2 else "b c",
                                   return_tensors="pt")  # fmt: skip
        if (first, second) == (1, 1):
            encoding = model.tokenizer("a", "b", return_tensors="pt")
        with torch.inference_mode():
            logits = model.network(encoding["input_ids"], token_type_ids=encoding["token_type_ids"]).logits[0]
        assert result.usage.prompt_tokens == encoding["input_ids"].shape[1]
        for label in result.labels:
            assert label.logit == pytest.approx(logits[label.index].item(), abs=1e-5)


def test_inputs_that_cannot_be_classified_fail_alone(zoo: Zoo) -> None:
    mixed = pb.ClassifySequenceInput(text=TextInput(text="a"), text_pair=TextInput(token_ids=TokenIds(ids=[5])))
    outputs = classify(zoo("single"), one("a"), pb.ClassifySequenceInput(), mixed, one("a " * 130), one("a", "\u200b"))
    messages = [output.error.message for output in outputs[1:]]
    assert outputs[0].HasField("result")
    assert messages[0].startswith("inputs[1].text: must be set")
    assert messages[1].startswith("inputs[2]: both must be texts or both token ids")
    assert messages[2].startswith("inputs[3].text.text: 132 tokens, the model takes at most 128")
    assert messages[3].startswith("inputs[4].text_pair.text: nothing but spaces")


# Tokens


def tag(model: LoadedModel, *texts: str | TextInput, **parameters: object) -> list[pb.ClassifyTokensResult]:
    inputs = [TextInput(text=text) if isinstance(text, str) else text for text in texts]
    request = pb.ClassifyTokensRequest(inputs=inputs, parameters=pb.ClassifyTokensParameters(**parameters))
    return [output.result for output in answer(model, TASK_CLASSIFY_TOKENS, request).outputs]


def token_scores(model: LoadedModel, text: str) -> np.ndarray:
    encoding = model.tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        logits = model.network(encoding["input_ids"], token_type_ids=encoding["token_type_ids"]).logits[0]
    return logits.softmax(-1)[1:-1].numpy()


def test_every_token_and_simple_entities_equal_the_pipeline(zoo: Zoo, directory_of: DirectoryOf) -> None:
    model = zoo("tags")
    tokenwise = pipeline_of("token-classification", directory_of("tags"), ignore_labels=[])
    grouped = pipeline_of("token-classification", directory_of("tags"), aggregation_strategy="simple")
    for text, result in zip(
        TEXTS, tag(model, *TEXTS, aggregation=pb.AGGREGATION_SIMPLE, include_tokens=True), strict=True
    ):
        expected = tokenwise(text)
        assert [token.token.piece for token in result.tokens] == [token["word"] for token in expected]
        assert [word.label for word in result.words] == [token["entity"] for token in expected]
        np.testing.assert_allclose(
            [word.score for word in result.words], [token["score"] for token in expected], atol=1e-5
        )
        np.testing.assert_allclose(
            [list(token.scores) for token in result.tokens], token_scores(model, text), atol=1e-5
        )
        entities = grouped(text)
        assert [entity.label for entity in result.entities] == [entity["entity_group"] for entity in entities]
        np.testing.assert_allclose(
            [entity.score for entity in result.entities], [entity["score"] for entity in entities], atol=1e-5
        )
        for entity, theirs in zip(result.entities, entities, strict=True):
            assert entity.text == text[entity.start : entity.end]
            assert entity.text.lower().replace(" ", "") == theirs["word"].replace(" ", "")


@pytest.mark.parametrize(
    ("aggregation", "label_of"),
    [
        (pb.AGGREGATION_UNSPECIFIED, lambda scores: scores[0]),
        (pb.AGGREGATION_FIRST, lambda scores: scores[0]),
        (pb.AGGREGATION_AVERAGE, lambda scores: scores.mean(0)),
        (pb.AGGREGATION_MAX, lambda scores: scores[scores.max(1).argmax()]),
    ],
)
def test_words_get_one_label_each(zoo: Zoo, aggregation: pb.Aggregation.ValueType, label_of) -> None:
    model = zoo("tags")
    words = ["Paris", "-Nord", ",", "city", "x日", "...", "France", "!"]
    text = "  Paris -Nord, city x日 ...\tFrance!"
    (result,) = tag(model, text, aggregation=aggregation)
    found = [word.text for word in result.words]
    assert "".join(found) == "".join(words)
    pieces = model.tokenizer.tokenize(text)
    scores = token_scores(model, text)
    ends = [place for place, piece in enumerate(pieces) if piece.endswith("</w>")]
    assert len(ends) == len(result.words) < len(pieces)
    first = 0
    for word, last in zip(result.words, ends, strict=True):
        chosen = label_of(scores[first : last + 1])
        assert word.text == text[word.start : word.end]
        assert word.label == model.card.labels[chosen.argmax()]
        assert word.score == pytest.approx(chosen.max(), abs=1e-5)
        first = last + 1


def test_entities_join_neighbours_of_one_kind_and_a_beginning_begins_anew() -> None:
    names = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER", "NOUN"]
    labels = [0, 0, 1, 2, 1, 2, 2, 4, 3, 4, 5, 5, 0, 2]
    words = [Labelled(Word(place, place, place, place + 1), label, 0.5) for place, label in enumerate(labels)]
    groups = ["".join(str(each.label) for each in group) for group in groups_of(words, names)]
    assert groups == ["00", "12", "122", "4", "34", "55", "0", "2"]


def test_labels_to_leave_out(zoo: Zoo) -> None:
    model = zoo("tags")
    (everything,) = tag(model, TEXTS[2], ignore_labels=["O"])
    kinds = {entity.label for entity in everything.entities}
    assert kinds
    assert "O" not in kinds
    (rest,) = tag(model, TEXTS[2], ignore_labels=["O", "I-LOC"])
    assert {entity.label for entity in rest.entities} == kinds - {"LOC"}
    with pytest.raises(Refused, match=r"parameters.ignore_labels\[0\]: unknown label"):
        tag(model, TEXTS[0], ignore_labels=["ORG"])


@pytest.mark.parametrize("keep", [1, 2])
def test_words_that_truncation_cut_are_left_out(zoo: Zoo, keep: int) -> None:
    model = zoo("tags")
    text = " ".join(f"w{number}x" for number in range(60))
    request = pb.ClassifyTokensRequest(inputs=[TextInput(text=text)], options=RequestOptions(truncation=keep))
    (output,) = answer(model, TASK_CLASSIFY_TOKENS, request).outputs
    words = [word.text for word in output.result.words]
    assert words == (text.split()[: len(words)] if keep == 1 else text.split()[-len(words) :])
    assert 25 < len(words) < 60
    assert all(word.text == text[word.start : word.end] for word in output.result.words)


def test_of_words_that_are_all_the_same_the_end_is_kept_where_it_is(zoo: Zoo) -> None:
    """The tokens that are left do not tell from which end."""
    text = "the " * 300
    request = pb.ClassifyTokensRequest(
        options=RequestOptions(truncation=TRUNCATION_KEEP_END), inputs=[TextInput(text=text)]
    )
    (output,) = answer(zoo("tags"), TASK_CLASSIFY_TOKENS, request).outputs
    assert output.result.words[-1].end == len(text) - 1


def test_each_of_token_ids_is_a_word(zoo: Zoo) -> None:
    (result,) = tag(zoo("tags"), TextInput(token_ids=TokenIds(ids=[0, 20, 30, 1])))
    assert [(word.start, word.end) for word in result.words] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert result.words[0].text == "<s>"


# Choices


def test_choices_equal_the_library(zoo: Zoo) -> None:
    model = zoo("choice")
    inputs = [(TEXTS[0], TEXTS), (TEXTS[2], ["a"]), (TEXTS[1], ["the city", "nice, and big", "Paris", "who"])]
    request = pb.ChooseMultipleRequest(
        inputs=[
            pb.ChooseMultipleInput(prompt=TextInput(text=prompt), choices=[TextInput(text=one) for one in choices])
            for prompt, choices in inputs
        ]
    )
    for (prompt, choices), output in zip(inputs, answer(model, TASK_CHOOSE_MULTIPLE, request).outputs, strict=True):
        logits = []
        for choice in choices:
            encoding = model.tokenizer(prompt, choice, return_tensors="pt")
            with torch.inference_mode():
                out = model.network(encoding["input_ids"][None], token_type_ids=encoding["token_type_ids"][None])
            logits.append(out.logits[0, 0].item())
        scores = torch.tensor(logits).softmax(0)
        ranked = output.result.choices
        assert [choice.score for choice in ranked] == sorted((choice.score for choice in ranked), reverse=True)
        assert sorted(choice.index for choice in ranked) == list(range(len(choices)))
        for choice in ranked:
            assert choice.logit == pytest.approx(logits[choice.index], abs=1e-5)
            assert choice.score == pytest.approx(scores[choice.index].item(), abs=1e-5)


def test_inputs_without_choices_or_with_too_many_fail_alone(zoo: Zoo) -> None:
    prompt = TextInput(text="a")
    request = pb.ChooseMultipleRequest(
        inputs=[
            pb.ChooseMultipleInput(prompt=prompt, choices=[prompt] * count) for count in (0, 65, 64)
        ] + [pb.ChooseMultipleInput(prompt=prompt, choices=[prompt, TextInput(text="b " * 200)])]
    )  # fmt: skip
    none, many, good, long = answer(zoo("choice"), TASK_CHOOSE_MULTIPLE, request).outputs
    assert none.error.message.startswith("inputs[0].choices: 0 choices; 1 to 64")
    assert many.error.message.startswith("inputs[1].choices: 65 choices")
    assert len(good.result.choices) == 64
    assert long.error.message.startswith("inputs[3].choices[1].text: 204 tokens")
