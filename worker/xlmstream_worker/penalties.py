"""What requests ask to be done to the scores before a token is chosen: bias, penalties, bans, minimum length.

Each class holds the wishes of the rows of one batch as tensors and changes scores float32 (B, V) in place, on the
device, with work that grows with the length of the rows and not with the vocabulary. The arithmetic is that of
transformers 4.56.2's processors of the same names; presence and frequency penalties are those of the OpenAI API.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .lanes import Row
from .transfer import upload


@dataclass(frozen=True, slots=True)
class History:
    """The tokens of the rows of a batch so far: `tokens` int64 (B, T) of which `lengths` (B,) count, the first
    `prompt_lengths` (B,) of them the prompt."""

    tokens: Tensor
    lengths: Tensor
    prompt_lengths: Tensor

    @property
    def produced(self) -> Tensor:
        """int64 (B,): tokens generated, and so the index of the next one."""
        return self.lengths - self.prompt_lengths

    def positions(self) -> Tensor:
        return torch.arange(self.tokens.shape[1], device=self.tokens.device)


class Penalty(Protocol):
    def apply(self, scores: Tensor, history: History) -> None: ...


def penalties_of(rows: Sequence[Row], device: torch.device) -> tuple[Penalty, ...]:
    """Those that some row asks for, in the order of application."""
    kinds = (LogitBias, Repetition, Occurrence, NoRepeatNgram, BadWords, MinimumLength)
    made = (kind.of(rows, device) for kind in kinds)
    return tuple(penalty for penalty in made if penalty is not None)


@dataclass(frozen=True, slots=True)
class LogitBias:
    """`places` int64 (N,) = row * V + id without the V: kept as two tensors until the vocabulary is known."""

    rows: Tensor
    ids: Tensor
    bias: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> LogitBias | None:
        wishes = [(n, *wish) for n, row in enumerate(rows) for wish in row.request.sampling.logit_bias]
        if not wishes:
            return None
        numbers, ids, bias = zip(*wishes, strict=True)
        return cls(upload(numbers, device), upload(ids, device), upload(bias, device))

    def apply(self, scores: Tensor, history: History) -> None:
        scores.view(-1).index_add_(0, self.rows * scores.shape[1] + self.ids, self.bias.float())


@dataclass(frozen=True, slots=True)
class Repetition:
    """Source: Keskar et al. 2019 (arXiv:1909.05858) section 4.1, sign-aware as in transformers."""

    penalty: Tensor
    from_start: Tensor
    """bool (B, 1): whether the prompt counts. That of a translation is no text of anybody, and is its end token too."""

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Repetition | None:
        wishes = [row.request.sampling.repetition_penalty for row in rows]
        if all(wish == 1 for wish in wishes):
            return None
        from_start = [row.request.source is None for row in rows]
        return cls(upload(wishes, device)[:, None], upload(from_start, device)[:, None])

    def apply(self, scores: Tensor, history: History) -> None:
        # Beyond a row's end its first token stands in: whoever occurs twice is written the same value twice.
        inside = history.positions() < history.lengths[:, None]
        seen = torch.where(inside, history.tokens, history.tokens[:, :1])
        counts = self.from_start | (inside & (history.positions() >= history.prompt_lengths[:, None]))
        penalty = torch.where(counts, self.penalty, 1.0)
        values = scores.gather(1, seen)
        scores.scatter_(1, seen, torch.where(values < 0, values * penalty, values / penalty))


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Presence and frequency penalties over the generated tokens."""

    presence: Tensor
    frequency: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Occurrence | None:
        presence = [row.request.sampling.presence_penalty for row in rows]
        frequency = [row.request.sampling.frequency_penalty for row in rows]
        if not any(presence) and not any(frequency):
            return None
        return cls(upload(presence, device)[:, None], upload(frequency, device)[:, None])

    def apply(self, scores: Tensor, history: History) -> None:
        places = history.positions()
        generated = (places >= history.prompt_lengths[:, None]) & (places < history.lengths[:, None])
        newest = history.tokens.gather(1, history.lengths[:, None] - 1)
        seen = torch.where(generated, history.tokens, newest)
        any_generated = history.produced[:, None] > 0
        values = scores.gather(1, seen) - self.presence * any_generated
        scores.scatter_(1, seen, values)
        scores.scatter_add_(1, seen, -self.frequency * generated)


