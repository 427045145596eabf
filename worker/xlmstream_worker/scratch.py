"""Memory for temporaries as large as all scores of a batch, kept from step to step.

Memory that a process gives back and takes again costs a page fault every 4 KB: as much time as the arithmetic on it.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Scratch:
    """A few tensors by name, each made when first asked for. What they hold lasts until the name is asked for again."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, rows: int) -> Tensor:
        """A tensor (rows, C) of anything, where `like` is (B, C)."""
        kept = self._kept.get(name)
        if kept is None or kept.shape[0] < rows or kept.shape[1] != like.shape[1]:
            kept = self._kept[name] = torch.empty_like(like[:1].expand(rows, -1), memory_format=torch.contiguous_format)
        return kept[:rows]
