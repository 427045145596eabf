"""Files of translation models: the native directory, and original facebookresearch `.pth` files made here in their
layout."""

import json
import os

import pytest
import torch
from xlm.plain_translation import PlainTranslator
from xlm.test_translation import SIZES, fresh
from xlmstream_worker.xlm import (
    CheckpointError,
    ConfigError,
    XLMDecoder,
    XLMEncoderDecoder,
    XLMEncoderDecoderConfig,
    XLMModel,
    XLMWithLMHeadModel,
    convert_original,
)

SPECIALS = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]
SOURCE = torch.tensor([[1, 20, 33, 7, 1]])
CALL = {"langs": torch.zeros_like(SOURCE), "target_langs": torch.tensor([2])}


def original(path, module="", **params):
    """A file as the original's trainer writes it: both models have a projection, and one set of options serves both."""
    model = fresh(tie_word_embeddings=params.get("share_inout_emb", True))
    encoder, decoder = model.encoder.state_dict(), model.decoder.state_dict()
    encoder["pred_layer.proj.weight"] = encoder["embeddings.weight"]
    encoder["pred_layer.proj.bias"] = torch.ones(41)
    words = [*SPECIALS, *(f"w{i}@@" if i % 2 else f"w{i}" for i in range(41 - len(SPECIALS)))]
    content = {
        "epoch": 3,
        "n_total_iter": 1000,
        "best_metrics": {},
        "encoder": {module + name: value for name, value in encoder.items()},
        "decoder": {module + name: value for name, value in decoder.items()},
        "encoder_optimizer": None,
        "dico_id2word": dict(enumerate(words)),
        "dico_word2id": {word: i for i, word in enumerate(words)},
        "dico_counts": dict.fromkeys(words, 1),
        "params": {
            "emb_dim": 16,
            "n_layers": 2,
            "n_heads": 4,
            "n_words": 41,
            "n_langs": 3,
            "lang2id": {"de": 0, "en": 1, "fr": 2},
            "id2lang": {0: "de", 1: "en", 2: "fr"},
            "gelu_activation": True,
            "encoder_only": False,
            "mt_steps": [("de", "en")],
            "some_tensor": torch.ones(3),
            **params,
        },
    }
    torch.save(content, path)
    return model


def test_a_saved_model_comes_back(tmp_path):
    model = fresh()
    model.save_pretrained(tmp_path)
    found = XLMEncoderDecoder.from_pretrained(tmp_path)
    assert not found.training
    expected = model.state_dict()
    assert expected.keys() == found.state_dict().keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
    assert found.decoder.pred_layer.proj.weight is found.decoder.embeddings.weight
    assert found.generate(SOURCE, **CALL, num_beams=3) == model.generate(SOURCE, **CALL, num_beams=3)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["XLMEncoderDecoder"]
    assert written["is_encoder_decoder"]
    assert (written["encoder"]["is_encoder"], written["decoder"]["is_encoder"]) == (True, False)
    assert XLMEncoderDecoderConfig.from_pretrained(tmp_path).encoder == model.config.encoder


def test_half_precision_is_stored_and_said(tmp_path):
    fresh().half().save_pretrained(tmp_path)
    assert XLMEncoderDecoderConfig.from_pretrained(tmp_path).dtype == "float16"
    assert XLMEncoderDecoder.from_pretrained(tmp_path).dtype == torch.float32
    assert XLMEncoderDecoder.from_pretrained(tmp_path, dtype="auto").dtype == torch.float16


@pytest.mark.parametrize("module", ["", "module."], ids=["one GPU", "several GPUs"])
@pytest.mark.parametrize("shared", [True, False], ids=["tied", "a projection of its own"])
def test_an_original_file_loads_translates_and_converts(tmp_path, module, shared):
    path = tmp_path / "mt.pth"
    expected = original(path, module, share_inout_emb=shared)
    found = XLMEncoderDecoder.from_pretrained(path)
    assert found.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in found.state_dict().items())
    assert found.config.decoder.lang2id == {"de": 0, "en": 1, "fr": 2}
    assert found.config.encoder.max_position_embeddings == SIZES["max_position_embeddings"]
    translation = found.generate(SOURCE, **CALL)[0][0].ids
    content = torch.load(path, weights_only=True)
    weights = [
        {name.removeprefix(module): value for name, value in content[side].items()} for side in ("encoder", "decoder")
    ]
    assert translation == PlainTranslator(*weights, heads=4).greedy(SOURCE[0], 0, 2, 17)[0]
    convert_original(path, tmp_path / "converted")
    again = XLMEncoderDecoder.from_pretrained(tmp_path / "converted")
    assert again.generate(SOURCE, **CALL)[0][0].ids == translation
    vocab = json.loads((tmp_path / "converted" / "vocab.json").read_text())
    assert sorted(vocab, key=vocab.__getitem__)[:17] == [*SPECIALS, "w0</w>", "w1", "w2</w>"]


