"""Scores to probabilities, on the host, in float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Over the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def sigmoid(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each number, without overflow."""
    small = np.exp(-np.abs(scores))
    probabilities: NDArray[np.float32] = np.where(scores >= 0, 1, small) / (1 + small)
    return probabilities
