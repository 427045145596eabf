"""From keywords to request messages."""

import typing

import pytest
from xlmstream import InvalidInput, TextInput, TokenIds
from xlmstream import requests as build
from xlmstream.v1.common_pb2 import DisconnectPolicy, Priority, Truncation
from xlmstream.v1.generation_pb2 import EARLY_STOPPING_NEVER, GenerationParameters


def test_every_generation_parameter_has_its_keyword() -> None:
    own = build.GenerateKeywords.__annotations__.keys() - build.TextKeywords.__annotations__.keys()
    assert own == {field.name for field in GenerationParameters.DESCRIPTOR.fields}


def test_unset_is_not_zero() -> None:
    assert build.generate_request(["a"], {}).parameters == GenerationParameters()
    parameters = build.generate_request(["a"], {"temperature": 0.0, "seed": 0}).parameters
    assert parameters.HasField("temperature")
    assert parameters.HasField("seed")
    assert not parameters.HasField("top_k")


def test_all_keywords_arrive() -> None:
    request = build.generate_request(
        ["a", "b"],
        {
            "model": "m@2",
            "priority": "bulk",
            "request_id": "mine",
            "language": "fr",
            "allow_special_tokens": True,
            "truncation": "keep_end",
            "max_new_tokens": 5,
            "min_new_tokens": 1,
            "temperature": 0.5,
            "top_k": 10,
            "top_p": 0.25,
            "seed": 2**64 - 1,
            "stop": (".", "!"),
            "ignore_eos": True,
        },
    )
    assert request.options.model == "m@2"
    assert request.options.request_id == "mine"
    assert request.options.priority == Priority.PRIORITY_BULK
    assert request.options.truncation == Truncation.TRUNCATION_KEEP_END
    assert [(one.text, one.language, one.allow_special_tokens) for one in request.inputs] == [
        ("a", "fr", True),
        ("b", "fr", True),
    ]
    assert request.parameters == GenerationParameters(
        max_new_tokens=5,
        min_new_tokens=1,
        temperature=0.5,
        top_k=10,
        top_p=0.25,
        seed=2**64 - 1,
        stop=[".", "!"],
        ignore_eos=True,
    )


def test_one_stop_string_is_not_its_letters() -> None:
    assert build.generate_request(["a"], {"stop": "END"}).parameters.stop == ["END"]


def test_every_request_that_may_be_repeated_has_a_key_of_its_own() -> None:
    ids = {build.generate_request(["a"], {}).options.request_id for _ in range(100)}
    ids |= {build.generate_stream_request("a", {}).options.request_id for _ in range(100)}
    assert len(ids) == 200
    assert all(1 <= len(one) <= 128 for one in ids)


def test_a_stream_outlives_its_connection() -> None:
    policy = build.generate_stream_request("a", {}).options.disconnect_policy
    assert policy == DisconnectPolicy.DISCONNECT_POLICY_DETACH


def test_inputs_that_say_more_than_a_string_keep_it() -> None:
    ids = TextInput(token_ids=TokenIds(ids=[1, 2]), language="de")
    request = build.generate_request([ids, TextInput(text="x")], {"language": "fr"})
    assert request.inputs[0] == ids
    assert request.inputs[1].language == "fr"
    assert not ids.HasField("text"), "the user's message is not touched"


@pytest.mark.parametrize(
    ("keywords", "field"),
    [
        ({"max_new_tokens": -1}, "parameters.max_new_tokens"),
        ({"top_k": 1.5}, "parameters.top_k"),
        ({"temperature": "hot"}, "parameters.temperature"),
        ({"stop": [".", 7]}, "parameters.stop"),
        ({"seed": 2**64}, "parameters.seed"),
        ({"priority": "urgent"}, "options.priority"),
        ({"truncation": "middle"}, "options.truncation"),
        ({"request_id": 7}, "options.request_id"),
        ({"language": 7}, "inputs[1].language"),
    ],
)
def test_what_a_field_cannot_hold_names_the_field(keywords: dict[str, object], field: str) -> None:
    known = TextInput(text="a", language="en")
    with pytest.raises(InvalidInput) as caught:
        build.generate_request([known, "b"], typing.cast(build.GenerateKeywords, keywords))
    assert [violation.field for violation in caught.value.field_violations] == [field]
    assert field in str(caught.value)


@pytest.mark.parametrize("prompt", ["\ud800", b"\xff", 7, None])
def test_a_prompt_that_is_no_text(prompt: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        build.generate_request(["a", typing.cast(str, prompt)], {})
    assert caught.value.field_violations[0].field.startswith("inputs[1]")


def test_a_misspelt_keyword_is_an_error() -> None:
    with pytest.raises(TypeError, match="max_tokens"):
        build.generate_request(["a"], typing.cast(build.GenerateKeywords, {"max_tokens": 5}))
    with pytest.raises(TypeError, match="top_p"):
        build.tokenize_request(["a"], typing.cast(build.TokenizeKeywords, {"top_p": 0.5}))


def test_one_or_several() -> None:
    assert build.batch_of("ab") == (["ab"], True)
    assert build.batch_of(("a", "b")) == (["a", "b"], False)
    assert build.batch_of([]) == ([], False)
    assert build.id_batch_of([1, 2]) == ([[1, 2]], True)
    assert build.id_batch_of([[1], []]) == ([[1], []], False)
    assert build.id_batch_of([]) == ([[]], True)


@pytest.mark.parametrize("names", [(None, None), ("a", "b")])
def test_a_cancel_names_one_request_in_one_way(names: tuple[str | None, str | None]) -> None:
    with pytest.raises(TypeError, match="request_id"):
        build.cancel_request(*names)


def test_lists_maps_and_choices_of_generation() -> None:
    request = build.generate_request(
        ["a"],
        {"logit_bias": {5: 1.5}, "bad_words": ["x"], "stop_token_ids": [7], "early_stopping": "never", "num_beams": 2},
    )
    parameters = request.parameters
    assert dict(parameters.logit_bias) == {5: 1.5}
    assert list(parameters.bad_words) == ["x"]
    assert list(parameters.stop_token_ids) == [7]
    assert parameters.early_stopping == EARLY_STOPPING_NEVER
    with pytest.raises(InvalidInput, match="early_stopping"):
        build.generate_request(["a"], typing.cast(build.GenerateKeywords, {"early_stopping": "soon"}))
