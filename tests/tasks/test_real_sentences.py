"""Thousands of real sentences in 15 languages, alone and in load: every number is the same."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tasks.zoo import load, serve
from xlmstream.v1.classification_pb2 import ClassifyTokensRequest
from xlmstream.v1.common_pb2 import TASK_CLASSIFY_TOKENS, TASK_EMBED, TRUNCATION_KEEP_START, RequestOptions, TextInput
from xlmstream.v1.embedding_pb2 import POOLING_NONE, EmbedParameters, EmbedRequest
from xlmstream_worker.models import LoadedModel
from xlmstream_worker.xlm import XLMConfig, XLMForTokenClassification

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
# All 7,688 take about 100 s: XLMSTREAM_SENTENCES=7688.
SENTENCES = int(os.environ.get("XLMSTREAM_SENTENCES", "2000"))
PER_REQUEST = 40
LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="needs the shared real data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Narrow, but with the published vocabulary of 64,139 entries and real texts' lengths."""
    path = tmp_path_factory.mktemp("real") / "enfr"
    path.mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (path / name).symlink_to(SHARED / "xlm-enfr" / name)
    config = XLMConfig(
        vocab_size=64139, emb_dim=32, n_layers=2, n_heads=4, id2label=dict(enumerate(LABELS)), init_std=0.25,
        embed_init_std=0.4, n_langs=2, lang2id={"en": 0, "fr": 1}, id2lang={"0": "en", "1": "fr"},
    )  # fmt: skip
    torch.manual_seed(0)
    XLMForTokenClassification(config).save_pretrained(path)
    return load(path)


def sample(count: int) -> list[tuple[str, str]]:
    """(language, sentence), all languages mixed."""
    lines = (SHARED / "sentences.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    chosen = random.Random(0).sample(rows, min(count, len(rows)))
    return [(one["lang"], one["text"]) for one in chosen]


def test_every_number_is_the_same_alone_and_in_load(model: LoadedModel) -> None:
    sentences = sample(SENTENCES)
    assert len({lang for lang, _ in sentences}) == 15
    options = RequestOptions(truncation=TRUNCATION_KEEP_START)
    parts = [sentences[start : start + PER_REQUEST] for start in range(0, len(sentences), PER_REQUEST)]
    inputs = [[TextInput(text=text) for _, text in part] for part in parts]
    wish = EmbedParameters(pooling=POOLING_NONE)
    embeds = [(TASK_EMBED, EmbedRequest(options=options, inputs=part, parameters=wish)) for part in inputs]
    tags = [(TASK_CLASSIFY_TOKENS, ClassifyTokensRequest(options=options, inputs=part)) for part in inputs]
    events = serve(model, [task for both in zip(embeds, tags, strict=True) for task in both])
    vectors = [output.result for event in events[::2] for output in event.embedded.outputs]
    tagged = [output.result for event in events[1::2] for output in event.tokens_classified.outputs]
    assert len(vectors) == len(tagged) == len(sentences)
    for (_, text), vector, words in zip(sentences, vectors, tagged, strict=True):
        encoding = model.tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
        with torch.inference_mode():
            out = model.network(
                encoding["input_ids"], token_type_ids=encoding["token_type_ids"], output_hidden_states=True
            )
        got = np.frombuffer(vector.embedding.data, "<f4").reshape(tuple(vector.embedding.shape))
        np.testing.assert_allclose(got, out.hidden_states[-1][0], atol=1e-5)
        scores = out.logits[0].softmax(-1)[1:-1].numpy()
        last = -1
        place = 0
        pieces = model.tokenizer.tokenize(text)[: len(scores)]
        for word in words.words:
            assert last <= word.start < word.end <= len(text)
            assert word.text == text[word.start : word.end]
            last = word.start
            assert word.label == LABELS[scores[place].argmax()]
            assert word.score == pytest.approx(scores[place].max(), abs=1e-5)
            while not pieces[place].endswith("</w>"):
                place += 1
            place += 1
