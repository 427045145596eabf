"""Batches of the pre-training objectives. Batch number n is a function of (corpus, seed, n): there is no iterator to
save, and a resumed training sees what an uninterrupted one would.

Every sequence is in XLM's own form, `</s> X </s>`. Knows ids and languages; knows no model.
Source: Lample & Conneau 2019 (arXiv:1901.07291), section 3; the 80/10/10 masking of Devlin et al. 2018.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .corpus import Aligned, CorpusError, Ids

EOS, PAD, MASK = 1, 2, 5
FIRST_WORD_ID = 14
IGNORED = -100
# Lengths are blurred before sorting, so that batches differ from pass to pass.
LENGTH_JITTER = 0.15


@dataclass(frozen=True)
class Batch:
    """Inputs of a model call and, for the language-model objectives, what to predict.

    ids int64 (B, T); langs int64 (B, T) or None: language embeddings left out; positions int64 (B, T) or None:
    0, 1, 2, ...; mask float32 (B, T), 0 at padding, or None: no padding; targets int64 (B, T), -100 where nothing is
    asked.
    """

    ids: Tensor
    targets: Tensor
    langs: Tensor | None = None
    positions: Tensor | None = None
    mask: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return int(self.mask.sum()) if self.mask is not None else self.ids.numel()

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        moved = {name: None if value is None else value.to(device) for name, value in vars(self).items()}
        return Batch(**moved)  # type: ignore[arg-type]


@dataclass(frozen=True)
class PairBatch:
    """Row i of `left` and row i of `right` are translations of each other."""

    left: Batch
    right: Batch

    @property
    def tokens(self) -> int:
        """Real tokens of both sides."""
        return self.left.tokens + self.right.tokens

    def to(self, device: torch.device) -> "PairBatch":
        """The same on another device."""
        return PairBatch(self.left.to(device), self.right.to(device))


Plan = TypeVar("Plan")
Made = TypeVar("Made")


class Batches(ABC, Generic[Plan, Made]):
    """An endless sequence of batches: passes over the corpus, each planned and shuffled anew."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._plans: list[Plan] = []
        self._rewind()

    def __getitem__(self, number: int) -> Made:
        """Batch `number` >= 0."""
        if number < self._first:
            self._rewind()
        while number >= self._first + len(self._plans):
            self._first += len(self._plans)
            self._pass += 1
            self._plans = self._planned(self._pass)
        return self.make(self._plans[number - self._first], np.random.default_rng((self._seed, 1, number)))

    def _rewind(self) -> None:
        self._pass = -1
        self._first = 0
        self._plans = []

    def _planned(self, index: int) -> list[Plan]:
        plans = self.plan(np.random.default_rng((self._seed, 0, index)))
        if not plans:
            raise CorpusError("the corpus is too small for one batch")
        return plans

    @abstractmethod
    def plan(self, rng: np.random.Generator) -> list[Plan]:
        """What the batches of one pass hold, in order."""

    @abstractmethod
    def make(self, plan: Plan, rng: np.random.Generator) -> Made:
        """Carry out one entry of the plan."""


@dataclass(frozen=True)
class RowStart:
    """A row of a stream: language index and first token."""

    lang: int
    start: int


