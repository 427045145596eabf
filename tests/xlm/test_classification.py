"""The labelling heads against the oracle: logits, losses of every kind, summaries, choices."""

import pytest
import torch
from xlmstream_worker.xlm import (
    XLMConfig,
    XLMForMultipleChoice,
    XLMForSequenceClassification,
    XLMForTokenClassification,
)

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}

SUMMARIES = {
    **{kind: {"summary_type": kind} for kind in ("first", "last", "mean", "cls_index")},
    "to width": {"summary_proj_to_labels": False},
    "no projection": {"summary_use_proj": False},
    **{name: {"summary_activation": name} for name in ("tanh", "gelu", "relu", "gelu_new", "silu", "sigmoid", "mish")},
    "no dropout": {"summary_first_dropout": 0.0, "summary_last_dropout": 0.0},
}


@DTYPES
@pytest.mark.parametrize("fields", SUMMARIES.values(), ids=SUMMARIES)
def test_sequence_classification_logits(oracle, fields, dtype):
    ours, theirs = oracle.pair(XLMForSequenceClassification, dtype, num_labels=3, **fields)
    call = oracle.inputs() | EVERYTHING
    oracle.assert_equal(ours(**call), theirs(**call), dtype)
    oracle.assert_equal(ours(**call, return_dict=False), theirs(**call, return_dict=False), dtype)


LABELS = {
    "regression": (1, torch.tensor([0.5, -1.0, 2.0])),
    "regression of columns": (1, torch.tensor([[0.5], [-1.0], [2.0]])),
    "single label": (3, torch.tensor([0, 2, 1])),
    "single label, one left out": (3, torch.tensor([0, -100, 1])),
    "multi label": (3, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]])),
}


@DTYPES
@pytest.mark.parametrize(("num_labels", "labels"), LABELS.values(), ids=LABELS)
def test_sequence_classification_loss_and_inferred_problem_type(oracle, num_labels, labels, dtype):
    ours, theirs = oracle.pair(XLMForSequenceClassification, dtype, num_labels=num_labels)
    labels = labels.to(dtype) if labels.is_floating_point() else labels
    call = oracle.inputs() | {"labels": labels}
    oracle.assert_equal(ours(**call), theirs(**call), dtype)
    assert ours.config.problem_type == theirs.config.problem_type


def test_a_given_problem_type_wins_and_integers_will_do(oracle):
    ours, theirs = oracle.pair(XLMForSequenceClassification, num_labels=3, problem_type="multi_label_classification")
    labels = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]])
    ids = oracle.inputs()
    oracle.assert_equal(ours(**ids, labels=labels), theirs(**ids, labels=labels.float()))
    ours, theirs = oracle.pair(XLMForSequenceClassification, num_labels=3, problem_type="regression")
    oracle.assert_equal(ours(**ids, labels=labels), theirs(**ids, labels=labels.float()))


def test_summary_reads_a_given_classification_position(oracle):
    config = XLMConfig(**oracle.sizes, summary_type="cls_index", summary_use_proj=False)
    model = XLMForSequenceClassification(config).eval()
    states = torch.randn(3, 5, 16)
    picked = model.sequence_summary(states, torch.tensor([0, 4, 2]))
    assert torch.equal(picked, torch.stack([states[0, 0], states[1, 4], states[2, 2]]))


def test_summary_types_that_do_not_exist_are_refused(oracle):
    with pytest.raises(NotImplementedError, match="attn"):
        XLMForSequenceClassification(XLMConfig(**oracle.sizes, summary_type="attn"))
    with pytest.raises(ValueError, match="summary_activation"):
        XLMForSequenceClassification(XLMConfig(**oracle.sizes, summary_activation="wave"))


@DTYPES
@pytest.mark.parametrize("summary_type", ["first", "last", "mean"])
def test_multiple_choice(oracle, summary_type, dtype):
    ours, theirs = oracle.pair(XLMForMultipleChoice, dtype, summary_type=summary_type, n_langs=2)
    ids = oracle.inputs(rows=6)["input_ids"].view(2, 3, 9)
    call = EVERYTHING | {
        "input_ids": ids,
        "attention_mask": (ids != 2).long(),
        "langs": ids % 2,
        "token_type_ids": ids % 2,
        "position_ids": torch.arange(9).flip(0).expand(2, 3, 9),
        "head_mask": torch.tensor([1.0, 0.5, 0.0, 1.0]),
        "labels": torch.tensor([2, 0]),
    }
    oracle.assert_equal(ours(**call), theirs(**call), dtype)
    oracle.assert_equal(ours(**call, return_dict=False), theirs(**call, return_dict=False), dtype)
    embeds = torch.randn(2, 3, 9, 16, dtype=dtype)
    oracle.assert_equal(ours(inputs_embeds=embeds), theirs(inputs_embeds=embeds), dtype)


def test_multiple_choice_says_that_it_ignores_lengths(oracle, caplog):
    model = XLMForMultipleChoice(XLMConfig(**oracle.sizes)).eval()
    ids = oracle.inputs(rows=6)["input_ids"].view(2, 3, 9)
    oracle.assert_equal(model(ids, lengths=torch.ones(2, 3)), model(ids))
    assert "lengths" in caplog.text
    with pytest.raises(ValueError, match=r"\(B, C, T\)"):
        model(ids[0])


@DTYPES
def test_token_classification(oracle, dtype):
    ours, theirs = oracle.pair(XLMForTokenClassification, dtype, num_labels=5)
    ids = oracle.inputs()["input_ids"]
    call = EVERYTHING | {"input_ids": ids, "labels": (ids % 5).where(ids != 2, -100)}
    oracle.assert_equal(ours(**call), theirs(**call), dtype)
    oracle.assert_equal(ours(**call, return_dict=False), theirs(**call, return_dict=False), dtype)
