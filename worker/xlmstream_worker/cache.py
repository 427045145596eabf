"""What every slot holds: the keys and values of its tokens, the tokens themselves, how many they are, their language.

All of it is allocated once. A slot is one row of each tensor; nothing here knows which slots are in use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cross import SourceCache
from .rowwise.storing import append_tokens, store_newest
from .rowwise.vectors import Floats
from .rowwise.wishes import Ids
from .transfer import upload

_WIDEST = torch.complex128


class PrefixStore:
    """Keys and values of blocks of tokens that prompts may begin with: one tensor (N, tokens, 2, H, D) per layer."""

    def __init__(self, cache: SlotCache, blocks: int, tokens: int) -> None:
        self.blocks = [layer.new_empty(blocks, tokens, *layer.shape[2:]) for layer in cache.layers]


Writer = Callable[[int, Tensor], None]


@dataclass(frozen=True, slots=True)
class _Window:
    """Views of a range of B slots: making them takes as long as what is done with them at a step."""

    slots: slice
    ends: Tensor
    """(B,): places of the next tokens among those of all slots."""
    counts: Tensor
    """(2, B)"""
    writer: Writer | None
    """Where compiled code stores."""


@dataclass(frozen=True, slots=True)
class _InMemory:
    """The same memory as compiled code sees it, on a CPU in float32."""

    layers: list[Floats]
    """(S, T, 2*H*D) each."""
    tokens: Ids
    """(S, T)"""
    counts: Ids
    """(2, S)"""

    def writer(self, slots: slice) -> Writer:
        layers, lengths, first = self.layers, self.counts[0, slots], slots.start
        return lambda layer, projected: store_newest(layers[layer], lengths, first, projected.numpy())


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
        # Lengths, and the places of the next tokens among those of all slots: both grow by 1 with a token.
        self._counts = torch.ones(2, slots, dtype=torch.int64, device=device)
        self._counts[1] = torch.arange(slots) * positions + 1
        self._one = torch.ones((), dtype=torch.int64, device=device)
        self.lengths = self._counts[0]
        self.masks = torch.zeros(slots, dtype=torch.int64, device=device)
        self.languages = torch.zeros(slots, dtype=torch.int64, device=device)
        # (S, T, 2, H, D) each: keys and values of a position lie together, so that one copy per layer stores them
        # straight from the projection.
        self.layers = [torch.zeros(slots, positions, 2, count, head_dim, dtype=dtype, device=device) for count in heads]
        self._flat = [layer.view(slots * positions, -1) for layer in self.layers]
        # Places are written in elements as wide as there are: the fewer, the quicker.
        aligned = all(count * head_dim * dtype.itemsize % _WIDEST.itemsize == 0 for count in heads)
        self._element = _WIDEST if aligned else dtype
        self._places = [layer.view(self._element) for layer in self._flat]
        self._in_memory: _InMemory | None = None
        if device.type == "cpu" and dtype == torch.float32:
            layers = [layer.view(slots, positions, -1).numpy() for layer in self._flat]
            self._in_memory = _InMemory(layers, self.tokens.numpy(), self._counts.numpy())
        self._window = self._window_of(slice(0, slots))

    @property
    def bytes(self) -> int:
        """Memory of the keys and values."""
        return sum(layer.numel() * layer.element_size() for layer in self.layers)

    def write(self, layer: int, index: Tensor, kv: Tensor) -> None:
        """Store kv (N, 2*H*D), keys then values, at the places index (N,) = slot * T + position."""
        self._places[layer].index_copy_(0, index, kv.view(self._element))

    def writer(self, slots: slice, positions: Tensor) -> Writer:
        """What stores, of a layer's projections (B * Q, P), the last 2*H*D columns, keys then values, at positions
        (B, Q) of a range of slots: those of each slot's newest token and of the Q - 1 behind it."""
        compiled = self._view(slots).writer
        if compiled is not None:
            return compiled
        starts = torch.arange(slots.start, slots.stop, device=positions.device)[:, None] * self.positions
        index = (positions + starts).flatten()
        return lambda layer, projected: self.write(layer, index, projected[:, -self._flat[layer].shape[1] :])

    def read(self, layer: int, slots: slice, context: int) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, context, D) of a range of slots, as views."""
        kv = self.layers[layer][slots, :context]
        return kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)

    def start(self, source: int, slot: int, ids: Tensor, language: int, mask: int) -> None:
        """Begin a row: its tokens `ids` int64 (n,), whose keys and values but the last lie in the slot `source`, and
        so does what it translates, if anything."""
        n = ids.shape[0]
        self.tokens[slot, :n] = ids
        # Filled, as a GPU is waited for where a number is assigned to a place.
        self._counts[0, slot].fill_(n)
        self._counts[1, slot].fill_(slot * self.positions + n)
        self.languages[slot].fill_(language)
        self.masks[slot].fill_(mask)
        self._copy_kv(source, slot, n - 1)

    def move(self, source: int, slot: int, n: int) -> None:
        """Copy a row of n tokens to another slot."""
        self.tokens[slot, :n] = self.tokens[source, :n]
        self._counts[0, slot] = self._counts[0, source]
        self._counts[1, slot] = self._counts[1, source] + (slot - source) * self.positions
        self.languages[slot] = self.languages[source]
        self.masks[slot] = self.masks[source]
        self._copy_kv(source, slot, n)

    def append(self, slots: slice, ids: Tensor) -> None:
        """Add one token (B,), id 0 for those below, to each slot of a range; none of them is full."""
        held = self._in_memory
        if held is not None:
            append_tokens(held.tokens, held.counts, slots.start, ids.numpy())
            return
        window = self._view(slots)
        self.tokens.view(-1).scatter_(0, window.ends, ids.clamp(min=0))
        window.counts.add_(self._one)

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

    def _view(self, slots: slice) -> _Window:
        if slots != self._window.slots:
            self._window = self._window_of(slots)
        return self._window

    def _window_of(self, slots: slice) -> _Window:
        writer = None if self._in_memory is None else self._in_memory.writer(slots)
        return _Window(slots, self._counts[1, slots], self._counts[:, slots], writer)

    def _copy_kv(self, source: int, slot: int, n: int) -> None:
        for layer in self.layers:
            layer[slot, :n] = layer[source, :n]
        if self.sources is not None:
            self.sources.copy(source, slot)
