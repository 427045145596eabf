"""Question answering: examples made from text and read from files, spans found and measured, a model that learns."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from xlmstream_worker.training.answers import answered_words, asked_readings, made_readings
from xlmstream_worker.training.card import make_card
from xlmstream_worker.training.corpus import CorpusError, read_rows
from xlmstream_worker.training.export import export_model, read_training
from xlmstream_worker.training.labelled_batches import entity_examples, labelled_batch, spelled
from xlmstream_worker.training.names import ENTITIES
from xlmstream_worker.training.pipeline import learn_tokenizer, run_recipe
from xlmstream_worker.training.recipe import Recipe
from xlmstream_worker.training.span_measure import SpanQuality, answer_quality, best_span, span_quality
from xlmstream_worker.training.trainer import Sitting, read_log
from xlmstream_worker.xlm import XLMForQuestionAnsweringSimple, XLMForTokenClassification, XLMTokenizer

MakeRecipe = Callable[..., Recipe]
NAMES = ["David", "Joab", "Moses", "Aaron", "Saul", "Jacob", "Esau", "Noah"]
VERBS = [("saw", "vit"), ("heard", "entendit"), ("took", "prit"), ("found", "trouva")]
THINGS = [("the bread", "le pain"), ("the water", "l'eau"), ("the stone", "la pierre"), ("the sword", "le glaive")]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everybody does something to everything, in English and French."""
    lines = ["split\ten\tfr"]
    for index in range(400):
        name, verb, thing = NAMES[index % 8], VERBS[index // 8 % 4], THINGS[(index * 7 // 32) % 4]
        split = {0: "valid", 1: "test"}.get(index % 20, "train")
        lines.append(f"{split}\tAnd {name} {verb[0]} {thing[0]}.\tEt {name} {verb[1]} {thing[1]}.")
    path = tmp_path_factory.mktemp("story") / "story.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def recipe(make_recipe: MakeRecipe) -> Recipe:
    return make_recipe(
        languages=["en", "fr"],
        objectives={"answers": {"batch_tokens": 512}},
        schedule={"steps": 120, "warmup_steps": 5, "peak_lr": 1e-2},
        validate_every=60,
        architecture={"emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_positions": 64, "dropout": 0.0},
    )


@pytest.fixture(scope="module")
def tokenizer(recipe: Recipe, story: Path, tmp_path_factory: pytest.TempPathFactory) -> XLMTokenizer:
    return learn_tokenizer(recipe, [story], tmp_path_factory.mktemp("words"))


def test_made_examples_hold_their_answers(story: Path, tokenizer: XLMTokenizer) -> None:
    readings = made_readings([story], ["en", "fr"], tokenizer, 64)
    assert {reading.lang for reading in readings["train"]} == {"en", "fr"}
    assert made_readings([story], ["en", "fr"], tokenizer, 64, ["test"]) == {"test": readings["test"]}
    for reading in readings["train"] + readings["valid"]:
        example = reading.example
        first, last = example.labels[:2].tolist()
        assert reading.answer == answered_words(reading.pieces, reading.first, reading.last)
        assert [name.lower() for name in NAMES if name.lower() in reading.answer]
        assert tuple(example.ids[first : last + 1].tolist()) == reading.context[reading.first : reading.last + 1]
        assert (example.ids == 1).sum() == 3
        assert example.lang_id == {"en": 0, "fr": 1}[reading.lang]


def test_questions_of_people_are_read_and_long_contexts_windowed(tmp_path: Path, tokenizer: XLMTokenizer) -> None:
    context = "the water of the stone. " * 30 + "And Saul took the bread. " + "the water of the stone. " * 30
    entry = {"lang": "en", "question": "Who took the bread?", "context": context, "answer": "Saul"}
    path = tmp_path / "qa.jsonl"
    path.write_text(
        json.dumps(entry | {"answer_start": context.index("Saul")})
        + "\n"
        + json.dumps(entry | {"lang": "xx", "answer_start": 0})
        + "\n",
        encoding="utf-8",
    )
    [reading] = asked_readings(path, ["en"], tokenizer)
    assert reading.answer == ("saul",)
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(CorpusError, match="line 1"):
        asked_readings(path, ["en"], tokenizer)


def test_quality_counts_words() -> None:
    answers = [("the", "lord"), ("moses",), ("ten",)]
    assert span_quality(answers, answers) == SpanQuality(1.0, 1.0, 3)
    found = span_quality(answers, [("lord",), ("aaron",), ("ten",)])
    assert found.exact == pytest.approx(1 / 3)
    assert found.f1 == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_a_model_learns_to_answer_and_its_card_says_how_well(recipe: Recipe, story: Path, tmp_path: Path) -> None:
    run_recipe(recipe, [story], tmp_path / "run", Sitting())
    export_model(tmp_path / "run", tmp_path / "model")
    model = XLMForQuestionAnsweringSimple.from_pretrained(tmp_path / "model")
    tokenizer = XLMTokenizer.from_pretrained(tmp_path / "model")
    held = made_readings([story], ["en", "fr"], tokenizer, 64)["valid"]
    quality = answer_quality(model, held)
    guess = span_quality([reading.answer for reading in held], [answered_words(r.pieces, 0, 0) for r in held])
    assert quality.exact > guess.exact + 0.2
    # A context of several sequences: the windows cover it, and a span lies inside.
    long = made_readings([story], ["en"], tokenizer, 64)["valid"][0]
    padded = replace(long, context=long.context * 6, pieces=long.pieces * 6)
    first, last = best_span(model, padded)
    assert 0 <= first <= last < len(padded.context)
    assert last - first < 15
    card = make_card(tmp_path / "model", [story])
    assert "| template questions, held-out chapters: exact match |" in card
    assert read_training(tmp_path / "model").before is None
    assert [line for line in read_log(tmp_path / "run") if "valid" in line]


def test_entities_are_labelled_learned_and_measured(
    make_recipe: MakeRecipe, recipe: Recipe, story: Path, tokenizer: XLMTokenizer, tmp_path: Path
) -> None:
    rows = list(read_rows(story, ["en", "fr"]))
    examples = entity_examples(rows, ["en", "fr"], tokenizer, 64)
    batch = labelled_batch(examples["train"]["fr"][:4])
    assert batch.langs is not None
    assert batch.mask is not None
    assert torch.equal(batch.langs, batch.mask.long())  # French has the id 1
    example, row = examples["train"]["en"][0], next(row for row in rows if row.split == "train")
    words = [tokenizer.decode(list(word)) for word in spelled(example)]
    marked = [word for word, label in zip(words, example.labels[example.labels >= 0], strict=True) if label]
    assert " ".join(words) == row.texts["en"].replace(".", " .")
    assert marked == [name for name in NAMES if name in row.texts["en"]]
    tagger = make_recipe(
        languages=["en", "fr"],
        objectives={"entities": {"batch_tokens": 512}},
        validate_every=30,
        schedule={"steps": 60, "warmup_steps": 5, "peak_lr": 1e-2},
    )
    run_recipe(tagger, [story], tmp_path / "run", Sitting())
    export_model(tmp_path / "run", tmp_path / "model")
    model = XLMForTokenClassification.from_pretrained(tmp_path / "model")
    assert [model.config.id2label[index] for index in range(len(ENTITIES))] == list(ENTITIES)
    row = next(line for line in make_card(tmp_path / "model", [story]).splitlines() if line.startswith("| F1 PERSON |"))
    assert all(float(cell) > 0.9 for cell in row.split("|")[2:4])


def test_a_head_takes_layers_and_vectors_of_a_larger_body_and_remembers_it(
    make_recipe: MakeRecipe, recipe: Recipe, story: Path, tmp_path: Path
) -> None:
    body = make_recipe(
        languages=["en", "fr"],
        objectives={"mlm": {"batch_tokens": 256}},
        vocabulary_size=440,
        architecture={"emb_dim": 32, "n_layers": 3, "n_heads": 2, "max_positions": 64},
    )
    run_recipe(body, [story], tmp_path / "body", Sitting(until=20))
    export_model(tmp_path / "body", tmp_path / "model")
    whole = XLMTokenizer.from_pretrained(tmp_path / "model")
    head = replace(recipe, init=str(tmp_path / "model"), vocabulary_size=400, validate_every=2)
    run_recipe(head, [story], tmp_path / "head", Sitting(until=2), tmp_path / "model")
    cut = XLMTokenizer.from_pretrained(tmp_path / "head" / "tokenizer")
    assert len(cut.encoder) == 400 < len(whole.encoder)
    in_order = sorted(whole.encoder, key=lambda token: whole.encoder[token])
    assert [token for token in in_order if token in cut.encoder] == list(cut.encoder)
    text = "And Moses heard the water."
    assert "".join(cut.tokenize(text, lang="en")) == "".join(whole.tokenize(text, lang="en"))
    export_model(tmp_path / "head", tmp_path / "out")
    training = read_training(tmp_path / "out")
    assert training.before is not None
    assert training.before.recipe.objectives == body.objectives
    assert training.recipe.init == "model"
    assert training.before.progress.step == 20
