"""Small values from the host to the device, without waiting for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def upload(values: Sequence[object], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of (nested) Python numbers. On a GPU by way of pinned memory: a plain copy would stop the host until the
    device has finished all it was given."""
    if device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
