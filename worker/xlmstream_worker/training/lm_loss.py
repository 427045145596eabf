"""Cross-entropy over a large vocabulary, a few hundred rows at a time.

The logits of a whole batch (4096 tokens x 8192 entries x 4 bytes = 134 MB) leave every cache and dominate a training
step; in pieces they never exist together, and forward computes the gradients while a piece is warm.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK_ROWS = 512


def lm_loss(
    states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy of `states` (N, E) @ `weight` (V, E).T + `bias` (V,) with `targets` int64 (N,), a share
    `smoothing` of each target being spread over the whole vocabulary.

    `dtype` is that of the products; the result is float32. Differentiable in states, weight and bias, once.
    Equals `F.cross_entropy(F.linear(states, weight, bias), targets, label_smoothing=smoothing)` to the rounding of
    `dtype`.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, targets, dtype, smoothing
    )
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        smoothing: float,
    ) -> Tensor:
        N = states.shape[0]
        x, w, b = states.to(dtype), weight.to(dtype), bias.to(dtype)
        grad_x = torch.empty_like(x)
        grad_w, grad_b = torch.zeros_like(weight), torch.zeros_like(bias)
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        for start in range(0, N, CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            wanted = targets[rows, None]
            logits = torch.addmm(b, x[rows], w.t())
            if smoothing:
                # The mean log-likelihood over the vocabulary is that of the target plus the logits' mean distance.
                distance = logits.mean(1, keepdim=True, dtype=torch.float32) - logits.gather(1, wanted)
                total -= smoothing * distance.sum()
            # d loss / d logits is softmax - smoothed one-hot, built in place.
            residual = torch.softmax(logits, 1)
            likelihood = residual.gather(1, wanted)
            total -= likelihood.float().clamp_min(torch.finfo(torch.float32).tiny).log().sum()
            if smoothing:
                residual -= smoothing / residual.shape[1]
            residual.scatter_add_(1, wanted, torch.full_like(likelihood, smoothing - 1))
            grad_x[rows] = residual @ w
            grad_w += residual.t() @ x[rows]
            grad_b += residual.sum(0)
        ctx.save_for_backward(grad_x.to(states.dtype) / N, grad_w / N, grad_b / N)
        return total / N

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        grad_x, grad_w, grad_b = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad * grad_x, grad * grad_w, grad * grad_b, None, None, None
