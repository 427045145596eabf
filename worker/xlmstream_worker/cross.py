"""What every slot holds of its source: the keys and values that the decoder's layers read of the encoder's states.

They are computed once for each text and stay as they are while its translation grows. Allocated once, beside the slots
of `cache`; the rows of one request, such as the beams of a search, hold a copy each, so that a step reads the sources
of all rows as one view.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


class SourceCache:
    """Memory for the sources of S slots, at most T positions each, for L layers of H heads of width D (H may differ per
    layer). `lengths` int64 (S,), on the device; a slot that never held a source counts one position."""

    def __init__(
        self,
        slots: int,
        positions: int,
        heads: Sequence[int],
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.positions = positions
        self.lengths = torch.ones(slots, dtype=torch.int64, device=device)
        # (S, T, 2, H, D) each, as the slots of `cache`.
        self.layers = [torch.zeros(slots, positions, 2, count, head_dim, dtype=dtype, device=device) for count in heads]
        self._flat = [layer.view(slots * positions, -1) for layer in self.layers]
        self._counts = [1] * slots  # `lengths`, for the host

    def write(self, layer: int, places: Tensor, kv: Tensor) -> None:
        """Store kv (N, 2*H*D), keys then values, at the places int64 (N,) = slot * T + position."""
        self._flat[layer].index_copy_(0, places, kv)

    def set_length(self, slot: int, tokens: int) -> None:
        """The source of a slot has this many positions."""
        self.lengths[slot].fill_(tokens)  # an assignment would wait for a GPU
        self._counts[slot] = tokens

    def copy(self, source: int, slot: int) -> None:
        """Give a slot the source of another."""
        n = self._counts[source]
        for layer in self.layers:
            layer[slot, :n] = layer[source, :n]
        self.set_length(slot, n)

    def visible(self, slots: slice, context: int) -> Tensor:
        """bool (B, 1, 1, context): which positions the sources of a range of slots have."""
        places = torch.arange(context, device=self.lengths.device)
        return (places < self.lengths[slots, None])[:, None, None]

    def attend_one(self, layer: int, queries: Tensor, slot: int) -> Tensor:
        """As `attend`, for queries (Q, H*D) of one slot."""
        return self.attend(layer, queries, slice(slot, slot + 1), self._counts[slot], None)

    def attend(self, layer: int, queries: Tensor, slots: slice, context: int, bias: Tensor | None) -> Tensor:
        """What queries (B * Q, H*D), Q of each of a range of B slots, read of their sources; (B * Q, H*D).

        `context`: positions that are looked at, at least those of the longest source. `bias` is added to the scores,
        to hide what a source does not have; None where all have `context` positions.
        """
        kv = self.layers[layer][slots, :context]
        B, _, _, H, D = kv.shape
        q = queries.view(B, -1, H, D).transpose(1, 2)
        keys, values = kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
        return attended.transpose(1, 2).reshape(-1, H * D)
