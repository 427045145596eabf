"""Beam search as XLM's own translation does it (facebookresearch/XLM, `generate_beam`), for one request of the engine.

It differs from that of transformers in three ways: an end counts wherever it is met before the beams of the next step
are complete; the search is over when no beam can score better at its greatest length; and of a sequence that reaches
the limit the last token counts in the score, not in the sequence. `xlm.BeamSearch` is the library's, of whole batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .beam import BeamSearch
from .sequences import EarlyStopping


class OriginalBeamSearch(BeamSearch):
    """As BeamSearch, by the original rules."""

    def _store_finished(self, values: Tensor, hit: Tensor, ends: Tensor, ids: Tensor) -> None:
        penalty = self.parameters.length_penalty
        # Judged before this step's ends are stored, as there.
        hopeless = self._scores.amin() >= values[0] / self._limit**penalty
        if self.parameters.early_stopping is EarlyStopping.WHEN_FULL:
            hopeless = torch.ones_like(hopeless)
        self.done = self.done | (self._full.all() & hopeless)
        N = self._running.shape[0]
        # Candidates after the one that completes the next beams are not looked at.
        going_on = (~hit).long()
        eligible = hit & (going_on.cumsum(0) - going_on < N)
        lengths = torch.where(ends, ids.shape[1], ids.shape[1] - 1)
        # The length counts the token before the first one and not the closing end: as many as with it and without that.
        scores = values / (self.count + 1) ** penalty
        self._merge(scores.masked_fill(~eligible, -torch.inf), ids, lengths, eligible)

    def _update_done(self, hit: Tensor) -> None:
        self.done = self.done | hit.all()
