"""Heads: examples with labels, their batches, and models that learn them."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from xlmstream_worker.training.card import write_card
from xlmstream_worker.training.corpus import Aligned, CorpusError
from xlmstream_worker.training.export import export_model
from xlmstream_worker.training.labelled_batches import (
    SNIPPET_TOKENS,
    LabelledBatches,
    language_examples,
)
from xlmstream_worker.training.measure import label_accuracy, snippets
from xlmstream_worker.training.pipeline import run_recipe
from xlmstream_worker.training.recipe import Recipe
from xlmstream_worker.training.tag_examples import annotated_examples
from xlmstream_worker.training.trainer import Sitting
from xlmstream_worker.training.word_classes import TAGS
from xlmstream_worker.xlm import XLMForSequenceClassification, XLMForTokenClassification, XLMTokenizer

MakeRecipe = Callable[..., Recipe]
IDS = {"de": 0, "en": 1, "fr": 2}
SCHEDULE = {"steps": 60, "warmup_steps": 5, "peak_lr": 1e-2}
TAGGED = {"the": "DET", "dog": "NOUN", "king": "NOUN", "sees": "VERB", "hears": "VERB", "today": "ADV", ".": "PUNCT"}


@pytest.fixture(scope="module")
def tagged_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random word sequences in which every word has one tag."""
    source = random.Random(2)
    path = tmp_path_factory.mktemp("tags") / "pos.jsonl"
    rows = []
    for number in range(80):
        tokens = [source.choice(list(TAGGED)) for _ in range(source.randint(3, 8))]
        rows.append({"lang": "en", "id": str(number), "tokens": tokens, "upos": [TAGGED[word] for word in tokens]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_language_examples_carry_their_label_first(toy_corpus: dict[str, Aligned]) -> None:
    corpus = toy_corpus["valid"]
    examples = language_examples(corpus, IDS, max_positions=32)
    assert len(examples) == sum(len(corpus[lang]) for lang in corpus)
    assert [int(example.labels[0]) for example in examples] == sorted(int(example.labels[0]) for example in examples)
    assert all((example.labels[1:] == -100).all() for example in examples)
    first = snippets(examples, 3)[0]
    assert first.ids.tolist() == [1, *examples[0].ids[1:4].tolist(), 1]


def test_snippets_shorten_half_of_the_texts(toy_corpus: dict[str, Aligned]) -> None:
    examples = language_examples(toy_corpus["train"], IDS, max_positions=32)
    batches = LabelledBatches(examples, 256, seed=1, snippets=True)
    whole = {tuple(example.ids.tolist()) for example in examples}
    kept = shown = 0
    for number in range(40):
        batch = batches[number]
        for row, mask in zip(batch.ids.tolist(), batch.mask.tolist(), strict=True):
            ids = tuple(row[: int(sum(mask))])
            kept += ids in whole
            shown += 1
            assert ids in whole or len(ids) <= SNIPPET_TOKENS + 2
        assert batch.ids.numel() <= 256
        assert bool((batch.targets[:, 0] >= 0).all())
    assert 0.4 < kept / shown < 0.7


def test_tags_sit_on_the_first_piece_of_each_word(tagged_file: Path, toy_tokenizer: XLMTokenizer) -> None:
    splits = annotated_examples(tagged_file, toy_tokenizer, ["en"], max_positions=64)
    assert (len(splits["train"]["en"]), len(splits["test"]["en"])) == (64, 16)
    entry = json.loads(tagged_file.read_text().splitlines()[1])
    example = splits["train"]["en"][0]
    assert [TAGS[label] for label in example.labels if label >= 0] == entry["upos"]
    pieces = [toy_tokenizer.tokenize(word) for word in entry["tokens"]]
    starts = np.cumsum([1, *map(len, pieces)])[:-1]
    assert np.flatnonzero(example.labels >= 0).tolist() == starts.tolist()


def test_a_line_without_tags_is_named(tmp_path: Path, toy_tokenizer: XLMTokenizer) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text('{"lang": "en", "id": "1", "tokens": ["a"], "upos": ["NOTAG"]}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match="line 1: no sentence with tags"):
        annotated_examples(path, toy_tokenizer, ["en"], 32)


def test_a_language_model_learns_and_its_card_says_so(
    toy_file: Path, tmp_path: Path, make_recipe: MakeRecipe, toy_corpus: dict[str, Aligned]
) -> None:
    recipe = make_recipe(objectives={"language": {"batch_tokens": 512}}, schedule=SCHEDULE)
    run_recipe(recipe, [toy_file], tmp_path / "run", Sitting())
    export_model(tmp_path / "run", tmp_path / "model")
    model = XLMForSequenceClassification.from_pretrained(tmp_path / "model")
    assert model.config.id2label == {0: "de", 1: "en", 2: "fr"}
    assert label_accuracy(model, language_examples(toy_corpus["test"], IDS, 32)) > 0.9
    card = write_card(tmp_path / "model", [toy_file])
    assert "| toy, whole sentences | " in card
    assert "| toy, first 3 tokens | " in card


def test_a_tagger_learns_on_the_first_layers_of_a_body(
    toy_file: Path, tagged_file: Path, tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    body = make_recipe(objectives={"mlm": {"batch_tokens": 256}}, schedule=SCHEDULE | {"steps": 20})
    run_recipe(body, [toy_file], tmp_path / "body", Sitting())
    recipe = make_recipe(
        languages=["en"],
        architecture={"emb_dim": 32, "n_layers": 1, "n_heads": 2, "max_positions": 32},
        objectives={"tags": {"batch_tokens": 256}},
        schedule=SCHEDULE,
        init=str(tmp_path / "body" / "best"),
    )
    run_recipe(recipe, [tagged_file], tmp_path / "run", Sitting(), tmp_path / "body" / "tokenizer")
    export_model(tmp_path / "run", tmp_path / "model")
    model = XLMForTokenClassification.from_pretrained(tmp_path / "model")
    trained = XLMForTokenClassification.from_pretrained(tmp_path / "body" / "best", config=model.config)
    assert not torch.equal(model.classifier.weight, trained.classifier.weight)
    tokenizer = XLMTokenizer.from_pretrained(tmp_path / "model")
    assert label_accuracy(model, annotated_examples(tagged_file, tokenizer, ["en"], 32)["test"]["en"]) > 0.9
    assert "| accuracy over words | " in write_card(tmp_path / "model", [tagged_file])
