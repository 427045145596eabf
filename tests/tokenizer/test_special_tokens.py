"""Special and added tokens, conversion and decoding against transformers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer.texts import examples, texts
from xlmstream_worker.xlm.special_tokens import AddedToken
from xlmstream_worker.xlm.tokenizer import XLMTokenizer

TEXT = "Hello <special1> world<new>and <NEW> Word word[X] <s>x</s> a <big> <big>b."


def oracle_token(token: AddedToken) -> Any:
    """The same in transformers' type."""
    from transformers import AddedToken as Theirs

    return Theirs(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        special=token.special,
        normalized=token.normalized,
    )


def assert_alike(ours: XLMTokenizer, oracle: Any) -> None:
    for name in (
        *("vocab_size", "all_special_tokens", "all_special_ids", "additional_special_tokens", "special_tokens_map"),
        *("bos_token", "bos_token_id", "eos_token", "eos_token_id", "unk_token_id", "sep_token", "pad_token_id"),
        *("cls_token", "cls_token_id", "mask_token", "mask_token_id", "added_tokens_encoder"),
        "additional_special_tokens_ids",
    ):
        assert getattr(ours, name) == getattr(oracle, name), name
    assert len(ours) == len(oracle)
    assert ours.get_vocab() == oracle.get_vocab()
    assert ours.get_added_vocab() == oracle.get_added_vocab()
    theirs = {index: vars_of(token) for index, token in oracle.added_tokens_decoder.items()}
    assert {index: vars_of(token) for index, token in ours.added_tokens_decoder.items()} == theirs


def vars_of(token: Any) -> tuple[Any, ...]:
    names = ("content", "single_word", "lstrip", "rstrip", "special", "normalized")
    return tuple(getattr(token, name) for name in names)


def test_from_the_start(sides: Any) -> None:
    assert_alike(sides.ours, sides.oracle)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    "tokens",
    [
        ["<new>"],
        ["<NEW>", "Word", "word"],
        ["the</w>", "<new>"],
        ["[X]", "", "<s>", "[X]"],
        [AddedToken("<NEW>", normalized=False), "<big>"],
        [AddedToken("<new>", lstrip=True)],
        [AddedToken("<new>", rstrip=True)],
        [AddedToken("<big>", single_word=True), AddedToken("<new>", single_word=True)],
        [AddedToken("Word", single_word=True, lstrip=True, rstrip=True)],
        [AddedToken("wor"), AddedToken("world"), AddedToken("orld<n")],
    ],
    ids=str,
)
def test_added_tokens(fresh: Any, tokens: list[str | AddedToken], special: bool) -> None:
    ours, oracle = fresh.ours, fresh.oracle
    theirs = [oracle_token(token) if isinstance(token, AddedToken) else token for token in tokens]
    assert ours.add_tokens(tokens, special_tokens=special) == oracle.add_tokens(theirs, special_tokens=special)
    assert_alike(ours, oracle)
    for text in (TEXT, "<new>", " <new> ", "a<new>", "<new>b", "a <big>", "<big> b", "x word y", "Word", "<new><big>"):
        assert ours.tokenize(text) == oracle.tokenize(text), text
        ids = oracle.encode(text)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == oracle.decode(ids)
        assert ours.decode(ids, skip_special_tokens=True) == oracle.decode(ids, skip_special_tokens=True)


def test_roles(fresh: Any) -> None:
    ours, oracle = fresh.ours, fresh.oracle
    roles = {"eos_token": "<END>", "cls_token": "<special3>", "additional_special_tokens": ["<tag>", "<special0>"]}
    assert ours.add_special_tokens(roles) == oracle.add_special_tokens(roles) == 2
    assert_alike(ours, oracle)
    more = {"additional_special_tokens": ["<tag>", "<more>"]}
    assert ours.add_special_tokens(more, replace_additional_special_tokens=False) == 1
    assert oracle.add_special_tokens(more, replace_additional_special_tokens=False) == 1
    assert_alike(ours, oracle)
    text = "A <END> b <end> <tag>C <TAG> <special5> <more>"
    assert ours.tokenize(text) == oracle.tokenize(text)
    ours.mask_token = oracle.mask_token = "<special2>"
    ours.pad_token_id = oracle.pad_token_id = 3
    ours.sep_token = oracle.sep_token = "</s>"
    ours.additional_special_tokens = oracle.additional_special_tokens = ["<special7>", "<not in the vocabulary>"]
    assert_alike(ours, oracle)
    assert ours("a", padding="max_length", max_length=6) == dict(oracle("a", padding="max_length", max_length=6))
    with pytest.raises(ValueError, match="is not a role"):
        ours.add_special_tokens({"first_token": "<x>"})
    with pytest.raises(ValueError, match="is not a role"):
        ours.add_special_tokens({"bos_token": 5})  # type: ignore[dict-item]


