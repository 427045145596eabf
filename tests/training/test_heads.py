"""Heads trained together with the body they share: what is trained, written, read and said of it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from xlmstream_worker.training.card import make_card
from xlmstream_worker.training.corpus import CorpusError, encode_files
from xlmstream_worker.training.export import export_model, read_training
from xlmstream_worker.training.head_tasks import reader, with_all_languages
from xlmstream_worker.training.heads import BodyWithHeads
from xlmstream_worker.training.labelled_batches import language_examples
from xlmstream_worker.training.measure import label_accuracy
from xlmstream_worker.training.models import new_model
from xlmstream_worker.training.pipeline import run_recipe
from xlmstream_worker.training.recipe import Recipe
from xlmstream_worker.training.tag_examples import annotated_examples
from xlmstream_worker.training.trainer import Sitting, read_log
from xlmstream_worker.xlm import (
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMTokenizer,
    XLMWithLMHeadModel,
)

MakeRecipe = Callable[..., Recipe]
OBJECTIVES = {
    "mlm": {"batch_tokens": 256, "every": 2},
    "language": {"batch_tokens": 512},
    "tags": {"batch_tokens": 256},
}
SCHEDULE = {"steps": 200, "warmup_steps": 5, "peak_lr": 1e-2}
LANG2ID = {"de": 0, "en": 1, "fr": 2}


@pytest.fixture(scope="module")
def treebank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences in which every word has one tag."""
    tags = {"the": "DET", "dog": "NOUN", "king": "NOUN", "sees": "VERB", "hears": "VERB", "today": "ADV", ".": "PUNCT"}
    random = np.random.default_rng(2)
    rows = []
    for number in range(80):
        tokens = random.choice(list(tags), random.integers(3, 9)).tolist()
        rows.append({"lang": "en", "id": str(number), "tokens": tokens, "upos": [tags[word] for word in tokens]})
    path = tmp_path_factory.mktemp("tags") / "pos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(toy_file: Path, treebank: Path, make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, exported to `model` and the directories of the heads beside it."""
    directory = tmp_path_factory.mktemp("heads")
    recipe = make_recipe(objectives=OBJECTIVES, schedule=SCHEDULE)
    run_recipe(recipe, [toy_file, treebank], directory / "run", Sitting())
    export_model(directory / "run", directory / "model")
    return directory


def test_every_loss_falls(run: Path) -> None:
    lines = [line["train"] for line in read_log(run / "run") if "train" in line]
    assert all(lines[-1][name] < 0.9 * lines[0][name] for name in OBJECTIVES)
    assert all(set(line["valid"]) == set(OBJECTIVES) for line in read_log(run / "run") if "valid" in line)


def test_heads_and_body_are_one_model_in_training(make_recipe: MakeRecipe, toy_tokenizer: XLMTokenizer) -> None:
    model = new_model(make_recipe(objectives=OBJECTIVES), toy_tokenizer)
    assert isinstance(model, BodyWithHeads)
    assert sorted(model.heads) == ["language", "tags"]
    own = {name for name, _ in model.named_parameters() if name.startswith("heads.")}
    assert {name.split(".")[2] for name in own} == {"sequence_summary", "classifier"}
    ids = torch.tensor([[1, 20, 21, 1]])
    before = model.heads["tags"](ids).logits
    with torch.no_grad():
        model.lm.transformer.embeddings.weight.mul_(2)
    assert not torch.equal(model.heads["tags"](ids).logits, before)


def test_heads_work_on_the_exported_body(run: Path, toy_file: Path, treebank: Path) -> None:
    body = XLMWithLMHeadModel.from_pretrained(run / "model")
    language = XLMForSequenceClassification.from_pretrained(run / "model-language")
    tagger = XLMForTokenClassification.from_pretrained(run / "model-tags")
    for head in (language, tagger):
        assert torch.equal(head.transformer.embeddings.weight, body.transformer.embeddings.weight)
    tokenizer = XLMTokenizer.from_pretrained(run / "model-language")
    corpus = encode_files([toy_file], LANG2ID, reader("language", tokenizer))
    assert label_accuracy(language, language_examples(corpus["test"], LANG2ID, 32)) > 0.9
    tagged = annotated_examples(treebank, tokenizer, ["en"], 32)
    assert label_accuracy(tagger, tagged["test"]["en"]) > 0.9
    assert sum(path.stat().st_size for path in (run / "model-tags").iterdir()) < 20_000


def test_cards_of_heads_say_whose_they_are(run: Path, toy_file: Path) -> None:
    assert read_training(run / "model-tags").objective == "tags"
    assert read_training(run / "model").objective is None
    card = make_card(run / "model-language", [toy_file])
    assert card.startswith("# toy-language\n")
    assert "the body's, which lies in `model`" in " ".join(card.split())
    assert "[model](../model/README.md)" in card
    assert "| toy, whole sentences | " in card
    whole = make_card(run / "model", [toy_file])
    assert all(name in whole for name in OBJECTIVES if name != "mlm")


def test_resuming_continues_bit_for_bit(
    toy_file: Path, treebank: Path, tmp_path: Path, make_recipe: MakeRecipe
) -> None:
    recipe = make_recipe(objectives=OBJECTIVES, schedule=SCHEDULE | {"steps": 9}, validate_every=9)
    files = [toy_file, treebank]
    run_recipe(recipe, files, tmp_path / "whole", Sitting())
    for stop in (4, None):
        run_recipe(recipe, files, tmp_path / "parts", Sitting(until=stop))
    for name in ("best/model.safetensors", "best-language/head.safetensors", "best-tags/head.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_rules_that_carry_names_over_skip_files_that_lack_a_language(tmp_path: Path) -> None:
    whole, pairs = tmp_path / "whole.tsv", tmp_path / "pairs.tsv"
    whole.write_text("en\tfr\nthe dog\tle chien\n", encoding="utf-8")
    pairs.write_text("en\tde\nthe dog\tder Hund\n", encoding="utf-8")
    assert with_all_languages([whole, pairs], ["en", "fr"]) == [whole]
    with pytest.raises(CorpusError, match=r"none of whole\.tsv, pairs\.tsv has all of de, en, fr"):
        with_all_languages([whole, pairs], ["de", "en", "fr"])
