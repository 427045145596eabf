"""What a model directory becomes: its card, and the choices that make it up."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from worker.toy import POSITIONS, make_model
from xlmstream.v1.common_pb2 import TASK_DETOKENIZE, TASK_EMBED, TASK_GENERATE, TASK_SCORE, TASK_TOKENIZE
from xlmstream.v1.models_pb2 import INPUT_FORMAT_HUGGINGFACE, INPUT_FORMAT_ORIGINAL, Model
from xlmstream_worker.config import DeviceConfig, ModelConfig
from xlmstream_worker.models import LoadedModel, TextRate, load_model


def load(directory: Path, **choices: object) -> LoadedModel:
    return load_model(ModelConfig(directory, "toy", **choices), DeviceConfig())


def card(directory: Path, **choices: object) -> Model:
    return load(directory, **choices).card


def test_the_card(toy: LoadedModel) -> None:
    assert toy.full_name == "toy@1"
    tasks = [TASK_GENERATE, TASK_SCORE, TASK_TOKENIZE, TASK_DETOKENIZE, TASK_EMBED]
    assert list(toy.card.tasks) == tasks
    assert list(toy.card.languages) == ["en", "fr"]
    assert (toy.card.max_input_tokens, toy.card.vocabulary_size) == (POSITIONS, toy.config.vocab_size)
    assert (toy.card.dtype, toy.card.causal, toy.card.default_language) == ("float32", True, "en")
    assert (toy.card.state, toy.card.workers) == (0, 0)  # the gateway's to fill in


def test_input_formats_begin_with_their_token(toy: LoadedModel, toy_directory: Path) -> None:
    assert toy.card.input_format == INPUT_FORMAT_ORIGINAL
    assert toy.begin_id == toy.tokenizer.convert_tokens_to_ids("</s>")
    other = load(toy_directory, input_format="huggingface")
    assert other.card.input_format == INPUT_FORMAT_HUGGINGFACE
    assert other.begin_id == other.tokenizer.convert_tokens_to_ids("<s>")
    assert toy.end_id == other.end_id == toy.tokenizer.convert_tokens_to_ids("</s>")


def test_the_causal_override(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = make_model(tmp_path / "toy")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"causal": False}))
    (directory / "xlmstream.json").unlink(missing_ok=True)
    with caplog.at_level(logging.INFO):
        assert card(directory, causal=True).causal
        assert "--causal true" not in caplog.text
        assert not card(directory).causal
        assert "--causal true" in caplog.text


def test_the_default_language(toy_directory: Path, tmp_path: Path) -> None:
    assert card(toy_directory, default_language="fr").default_language == "fr"
    single = make_model(tmp_path / "toy")
    config = json.loads((single / "config.json").read_text())
    del config["lang2id"], config["id2lang"]
    (single / "config.json").write_text(json.dumps(config))
    loaded = load(single)
    assert (loaded.card.default_language, list(loaded.card.languages)) == ("", [])


def test_the_revision_changes_with_what_decides_results(toy_directory: Path, tmp_path: Path) -> None:
    known = card(toy_directory).revision
    same = make_model(tmp_path / "same", input_format="original")
    assert card(same, version="7").revision == known
    (same / "README.md").write_text("about this model")
    assert card(same).revision == known
    assert card(same, input_format="huggingface").revision != known
    assert card(same, default_language="fr").revision != known
    assert card(make_model(tmp_path / "other", seed=1, input_format="original")).revision != known


def test_bytes_per_token_follow_what_was_tokenised() -> None:
    rate = TextRate()
    assert rate.bytes_per_token == 4
    rate.note(6000, 1000)
    assert rate.bytes_per_token == 5
