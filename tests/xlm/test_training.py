"""Training: gradients reach every parameter and equal the oracle's; each head learns a tiny task."""

import pytest
import torch
from xlmstream_worker import xlm
from xlmstream_worker.xlm import XLMConfig

IDS = torch.randint(5, 61, (4, 8), generator=torch.Generator().manual_seed(5))
CHOICES = torch.stack([IDS, IDS.flip(1)], dim=1)
TASKS = {
    "XLMWithLMHeadModel": {"input_ids": IDS, "labels": IDS.roll(1, 1)},
    "XLMForSequenceClassification": {"input_ids": IDS, "labels": torch.tensor([0, 1, 1, 0])},
    "XLMForMultipleChoice": {"input_ids": CHOICES, "labels": torch.tensor([0, 1, 1, 0])},
    "XLMForTokenClassification": {"input_ids": IDS, "labels": IDS % 2},
    "XLMForQuestionAnsweringSimple": {
        "input_ids": IDS,
        "start_positions": torch.tensor([1, 2, 3, 4]),
        "end_positions": torch.tensor([2, 3, 5, 7]),
    },
    "XLMForQuestionAnswering": {
        "input_ids": IDS,
        "start_positions": torch.tensor([1, 2, 3, 4]),
        "end_positions": torch.tensor([2, 3, 5, 7]),
        "cls_index": torch.zeros(4, dtype=torch.long),
        "is_impossible": torch.tensor([0.0, 1.0, 0.0, 1.0]),
    },
}


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("name", TASKS)
def test_gradients_equal_the_oracle(oracle, name, causal):
    ours, theirs = oracle.pair(getattr(xlm, name), torch.float64, causal=causal)
    for model in (ours, theirs):
        call = {key: value.double() if value.is_floating_point() else value for key, value in TASKS[name].items()}
        model(**call).loss.backward()
    expected = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[key].grad, rtol=0, atol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize("name", TASKS)
def test_each_head_learns_in_a_few_steps(oracle, name):
    torch.manual_seed(0)
    model = getattr(xlm, name)(XLMConfig(**oracle.sizes, embed_init_std=0.3)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = model(**TASKS[name]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_dropout_acts_in_training_only_and_everywhere_it_is_documented(oracle):
    ids = oracle.inputs(pads=0)["input_ids"]
    for field in ("dropout", "attention_dropout", "summary_first_dropout"):
        rates = {"dropout": 0.0, "attention_dropout": 0.0, "summary_first_dropout": 0.0, field: 0.5}
        model = xlm.XLMForSequenceClassification(XLMConfig(**oracle.sizes, **rates, init_std=0.3)).train()
        for attentions in (False, True):
            first, second = (model(ids, output_attentions=attentions).logits for _ in range(2))
            assert not torch.equal(first, second), field
        model.eval()
        assert torch.equal(model(ids).logits, model(ids).logits)


def test_dropped_attention_weights_are_scaled_up(oracle):
    model = xlm.XLMModel(XLMConfig(**oracle.sizes, attention_dropout=0.5, dropout=0.0)).train()
    weights = model(oracle.inputs(pads=0)["input_ids"], output_attentions=True).attentions[0]
    assert 0.3 < (weights == 0).float().mean() < 0.7
    assert weights.mean().item() == pytest.approx(1 / 9, rel=0.2)