def test_the_sides_may_differ_in_depth(tmp_path):
    path = tmp_path / "mt.pth"
    original(path, n_layers=9)
    content = torch.load(path)
    content["decoder"] = {name: value for name, value in content["decoder"].items() if ".1." not in name}
    torch.save(content, path)
    model = XLMEncoderDecoder.from_pretrained(path)
    assert (model.config.encoder.n_layers, model.config.decoder.n_layers) == (2, 1)


def test_a_decoder_starts_from_a_causal_language_model(tmp_path):
    model = fresh()
    decoder = model.decoder
    language_model = XLMWithLMHeadModel(type(decoder.config)(**SIZES, causal=True))
    language_model.save_pretrained(tmp_path)
    found, report = XLMDecoder.from_pretrained(tmp_path, is_encoder=False, output_loading_info=True)
    assert report.unexpected == []
    assert all(name.startswith(("layer_norm15.", "encoder_attn.")) for name in report.missing)
    assert torch.equal(found.attentions[1].q_lin.weight, language_model.transformer.attentions[1].q_lin.weight)
    assert torch.equal(found.pred_layer.proj.bias, language_model.pred_layer.proj.bias)


class Danger:
    """Unpickled, it would run a program."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


BROKEN = {
    "nothing in it": {},
    "no options": {"encoder": {}, "decoder": {}},
    "a language model": {"model": {}, "params": {}},
    "weights that are none": {"encoder": {"embeddings.weight": 3}, "decoder": {}, "params": {}},
    "weights missing": {"encoder": {}, "decoder": {}, "params": {"emb_dim": 16, "n_heads": 4}},
    "an impossible shape": {"encoder": {}, "decoder": {}, "params": {"emb_dim": -1}},
    "a dictionary that is none": {"encoder": {}, "decoder": {}, "params": {}, "dico_word2id": [1]},
    "code": {"encoder": {}, "decoder": {}, "params": Danger()},
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_other_files_are_refused_by_name(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=r"broken\.pth"):
        XLMEncoderDecoder.from_pretrained(tmp_path / "broken.pth")
    assert not (tmp_path / "unpickled").exists()


def test_a_translation_model_is_named_where_a_language_model_is_wanted(tmp_path):
    original(tmp_path / "mt.pth")
    with pytest.raises(CheckpointError, match="XLMEncoderDecoder"):
        XLMModel.from_pretrained(tmp_path / "mt.pth")


def test_incomplete_or_unfitting_weights_are_named(tmp_path):
    model = fresh()
    model.save_pretrained(tmp_path)
    model.encoder.save_pretrained(tmp_path / "encoder")
    (tmp_path / "encoder" / "config.json").write_text((tmp_path / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"encoder lacks encoder\.position_embeddings"):
        XLMEncoderDecoder.from_pretrained(tmp_path / "encoder")
    values = json.loads((tmp_path / "config.json").read_text())
    values["decoder"]["vocab_size"] = values["encoder"]["vocab_size"] = 50
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"encoder\.embeddings\.weight is \(41, 16\)"):
        XLMEncoderDecoder.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        XLMEncoderDecoder.from_pretrained(tmp_path / "absent")


@pytest.mark.parametrize(
    ("side", "change", "named"),
    [
        ("decoder", {"emb_dim": 32}, r"decoder\.emb_dim 32 must be encoder\.emb_dim 16"),
        ("decoder", {"vocab_size": 50}, r"decoder\.vocab_size 50"),
        ("decoder", {"is_encoder": True}, r"decoder\.is_encoder"),
        ("decoder", {"causal": False}, r"decoder\.causal"),
        ("encoder", {"causal": True}, r"encoder\.causal"),
        ("encoder", {"is_encoder": False}, r"encoder\.is_encoder"),
        ("encoder", {"n_layers": 0}, r"encoder: n_layers"),
        ("encoder", None, "section 'encoder'"),
    ],
)
def test_configurations_that_do_not_fit_are_named(side, change, named):
    values = fresh().config.to_dict()
    section = values[side]
    assert isinstance(section, dict)
    values[side] = change and section | change
    with pytest.raises(ConfigError, match=named):
        XLMEncoderDecoderConfig.from_dict(values)
