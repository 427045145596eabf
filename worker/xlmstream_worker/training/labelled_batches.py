"""Batches for fine-tuned heads: sequences with labels, for the language of a text and for the tags of its words."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from xlmstream_worker.xlm import XLMTokenizer

from .batches import EOS, IGNORED, Batch, Batches, group_by_length, pad
from .bpe import END_OF_WORD
from .corpus import SPLITS, Aligned, CorpusError, Ids, Row
from .names import ENTITIES, WORD, NameTable

# Half of the texts are cut to at most this many tokens: people ask for the language of a few words.
SNIPPET_TOKENS = 8
# Whose rules cut the words of a text where nobody states its language.
BASE_LANGUAGE = "en"


@dataclass(frozen=True)
class Example:
    """`</s> X </s>` and a label for each token, -100 where there is none; a label of the whole text stands first, and
    so do the places of the two ends of an answer. `lang_id`: the language, for a model that is told."""

    ids: Ids
    labels: Ids
    lang_id: int | None = None


class LabelledBatches(Batches[list[int], Batch]):
    """Examples of about equal length. With `snippets` half of them are cut to a few tokens."""

    def __init__(self, examples: Sequence[Example], batch_tokens: int, seed: int, *, snippets: bool = False) -> None:
        self._examples = examples
        self._lengths = np.array([len(example.ids) for example in examples], dtype=np.int64)
        self._batch_tokens = batch_tokens
        self._snippets = snippets
        super().__init__(seed)

    def plan(self, rng: np.random.Generator) -> list[list[int]]:
        return group_by_length(self._lengths, self._batch_tokens, rng)

    def make(self, plan: list[int], rng: np.random.Generator) -> Batch:
        chosen = [self._examples[index] for index in plan]
        if self._snippets:
            chosen = [_snippet(example, rng) if rng.integers(2) else example for example in chosen]
        return labelled_batch(chosen)


def labelled_batch(examples: Sequence[Example]) -> Batch:
    """Examples side by side, padded. Either all state their language or none does."""
    ids, mask = pad([example.ids for example in examples])
    lang_ids = [example.lang_id for example in examples if example.lang_id is not None]
    langs = torch.tensor(lang_ids)[:, None] * mask.long() if lang_ids else None
    targets = torch.full_like(ids, IGNORED)
    for place, example in enumerate(examples):
        targets[place, : len(example.labels)] = torch.from_numpy(example.labels.astype(np.int64))
    return Batch(ids=ids, targets=targets, langs=langs, mask=mask)


def language_examples(corpus: Aligned, lang2id: dict[str, int], max_positions: int) -> list[Example]:
    """Every sentence with its language as the label."""
    examples = []
    for lang in sorted(corpus):
        for index in np.flatnonzero(corpus[lang].lengths).tolist():
            words = corpus[lang][index][: max_positions - 2]
            examples.append(labelled(words, np.full(1, lang2id[lang])))
    return examples


def entity_examples(
    rows: Sequence[Row], languages: Sequence[str], tokenizer: XLMTokenizer, max_positions: int
) -> dict[str, dict[str, list[Example]]]:
    """Sentences with entity labels made by rules (see `names`), as {split: {language: examples}}. The first piece of
    each word carries its label; too long sentences are cut."""
    table, ids_of_languages = NameTable(rows, languages), lang_ids(tokenizer)
    splits: dict[str, dict[str, list[Example]]] = {split: {lang: [] for lang in languages} for split in SPLITS}
    for row in rows:
        for lang, text in row.texts.items():
            pieces = tokenizer.tokenize(text, lang=lang)[: max_positions - 2]
            labels = np.array([IGNORED, *_entity_labels(pieces, table[lang])])
            ids = np.array(tokenizer.convert_tokens_to_ids(pieces), dtype=np.int32)
            splits[row.split][lang].append(labelled(ids, labels, ids_of_languages[lang]))
    return splits


def lang_ids(tokenizer: XLMTokenizer) -> dict[str, int]:
    """The languages of a multilingual model's tokenizer by code."""
    if tokenizer.lang2id is None:
        raise CorpusError("the tokenizer knows no languages")
    return tokenizer.lang2id


def _entity_labels(pieces: Sequence[str], kinds: Mapping[str, str]) -> Iterator[int]:
    word: list[str] = []
    for piece in pieces:
        word.append(piece)
        if piece.endswith(END_OF_WORD) or len(word) == len(pieces):
            letters = WORD.search("".join(word).removesuffix(END_OF_WORD))
            yield ENTITIES.index(kinds.get(letters.group(), "O") if letters else "O")
            yield from [IGNORED] * (len(word) - 1)
            word = []
    yield from [IGNORED] * len(word)


def spelled(example: Example) -> list[tuple[int, ...]]:
    """The words of a labelled sentence as their pieces' ids, one for each label."""
    starts = np.flatnonzero(example.labels >= 0).tolist()
    ids = example.ids.tolist()
    return [tuple(ids[start:stop]) for start, stop in zip(starts, [*starts[1:], len(ids) - 1], strict=True)]


def labelled(words: Ids, labels: Iterable[int], lang_id: int | None = None) -> Example:
    """`</s> X </s>` of the ids X, with the first of its labels; the rest have none."""
    ids = np.concatenate([[EOS], words, [EOS]]).astype(np.int32)
    padded = np.full(len(ids), IGNORED, dtype=np.int32)
    given = np.fromiter(labels, dtype=np.int32)
    padded[: len(given)] = given
    return Example(ids, padded, lang_id)


def _snippet(example: Example, rng: np.random.Generator) -> Example:
    words = example.ids[1:-1]
    size = int(rng.integers(1, SNIPPET_TOKENS + 1))
    start = int(rng.integers(0, max(1, len(words) - size + 1)))
    return labelled(words[start : start + size], example.labels[:1])
