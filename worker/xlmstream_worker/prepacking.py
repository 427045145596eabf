"""The linear layers of an encoder that only serves, their weights laid out by oneDNN once instead of on every call.

    prepack(body)      # from here on an XLMModel for `encode_packed` alone

On a CPU in float32 its products take half the time or less (benchmarks/RESULTS.md, "Encoder"). The weights themselves
are let go, so a model takes no more memory than before.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor, nn

from .linear import Linear
from .xlm import XLMModel


class PrepackedLinear(nn.Module):
    """What an nn.Linear computes, up to rounding, for inference: (N, inputs) to (N, outputs). It has no parameters."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = Linear(linear.weight.detach(), linear.bias.detach())
        self.linear.forget_weight(small=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def _save_to_state_dict(self, *_: object) -> NoReturn:
        raise ValueError("a model with prepacked layers only serves: it has no weights to be saved")


def prepack(body: XLMModel) -> bool:
    """Replace the linear layers of all blocks, for good, where that is of use: on a CPU, in float32, with oneDNN.

    The model can then neither be trained nor saved, nor laid out for decoding: do this last. Heads and embeddings stay
    as they are. Returns whether it was done.
    """
    if body.device.type != "cpu" or body.dtype != torch.float32:
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    for block in body.blocks():
        for module in (block.attention, block.ffn):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, PrepackedLinear(child))
    return True
