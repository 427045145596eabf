"""Beam search for translations, a batch of searches at once, all of it on the device of the scores.

Knows scores and ids, no model: the caller feeds beginnings to its decoder, passes the scores of the next token, and
moves its caches as told. The algorithm is that of facebookresearch/XLM (`generate_beam`), which stores every ending
among the best candidates, and is therefore not that of transformers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Of beams that do not count yet. Finite, as the original's, so that sums of such scores still compare.
_NEVER = -1e9


@dataclass(frozen=True)
class Hypothesis:
    """A translation.

    ids: without the beginning and the closing `</s>`.
    score: the sum of the log-probabilities of its tokens, its closing `</s>` included, divided by
    length**length_penalty, where the length counts the beginning and not the closing.
    finished: it ended where the model ended it, not at the length limit.
    """

    ids: list[int]
    score: float
    finished: bool


class BeamSearch:
    """B searches of N beams each. Beams start from one token, the beginning; only the first one's continuations count.

    At the length limit, which counts the beginning and the closing `</s>`, a candidate ends whatever its token, and
    that token is left out; so one translation can be found several times there, as in the original.
    """

    def __init__(
        self,
        max_lengths: Tensor,
        beams: int,
        *,
        length_penalty: float = 1.0,
        early_stopping: bool = False,
        eos_index: int = 1,
        pad_index: int = 2,
    ) -> None:
        """`max_lengths` int64 (B,), each at least 2. `length_penalty` > 1 favours long translations, 0 compares sums.
        `early_stopping`: a search is done once it has N hypotheses, however good; else once no beam can beat the
        worst of them."""
        B, device = len(max_lengths), max_lengths.device
        self.done = torch.zeros(B, dtype=torch.bool, device=device)
        """bool (B,): the search can change nothing any more; what `advance` then says of its beams is padding."""
        self.length = 1
        """How many tokens every beam has, the beginning included."""
        self._max_lengths = max_lengths
        self._penalty = length_penalty
        self._early = early_stopping
        self._eos, self._pad = eos_index, pad_index
        width = int(max_lengths.max())
        self._ids = torch.full((B, beams, width), pad_index, device=device)
        self._ids[:, :, 0] = eos_index
        self._running = torch.full((B, beams), _NEVER, device=device)
        self._running[:, 0] = 0.0
        self._scores = torch.full((B, beams), -torch.inf, device=device)
        self._found = self._ids.clone()
        self._lengths = torch.ones(B, beams, dtype=torch.int64, device=device)
        self._finished = torch.zeros(B, beams, dtype=torch.bool, device=device)

    def advance(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Extend the beams by one token, given the scores (B, N, V) of it.

        Returns int64 (B, N) twice: which former beam (0 to N-1) each beam extends, and by which token.
        """
        _, N, V = logits.shape
        total = logits.float().log_softmax(-1) + self._running[..., None]
        best = total.flatten(1).topk(2 * N)
        values, parents, tokens = best.values, best.indices // V, best.indices % V
        self._stop_hopeless(values[:, 0])
        last = (self._max_lengths <= self.length + 1)[:, None]
        stops = tokens == self._eos
        ends = stops | last
        # Candidates after the N-th that goes on are not looked at.
        looked_at = (~ends).cumsum(1) - (~ends).long() < N
        self._store(values, parents, stops, ends & looked_at & ~self.done[:, None])
        self.done = self.done | last[:, 0]
        going_on = ends.long().argsort(dim=1, stable=True)[:, :N]
        closed = self.done[:, None]
        parents = parents.gather(1, going_on).where(~closed, torch.arange(N, device=logits.device))
        tokens = tokens.gather(1, going_on).where(~closed, self._pad)
        self._running = values.gather(1, going_on)
        self._ids = self._ids.gather(1, parents[..., None].expand_as(self._ids))
        if self.length < self._ids.shape[2]:
            self._ids[:, :, self.length] = tokens
        self.length += 1
        return parents, tokens

    def results(self) -> list[list[Hypothesis]]:
        """What each search found so far, best first, at most N. Waits for the device."""
        columns = (self._scores, self._lengths, self._finished, self._found)
        return [
            [
                Hypothesis(ids[1:length], score, finished)
                for score, length, finished, ids in zip(*rows, strict=True)
                if score > -float("inf")
            ]
            for rows in zip(*(column.tolist() for column in columns), strict=True)
        ]

    def _stop_hopeless(self, best: Tensor) -> None:
        """`best` (B,): the highest sum among the candidates."""
        worst = self._scores[:, -1]
        full = worst > -torch.inf
        if not self._early:
            full &= worst >= best / (self._max_lengths - 1) ** self._penalty
        self.done = self.done | full

    def _store(self, values: Tensor, parents: Tensor, stops: Tensor, ending: Tensor) -> None:
        """Keep the best N of the hypotheses found before and those that end now, in descending order."""
        N = self._running.shape[1]
        scores = (values / self.length**self._penalty).masked_fill(~ending, -torch.inf)
        best = torch.cat([self._scores, scores], 1).topk(N)
        self._scores = best.values
        candidates = self._ids.gather(1, parents[..., None].expand(-1, -1, self._ids.shape[2]))
        kept = best.indices[..., None].expand_as(self._ids)
        self._found = torch.cat([self._found, candidates], 1).gather(1, kept)
        lengths = torch.full_like(parents, self.length)
        self._lengths = torch.cat([self._lengths, lengths], 1).gather(1, best.indices)
        self._finished = torch.cat([self._finished, stops], 1).gather(1, best.indices)
