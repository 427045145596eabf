"""What is done row by row in compiled code on a CPU: choosing tokens, where `sampling` computes all rows at once on a
device, and storing what a step brings.

    chooser       a batch's rows to arrays; what the engine calls
    wishes        what rows ask for, as arrays
    choosing      the loop over the rows; log-probabilities
    penalising    bias, penalties, bans
    drawing       drawing at random
    vectors       passes over a row's scores or weights
    storing       tokens, keys and values to their slots
    constants     limits shared with `drawing`
    compiling     Python to machine code

A step of a small model takes some 5 ms: operations on all rows of which each takes as long to be called as to be
computed, and whose results do not fit the cache, are a fifth of it. One row's scores do fit.
"""

from __future__ import annotations

from .chooser import RowwiseChooser, RowwisePlan

__all__ = ["RowwiseChooser", "RowwisePlan"]
