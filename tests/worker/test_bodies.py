"""Served heads: one body in memory, results as if each had its own, revisions that follow the body."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from worker.toy import make_model
from xlmstream.v1.common_pb2 import TASK_CLASSIFY_SEQUENCE, TASK_CLASSIFY_TOKENS, TASK_FILL_MASK
from xlmstream_worker.bodies import Bodies, bodies_first
from xlmstream_worker.config import DeviceConfig, ModelConfig
from xlmstream_worker.encoder import EncoderEngine
from xlmstream_worker.encoder_inputs import EncoderInput, EncoderRequest, Labels, TokenLabels, Values
from xlmstream_worker.models import LoadedModel, load_model
from xlmstream_worker.prepacking import prepack
from xlmstream_worker.readings import core_of
from xlmstream_worker.xlm import (
    CheckpointError,
    XLMConfig,
    XLMForSequenceClassification,
    XLMForTokenClassification,
)

NAMES = ["head-tokens", "body", "head-texts"]


@pytest.fixture
def directories(tmp_path: Path) -> dict[str, Path]:
    """A masked model and two heads beside it, one of which is told no language."""
    body = make_model(tmp_path / "body", masked=True)
    config = XLMConfig.from_pretrained(body)
    torch.manual_seed(3)
    XLMForTokenClassification(XLMConfig.from_dict(config.to_dict(), num_labels=3)).save_head(
        tmp_path / "head-tokens", body
    )
    blind = {name: value for name, value in config.to_dict().items() if name not in ("lang2id", "id2lang", "n_langs")}
    XLMForSequenceClassification(XLMConfig.from_dict(blind, num_labels=4)).save_head(tmp_path / "head-texts", body)
    return {name: tmp_path / name for name in NAMES}


def load(directories: dict[str, Path], bodies: Bodies | None, **dtypes: str) -> dict[str, LoadedModel]:
    configs = [ModelConfig(path, name, dtype=dtypes.get(name)) for name, path in directories.items()]
    return {each.name: load_model(each, DeviceConfig(), bodies) for each in bodies_first(configs)}


def storage(model: LoadedModel) -> set[int]:
    return {parameter.data_ptr() for parameter in core_of(model.network).parameters()}


def scores(model: LoadedModel) -> list[Values]:
    """What the model's own task gives for texts of many lengths."""
    engine = EncoderEngine(model.network)
    reading = TokenLabels() if TASK_CLASSIFY_TOKENS in model.card.tasks else Labels()
    texts = [tuple(range(14, 14 + length)) for length in range(1, 40)]
    for number, ids in enumerate(texts):
        engine.add(EncoderRequest(str(number), (EncoderInput(ids, reading),)))
    found: dict[str, Values] = {}
    while not engine.idle:
        found |= {output.key: output.values for output in engine.step().outputs}
    return [found[str(number)] for number in range(len(texts))]


def test_heads_have_their_tasks_and_the_vocabulary_of_the_body(directories: dict[str, Path]) -> None:
    models = load(directories, Bodies())
    assert list(models) == ["body", "head-tokens", "head-texts"]
    assert TASK_FILL_MASK in models["body"].card.tasks
    assert TASK_CLASSIFY_TOKENS in models["head-tokens"].card.tasks
    assert TASK_CLASSIFY_SEQUENCE in models["head-texts"].card.tasks
    assert (len(models["head-tokens"].card.labels), len(models["head-texts"].card.labels)) == (3, 4)
    assert list(models["head-tokens"].card.languages) == ["en", "fr"]
    assert list(models["head-texts"].card.languages) == []
    assert len({model.card.vocabulary_size for model in models.values()}) == 1


def test_one_body_is_in_memory(directories: dict[str, Path]) -> None:
    models = load(directories, Bodies())
    assert storage(models["head-tokens"]) == storage(models["body"])
    assert storage(models["head-texts"]) < storage(models["body"])  # it has no languages
    apart = load(directories, None)
    assert not storage(apart["head-tokens"]) & storage(apart["body"])


def test_heads_share_without_the_language_model(directories: dict[str, Path]) -> None:
    del directories["body"]
    models = load(directories, Bodies())
    assert storage(models["head-texts"]) < storage(models["head-tokens"])


def test_other_dtypes_and_attention_stay_apart(directories: dict[str, Path]) -> None:
    models = load(directories, Bodies(), **{"head-tokens": "bfloat16"})
    assert not storage(models["head-tokens"]) & storage(models["body"])
    bodies = Bodies()
    causal = load_model(ModelConfig(directories["body"], "body", causal=True), DeviceConfig(), bodies)
    head = load_model(ModelConfig(directories["head-tokens"], "head"), DeviceConfig(), bodies)
    assert not storage(causal) & storage(head)


def test_sharing_changes_no_result_even_at_once(directories: dict[str, Path]) -> None:
    apart = {name: model for name, model in load(directories, None).items() if name != "body"}
    expected = {name: scores(model) for name, model in apart.items()}
    models = load(directories, Bodies())
    for model in models.values():
        prepack(core_of(model.network))
    with ThreadPoolExecutor() as threads:
        runs = {name: [threads.submit(scores, models[name]) for _ in range(2)] for name in expected}
    for name, found in runs.items():
        for run in found:
            for ours, theirs in zip(run.result(), expected[name], strict=True):
                np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-5)


def test_a_head_has_another_revision_with_another_body(directories: dict[str, Path], tmp_path: Path) -> None:
    before = load(directories, None)
    make_model(tmp_path / "body", seed=5, masked=True)
    after = load(directories, None)
    assert all(before[name].card.revision != after[name].card.revision for name in NAMES)


def test_a_head_without_its_body_is_refused(directories: dict[str, Path]) -> None:
    directories["body"].rename(directories["body"].with_name("gone"))
    with pytest.raises(CheckpointError, match="holds no whole model"):
        bodies_first([ModelConfig(directories["head-texts"], "texts")])
