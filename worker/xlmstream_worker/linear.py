"""One biased linear layer for the few rows of a decode step, or the few hundred of an encoder's part.

On a CPU such a product is bound by reading the weights, and the BLAS that torch links packs them anew on every call.
oneDNN keeps them packed: measured with 1 to 512 rows (benchmarks/RESULTS.md) it takes a third to four fifths of the
time of `F.linear`, but for one row of a small layer, where the plain call is the quicker one. It also keeps code made
for each number of rows, half a megabyte every time: so it is shown few different numbers. Results differ in the last
bits, as they do with any change of batch size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# With one row, weights up to this size are read faster than oneDNN is called.
_SMALL_WEIGHT = 2**21
# Rows the weights are packed for: one is another layout, this one suits any number.
_PACKED_FOR = 16


class Linear:
    """x (N, inputs) to x @ weight.T + bias, (N, outputs)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """`weight` (outputs, inputs) and `bias` (outputs,) are shared, not copied; on a CPU in float32 oneDNN keeps a
        copy."""
        self.weight, self.bias = weight, bias
        self._small = weight.numel() < _SMALL_WEIGHT
        self._packed: Tensor | None = None
        on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
        if on_cpu and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _PACKED_FOR)

    def forget_weight(self, *, small: bool = False) -> None:
        """Let go of `weight`, which is empty from then on, where oneDNN's copy serves all numbers of rows.

        `small`: also where one row is quicker without oneDNN.
        """
        if self._packed is not None and (small or not self._small):
            self.weight, self._small = self.weight.new_empty(0), False

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if self._packed is None or (self._small and rows == 1):
            return F.linear(x, self.weight, self.bias)
        padded = rows_for(rows)
        if padded > rows:
            x = torch.cat([x, x[: padded - rows]])  # any rows will do
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y[:rows] if padded > rows else y


def rows_for(rows: int) -> int:
    """The number of rows to compute for this many: the next of 1 to 8, 10, 12, 14, 16, 20, 24, 28, 32, 40 and so on."""
    step = 1 << max(rows.bit_length() - 3, 0)
    if rows == 1 << (rows.bit_length() - 1):
        return rows
    return -(-rows // step) * step
