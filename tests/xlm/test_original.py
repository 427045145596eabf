"""Original facebookresearch `.pth` files, made here in the original's layout, against the oracle."""

import json
from pathlib import Path

import pytest
import torch
from transformers import XLMWithLMHeadModel as OracleLM
from xlmstream_worker.xlm import CheckpointError, XLMModel, XLMWithLMHeadModel, convert_original
from xlmstream_worker.xlm.loading import LoadReport

SPECIALS = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]


def original(oracle, path: Path, module: str = "", **params: object) -> Path:
    state = oracle.model("XLMWithLMHeadModel", n_langs=2).state_dict()
    words = [*SPECIALS, *(f"w{i}@@" if i % 2 else f"w{i}" for i in range(61 - len(SPECIALS)))]
    content = {
        "model": {module + key.removeprefix("transformer."): value for key, value in state.items()},
        "params": {
            "emb_dim": 16,
            "n_layers": 2,
            "n_heads": 4,
            "n_words": 61,
            "n_langs": 2,
            "lang2id": {"en": 0, "fr": 1},
            "id2lang": {0: "en", 1: "fr"},
            "gelu_activation": True,
            "bptt": 256,
            "lambda_mlm": "1",
            "some_tensor": torch.ones(3),
            **params,
        },
        "dico_id2word": dict(enumerate(words)),
        "dico_word2id": {word: i for i, word in enumerate(words)},
        "dico_counts": dict.fromkeys(words, 1),
    }
    torch.save(content, path)
    return path


@pytest.mark.parametrize("module", ["", "module."], ids=["one GPU", "several GPUs"])
def test_it_loads_directly_and_converts(oracle, tmp_path, module):
    path = original(oracle, tmp_path / "mlm.pth", module)
    theirs = oracle.model("XLMWithLMHeadModel", n_langs=2)
    ours, report = XLMWithLMHeadModel.from_pretrained(path, output_loading_info=True)
    assert report == LoadReport()
    call = oracle.inputs() | {"langs": torch.ones(3, 9, dtype=torch.long)}
    oracle.assert_equal(ours(**call), theirs(**call))
    assert ours.config.lang2id == {"en": 0, "fr": 1}
    assert ours.config.bptt == 256
    assert ours.config.max_position_embeddings == 24
    bare = XLMModel.from_pretrained(path)
    assert torch.equal(bare(**call).last_hidden_state, ours.transformer(**call).last_hidden_state)
    convert_original(path, tmp_path / "converted")
    oracle.assert_equal(OracleLM.from_pretrained(tmp_path / "converted")(**call), theirs(**call))


def test_the_dictionary_is_respelt_word_ends_marked_instead_of_continuations(oracle, tmp_path):
    path = original(oracle, tmp_path / "mlm.pth")
    convert_original(path, tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    assert list(vocab.values()) == [vocab[token] for token in sorted(vocab)]
    by_id = sorted(vocab, key=vocab.__getitem__)
    assert by_id[:14] == SPECIALS
    assert by_id[14:18] == ["w0</w>", "w1", "w2</w>", "w3"]
    assert len(by_id) == 61


def test_a_head_of_its_own_is_kept(oracle, tmp_path):
    path = original(oracle, tmp_path / "mlm.pth", share_inout_emb=False)
    content = torch.load(path)
    content["model"]["pred_layer.proj.weight"] = torch.ones(61, 16)
    torch.save(content, path)
    model = XLMWithLMHeadModel.from_pretrained(path)
    assert (model.pred_layer.proj.weight == 1).all()


BROKEN = {
    "a list": [1, 2],
    "nothing in it": {},
    "weights alone": {"model": {}},
    "a translation model": {"encoder": {}, "decoder": {}, "params": {}},
    "weights that are none": {"model": {"embeddings.weight": 3}, "params": {}},
    "an impossible shape": {"model": {}, "params": {"emb_dim": -1}},
    "a dictionary that is none": {"model": {}, "params": {}, "dico_word2id": [1]},
    "ids that are none": {"model": {}, "params": {}, "dico_word2id": {"a": "b"}},
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "broken.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"broken\.pth"):
        XLMWithLMHeadModel.from_pretrained(path)


def test_a_damaged_file_is_refused_by_name(tmp_path):
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(CheckpointError, match=r"damaged\.pth"):
        XLMModel.from_pretrained(tmp_path / "damaged.pth")
