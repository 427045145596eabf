"""The chunked loss against torch's."""

import pytest
import torch
from torch.nn import functional as F
from xlmstream_worker.training.lm_loss import CHUNK_ROWS, lm_loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("rows", [1, 7, CHUNK_ROWS + 3])
def test_value_and_gradients_equal_the_plain_computation(rows: int, smoothing: float) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(rows, 8), torch.randn(50, 8), torch.randn(50)]
    targets = torch.randint(0, 50, (rows,))
    ours = [tensor.clone().requires_grad_() for tensor in tensors]
    plain = [tensor.clone().requires_grad_() for tensor in tensors]
    # The factor checks that the incoming gradient is used.
    loss = 3 * lm_loss(*ours, targets, torch.float32, smoothing)
    expected = 3 * F.cross_entropy(F.linear(*plain), targets, label_smoothing=smoothing)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_bfloat16_products_keep_float32_gradients_close() -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(64, 32, requires_grad=True), torch.randn(90, 32, requires_grad=True)
    targets = torch.randint(0, 90, (64,))
    loss = lm_loss(states, weight, torch.zeros(90), targets, torch.bfloat16)
    loss.backward()
    expected = F.cross_entropy(states @ weight.t(), targets)
    assert loss.dtype == states.grad.dtype == torch.float32
    assert abs(loss.item() - expected.item()) < 0.02 * expected.item()
