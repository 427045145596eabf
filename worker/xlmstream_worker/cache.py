"""What every slot holds: the keys and values of its tokens, the tokens themselves, how many they are, their language.

All of it is allocated once. A slot is one row of each tensor; nothing here knows which slots are in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .cross import SourceCache
from .transfer import upload


class PrefixStore:
    """Keys and values of blocks of tokens that prompts may begin with: one tensor (N, tokens, 2, H, D) per layer."""

    def __init__(self, cache: SlotCache, blocks: int, tokens: int) -> None:
        self.blocks = [layer.new_empty(blocks, tokens, *layer.shape[2:]) for layer in cache.layers]


class SlotCache:
    """Preallocated memory of S slots of T positions each, for L layers of H heads of width D (H may differ per layer).

    `tokens` int64 (S, T), `lengths` int64 (S,), `languages` int64 (S,) live beside the keys and values so that a step
    needs nothing from the host.
    """

    def __init__(
        self,
        slots: int,
        staging: int,
        positions: int,
        heads: Sequence[int],
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        sources: SourceCache | None = None,
    ) -> None:
        """`staging` of the slots, the last ones, are no rows'. `sources`, of as many slots, move with their rows."""
        self.sources = sources
        self.slots, self.positions = slots, positions
        self.lane_slots = slots - staging
        self.tokens = torch.zeros(slots, positions, dtype=torch.int64, device=device)
        self.lengths = torch.ones(slots, dtype=torch.int64, device=device)
        self.masks = torch.zeros(slots, dtype=torch.int64, device=device)
        self.languages = torch.zeros(slots, dtype=torch.int64, device=device)
        # (S, T, 2, H, D) each: keys and values of a position lie together, so that one copy per layer stores them
        # straight from the projection.
        self.layers = [torch.zeros(slots, positions, 2, count, head_dim, dtype=dtype, device=device) for count in heads]
        self._flat = [layer.view(slots * positions, -1) for layer in self.layers]
        self._level = [layer.view(slots, positions, -1) for layer in self.layers]

    @property
    def bytes(self) -> int:
        """Memory of the keys and values."""
        return sum(layer.numel() * layer.element_size() for layer in self.layers)

    def write(self, layer: int, index: Tensor, kv: Tensor) -> None:
        """Store kv (N, 2*H*D), keys then values, at the places index (N,) = slot * T + position."""
        self._flat[layer].index_copy_(0, index, kv)

    def write_level(self, layer: int, slots: slice, position: int, kv: Tensor) -> None:
        """The same at one position of each of a range of slots: quicker, and needs no places."""
        self._level[layer][slots, position] = kv

    def read(self, layer: int, slots: slice, context: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, context, D) of a range of slots, as views."""
        kv = self.layers[layer][slots, :context]
        return kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)

    def start(self, source: int, slot: int, ids: Tensor, language: int, mask: int) -> None:
        """Begin a row: its tokens `ids` int64 (n,), whose keys and values but the last lie in the slot `source`, and
        so does what it translates, if anything."""
        n = ids.shape[0]
        self.tokens[slot, :n] = ids
        self.lengths[slot] = n
        self.languages[slot] = language
        self.masks[slot] = mask
        self._copy_kv(source, slot, n - 1)

    def move(self, source: int, slot: int, n: int) -> None:
        """Copy a row of n tokens to another slot."""
        self.tokens[slot, :n] = self.tokens[source, :n]
        self.lengths[slot] = self.lengths[source]
        self.languages[slot] = self.languages[source]
        self.masks[slot] = self.masks[source]
        self._copy_kv(source, slot, n)

    def append(self, slots: slice, ids: Tensor) -> None:
        """Add one token (B,) to each slot of a range; none of them is full."""
        lengths = self.lengths[slots]
        self.tokens[slots].scatter_(1, lengths[:, None], ids[:, None])
        lengths.add_(1)

    def reorder(self, slots: Tensor, sources: Tensor, start: int, stop: int) -> None:
        """Give row slots[i] the tokens, keys and values start..stop of row slots[sources[i]]; int64 (N,) both."""
        origin = slots[sources]
        self.tokens[slots, start:stop] = self.tokens[origin, start:stop]
        for layer in self.layers:
            layer[slots, start:stop] = layer[origin, start:stop]

    def load(self, slot: int, store: PrefixStore, blocks: Sequence[int]) -> None:
        """Copy stored blocks to the beginning of a slot."""
        index = upload(blocks, self.lengths.device)
        for layer, stored in zip(self.layers, store.blocks, strict=True):
            content = stored[index].flatten(0, 1)
            layer[slot, : content.shape[0]] = content

    def save(self, slot: int, start: int, store: PrefixStore, block: int) -> None:
        """Copy the tokens of a slot from `start` on to a stored block."""
        for layer, stored in zip(self.layers, store.blocks, strict=True):
            stored[block] = layer[slot, start : start + stored.shape[1]]

    def block_bytes(self, tokens: int) -> int:
        """Memory of the keys and values of this many tokens."""
        return self.bytes // (self.slots * self.positions) * tokens

    def _copy_kv(self, source: int, slot: int, n: int) -> None:
        for layer in self.layers:
            layer[slot, :n] = layer[source, :n]
        if self.sources is not None:
            self.sources.copy(source, slot)
