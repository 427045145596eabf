"""The adaptive softmax head, which the oracle has but cannot run: checked against torch's module row by row."""

import pytest
import torch
from xlmstream_worker.xlm import ConfigError, XLMConfig, XLMWithLMHeadModel
from xlmstream_worker.xlm.loading import LoadReport

ASM = {"asm": True, "asm_cutoffs": [20, 40], "asm_div_value": 2.0}


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_scores_are_log_probabilities_of_the_whole_vocabulary(oracle, tmp_path, safe):
    theirs = oracle.model("XLMWithLMHeadModel", **ASM)
    theirs.save_pretrained(tmp_path, safe_serialization=safe)
    ours, report = XLMWithLMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert report == LoadReport()
    ids = oracle.inputs()["input_ids"]
    labels = ids.where(torch.rand(ids.shape) < 0.5, -100)
    output = ours(ids, labels=labels)
    states = theirs.transformer(ids).last_hidden_state
    expected = torch.stack([theirs.pred_layer.proj.log_prob(row) for row in states])
    torch.testing.assert_close(output.logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.logits.exp().sum(-1), torch.ones(3, 9))
    kept = labels != -100
    mean = -expected[kept].gather(-1, labels[kept][:, None]).mean()
    torch.testing.assert_close(output.loss, mean, rtol=0, atol=1e-5)
    ours.save_pretrained(tmp_path / "ours")
    again = XLMWithLMHeadModel.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(ids).logits, ours(ids).logits)


def test_it_learns(oracle):
    torch.manual_seed(0)
    model = XLMWithLMHeadModel(XLMConfig(**oracle.sizes, **ASM, dropout=0.0))
    ids = oracle.inputs()["input_ids"]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("fields", [{}, {"asm_cutoffs": [20]}, {"asm_cutoffs": [99], "asm_div_value": 2.0}])
def test_it_needs_cutoffs_that_fit(oracle, fields):
    with pytest.raises(ConfigError, match="asm_cutoffs"):
        XLMWithLMHeadModel(XLMConfig(**oracle.sizes, asm=True, **fields))


def test_its_clusters_cannot_be_resized(oracle):
    with pytest.raises(NotImplementedError):
        XLMWithLMHeadModel(XLMConfig(**oracle.sizes, **ASM)).resize_token_embeddings(70)
