"""Pairs, truncation, padding, masks and tensors against transformers; and what it cannot do."""

import itertools
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer.texts import examples
from xlmstream_worker.xlm.tokenizer import XLMTokenizer

A = "The quick brown fox doesn't jump over 1,234.5 lazy dogs."
B = "Dr. Smith (aged 42) said: it's 5 o'clock."
SHORT = "Hello."
TEXTS = [A, SHORT, B, "", "x"]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_special_tokens": False},
    {"padding": "max_length", "max_length": 40},
    {"padding": "max_length"},
    {"padding": True, "pad_to_multiple_of": 8},
    {"padding": "longest", "padding_side": "left", "return_special_tokens_mask": True},
    {"padding": "max_length", "max_length": 30, "padding_side": "left", "truncation": True},
    {"truncation": True, "max_length": 9},
    {"truncation": "longest_first", "max_length": 16, "padding": True},
    {"truncation": "only_first", "max_length": 12, "return_special_tokens_mask": True},
    {"max_length": 7},
    {"max_length": 7, "padding": True},
    {"truncation": True, "max_length": 8, "add_special_tokens": False},
    {"truncation": "do_not_truncate", "max_length": 3},
    {"return_token_type_ids": False, "return_attention_mask": False},
    {"return_length": True, "padding": "max_length", "max_length": 30},
    {"return_length": True, "padding": True, "truncation": True, "max_length": 16},
    {"truncation": True},
]
SINGLE_OPTIONS = [
    *({"truncation": True, "max_length": 9, "stride": n, "return_overflowing_tokens": True} for n in (0, 2, 30)),
    {"truncation": "only_first", "max_length": 5, "return_overflowing_tokens": True, "padding": True},
]
PAIR_OPTIONS = [
    {"truncation": "only_second", "max_length": 20},
    {"truncation": "only_second", "max_length": 20, "stride": 3, "return_overflowing_tokens": True},
    {"truncation": "only_first", "max_length": 20, "stride": 3, "return_overflowing_tokens": True},
    {"truncation": "only_second", "max_length": 4},
]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
@pytest.mark.parametrize("options", OPTIONS + SINGLE_OPTIONS, ids=str)
def test_single_texts_and_batches(sides: Any, options: dict[str, Any]) -> None:
    for text in TEXTS:
        expected = dict(sides.oracle(text, **options))
        if not expected["input_ids"] and options.get("padding"):
            continue  # transformers does not pad an empty sequence
        assert dict(sides.ours(text, **options)) == expected
    assert dict(sides.ours(TEXTS, **options)) == dict(sides.oracle(TEXTS, **options))


@pytest.mark.filterwarnings("ignore:`max_length` is ignored")
@pytest.mark.parametrize("options", OPTIONS + PAIR_OPTIONS, ids=str)
def test_pairs(sides: Any, options: dict[str, Any]) -> None:
    pairs = list(itertools.product(TEXTS[:3], repeat=2))
    for first, second in pairs:
        assert dict(sides.ours(first, second, **options)) == dict(sides.oracle(first, second, **options))
    firsts, seconds = map(list, zip(*pairs, strict=True))
    assert dict(sides.ours(firsts, seconds, **options)) == dict(sides.oracle(firsts, seconds, **options))
    assert dict(sides.ours(pairs, **options)) == dict(sides.oracle(pairs, **options))


@given(
    lengths=st.tuples(st.integers(0, 12), st.integers(0, 12)),
    max_length=st.integers(1, 30),
    truncation=st.sampled_from([True, "only_first", "only_second", "longest_first", False]),
    side=st.sampled_from(["right", "left"]),
    stride=st.integers(0, 5),
    pair=st.booleans(),
)
@examples
def test_every_truncation(
    truncating: Any, lengths: tuple[int, int], max_length: int, truncation: Any, side: str, stride: int, pair: bool
) -> None:
    ours, oracle = truncating[side]
    ids, pair_ids = list(range(100, 100 + lengths[0])), list(range(200, 200 + lengths[1])) if pair else None
    overflows = truncation in ("only_first", "only_second") or (truncation is True and not pair)
    options = {"max_length": max_length, "truncation": truncation, "stride": stride}
    options["return_overflowing_tokens"] = overflows
    expected = oracle.prepare_for_model(ids, pair_ids, **options)
    assert dict(ours.prepare_for_model(ids, pair_ids, **options)) == dict(expected)


