"""Scores from a table in place of a model's, so that searches meet scores of every kind."""

from __future__ import annotations

import random

import torch
from xlmstream_worker.decoder import DecoderEngine
from xlmstream_worker.forward import Batch
from xlmstream_worker.sequences import EngineConfig
from xlmstream_worker.xlm import XLMWithLMHeadModel

VOCABULARY, END = 97, 1
POSITIONS = 44


class Scripted:
    """A table (tokens so far, last token, V), all drawn from a seed: scores here nearly equal, there far apart, and an
    end that is likely at some lengths and not at others. So is what a beam search is asked for: at most `limit` tokens,
    `beams`, a `length_penalty`.
    """

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.limit, self.beams = rng.choice([5, 12, 40]), rng.randint(1, 5)
        self.length_penalty = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
        ending = torch.tensor([rng.uniform(-1, 9) for _ in range(POSITIONS)])
        spread, generator = rng.choice([0.3, 1.0, 2.5]), torch.Generator().manual_seed(seed)
        self._table = spread * torch.randn(POSITIONS, VOCABULARY, VOCABULARY, generator=generator)
        self._table[:, :, END] = ending[:, None]

    def scores(self, count: int, last: torch.Tensor) -> torch.Tensor:
        """(..., V) behind `count` tokens, the last of which are `last` (...)."""
        return self._table[count, last]

    def engine(self, model: XLMWithLMHeadModel, **config: object) -> DecoderEngine:
        """An engine that computes nothing with the model."""
        engine = DecoderEngine(model, EngineConfig(**config))  # type: ignore[arg-type]

        def scores(batch: Batch) -> torch.Tensor:
            filled = torch.full((len(batch.rows), 256), -torch.inf)  # as the network pads its vocabulary
            for place, row in enumerate(batch.rows):
                last = engine._cache.tokens[row.slot, row.tokens - 1]
                filled[place, :VOCABULARY] = self.scores(row.tokens, last)
            return filled

        engine._forward.scores = scores  # type: ignore[method-assign]
        return engine