def test_specials_missing_from_the_vocabulary_come_behind_it(fresh: Any, toy_directory: Any) -> None:
    options = {"bos_token": "<begin>", "mask_token": "<MASK>", "additional_special_tokens": ["<special0>", "<extra>"]}
    ours = type(fresh.ours).from_pretrained(toy_directory, **options)
    oracle = type(fresh.oracle).from_pretrained(toy_directory, **options)
    assert_alike(ours, oracle)
    text = "<begin> x <MASK> <mask> <extra>y <unk>"
    assert ours.tokenize(text) == oracle.tokenize(text)
    ids = oracle.encode(text)
    assert ours.encode(text) == ids
    assert ours.decode(ids) == oracle.decode(ids)
    assert ours.decode(ids, spaces_between_special_tokens=False) == oracle.decode(
        ids, spaces_between_special_tokens=False
    )


def test_special_tokens_as_text(sides: Any) -> None:
    """A server must be able to take what a user types literally."""
    text = "a <s> b</s> <special1>."
    special = set(sides.ours.all_special_ids)
    assert special & set(sides.ours.encode(text, add_special_tokens=False))
    literal = sides.ours.encode(text, add_special_tokens=False, split_special_tokens=True)
    unknown = {sides.ours.unk_token_id}
    assert not special & set(literal) - unknown
    assert literal == sides.oracle.encode(text, add_special_tokens=False, split_special_tokens=True)
    # In a batch transformers overlooks the argument.
    assert sides.ours([text], split_special_tokens=True)["input_ids"][0][1:-1] == literal


def test_special_tokens_as_text_by_setting(toy_directory: Any, transformers_tokenizer: Any) -> None:
    classes = (XLMTokenizer, transformers_tokenizer)
    ours, oracle = (each.from_pretrained(toy_directory, split_special_tokens=True) for each in classes)
    for text in ("a <s> b", "<special1>"):
        assert ours.tokenize(text) == oracle.tokenize(text)
        assert dict(ours([text])) == dict(oracle([text]))


@given(text=texts)
@examples
def test_decoding(sides: Any, text: str) -> None:
    ids = sides.oracle.encode(text)
    for options in ({}, {"skip_special_tokens": True}, {"clean_up_tokenization_spaces": True}):
        assert sides.ours.decode(ids, **options) == sides.oracle.decode(ids, **options)


@given(ids=st.lists(st.integers(-3, 70_000), max_size=20))
@examples
def test_conversion(sides: Any, ids: list[int]) -> None:
    ours, oracle = sides.ours, sides.oracle
    tokens = oracle.convert_ids_to_tokens(ids)
    assert ours.convert_ids_to_tokens(ids) == tokens
    skipped = ours.convert_ids_to_tokens(ids, skip_special_tokens=True)
    assert skipped == oracle.convert_ids_to_tokens(ids, skip_special_tokens=True)
    assert ours.convert_tokens_to_ids(tokens) == oracle.convert_tokens_to_ids(tokens)
    assert ours.convert_tokens_to_string(tokens) == oracle.convert_tokens_to_string(tokens)
    assert ours.decode(ids) == oracle.decode(ids)


def test_one_token_and_tensors(sides: Any) -> None:
    import torch

    assert sides.ours.convert_tokens_to_ids("<pad>") == 2
    assert sides.ours.convert_tokens_to_ids("no such token") == 3
    assert sides.ours.convert_ids_to_tokens(5) == "<special1>"
    ids = sides.ours.encode("Hello, world.")
    assert sides.ours.decode(torch.tensor(ids)) == sides.ours.decode(ids) == sides.oracle.decode(ids)
    assert sides.ours.decode(ids[1]) == sides.oracle.decode(ids[1])
    batch = torch.tensor([ids, ids])
    assert sides.ours.batch_decode(batch, skip_special_tokens=True) == sides.oracle.batch_decode(
        batch, skip_special_tokens=True
    )


def test_without_an_unknown_token(toy: XLMTokenizer) -> None:
    toy.unk_token = None
    with pytest.raises(ValueError, match="no unknown token"):
        toy.convert_tokens_to_ids("no such token")
    toy.bos_token = None
    with pytest.raises(ValueError, match="no bos_token is set"):
        toy("a")
