"""The key/value cache of a causal model, for calls that extend a sequence. Grows by concatenation: simple and exact.

(The serving decoder has its own preallocated slots; this is the library's.)
"""

from typing import NamedTuple

from torch import Tensor, cat


class KVCache:
    """Keys and values of every layer for the P positions seen so far, each (B, H, P, D).

    Pass one object to successive calls of a causal model; each call appends its new positions:

        cache = KVCache()
        model(prompt_ids, cache=cache)                                 # P = 0: everything is new
        model(longer_ids, cache=cache)                                 # full ids: the last T - P columns are computed
        model(new_ids, cache=cache, cache_position=torch.arange(P, P + new))  # or only the new ids

    Outputs cover the new positions.
    """

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def get_seq_length(self) -> int:
        """P: how many positions the cache holds."""
        return self._keys[0].shape[2] if self._keys else 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, H, T, D) keys and values of `layer`; returns all of that layer's, (B, H, P + T, D).

        Layers come in order. Raises ValueError if the rows differ from those of earlier calls.
        """
        if layer == len(self._keys):
            self._keys.append(keys)
            self._values.append(values)
            return keys, values
        if self._keys[layer].shape[0] != keys.shape[0]:
            raise ValueError(f"the cache holds {self._keys[layer].shape[0]} rows, the call has {keys.shape[0]}")
        self._keys[layer] = cat([self._keys[layer], keys], dim=2)
        self._values[layer] = cat([self._values[layer], values], dim=2)
        return self._keys[layer], self._values[layer]

    def reorder(self, rows: Tensor) -> None:
        """Make row i the former row `rows[i]` (any number of rows, int64): beams that survive, rows that finished."""
        self._keys = [keys.index_select(0, rows) for keys in self._keys]
        self._values = [values.index_select(0, rows) for values in self._values]

    def crop(self, length: int) -> None:
        """Forget everything after the first `length` positions."""
        if not 0 <= length <= self.get_seq_length():
            raise ValueError(f"cannot crop a cache of {self.get_seq_length()} positions to {length}")
        self._keys = [keys[:, :, :length] for keys in self._keys]
        self._values = [values[:, :, :length] for values in self._values]


class SourceStates(NamedTuple):
    """What a decoder reads of its sources, the same at every step: keys and values of every layer, each (B, H, S, D),
    and bool (B, S), True where a position is no padding (None: all are open)."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    open: Tensor | None

    def rows(self, index: Tensor) -> "SourceStates":
        """The given rows (int64), in that order."""
        keys, values = (tuple(each.index_select(0, index) for each in side) for side in (self.keys, self.values))
        return SourceStates(keys, values, None if self.open is None else self.open.index_select(0, index))


class DecoderCache(KVCache):
    """The cache of a translation decoder: as a KVCache, and the sources' states, computed by the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.source: SourceStates | None = None

    def reorder(self, rows: Tensor, same_sources: bool = False) -> None:
        """As for a KVCache; the sources move with their rows. `same_sources`: each row takes the place of one with the
        same source, as beams do, so that no source needs to move."""
        super().reorder(rows)
        if self.source is not None and not same_sources:
            self.source = self.source.rows(rows)
