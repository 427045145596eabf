"""Both question-answering models against the oracle, training and inference."""

import pytest
import torch
from xlmstream_worker.xlm import (
    XLMConfig,
    XLMForQuestionAnswering,
    XLMForQuestionAnsweringOutput,
    XLMForQuestionAnsweringSimple,
)

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}
STARTS, ENDS = torch.tensor([1, 2, 0]), torch.tensor([3, 5, 8])


@DTYPES
@pytest.mark.parametrize("starts", [STARTS, torch.tensor([[-3], [40], [9]])], ids=["inside", "outside, as a column"])
def test_simple_spans(oracle, starts, dtype):
    ours, theirs = oracle.pair(XLMForQuestionAnsweringSimple, dtype)
    call = oracle.inputs() | EVERYTHING
    oracle.assert_equal(ours(**call), theirs(**call), dtype)
    call |= {"start_positions": starts, "end_positions": ENDS}
    oracle.assert_equal(ours(**call), theirs(**call), dtype)
    oracle.assert_equal(ours(**call, return_dict=False), theirs(**call, return_dict=False), dtype)
    call.pop("end_positions")
    assert ours(**call).loss is None


def test_simple_spans_need_two_labels(oracle):
    with pytest.raises(ValueError, match="num_labels must be 2"):
        XLMForQuestionAnsweringSimple(XLMConfig(**oracle.sizes, num_labels=3))


def p_mask() -> torch.Tensor:
    mask = torch.zeros(3, 9)
    mask[:, 0] = 1
    mask[1, 6:] = 1
    return mask


OPTIONS = {
    "plain": {},
    "p_mask": {"p_mask": p_mask()},
    "cls_index": {"cls_index": torch.tensor([0, 3, 8])},
    "cls_index and p_mask": {"cls_index": torch.tensor([0, 3, 8]), "p_mask": p_mask()},
}


@DTYPES
@pytest.mark.parametrize("tops", [(5, 5), (2, 4), (1, 9)], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_span_search(oracle, options, tops, dtype):
    ours, theirs = oracle.pair(XLMForQuestionAnswering, dtype, start_n_top=tops[0], end_n_top=tops[1])
    call = {**oracle.inputs(), **EVERYTHING, **{name: tensor.clone() for name, tensor in options.items()}}
    if "p_mask" in call:
        call["p_mask"] = call["p_mask"].to(dtype)
    output = ours(**call)
    assert isinstance(output, XLMForQuestionAnsweringOutput)
    oracle.assert_equal(output, theirs(**call), dtype)
    oracle.assert_equal(ours(**call, return_dict=False), theirs(**call, return_dict=False), dtype)


@DTYPES
@pytest.mark.parametrize("impossible", [None, torch.tensor([0.0, 1.0, 0.0])], ids=["answerable", "SQuAD 2"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_span_search_loss(oracle, options, impossible, dtype):
    ours, theirs = oracle.pair(XLMForQuestionAnswering, dtype)
    call = oracle.inputs() | {"start_positions": STARTS, "end_positions": torch.tensor([3, 5, 8]), **EVERYTHING}
    call |= {name: tensor.clone() for name, tensor in options.items()}
    if "p_mask" in call:
        call["p_mask"] = torch.zeros(3, 9, dtype=dtype).index_fill(1, torch.tensor([4]), 1)
    if impossible is not None:
        call["is_impossible"] = impossible.to(dtype)
    oracle.assert_equal(ours(**call), theirs(**call), dtype)
    oracle.assert_equal(ours(**call, return_dict=False), theirs(**call, return_dict=False), dtype)


def test_span_search_takes_integers_and_leaves_its_arguments_alone(oracle):
    ours, _ = oracle.pair(XLMForQuestionAnswering)
    ids = oracle.inputs()
    positions = {"start_positions": STARTS[:, None], "end_positions": ENDS[:, None], "cls_index": STARTS[:, None]}
    floats = ours(**ids, **positions, is_impossible=torch.tensor([0.0, 1.0, 0.0]), p_mask=torch.zeros(3, 9))
    integers = ours(**ids, **positions, is_impossible=torch.tensor([[0], [1], [0]]), p_mask=torch.zeros(3, 9).long())
    assert torch.equal(floats.loss, integers.loss)
    assert positions["cls_index"].shape == (3, 1)


def test_forbidden_positions_are_never_found_in_half_precision_either(oracle):
    model = XLMForQuestionAnswering(XLMConfig(**oracle.sizes)).eval().bfloat16()
    output = model(**oracle.inputs(), p_mask=torch.ones(3, 9).index_fill(1, torch.arange(2, 7), 0))
    assert output.start_top_index.min() >= 2
    assert output.start_top_index.max() < 7


def test_span_search_needs_as_many_positions_as_candidates(oracle):
    model = XLMForQuestionAnswering(XLMConfig(**oracle.sizes)).eval()
    with pytest.raises(ValueError, match="start_n_top 5"):
        model(torch.full((1, 4), 7))
