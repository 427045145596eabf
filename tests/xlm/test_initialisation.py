"""Fresh weights, tied weights, pruning, and resizing the vocabulary."""

import pytest
import torch
from xlmstream_worker.xlm import ConfigError, XLMConfig, XLMForTokenClassification, XLMModel, XLMWithLMHeadModel

WIDE = {"vocab_size": 400, "emb_dim": 128, "n_layers": 1, "n_heads": 4, "n_langs": 60, "max_position_embeddings": 64}


def test_fresh_weights_have_the_specified_distributions():
    torch.manual_seed(0)
    model = XLMWithLMHeadModel(XLMConfig(**WIDE, embed_init_std=0.3, init_std=0.1, tie_word_embeddings=False))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            expected = 0.3 if "embeddings" in name else 0.1
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(parameter.mean().item()) < 0.05 * expected, name
    assert (model.transformer.embeddings.weight[2] == 0).all()


def test_sinusoidal_positions_equal_the_oracle_and_stay_frozen(oracle, tmp_path):
    fields = WIDE | {"sinusoidal_embeddings": True}
    import transformers

    theirs = transformers.XLMModel(transformers.XLMConfig(**fields)).position_embeddings.weight
    ours = XLMModel(XLMConfig(**fields))
    torch.testing.assert_close(ours.position_embeddings.weight.data, theirs.data, rtol=0, atol=1e-6)
    assert not ours.position_embeddings.weight.requires_grad
    ours.save_pretrained(tmp_path)
    assert not XLMModel.from_pretrained(tmp_path).position_embeddings.weight.requires_grad


def test_the_head_is_tied_only_when_the_configuration_says_so(oracle):
    tied = XLMWithLMHeadModel(XLMConfig(**oracle.sizes))
    assert tied.pred_layer.proj.weight is tied.transformer.embeddings.weight
    assert tied.get_output_embeddings() is tied.pred_layer.proj
    free = XLMWithLMHeadModel(XLMConfig(**oracle.sizes, tie_word_embeddings=False))
    assert free.pred_layer.proj.weight is not free.transformer.embeddings.weight


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "bit by bit"])
def test_pruned_models_equal_the_oracle_and_survive_saving(oracle, tmp_path, at_once):
    ours, theirs = oracle.pair(XLMForTokenClassification)
    theirs.prune_heads({0: [1, 3], 1: [0]})
    if at_once:
        ours.prune_heads({0: [3, 1], 1: [0]})
    else:
        ours.prune_heads({0: [3]})
        ours.prune_heads({0: [1], 1: [0]})
        ours.prune_heads({0: [3]})
    call = oracle.inputs() | {"output_attentions": True}
    oracle.assert_equal(ours(**call), theirs(**call))
    assert ours.config.pruned_heads == {0: [1, 3], 1: [0]}
    ours.save_pretrained(tmp_path / "pruned")
    oracle.assert_equal(XLMForTokenClassification.from_pretrained(tmp_path / "pruned")(**call), theirs(**call))
    again = type(theirs).from_pretrained(tmp_path / "pruned")
    oracle.assert_equal(ours(**call), again(**call))


def test_heads_that_do_not_exist_and_the_last_ones_are_not_pruned(oracle):
    model = XLMModel(XLMConfig(**oracle.sizes))
    for heads in ({0: [4]}, {2: [0]}, {0: [0, 1, 2, 3]}):
        with pytest.raises(ConfigError, match="pruned_heads"):
            model.prune_heads(heads)
    assert model.config.pruned_heads == {}
    assert model.attentions[0].n_heads == 4
    model.prune_heads({0: [0]})
    with pytest.raises(ValueError, match="head_mask"):
        model(oracle.inputs()["input_ids"], head_mask=torch.ones(4))


@pytest.mark.parametrize("size", [50, 80])
def test_a_resized_vocabulary_keeps_its_rows(oracle, size, tmp_path):
    model = XLMWithLMHeadModel(XLMConfig(**oracle.sizes)).eval()
    ids = oracle.inputs()["input_ids"] % 50
    before = model(ids).logits
    model.resize_token_embeddings(size)
    after = model(ids).logits
    kept = min(size, 61)
    assert after.shape[-1] == model.config.vocab_size == model.get_input_embeddings().num_embeddings == size
    torch.testing.assert_close(after[..., :kept], before[..., :kept])
    assert model.pred_layer.proj.weight is model.transformer.embeddings.weight
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(XLMWithLMHeadModel.from_pretrained(tmp_path)(ids).logits, after)
    with pytest.raises(ConfigError, match="pad_index"):
        model.resize_token_embeddings(2)
