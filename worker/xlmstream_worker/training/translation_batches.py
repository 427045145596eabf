"""Batches of translation pairs: sources as the encoder reads them, translations as the decoder writes them.

A pass holds every sentence with each of its translations, in both directions. Pairs of about equal length share a batch
whatever their languages, which are stated at every position.
Source: Lample & Conneau 2019 (arXiv:1901.07291), section 5; facebookresearch/XLM (`mt_steps`).
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt
import torch

from .batches import EOS, IGNORED, Batch, Batches, group_by_length, pad
from .corpus import Aligned, CorpusError, Ids

# Less than elsewhere: so many pairs have the same length that batches differ anyway.
LENGTH_JITTER = 0.05

Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TranslationBatch:
    """Row i of `target` translates row i of `source`. Sources are `</s> X </s>`, of which nothing is asked;
    translations are `</s> Y`, their targets `Y </s>`."""

    source: Batch
    target: Batch

    @property
    def tokens(self) -> int:
        """Real tokens of both sides."""
        return self.source.tokens + self.target.tokens

    def to(self, device: torch.device) -> "TranslationBatch":
        """The same on another device."""
        return TranslationBatch(self.source.to(device), self.target.to(device))


class TranslationBatches(Batches[Pairs, TranslationBatch]):
    """Batches of at most `batch_tokens` on both sides together, padding included. Pairs with a sentence longer than the
    model's positions are left out: half a sentence is no translation."""

    def __init__(
        self, corpus: Aligned, lang2id: dict[str, int], max_positions: int, batch_tokens: int, seed: int
    ) -> None:
        self._corpus = corpus
        self._lang2id = lang2id
        self._batch_tokens = batch_tokens
        self._pairs = np.concatenate(
            [
                directed_pairs(corpus, lang2id, *direction, max_positions)
                for direction in permutations(sorted(corpus), 2)
            ]
        )
        super().__init__(seed)

    def plan(self, rng: np.random.Generator) -> list[Pairs]:
        groups = group_by_length(2 * self._pairs[:, 3], self._batch_tokens, rng, LENGTH_JITTER)
        return [self._pairs[group] for group in groups]

    def make(self, plan: Pairs, rng: np.random.Generator) -> TranslationBatch:
        return translation_batch(self._corpus, self._lang2id, plan)


def directed_pairs(corpus: Aligned, lang2id: dict[str, int], source: str, target: str, max_positions: int) -> Pairs:
    """(N, 4) source language id, target language id, row, length: all rows that both languages have. The length is that
    of the longer side with its two `</s>`."""
    lengths = np.stack([corpus[source].lengths, corpus[target].lengths])
    longer = lengths.max(0) + 2
    rows = np.flatnonzero((lengths.min(0) > 0) & (longer <= max_positions))
    ids = [np.full(len(rows), lang2id[lang]) for lang in (source, target)]
    return np.stack([*ids, rows, longer[rows]], axis=1)


def translation_batch(corpus: Aligned, lang2id: dict[str, int], pairs: Pairs) -> TranslationBatch:
    """The given entries of `directed_pairs`."""
    names = {index: lang for lang, index in lang2id.items()}
    sources = [corpus[names[int(source)]][row] for source, _, row, _ in pairs]
    targets = [corpus[names[int(target)]][row] for _, target, row, _ in pairs]
    return TranslationBatch(source_batch(sources, pairs[:, 0]), target_batch(targets, pairs[:, 1]))


def source_batch(sentences: list[Ids], lang_ids: npt.NDArray[np.int64]) -> Batch:
    """`</s> X </s>` of each sentence."""
    ids, mask = pad([np.concatenate([[EOS], sentence, [EOS]]) for sentence in sentences])
    langs = torch.from_numpy(lang_ids)[:, None].expand_as(ids)
    return Batch(ids=ids, targets=torch.full_like(ids, IGNORED), langs=langs, mask=mask)


def target_batch(sentences: list[Ids], lang_ids: npt.NDArray[np.int64]) -> Batch:
    """`</s> Y`, and as targets `Y </s>`, of each sentence."""
    ids, mask = pad([np.concatenate([[EOS], sentence]) for sentence in sentences])
    nexts, _ = pad([np.concatenate([sentence, [EOS]]) for sentence in sentences])
    langs = torch.from_numpy(lang_ids)[:, None].expand_as(ids)
    return Batch(ids=ids, targets=nexts.where(mask > 0, IGNORED), langs=langs, mask=mask)


def held_out_pairs(
    corpus: Aligned, lang2id: dict[str, int], source: str, target: str, max_positions: int, count: int
) -> Pairs:
    """At most `count` entries of `directed_pairs`, evenly spaced among the rows that the most languages have."""
    pairs = directed_pairs(corpus, lang2id, source, target, max_positions)
    if not len(pairs):
        raise CorpusError(f"no held-out sentence in both {source} and {target}")
    present = np.stack([text.lengths > 0 for text in corpus.values()]).sum(0)[pairs[:, 2]]
    pairs = pairs[present == present.max()]
    spaced: Pairs = pairs[np.unique(np.linspace(0, len(pairs) - 1, count).astype(int))]
    return spaced
