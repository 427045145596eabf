"""Attention of sequences of different lengths that lie one after the other, each to itself, by ascending length.

On a CPU one kernel for each length, without any padding. Where many small kernels are dear, on a GPU, sequences of
similar lengths share one, on a padded copy of queries, keys and values alone; what one long sequence adds to a batch of
short ones is then its own length and not the padding of them all.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

# In a group no sequence is more than so many times as long as another.
_MOST_PADDING = 2


class Run(NamedTuple):
    """`sequences` neighbours of `length` tokens each; the first token is at `start`."""

    start: int
    sequences: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.sequences * self.length


def runs_of(sorted_lengths: Sequence[int]) -> tuple[Run, ...]:
    """The groups of equal length, the first token of the first at 0."""
    runs: list[Run] = []
    start = 0
    for length, group in groupby(sorted_lengths):
        runs.append(Run(start, len(list(group)), length))
        start = runs[-1].stop
    return tuple(runs)


def placed(values: Tensor, device: torch.device | str) -> Tensor:
    """On the device. On a GPU by way of pinned memory: a plain copy would wait until it has done all it was given."""
    if torch.device(device).type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


class Attend(Protocol):
    """Attention of the tokens of sequences that lie one after the other, each to those of its own sequence."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        """(N, H, D) each, to (N, H, D)."""


class RunAttention:
    """Attention without any padding: one kernel for each group of sequences of equal length."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        """(N, H, D) each, to (N, H, D)."""
        context = torch.empty_like(q)
        for run in self._runs:
            rows = slice(run.start, run.stop)
            context[rows] = _level(q[rows], k[rows], v[rows], run.length, causal)
        return context


class GroupedAttention:
    """Attention with little padding: one kernel for each group of sequences of similar length."""

    def __init__(self, runs: Sequence[Run], position_ids: Tensor) -> None:
        """`position_ids` int64 (N,), on the device that computes."""
        groups: list[list[Run]] = []
        for run in reversed(runs):
            if not groups or groups[-1][-1].length > _MOST_PADDING * run.length:
                groups.append([])
            groups[-1].insert(0, run)
        self._groups = [(slice(group[0].start, group[-1].stop), group) for group in reversed(groups)]
        self._padded = [
            PaddedAttention(group, position_ids[rows]) if len(group) > 1 else None for rows, group in self._groups
        ]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        """(N, H, D) each, to (N, H, D)."""
        attended = []
        for (rows, group), padded in zip(self._groups, self._padded, strict=True):
            parts = q[rows], k[rows], v[rows]
            attended.append(padded(*parts, causal) if padded else _level(*parts, group[0].length, causal))
        return attended[0] if len(attended) == 1 else torch.cat(attended)


class PaddedAttention:
    """Attention on a padded copy of queries, keys and values: three kernels whatever the lengths are."""

    def __init__(self, runs: Sequence[Run], position_ids: Tensor) -> None:
        device = position_ids.device
        sorted_lengths = [run.length for run in runs for _ in range(run.sequences)]
        B, T = self._shape = (len(sorted_lengths), runs[-1].length)
        lengths = placed(torch.tensor(sorted_lengths), device)
        rows = torch.repeat_interleave(torch.arange(B, device=device), lengths, output_size=len(position_ids))
        self._places = rows * T + position_ids
        self._open = (torch.arange(T, device=device) < lengths[:, None])[:, None, None]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        """(N, H, D) each, to (N, H, D)."""
        queries, keys, values = (self._pad(part) for part in (q, k, v))
        # Padding follows the tokens, so a causal model never sees it.
        mask = None if causal else self._open
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal)
        return attended.transpose(1, 2).flatten(0, 1)[self._places]

    def _pad(self, x: Tensor) -> Tensor:
        B, T = self._shape
        return x.new_zeros(B * T, *x.shape[1:]).index_copy_(0, self._places, x).view(B, T, *x.shape[1:]).transpose(1, 2)


def _level(q: Tensor, k: Tensor, v: Tensor, length: int, causal: bool) -> Tensor:
    """(N, H, D) each, of sequences that all have `length` tokens."""
    # (sequences, H, T, D)
    queries, keys, values = (part.view(-1, length, *part.shape[1:]).transpose(1, 2) for part in (q, k, v))
    attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    return attended.transpose(1, 2).flatten(0, 1)
