"""Uniform random numbers that are a function of (seed, candidate, index): no generator, no state, no order of drawing.

A row draws the same number whatever else is in the batch, on whichever device, and after a resume. The function is the
finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") applied twice, in
wrapping 64-bit integers, which every device computes alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Arithmetic is modulo 2**64; torch has no unsigned 64-bit products, so constants above 2**63 are given as negatives.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64


def signed_seed(seed: int) -> int:
    """The lowest 64 bits of any int as torch's int64 holds them."""
    return (seed + 2**63) % 2**64 - 2**63


def uniforms(seeds: Tensor, candidates: Tensor, index: Tensor) -> Tensor:
    """float32 (B,), strictly between 0 and 1: what each row draws for its token number `index`.

    All int64 (B,); `seeds` as given by `signed_seed`.
    """
    streams = _mix(seeds + (candidates + 1) * _GOLDEN)
    bits = _mix(streams + (index + 1) * _GOLDEN)
    return (_shift_right(bits, 40).to(torch.float32) + 0.5) * 2.0**-24


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX1
    x = (x ^ _shift_right(x, 27)) * _MIX2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: zeros come in from the left."""
    kept: Tensor = (x >> bits) & (2 ** (64 - bits) - 1)
    return kept
