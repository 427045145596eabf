"""Chinese, Thai and Japanese: the packages' words where they are installed, a clear error where not."""

import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizer.toy import SENTENCES
from xlmstream_worker.xlm.segmenters import KYTEA_MODEL, MissingSegmenterError
from xlmstream_worker.xlm.tokenizer import XLMTokenizer


def imported(name: str) -> None:
    """Import a package, whose old syntax may warn, or skip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name)


@pytest.mark.parametrize(("lang", "package"), [("zh", "jieba"), ("th", "pythainlp")])
def test_words_of_the_installed_package(sides: Any, sentences: list[tuple[str, str]], lang: str, package: str) -> None:
    imported(package)
    texts = [text for own, text in sentences if own in (lang, "xx", "en")][:80]
    for text in texts:
        ours = sides.ours.tokenize(text, lang=lang, split_special_tokens=True)
        assert ours == sides.oracle._tokenize(text, lang=lang), text
        placed = sides.ours(text, lang=lang, return_offsets_mapping=True, add_special_tokens=False)
        assert placed["input_ids"] == sides.ours.encode(text, lang=lang, add_special_tokens=False)
        spans = placed["offset_mapping"]
        assert spans == sorted(spans)
        assert all(0 <= start < end <= len(text) for start, end in spans)


def test_offsets_of_chinese_words(toy: XLMTokenizer) -> None:
    imported("jieba")
    text = "你好，世界！今天天气很好。"
    placed = toy(text, lang="zh", return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    assert "".join(text[start:end] for start, end in placed) == text


class _KyTea(ModuleType):
    """A stand-in for KyTea's binding: it needs a model file that cannot be installed."""

    class Mykytea:
        def __init__(self, options: str) -> None:
            assert options == f"-model {KYTEA_MODEL.expanduser()}"
            if KYTEA_MODEL.expanduser().read_text() != "a model":
                raise RuntimeError("Badly formed model (header incorrect)")

        def getWS(self, text: str) -> list[str]:
            return [text[start : start + 3] for start in range(0, len(text), 3)]


def test_japanese_words_with_a_model(sides: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "Mykytea", _KyTea("Mykytea"))
    KYTEA_MODEL.expanduser().parent.mkdir(parents=True)
    KYTEA_MODEL.expanduser().write_text("a model")
    for text in SENTENCES["ja"]:
        ours = XLMTokenizer.tokenize(sides.ours, text, lang="ja")
        assert ours == sides.oracle._tokenize(text, lang="ja")
    sides.ours._cutter._segmenters._kytea = sides.oracle.ja_word_tokenizer = None


@pytest.mark.parametrize(
    ("lang", "package", "advice"),
    [
        ("zh", "jieba", r"pip install 'xlmstream\[zh\]'"),
        ("th", "pythainlp", r"pip install 'xlmstream\[th\]'"),
        ("ja", "Mykytea", r"pip install 'xlmstream\[ja\]'.*model file.*kytea/model.bin"),
    ],
)
def test_what_to_install(
    toy: XLMTokenizer, monkeypatch: pytest.MonkeyPatch, lang: str, package: str, advice: str
) -> None:
    for module in (package, f"{package}.tokenize"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingSegmenterError, match=advice):
        toy("文", lang=lang)


def test_where_the_japanese_model_must_be(toy: XLMTokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "Mykytea", _KyTea("Mykytea"))
    with pytest.raises(MissingSegmenterError, match=r"model file at .*model\.bin.*build KyTea"):
        toy("文", lang="ja")
    KYTEA_MODEL.expanduser().parent.mkdir(parents=True)
    KYTEA_MODEL.expanduser().touch()
    with pytest.raises(MissingSegmenterError, match=r"no model that KyTea can read: Badly formed"):
        toy("文", lang="ja")


def test_nothing_is_needed_for_other_languages(toy: XLMTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("jieba", "pythainlp", "Mykytea", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    assert toy("Hello 文 สวัสดี", lang="fr")["input_ids"]
