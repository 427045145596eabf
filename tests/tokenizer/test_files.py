"""Files: what we save transformers loads, what it saves we load, and what is broken is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizer.test_special_tokens import assert_alike, oracle_token
from tokenizer.toy import ALL_SENTENCES
from xlmstream_worker.xlm.special_tokens import AddedToken
from xlmstream_worker.xlm.tokenizer import XLMTokenizer


def changed(fresh: Any) -> None:
    """Give both tokenizers something to save."""
    token = AddedToken("<Tag>", lstrip=True, normalized=False)
    fresh.ours.add_tokens([token, "plainword"])
    fresh.oracle.add_tokens([oracle_token(token), "plainword"])
    for each in (fresh.ours, fresh.oracle):
        each.add_special_tokens({"eos_token": "<END>"})


def assert_same_ids(ours: XLMTokenizer, oracle: Any) -> None:
    assert_alike(ours, oracle)
    for text in [*ALL_SENTENCES[:20], "a  <Tag> b plainword <END> <end>"]:
        assert dict(ours(text)) == dict(oracle(text))


@pytest.mark.parametrize("prefix", [None, "mine"])
def test_both_save_the_same(fresh: Any, tmp_path: Path, prefix: str | None) -> None:
    changed(fresh)
    written = fresh.ours.save_pretrained(tmp_path / "ours", filename_prefix=prefix)
    fresh.oracle.save_pretrained(tmp_path / "oracle", filename_prefix=prefix)
    names = {path.name for path in (tmp_path / "oracle").iterdir()}
    assert {path.name for path in (tmp_path / "ours").iterdir()} == names
    assert sorted(written) == sorted(str(path) for path in (tmp_path / "ours").iterdir())
    for name in names:
        ours, oracle = ((tmp_path / side / name).read_text(encoding="utf-8") for side in ("ours", "oracle"))
        if name.endswith("tokenizer_config.json"):
            ours, oracle = json.loads(ours), json.loads(oracle)
            assert {key: ours.get(key) for key in oracle if key != "extra_special_tokens"} == {
                key: value for key, value in oracle.items() if key != "extra_special_tokens"
            }
        else:
            assert ours == oracle, name


def test_each_loads_what_the_other_saved(fresh: Any, tmp_path: Path) -> None:
    changed(fresh)
    fresh.ours.save_pretrained(tmp_path / "ours")
    fresh.oracle.save_pretrained(tmp_path / "oracle")
    ours, oracle = type(fresh.ours), type(fresh.oracle)
    assert_same_ids(ours.from_pretrained(tmp_path / "oracle"), fresh.oracle)
    assert_same_ids(fresh.ours, oracle.from_pretrained(tmp_path / "ours"))
    assert_same_ids(ours.from_pretrained(tmp_path / "ours"), oracle.from_pretrained(tmp_path / "oracle"))


def test_settings_survive(fresh: Any, toy_directory: Path, tmp_path: Path) -> None:
    options = {"padding_side": "left", "truncation_side": "left", "model_max_length": 77, "some_key": {"a": [1]}}
    tokenizer = XLMTokenizer.from_pretrained(toy_directory, clean_up_tokenization_spaces=True, **options)
    tokenizer.save_pretrained(tmp_path)
    for loaded in (XLMTokenizer.from_pretrained(tmp_path), type(fresh.oracle).from_pretrained(tmp_path)):
        assert loaded.padding_side == loaded.truncation_side == "left"
        assert loaded.model_max_length == 77
        assert loaded.clean_up_tokenization_spaces is True
        assert loaded.lang2id == tokenizer.lang2id
        assert loaded.id2lang == tokenizer.id2lang
        assert loaded.do_lowercase_and_remove_accent is True
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["some_key"] == {"a": [1]}


def test_directories_from_before_there_were_added_tokens_decoders(fresh: Any, tmp_path: Path) -> None:
    fresh.ours.save_vocabulary(tmp_path)
    size = fresh.ours.vocab_size
    special = {
        "bos_token": "<s>",
        "mask_token": {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False},
        "additional_special_tokens": ["<special4>", {"content": "<tag>", "lstrip": False, "rstrip": True}],
    }
    config = {"do_lowercase_and_remove_accent": True, "max_len": 128}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<mask>": size, "<tag>": size + 1, "newword": size + 2}))
    ours, oracle = (type(each).from_pretrained(tmp_path) for each in (fresh.ours, fresh.oracle))
    assert ours.model_max_length == oracle.model_max_length == 128
    for text in ("a  <mask> b", "<tag>  c newword d <special4> <special1>"):
        assert ours.tokenize(text) == oracle.tokenize(text)
        assert ours.encode(text) == oracle.encode(text)


def test_only_the_vocabulary(fresh: Any, tmp_path: Path) -> None:
    paths = fresh.ours.save_vocabulary(tmp_path, "x")
    assert paths == (str(tmp_path / "x-vocab.json"), str(tmp_path / "x-merges.txt"))
    ours, oracle = (type(each)(*paths) for each in (fresh.ours, fresh.oracle))
    assert_same_ids(ours, oracle)
    assert ours.model_max_length == oracle.model_max_length == int(1e30)


@pytest.mark.parametrize(
    "merges",
    [
        "a b 5\nab c 4\nab c\n",
        "#version: 0.2\na b\nb c\n",
        "a b\n\nb c\nlonely\n",
        "b c\na b\nb c 1",
        "a b\nb c\na b\nbc d</w>\n",
        "",
    ],
)
def test_odd_merges(fresh: Any, tmp_path: Path, merges: str) -> None:
    paths = fresh.ours.save_vocabulary(tmp_path)
    (tmp_path / "merges.txt").write_text(merges)
    ours, oracle = (type(each)(*paths) for each in (fresh.ours, fresh.oracle))
    for word in ("abc", "abcd", "aabbcc", "bcbc", "lonely"):
        assert ours.tokenize(word) == oracle.tokenize(word)
    for name, each in (("ours", ours), ("oracle", oracle)):
        (tmp_path / name).mkdir()
        each.save_vocabulary(str(tmp_path / name))
    for file in ("vocab.json", "merges.txt"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "oracle" / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("vocab.json", None, FileNotFoundError, "has no vocab.json"),
        ("merges.txt", None, FileNotFoundError, "has no merges.txt"),
        ("vocab.json", "{", ValueError, "vocab.json is not valid JSON"),
        ("vocab.json", "[1]", ValueError, "holds no JSON object"),
        ("vocab.json", '{"a": "b"}', ValueError, "not every token has an id"),
        ("vocab.json", '{"a": -1}', ValueError, "not every token has an id"),
        ("tokenizer_config.json", '{"padding_side": "up"}', ValueError, "padding_side"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"5": 7}}', ValueError, "no added token"),
        ("tokenizer_config.json", '{"lang2id": {"en": 0}, "id2lang": {}}', ValueError, "lang2id has 1"),
    ],
)
def test_broken_directories(
    toy: XLMTokenizer, tmp_path: Path, name: str, content: str | None, error: type[Exception], message: str
) -> None:
    toy.save_pretrained(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        XLMTokenizer.from_pretrained(tmp_path)


def test_names_are_not_directories() -> None:
    with pytest.raises(FileNotFoundError, match="not a directory"):
        XLMTokenizer.from_pretrained("FacebookAI/xlm-mlm-en-2048")
