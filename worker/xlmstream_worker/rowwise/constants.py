"""What both ways of drawing a token keep to, row by row and all rows at once."""

from __future__ import annotations

# The largest top-k that is drawn from by collecting so many tokens.
MOST_FEW = 1024
# Weights below 2**-100 of the best one are left out: numbers too small for float32 would slow the exponential.
RANGE = 100.0
# The largest factor of a score, so that 0 times it is 0.
SHARPEST = 1e30
# What rounding may take off a key, a power of two, at the edge of a range.
ROUNDING = 2.0**-20
