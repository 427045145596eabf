"""One biased linear layer, computed in the way that suits the number of rows.

On a CPU a decode step multiplies the same weights with one to a few dozen rows, and which routine does that fastest
depends on how many: the BLAS that torch links packs the weights anew on every call, which for a few rows costs more
than the product itself. Measured here (benchmarks/RESULTS.md): products of a handful of rows run up to 2.6 times as
fast the other way round, as W @ x.T, and from about six rows oneDNN is up to twice as fast. Results differ in the
last bits, as they do with any change of batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Up to this many rows and inputs, W @ x.T streams the weights once without packing them.
_FEW_ROWS = 4
_FEW_INPUTS = 2048
# oneDNN takes 30 to 50 us per call to wrap its operands: it pays for large weights or many rows.
_LARGE_WEIGHT = 2**20
_HUGE_WEIGHT = 2**23
_SOME_ROWS = 6
_MANY_ROWS = 16


class Linear:
    """x (N, inputs) to x @ weight.T + bias, (N, outputs)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """`weight` (outputs, inputs) and `bias` (outputs,) are shared, not copied; on a CPU in float32 oneDNN keeps a
        copy."""
        self.weight, self.bias = weight, bias
        self._small = weight.numel() < _LARGE_WEIGHT
        self._huge = weight.numel() >= _HUGE_WEIGHT
        self._few_inputs = weight.shape[1] <= _FEW_INPUTS
        self._onednn: tuple[Tensor, Tensor] | None = None
        self._on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
        if self._on_cpu and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            self._onednn = (weight.to_mkldnn(), bias.to_mkldnn())

    def __call__(self, x: Tensor) -> Tensor:
        if not self._on_cpu:
            return F.linear(x, self.weight, self.bias)
        rows = x.shape[0]
        if self._onednn is not None and self._suits_onednn(rows):
            y: Tensor = torch.ops.aten.mkldnn_linear(x.to_mkldnn(), *self._onednn).to_dense()
            return y
        if rows <= _FEW_ROWS and self._few_inputs:
            # One row alone would be a matrix-vector product, which is slower than the product with two.
            columns = x.repeat(2, 1) if rows == 1 else x
            return torch.mm(self.weight, columns.t())[:, :rows].t().contiguous().add_(self.bias)
        return F.linear(x, self.weight, self.bias)

    def _suits_onednn(self, rows: int) -> bool:
        if rows < _SOME_ROWS:
            return (self._huge and rows == 1) or (rows > 1 and not self._few_inputs and not self._small)
        return rows >= _MANY_ROWS or not self._small
