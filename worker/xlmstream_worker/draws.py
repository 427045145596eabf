"""Uniform random numbers that are a function of (seed, candidate, index): no generator, no state, no order of
drawing.

A row draws the same number whatever else is in the batch, on whichever device, and after a resume. The function is the
finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") applied to one
after the other of these, in wrapping 64-bit integers, which every device computes alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Arithmetic is modulo 2**64; torch has no unsigned 64-bit products, so constants above 2**63 are given as negatives.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64
# A share this large of a float32 sum is still less than the sum.
_LARGEST = 1.0 - 2.0**-22
# Tokens that numbers are computed ahead for.
_AHEAD = 16


def signed_seed(seed: int) -> int:
    """The lowest 64 bits of any int as torch's int64 holds them."""
    return (seed + 2**63) % 2**64 - 2**63


def streams_of(seeds: Tensor, candidates: Tensor) -> Tensor:
    """int64 (B,): where the numbers of each row come from. `seeds` as given by `signed_seed`; both int64 (B,)."""
    return _mix(seeds + (candidates + 1) * _GOLDEN)


def uniforms(streams: Tensor, index: Tensor) -> Tensor:
    """float32, above 0 and at most 1 - 2**-22: what each row draws for its token number `index`. `streams` and `index`
    int64 (B,), or of shapes that go together."""
    bits = _mix(streams + (index + 1) * _GOLDEN)
    return _shift_right(bits, 40).to(torch.float32).add_(0.5).mul_(2.0**-24).clamp_(max=_LARGEST)


class Numbers:
    """What B rows draw, computed for some tokens ahead: one look-up a step instead of two dozen
    small operations."""

    def __init__(self, streams: Tensor) -> None:
        self.streams = streams
        self._first = self._ahead = streams.new_empty(0)
        self._left, self._fresh = 0, True

    def at(self, index: Tensor) -> Tensor:
        """`uniforms` of these rows. From one call to the next the index (B,) of a row grows by at most 1."""
        if not self._left:
            # The rows of a batch that changes at each step are asked once.
            self._left, self._fresh = 1 if self._fresh else _AHEAD, False
            later = torch.arange(self._left, device=index.device)
            self._first, self._ahead = index, uniforms(self.streams[:, None], index[:, None] + later)
        self._left -= 1
        return self._ahead.gather(1, (index - self._first)[:, None])[:, 0]


def stream_of(seed: int, candidate: int) -> int:
    """One of `streams_of`, as an unsigned number, without tensors."""
    return _mix_one(seed + (candidate + 1) * _GOLDEN)


def _mix_one(x: int) -> int:
    x %= 2**64
    x = (x ^ (x >> 30)) * _MIX1 % 2**64
    x = (x ^ (x >> 27)) * _MIX2 % 2**64
    return x ^ (x >> 31)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)).mul_(_MIX1)
    x = _shift_right(x, 27).bitwise_xor_(x).mul_(_MIX2)
    return _shift_right(x, 31).bitwise_xor_(x)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: zeros come in from the left."""
    kept: Tensor = (x >> bits).bitwise_and_(2 ** (64 - bits) - 1)
    return kept
