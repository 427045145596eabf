"""Batches of the masked body: MLM on sentences, TLM on translation pairs, and pairs for translation ranking.

Sentences of about equal length share a batch, so that little is padding. Language embeddings are left out of every
other batch: the model must also read text whose language nobody stated.
Source: Lample & Conneau 2019 (arXiv:1901.07291), sections 3.2 and 3.3.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .batches import EOS, FIRST_WORD_ID, IGNORED, MASK, Batch, Batches, PairBatch, group_by_length, pad
from .corpus import Aligned, Ids

MASKED_SHARE = 0.15
# Of the masked tokens: replaced by the mask, by a random word, or left as they are. Devlin et al. 2018.
REPLACED_BY_MASK, REPLACED_BY_RANDOM = 0.8, 0.1


@dataclass(frozen=True)
class Item:
    """A sentence (`right` is -1) or a pair: languages by their index, and the row of the corpus."""

    left: int
    right: int
    row: int


@dataclass(frozen=True)
class Plan:
    """What one batch holds, and whether it states languages."""

    items: tuple[Item, ...]
    with_langs: bool


class _CorpusView:
    """Rows and lengths of an aligned corpus, languages by index in alphabetical order, cut to `limit` tokens each."""

    def __init__(self, corpus: Aligned, lang2id: dict[str, int], limit: int) -> None:
        names = sorted(corpus)
        self.sentences = [corpus[name] for name in names]
        self.lang_ids = [lang2id[name] for name in names]
        self.max_words = limit - 2
        # (languages, rows) token counts with both `</s>`; 0 where the row lacks the language.
        lengths = np.stack([np.minimum(text.lengths, self.max_words) for text in self.sentences])
        self.lengths: npt.NDArray[np.int64] = np.where(lengths > 0, lengths + 2, 0)

    def wrapped(self, lang: int, row: int) -> Ids:
        """`</s> X </s>`."""
        words = self.sentences[lang][row][: self.max_words]
        return np.concatenate([[EOS], words, [EOS]]).astype(np.int32)

    def random_pairs(self, rng: np.random.Generator, neighbours: int = 1) -> npt.NDArray[np.int64]:
        """(N, 3) left language, right language, row: for every row with a translation, two of its languages.

        Of each run of `neighbours` rows, those in the same languages are paired alike.
        """
        present = self.lengths > 0
        langs, count = present.shape
        draws = rng.random((langs, -(-count // neighbours))).repeat(neighbours, axis=1)[:, :count]
        draws = np.where(present, draws, 2.0)
        chosen = np.argsort(draws, axis=0)[:2]
        rows = np.flatnonzero(present.sum(0) >= 2)
        return np.stack([chosen[0, rows], chosen[1, rows], rows], axis=1)


class MaskedBatches(Batches[Plan, Batch]):
    """MLM on single sentences, or with `pairs` TLM: `</s> A </s> </s> B </s>`, positions and languages per side."""

    def __init__(
        self,
        corpus: Aligned,
        lang2id: dict[str, int],
        max_positions: int,
        batch_tokens: int,
        vocabulary_size: int,
        seed: int,
        *,
        pairs: bool = False,
    ) -> None:
        # Positions of a pair restart, yet models take no sequence longer than their positions.
        self._view = _CorpusView(corpus, lang2id, max_positions // 2 if pairs else max_positions)
        self._batch_tokens = batch_tokens
        self._vocabulary_size = vocabulary_size
        self._pairs = pairs
        super().__init__(seed)

    def plan(self, rng: np.random.Generator) -> list[Plan]:
        view = self._view
        if self._pairs:
            items = view.random_pairs(rng)
            lengths = view.lengths[items[:, 0], items[:, 2]] + view.lengths[items[:, 1], items[:, 2]]
        else:
            langs, rows = np.nonzero(view.lengths)
            items = np.stack([langs, np.full_like(langs, -1), rows], axis=1)
            lengths = view.lengths[langs, rows]
        groups = group_by_length(lengths, self._batch_tokens, rng)
        return [
            Plan(tuple(Item(*items[index].tolist()) for index in group), with_langs=bool(rng.integers(2)))
            for group in groups
        ]

    def make(self, plan: Plan, rng: np.random.Generator) -> Batch:
        view = self._view
        sides = [
            [(lang, view.wrapped(lang, item.row)) for lang in (item.left, item.right) if lang >= 0]
            for item in plan.items
        ]
        ids, mask = pad([np.concatenate([words for _, words in row]) for row in sides])
        positions, _ = pad(
            [np.concatenate([np.arange(len(words), dtype=np.int32) for _, words in row]) for row in sides]
        )
        langs, _ = pad(
            [np.concatenate([np.full(len(words), view.lang_ids[lang]) for lang, words in row]) for row in sides]
        )
        shown, targets = mask_tokens(ids.numpy(), self._vocabulary_size, rng)
        return Batch(
            ids=torch.from_numpy(shown),
            targets=torch.from_numpy(targets),
            langs=langs * mask.long() if plan.with_langs else None,
            positions=positions * mask.long() if self._pairs else None,
            mask=mask,
        )


def mask_tokens(
    ids: npt.NDArray[np.int64], vocabulary_size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What the model sees and what it must restore (-100 elsewhere), both (B, T).

    15 % of the words of the batch, at least one in each row that has any; special tokens are never chosen.
    """
    words = ids >= FIRST_WORD_ID
    draws = np.where(words, rng.random(ids.shape), 2.0)
    chosen = draws < MASKED_SHARE
    lowest = draws.argmin(1)
    chosen[np.arange(len(ids)), lowest] |= words[np.arange(len(ids)), lowest]
    fate = rng.random(ids.shape)
    shown = np.where(chosen & (fate < REPLACED_BY_MASK), MASK, ids)
    random_words = rng.integers(FIRST_WORD_ID, vocabulary_size, ids.shape)
    replaced = chosen & (fate >= REPLACED_BY_MASK) & (fate < REPLACED_BY_MASK + REPLACED_BY_RANDOM)
    return np.where(replaced, random_words, shown), np.where(chosen, ids, IGNORED)


