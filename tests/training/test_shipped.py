"""The models in the package: small, complete, loadable, and better than chance."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import xlmstream_worker
from xlmstream_worker.training.bars import TAGS
from xlmstream_worker.training.export import read_training
from xlmstream_worker.training.measure import embed, label_accuracy, retrieval_accuracy
from xlmstream_worker.training.models import CLASSES
from xlmstream_worker.training.tag_examples import annotated_examples
from xlmstream_worker.training.tag_figures import tagged_line
from xlmstream_worker.xlm import (
    XLMConfig,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMTokenizer,
    XLMWithLMHeadModel,
)
from xlmstream_worker.xlm.shared_body import body_directory

DEMO = Path(xlmstream_worker.__file__).parent / "demo"
TREEBANK = Path(__file__).parents[3] / "shared" / "data" / "pos.jsonl"
EXAMPLES = Path(__file__).parents[2] / "examples"
MODELS = sorted(path.name for path in DEMO.iterdir() if path.is_dir())
SENTENCES = {
    "de": "Und der HERR redete mit Mose und sprach:",
    "en": "The children of Israel went out of the land of Egypt.",
    "es": "Y dijo Jehová a los hijos de Israel:",
    "fr": "Les enfants d'Israël sortirent du pays d'Égypte.",
}


def test_there_are_two_bodies_and_heads_on_one_of_them() -> None:
    bodies = {name: body_directory(DEMO / name) for name in MODELS}
    assert [name for name, body in bodies.items() if body is None] == ["xlm-clm-demo", "xlm-mlm-demo"]
    heads = {name for name, body in bodies.items() if body == DEMO / "xlm-mlm-demo"}
    assert heads == {f"xlm-mlm-demo-{head}" for head in ("answers", "entities", "language", "tags")}


def test_all_models_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 30_000_000


@pytest.mark.parametrize("name", MODELS)
def test_a_model_directory_is_complete_and_loads(name: str) -> None:
    directory = DEMO / name
    training = read_training(directory)
    assert training.name == name
    model, report = CLASSES[training.objective].from_pretrained(directory, output_loading_info=True)
    assert report.missing == report.unexpected == report.mismatched == []
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    tokenizer = XLMTokenizer.from_pretrained(directory)
    assert len(tokenizer.encoder) == XLMConfig.from_pretrained(directory).vocab_size
    assert not [token for text in SENTENCES.values() for token in tokenizer.encode(text) if token == 3]
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")
    assert all(part in card for part in ("licence", "## Recipe", "## Measured", "## Recompute"))


@pytest.mark.parametrize("lang", sorted(SENTENCES))
def test_the_causal_model_prefers_its_language_and_word_order(lang: str) -> None:
    directory = DEMO / "xlm-clm-demo"
    model, tokenizer = XLMWithLMHeadModel.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    lang2id = model.config.lang2id
    words = tokenizer.encode(SENTENCES[lang], add_special_tokens=False, lang=lang)

    def nats(ids: list[int], language: str) -> float:
        inputs = torch.tensor([[1, *ids]])
        logits = model(inputs, langs=torch.full_like(inputs, lang2id[language])).logits
        return torch.nn.functional.cross_entropy(logits[0], torch.tensor([*ids, 1])).item()

    assert nats(words, lang) < nats(words[::-1], lang)
    assert nats(words, lang) == min(nats(words, other) for other in lang2id)


def test_the_language_model_knows_its_languages() -> None:
    directory = DEMO / "xlm-mlm-demo-language"
    model, tokenizer = XLMForSequenceClassification.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    guesses = {
        lang: model.config.id2label[int(model(torch.tensor([tokenizer.encode(text)])).logits.argmax())]
        for lang, text in SENTENCES.items()
    }
    assert guesses == {lang: lang for lang in SENTENCES}


def test_the_masked_model_brings_translations_together() -> None:
    directory = DEMO / "xlm-mlm-demo"
    model, tokenizer = XLMWithLMHeadModel.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    vectors = {
        lang: embed(
            model,
            [np.array(tokenizer.encode(text, add_special_tokens=False, lang=lang), dtype=np.int32) for text in texts],
        )
        for lang, texts in runpy.run_path(str(EXAMPLES / "sentences.py"))["SENTENCES"].items()
    }
    for lang in ("fr", "de", "es"):
        assert retrieval_accuracy(vectors["en"], vectors[lang]) > 0.9
        assert retrieval_accuracy(vectors[lang], vectors["en"]) > 0.9


@pytest.mark.parametrize(
    ("lang", "text", "tags"),
    [
        ("en", "The old king did not go to the house.", "DET ADJ NOUN AUX PART VERB ADP DET NOUN PUNCT"),
        ("de", "Der alte König ging nicht in das Haus.", "DET ADJ NOUN VERB PART ADP DET NOUN PUNCT"),
        ("es", "El rey no entró en la casa.", "DET NOUN ADV VERB ADP DET NOUN PUNCT"),
        ("fr", "Le roi n'entra pas dans la grande maison.", "DET NOUN ADV VERB ADV ADP DET ADJ NOUN PUNCT"),
    ],
)
def test_the_tagger_tells_parts_of_speech(lang: str, text: str, tags: str) -> None:
    directory = DEMO / "xlm-mlm-demo-tags"
    model, tokenizer = XLMForTokenClassification.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    found = tagged_line(model, tokenizer, model.config.id2label, text, lang)
    assert [each.rpartition("/")[2] for each in found.split()] == tags.split()


@pytest.mark.parametrize("lang", ["de", "en", "fr"])
def test_the_tagger_agrees_with_people_as_its_card_says(lang: str) -> None:
    if not TREEBANK.is_file():
        pytest.skip(f"{TREEBANK} is not here")
    directory = DEMO / "xlm-mlm-demo-tags"
    model, tokenizer = XLMForTokenClassification.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    splits = annotated_examples(TREEBANK, tokenizer, [lang], model.config.max_position_embeddings, model.config.lang2id)
    accuracy = label_accuracy(model, splits["train"][lang] + splits["test"][lang])
    assert accuracy >= TAGS["xlm-mlm-demo-tags"]
    languages, cells = card_rows(directory, "accuracy of the model")
    assert cells[languages.index(lang)] == f"{accuracy:.3f}"


def card_rows(directory: Path, name: str) -> tuple[list[str], list[str]]:
    """The languages of the card's table that has a row of this name, and the row's cells."""
    lines = (directory / "README.md").read_text(encoding="utf-8").splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith(f"| {name} |"))
    header = next(line for line in reversed(lines[:row]) if line.startswith("|  |"))
    return header.strip("| ").split(" | "), [cell.strip() for cell in lines[row].split("|")[2:-1]]


def test_the_entity_model_tells_who_from_where() -> None:
    directory = DEMO / "xlm-mlm-demo-entities"
    model, tokenizer = XLMForTokenClassification.from_pretrained(directory), XLMTokenizer.from_pretrained(directory)
    ids = tokenizer.encode("Moses went up to Egypt with forty men.", lang="en")
    inputs = torch.tensor([ids])
    labels = model(inputs, langs=torch.full_like(inputs, model.config.lang2id["en"])).logits[0].argmax(-1).tolist()
    found = {
        piece: model.config.id2label[label]
        for piece, label in zip(tokenizer.convert_ids_to_tokens(ids), labels, strict=True)
    }
    assert found["Moses</w>"] == "PERSON"
    assert found["Egypt</w>"] == "PLACE"
    assert found[tokenizer.tokenize("forty", lang="en")[0]] == "NUMBER"
    assert found["went</w>"] == "O"
