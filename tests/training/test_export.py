"""Exported models, read by transformers (the oracle) and by this library."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from xlmstream_worker.training.corpus import Aligned
from xlmstream_worker.training.export import export_model, read_training
from xlmstream_worker.training.measure import (
    embed,
    fill_mask_accuracy,
    held_out,
    perplexity,
    retrieval_accuracy,
    wrapped,
)
from xlmstream_worker.training.pipeline import run_recipe
from xlmstream_worker.training.recipe import Recipe
from xlmstream_worker.training.samples import sample_texts
from xlmstream_worker.training.trainer import Sitting
from xlmstream_worker.xlm import XLMTokenizer, XLMWithLMHeadModel

MakeRecipe = Callable[..., Recipe]
TEXT = "The dog sees the king, and today hears not a cat."


@pytest.fixture(scope="module")
def causal(toy_file: Path, tmp_path_factory: pytest.TempPathFactory, make_recipe: MakeRecipe) -> Path:
    return exported(make_recipe, toy_file, tmp_path_factory.mktemp("causal"), {"clm": {"batch_tokens": 256}})


@pytest.fixture(scope="module")
def masked(toy_file: Path, tmp_path_factory: pytest.TempPathFactory, make_recipe: MakeRecipe) -> Path:
    objectives = {"mlm": {"batch_tokens": 512}, "ranking": {"batch_pairs": 24}}
    return exported(make_recipe, toy_file, tmp_path_factory.mktemp("masked"), objectives)


def exported(make_recipe: MakeRecipe, toy_file: Path, folder: Path, objectives: dict[str, object]) -> Path:
    recipe = make_recipe(objectives=objectives, schedule={"steps": 80, "warmup_steps": 5, "peak_lr": 1e-2})
    run_recipe(recipe, [toy_file], folder / "run", Sitting())
    export_model(folder / "run", folder / "model")
    return folder / "model"


@pytest.mark.parametrize("kind", ["causal", "masked"])
def test_transformers_computes_the_same_logits(kind: str, request: pytest.FixtureRequest) -> None:
    transformers = pytest.importorskip("transformers")
    directory: Path = request.getfixturevalue(kind)
    ours, theirs = (cls.from_pretrained(directory) for cls in (XLMWithLMHeadModel, transformers.XLMWithLMHeadModel))
    theirs.float().eval()
    tokenizer = XLMTokenizer.from_pretrained(directory)
    reference = transformers.XLMTokenizer.from_pretrained(directory)
    ids = tokenizer.encode(TEXT)
    assert ids == reference.encode(TEXT)
    assert ids[0] == ids[-1] == 1
    inputs = {"input_ids": torch.tensor([ids]), "langs": torch.full((1, len(ids)), 1)}
    with torch.no_grad():
        found, expected = ours(**inputs).logits, theirs(**inputs).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        # What transformers' own calls add, token types of 0, changes nothing.
        typed = ours(**inputs, token_type_ids=torch.zeros_like(inputs["input_ids"])).logits
    torch.testing.assert_close(typed, found, atol=0, rtol=0)


def test_the_directory_is_small_and_says_how_it_is_served(causal: Path) -> None:
    assert json.loads((causal / "xlmstream.json").read_text()) == {"default_language": "en", "input_format": "original"}
    training = read_training(causal)
    assert training.recipe.name == "toy"
    assert training.progress.step == 80
    parameters = sum(p.numel() for p in XLMWithLMHeadModel.from_pretrained(causal).parameters())
    assert (causal / "model.safetensors").stat().st_size < 2 * parameters + 10_000


def test_perplexity_is_that_of_a_plain_forward(causal: Path, toy_corpus: dict[str, Aligned]) -> None:
    model, tokenizer = XLMWithLMHeadModel.from_pretrained(causal), XLMTokenizer.from_pretrained(causal)
    corpus = toy_corpus["valid"]
    measured = perplexity(model, tokenizer, corpus, "en", per_sentence=True)
    nats, tokens = 0.0, 0
    for index in range(len(corpus["en"])):
        ids = torch.from_numpy(wrapped(corpus["en"][index], 32)).long()[None]
        logits = model(ids[:, :-1], langs=torch.ones_like(ids[:, :-1])).logits
        nats += torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    assert measured.tokens == tokens
    assert measured.per_token == pytest.approx(torch.tensor(nats / tokens).exp().item(), rel=1e-4)
    assert measured.per_word > measured.per_token
    assert measured.per_token < 25


def test_samples_are_drawn_by_seed_and_keep_the_prompt(causal: Path) -> None:
    model, tokenizer = XLMWithLMHeadModel.from_pretrained(causal), XLMTokenizer.from_pretrained(causal)
    first = sample_texts(model, tokenizer, "the dog", "en", count=3, max_tokens=12)
    assert first == sample_texts(model, tokenizer, "the dog", "en", count=3, max_tokens=12)
    assert all(text.startswith("the dog") for text in first)
    assert first[1:] == sample_texts(model, tokenizer, "the dog", "en", count=2, max_tokens=12, first_seed=2)
    assert len(set(first)) > 1


def test_masked_measures(masked: Path, toy_corpus: dict[str, Aligned]) -> None:
    model = XLMWithLMHeadModel.from_pretrained(masked)
    rows = held_out(toy_corpus, ["en", "fr"], 50)
    assert len(rows["en"]) == len(rows["fr"]) == 50
    filled = fill_mask_accuracy(model, rows["en"])
    assert 0.02 < filled[1] <= filled[5] <= 1
    english, french = embed(model, rows["en"]), embed(model, rows["fr"])
    assert retrieval_accuracy(english, english[::-1].copy()) < 0.2
    assert retrieval_accuracy(english, french) > 0.3
