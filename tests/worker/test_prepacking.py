"""Prepacked layers: the same values, no second copy of the weights, and nothing but serving from then on."""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from xlmstream_worker.linear import Linear, rows_for
from xlmstream_worker.prepacking import PrepackedLinear, prepack
from xlmstream_worker.xlm import XLMConfig, XLMModel, encode_packed, pack
from xlmstream_worker.xlm.packed import PART_TOKENS, PackedEncoding

CHANGES = {
    "bidirectional": {"n_langs": 3},
    "causal": {"causal": True},
    "relu, pruned": {"gelu_activation": False, "pruned_heads": {1: [0, 2]}},
}


@pytest.fixture(params=CHANGES)
def model(request: pytest.FixtureRequest) -> XLMModel:
    sizes = {"vocab_size": 61, "emb_dim": 32, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 600}
    torch.manual_seed(0)
    settings = {**sizes, **CHANGES[request.param]}
    return XLMModel(XLMConfig(**settings, embed_init_std=0.5, init_std=0.3)).eval()


def sequences(count: int, longest: int) -> list[list[int]]:
    generator = random.Random(count)
    return [[generator.randrange(61) for _ in range(generator.randint(1, longest))] for _ in range(count)]


@pytest.mark.parametrize(("count", "longest"), [(1, 1), (7, 9), (40, 60), (3, 600)])
def test_prepacked_layers_give_what_plain_ones_give(model: XLMModel, count: int, longest: int) -> None:
    batch = pack(sequences(count, longest))
    plain = encode_packed(model, batch).values
    assert prepack(model)
    torch.testing.assert_close(encode_packed(model, batch).values, plain, rtol=0, atol=1e-5)


def test_every_layer_is_replaced_and_no_weight_is_kept(model: XLMModel) -> None:
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linears) == 3 * 6
    prepack(model)
    replaced = [module for module in model.modules() if isinstance(module, PrepackedLinear)]
    assert len(replaced) == len(linears)
    assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())
    assert all(module.linear.weight.numel() == 0 for module in replaced)
    assert not any(name.rpartition(".")[0].endswith(("_lin", "lin1", "lin2")) for name, _ in model.named_parameters())


def test_a_prepacked_model_is_not_saved(model: XLMModel, tmp_path: Path) -> None:
    prepack(model)
    with pytest.raises(ValueError, match="only serves"):
        model.state_dict()
    with pytest.raises(ValueError, match="only serves"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_are_left_as_they_are(model: XLMModel, dtype: torch.dtype) -> None:
    model.to(dtype)
    names = set(model.state_dict())
    assert not prepack(model)
    assert set(model.state_dict()) == names


def test_a_copy_made_before_can_still_be_trained(model: XLMModel) -> None:
    trained = deepcopy(model).train()
    prepack(model)
    states = trained(torch.tensor([[5, 6, 7]])).last_hidden_state
    states.sum().backward()
    assert all(block.ffn.lin1.weight.grad is not None for block in trained.blocks())


def test_few_different_numbers_of_rows_pass_the_layers(model: XLMModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one costs oneDNN memory for as long as the process lives."""
    seen: set[int] = set()
    product = Linear.__call__

    def noted(self: Linear, x: torch.Tensor) -> torch.Tensor:
        seen.add(rows_for(len(x)))
        return product(self, x)

    monkeypatch.setattr(Linear, "__call__", noted)
    prepack(model)
    for count in range(1, 120):
        PackedEncoding(model, pack(sequences(count, 40))).advance(1)
    assert max(seen) <= PART_TOKENS
    assert len(seen) <= len({rows_for(rows) for rows in range(1, PART_TOKENS + 1)}) == 32


@pytest.mark.parametrize("kept", [True, False])
def test_a_linear_layer_forgets_its_weight_but_not_what_one_row_is_read_from(kept: bool) -> None:
    torch.manual_seed(0)
    shape = (24, 16) if kept else (2048, 1024)
    weight, bias = torch.randn(shape) * 0.1, torch.randn(shape[0])
    linear = Linear(weight, bias)
    linear.forget_weight()
    assert (linear.weight.numel() > 0) == kept
    for rows in (1, 3):
        x = torch.randn(rows, shape[1])
        assert torch.allclose(linear(x), torch.nn.functional.linear(x, weight, bias), atol=1e-4)