@dataclass(frozen=True, slots=True)
class NoRepeatNgram:
    size: Tensor
    """int64 (B, 1); 0 for rows without a wish."""
    largest: int

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> NoRepeatNgram | None:
        sizes = [row.request.sampling.no_repeat_ngram_size for row in rows]
        return cls(upload(sizes, device)[:, None], max(sizes)) if any(sizes) else None

    def apply(self, scores: Tensor, history: History) -> None:
        tokens, lengths = history.tokens, history.lengths[:, None]
        places = history.positions()
        # Whether the token at a place would complete an n-gram that occurs: the n-1 before it are the newest n-1.
        repeats = (places >= self.size - 1) & (places < lengths) & (self.size > 0)
        for back in range(1, min(self.largest, tokens.shape[1])):
            recent = tokens.gather(1, (lengths - back).clamp(min=0))
            repeats &= (tokens.roll(back, 1) == recent) | (back >= self.size)
        ban(scores, tokens, repeats)


@dataclass(frozen=True, slots=True)
class BadWords:
    """N words, one after the other, of whatever rows."""

    rows: Tensor
    """int64 (N,)"""
    last: Tensor
    """int64 (N,): the id that would complete the word"""
    before: Tensor
    """int64 (N, W): the ids before it, nearest first, -1 beyond the word's beginning"""

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> BadWords | None:
        words = [(number, word) for number, row in enumerate(rows) for word in row.request.sampling.bad_words]
        if not words:
            return None
        width = max(len(word) for _, word in words) - 1
        before = [[*reversed(word[:-1]), *[-1] * (width + 1 - len(word))] for _, word in words]
        return cls(
            rows=upload([number for number, _ in words], device),
            last=upload([word[-1] for _, word in words], device),
            before=upload(before, device, torch.int64).view(len(words), width),
        )

    def apply(self, scores: Tensor, history: History) -> None:
        places = history.lengths[:, None] - 1 - torch.arange(self.before.shape[1], device=scores.device)
        recent = history.tokens.gather(1, places.clamp(min=0)).masked_fill_(places < 0, -2)[self.rows]
        complete = ((self.before == recent) | (self.before == -1)).all(1)
        ban(scores.view(1, -1), (self.rows * scores.shape[1] + self.last)[None], complete[None])


@dataclass(frozen=True, slots=True)
class MinimumLength:
    """Rows that must not end before `least` (B, 1) tokens; `ends` int64 (B, N) are the ids that end a row."""

    least: Tensor
    ends: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> MinimumLength | None:
        ends = [row.request.end_ids for row in rows]
        least = [row.request.min_new_tokens if row.request.end_ids else 0 for row in rows]
        if not any(least):
            return None
        width = max(len(ids) for ids in ends)
        padded = [[*ids, *[ids[0] if ids else 0] * (width - len(ids))] for ids in ends]
        return cls(upload(least, device)[:, None], upload(padded, device))

    def apply(self, scores: Tensor, history: History) -> None:
        early = history.produced[:, None] < self.least
        ban(scores, self.ends, early.expand_as(self.ends))


def ban(scores: Tensor, ids: Tensor, banned: Tensor) -> None:
    """Set scores (B, V) of ids (B, N) to minus infinity where `banned` (B, N), whatever else the same id stands for."""
    limit = torch.zeros(ids.shape, dtype=scores.dtype, device=scores.device)
    limit.masked_fill_(~banned, torch.inf).masked_fill_(banned, -torch.inf)
    scores.scatter_reduce_(1, ids, limit, "amin")