@pytest.fixture(scope="module")
def truncating(toy_directory: Any, transformers_tokenizer: Any) -> dict[str, tuple[XLMTokenizer, Any]]:
    """Both tokenizers, truncating at either side."""
    classes = (XLMTokenizer, transformers_tokenizer)
    return {
        side: tuple(each.from_pretrained(toy_directory, truncation_side=side) for each in classes)
        for side in ("right", "left")
    }


def test_words_and_tokens_and_ids(sides: Any) -> None:
    ours, oracle = sides.ours, sides.oracle
    words = ["Hello", "it's", "Dr.", "Smith"]
    assert dict(ours(words, is_split_into_words=True)) == dict(oracle(words, is_split_into_words=True))
    batch = [words, ["x"], words[:2]]
    options = {"is_split_into_words": True, "padding": True}
    assert dict(ours(batch, **options)) == dict(oracle(batch, **options))
    assert dict(ours(batch, batch, **options)) == dict(oracle(batch, batch, **options))
    assert dict(ours(words, words, is_split_into_words=True)) == dict(oracle(words, words, is_split_into_words=True))
    tokens = oracle.tokenize(A)
    assert ours.encode(tokens) == oracle.encode(tokens)
    ids = oracle.convert_tokens_to_ids(tokens)
    assert ours.encode(ids, ids[:3]) == oracle.encode(ids, ids[:3])


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_tensors(sides: Any, kind: str) -> None:
    for text in (A, TEXTS, [A]):
        ours = sides.ours(text, return_tensors=kind, padding=True)
        oracle = sides.oracle(text, return_tensors=kind, padding=True)
        assert list(ours) == list(oracle)
        for name in ours:
            assert ours[name].dtype == oracle[name].dtype
            assert ours[name].tolist() == oracle[name].tolist()
    assert sides.ours.encode(A, return_tensors=kind).shape == (1, len(sides.ours.encode(A)))


def test_tensors_need_rows_of_one_length(toy: XLMTokenizer) -> None:
    for kind in ("pt", "np"):
        with pytest.raises(ValueError, match="padding=True"):
            toy([A, B], return_tensors=kind)
    with pytest.raises(ValueError, match="return_tensors"):
        toy(A, return_tensors="tf")


@pytest.mark.parametrize(
    "name", ["build_inputs_with_special_tokens", "create_token_type_ids_from_sequences", "get_special_tokens_mask"]
)
def test_the_format_of_a_sequence(sides: Any, name: str) -> None:
    for ids in ([], [20], [20, 21, 22]):
        for pair in (None, [], [30, 31]):
            assert getattr(sides.ours, name)(ids, pair) == getattr(sides.oracle, name)(ids, pair)