class RankingBatches(Batches[Plan, PairBatch]):
    """Pairs in one direction a batch, so that the language gives no answer away. Language embeddings left out.

    Each run of `neighbours` rows of the corpus stays together: sentences of one story are harder to tell apart.
    """

    def __init__(
        self,
        corpus: Aligned,
        lang2id: dict[str, int],
        max_positions: int,
        batch_pairs: int,
        seed: int,
        *,
        neighbours: int = 1,
    ) -> None:
        self._view = _CorpusView(corpus, lang2id, max_positions)
        self._batch_pairs = batch_pairs
        self._neighbours = neighbours
        super().__init__(seed)

    def plan(self, rng: np.random.Generator) -> list[Plan]:
        pairs = self._view.random_pairs(rng, self._neighbours)
        runs = pairs[:, 2] // self._neighbours
        places = rng.permutation(runs.max(initial=0) + 1)
        pairs = pairs[np.argsort(places[runs], kind="stable")]
        plans: list[Plan] = []
        for left, right in sorted({(int(a), int(b)) for a, b, _ in pairs}):
            same = pairs[(pairs[:, 0] == left) & (pairs[:, 1] == right)]
            size = min(self._batch_pairs, len(same))
            for at in range(0, len(same) - size + 1, size):
                items = tuple(Item(*entry.tolist()) for entry in same[at : at + size])
                plans.append(Plan(items, with_langs=False))
        return [plans[index] for index in rng.permutation(len(plans))]

    def make(self, plan: Plan, rng: np.random.Generator) -> PairBatch:
        view = self._view
        left = sentence_batch([view.wrapped(item.left, item.row) for item in plan.items])
        right = sentence_batch([view.wrapped(item.right, item.row) for item in plan.items])
        return PairBatch(left, right)


def sentence_batch(rows: list[Ids]) -> Batch:
    """Sequences that nothing is asked of, padded, without languages."""
    ids, mask = pad(rows)
    return Batch(ids=ids, targets=torch.full_like(ids, IGNORED), mask=mask)
