"""Heads that share a body on disk: what is written and read again, what is refused, and one body in memory."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from xlmstream_worker.xlm import (
    CheckpointError,
    ConfigError,
    XLMConfig,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMTokenizer,
    XLMWithLMHeadModel,
)
from xlmstream_worker.xlm.loading import LoadReport
from xlmstream_worker.xlm.shared_body import body_directory

SIZES = {"vocab_size": 61, "emb_dim": 16, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 24, "n_langs": 3}
HEADS = [XLMForSequenceClassification, XLMForTokenClassification, XLMForQuestionAnsweringSimple]
IDS = torch.tensor([[1, 20, 30, 40, 1], [1, 50, 7, 1, 2]])
LANGS = torch.full_like(IDS, 2)


def config(**changes):
    return XLMConfig(**{**SIZES, "embed_init_std": 0.5, "init_std": 0.3, **changes})


@pytest.fixture
def body(tmp_path) -> Path:
    """A language model's directory, with a vocabulary."""
    torch.manual_seed(0)
    XLMWithLMHeadModel(config()).save_pretrained(tmp_path / "body")
    pieces = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{n}>" for n in range(10)), "a</w>"]
    (tmp_path / "body" / "vocab.json").write_text(json.dumps({piece: place for place, piece in enumerate(pieces)}))
    (tmp_path / "body" / "merges.txt").write_text("")
    return tmp_path / "body"


def make_head(body: Path, kind=XLMForTokenClassification, name="head", **changes):
    """A model with its head saved beside `body`, and its directory."""
    torch.manual_seed(7)
    labels = 2 if kind is XLMForQuestionAnsweringSimple else 5
    model = kind(config(num_labels=labels, **changes)).eval()
    model.transformer.load_state_dict(XLMModel.from_pretrained(body).state_dict(), strict=False)
    model.save_head(body.with_name(name), body)
    return model, body.with_name(name)


def logits(model, **inputs):
    output = model(IDS, **inputs)
    return torch.cat([value.flatten() for value in output.values()])


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_read_with_the_weights_of_its_body(body, kind):
    model, directory = make_head(body, kind)
    assert not [name for name in load_file(directory / "head.safetensors") if name.startswith("transformer.")]
    assert not (directory / "model.safetensors").exists()
    again, report = kind.from_pretrained(directory, output_loading_info=True)
    assert report == LoadReport()
    assert torch.equal(logits(again, langs=LANGS), logits(model, langs=LANGS))
    assert XLMTokenizer.from_pretrained(directory).encoder == XLMTokenizer.from_pretrained(body).encoder
    assert torch.equal(XLMModel.from_pretrained(directory)(IDS)[0], model.transformer(IDS)[0])


def test_a_bare_body_serves_heads_too(body, tmp_path):
    XLMModel.from_pretrained(body).save_pretrained(tmp_path / "bare")
    model, directory = make_head(tmp_path / "bare")
    again = XLMForTokenClassification.from_pretrained(directory)
    assert torch.equal(logits(again), logits(model))


def test_a_head_may_be_told_no_language(body):
    model, directory = make_head(body, n_langs=1)
    again, report = XLMForTokenClassification.from_pretrained(directory, output_loading_info=True)
    assert report == LoadReport()
    assert again.transformer.lang_embeddings is None
    assert torch.equal(logits(again, langs=LANGS), logits(model))


def test_saved_whole_it_stands_alone(body, tmp_path):
    model, directory = make_head(body)
    again = XLMForTokenClassification.from_pretrained(directory)
    for place in (tmp_path / "elsewhere", directory):  # the second replaces the head's files
        again.save_pretrained(place)
        assert body_directory(place) is None
        assert "body" not in json.loads((place / "config.json").read_text())
        assert torch.equal(logits(XLMForTokenClassification.from_pretrained(place)), logits(model))
    again.save_head(directory, body)
    assert body_directory(directory) == body
    assert not (directory / "model.safetensors").exists()


def test_a_head_lies_beside_its_body(body, tmp_path):
    model, _ = make_head(body)
    with pytest.raises(ValueError, match="not beside"):
        model.save_head(tmp_path / "deeper" / "head", body)


@pytest.mark.parametrize("name", [None, "", 7, "../body", "/body", "..", "."])
def test_a_body_is_a_directory_beside(body, name):
    _, directory = make_head(body)
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | {"body": name}))
    with pytest.raises(CheckpointError, match=r"config\.json: body must name the directory beside"):
        XLMForTokenClassification.from_pretrained(directory)


def test_a_missing_body_is_named(body):
    _, directory = make_head(body)
    body.rename(body.with_name("moved"))
    for load in (XLMForTokenClassification.from_pretrained, XLMTokenizer.from_pretrained):
        with pytest.raises(CheckpointError, match=r"body .body.: .*body holds no whole model"):
            load(directory)


def test_a_head_is_no_body(body):
    _, directory = make_head(body)
    _, other = make_head(body, name="other")
    values = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(values | {"body": directory.name}))
    with pytest.raises(CheckpointError, match="holds no whole model"):
        XLMForTokenClassification.from_pretrained(other)


def test_weights_of_a_body_are_refused_in_a_head(body):
    model, directory = make_head(body)
    save_file(model.state_dict(), directory / "head.safetensors")
    with pytest.raises(CheckpointError, match=r"holds weights of a body, which it shares: transformer\."):
        XLMForTokenClassification.from_pretrained(directory)


@pytest.mark.parametrize(
    ("changes", "problem"), [({"n_heads": 2}, "n_heads is 2 for the head and 4"), ({"n_langs": 2}, "n_langs is 2")]
)
def test_another_shape_is_refused(body, changes, problem):
    _, directory = make_head(body)
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(ConfigError, match=problem):
        XLMForTokenClassification.from_pretrained(directory)


@pytest.mark.parametrize("changes", [{}, {"n_langs": 1}])
def test_models_share_one_body_in_memory(body, changes):
    lm = XLMWithLMHeadModel.from_pretrained(body)
    _, directory = make_head(body, **changes)
    head = XLMForTokenClassification.from_pretrained(directory)
    before = logits(head, langs=LANGS)
    head.transformer.adopt(lm.transformer)
    shared = {parameter.data_ptr() for parameter in lm.transformer.parameters()}
    assert {parameter.data_ptr() for parameter in head.transformer.parameters()} <= shared
    assert torch.equal(logits(head, langs=LANGS), before)
    with torch.no_grad():
        lm.transformer.embeddings.weight.mul_(2)
    assert not torch.equal(logits(head, langs=LANGS), before)


def test_a_body_of_another_shape_is_not_adopted(body):
    with pytest.raises(ConfigError, match="vocab_size is 61 for the head and 62"):
        XLMModel.from_pretrained(body).adopt(XLMModel(config(vocab_size=62)))