def test_special_tokens_of_a_finished_sequence(sides: Any) -> None:
    finished = sides.oracle.encode("a <unk> b <special1>")
    expected = sides.oracle.get_special_tokens_mask(finished, already_has_special_tokens=True)
    assert sides.ours.get_special_tokens_mask(finished, already_has_special_tokens=True) == expected
    with pytest.raises(ValueError, match="second sequence"):
        sides.ours.get_special_tokens_mask(finished, finished, already_has_special_tokens=True)
    for pair in (False, True):
        assert sides.ours.num_special_tokens_to_add(pair) == sides.oracle.num_special_tokens_to_add(pair)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "max_length", "max_length": 40},
        {"pad_to_multiple_of": 7},
        {"padding_side": "left"},
        {"padding": False},
    ],
    ids=str,
)
def test_padding_afterwards(sides: Any, options: dict[str, Any]) -> None:
    rows = [dict(sides.oracle(text, return_special_tokens_mask=True)) for text in TEXTS]
    assert dict(sides.ours.pad(rows, **options)) == dict(sides.oracle.pad(rows, **options))
    batch = {name: [row[name] for row in rows] for name in rows[0]}
    assert dict(sides.ours.pad(batch, **options)) == dict(sides.oracle.pad(batch, **options))
    assert dict(sides.ours.pad(rows[0], **options)) == dict(sides.oracle.pad(dict(rows[0]), **options))
    ids = [{"input_ids": row["input_ids"]} for row in rows]
    assert dict(sides.ours.pad(ids, **options)) == dict(sides.oracle.pad(ids, **options))


def test_padding_tensors_afterwards(toy: XLMTokenizer) -> None:
    padded = toy.pad([toy(A), toy(B)], return_tensors="pt")
    assert padded["input_ids"].tolist() == toy([A, B], padding=True)["input_ids"]
    again = toy.pad({"input_ids": padded["input_ids"]}, padding="max_length", max_length=60)
    assert {len(row) for row in again["input_ids"]} == {60}
    with pytest.raises(ValueError, match="input_ids"):
        toy.pad({"attention_mask": [1]})


def test_limits(sides: Any) -> None:
    assert sides.ours.model_max_length == sides.oracle.model_max_length == 512
    long = "word " * 700
    assert len(sides.ours(long)["input_ids"]) == len(sides.oracle(long)["input_ids"])
    assert len(sides.ours(long, truncation=True)["input_ids"]) == 512


def test_a_long_sequence_is_reported_once(toy: XLMTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    toy.encode("word " * 700)
    toy.encode("word " * 700)
    assert caplog.text.count("longer than the model's limit of 512") == 1


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ((5,), {}, TypeError),
        ((None,), {}, TypeError),
        (([A, 5],), {}, TypeError),
        (([A, B], A), {}, ValueError),
        (([[A, B, A]],), {}, ValueError),
        (([A, B], [A]), {}, ValueError),
        ((A,), {"padding": "wide"}, ValueError),
        ((A,), {"truncation": "middle"}, ValueError),
        ((A,), {"padding_side": "up"}, ValueError),
        ((A,), {"colour": "red"}, TypeError),
        ((A,), {"add_special_tokens": False, "return_token_type_ids": True}, ValueError),
        ((A, B), {"truncation": True, "max_length": 9, "return_overflowing_tokens": True}, ValueError),
        ((A,), {"truncation": True, "padding": True, "max_length": 10, "pad_to_multiple_of": 8}, ValueError),
    ],
)
def test_refusals(toy: XLMTokenizer, arguments: Any, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        toy(*arguments, **options)


def test_an_empty_batch(toy: XLMTokenizer) -> None:
    assert dict(toy([])) == {"input_ids": [], "token_type_ids": [], "attention_mask": []}


def test_without_a_limit_nothing_is_cut_or_padded(toy_directory: Any) -> None:
    unlimited = XLMTokenizer.from_pretrained(toy_directory, model_max_length=None)
    assert unlimited.model_max_length == int(1e30)
    assert unlimited(A, truncation=True, padding="max_length") == unlimited(A)


def test_encodings_are_dictionaries_with_attributes(toy: XLMTokenizer) -> None:
    encoding = toy([A, B], padding=True, return_tensors="pt")
    assert encoding.input_ids is encoding["input_ids"]
    assert encoding.data == dict(encoding)
    assert {**encoding}.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    assert encoding[:1]["input_ids"].tolist() == encoding["input_ids"][:1].tolist()
    assert encoding.to("cpu") is encoding
    with pytest.raises(AttributeError, match="no 'labels'"):
        _ = encoding.labels