class CausalBatches(Batches[list[RowStart], Batch]):
    """Full rows of consecutive sentences, each starting at the beginning of one: `</s> A </s> B </s> C`.

    A sentence cut by the end of a row begins the next row, so that each is seen whole.
    """

    def __init__(self, corpus: Aligned, lang2id: dict[str, int], width: int, batch_tokens: int, seed: int) -> None:
        self._width = width
        self._rows = max(1, batch_tokens // width)
        present = [lang for lang in sorted(corpus) if len(corpus[lang].ids)]
        self._streams = [(lang2id[lang], *_stream(corpus, lang)) for lang in present]
        super().__init__(seed)

    def plan(self, rng: np.random.Generator) -> list[list[RowStart]]:
        rows: list[RowStart] = []
        for index, (_, ids, starts) in enumerate(self._streams):
            # A pass begins at another sentence each time, so that the cuts fall elsewhere.
            place = int(rng.integers(0, min(8, len(starts))))
            while starts[place] + self._width < len(ids):
                rows.append(RowStart(index, int(starts[place])))
                place = max(place + 1, int(np.searchsorted(starts, starts[place] + self._width, side="right")) - 1)
        order = rng.permutation(len(rows))
        shuffled = [rows[index] for index in order]
        return [shuffled[at : at + self._rows] for at in range(0, len(rows) - self._rows + 1, self._rows)]

    def make(self, plan: list[RowStart], rng: np.random.Generator) -> Batch:
        spans = [self._streams[row.lang][1][row.start : row.start + self._width + 1] for row in plan]
        tokens = torch.from_numpy(np.stack(spans).astype(np.int64))
        langs = torch.tensor([[self._streams[row.lang][0]] for row in plan]).expand(-1, self._width)
        return Batch(ids=tokens[:, :-1], targets=tokens[:, 1:], langs=langs)


def _stream(corpus: Aligned, lang: str) -> tuple[Ids, npt.NDArray[np.int64]]:
    """All sentences of a language, a `</s>` before each and one at the end; and where those before sentences stand."""
    sentences = corpus[lang]
    present = sentences.lengths > 0
    starts = (sentences.offsets[:-1] + np.cumsum(present) - present)[present]
    ids = np.full(len(sentences.ids) + int(present.sum()) + 1, EOS, dtype=np.int32)
    inside = np.ones(len(ids), dtype=bool)
    inside[starts] = inside[-1] = False
    ids[inside] = sentences.ids
    return ids, starts


def causal_rows(corpus: Aligned, lang: str, lang_id: int, width: int, per_sentence: bool = False) -> list[Batch]:
    """Every sentence of a language once, for measuring: rows of whole consecutive sentences (or of one sentence each).

    Each token of the sentences and the `</s>` after each is a target exactly once; sentences longer than `width` are
    cut.
    """
    sentences = corpus[lang]
    rows: list[list[int]] = [[EOS]]
    for index in np.flatnonzero(sentences.lengths).tolist():
        ids = [*sentences[index][: width - 1].tolist(), EOS]
        if len(rows[-1]) + len(ids) > width + 1 or (per_sentence and len(rows[-1]) > 1):
            rows.append([EOS])
        rows[-1].extend(ids)
    rows.sort(key=len)
    return [_causal_batch(rows[at : at + 16], lang_id) for at in range(0, len(rows), 16)]


def _causal_batch(rows: Sequence[Sequence[int]], lang_id: int) -> Batch:
    padded, mask = pad([np.asarray(row[:-1], dtype=np.int32) for row in rows])
    targets = torch.full_like(padded, IGNORED)
    for place, row in enumerate(rows):
        targets[place, : len(row) - 1] = torch.tensor(row[1:])
    return Batch(ids=padded, targets=targets, langs=torch.full_like(padded, lang_id), mask=mask)


def group_by_length(
    lengths: npt.NDArray[np.int64], batch_tokens: int, rng: np.random.Generator, jitter: float = LENGTH_JITTER
) -> list[list[int]]:
    """Indices of sequences in groups of about equal length, each of at most `batch_tokens` with its padding (or of one
    sequence), in random order. Lengths are sorted after a random change of up to the share `jitter`."""
    order = np.argsort(lengths * rng.uniform(1 - jitter, 1 + jitter, len(lengths)))
    groups: list[list[int]] = []
    longest = 0
    for index in order.tolist():
        longest = max(longest, int(lengths[index]))
        if not groups or longest * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
            longest = int(lengths[index])
        groups[-1].append(index)
    return [groups[index] for index in rng.permutation(len(groups))]


def pad(rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Rows side by side, filled up with the padding id: ids int64 (B, T) and mask float32 (B, T)."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), PAD, dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    return torch.from_numpy(ids), torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.float32))
