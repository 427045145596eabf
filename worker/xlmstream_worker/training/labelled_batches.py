"""Batches for fine-tuned heads: sequences with labels, for the language of a text and for the tags of its words."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from xlmstream_worker.xlm import XLMTokenizer

from .batches import EOS, IGNORED, Batch, Batches, group_by_length, pad
from .corpus import Aligned, CorpusError, Ids

# Universal Dependencies' universal parts of speech, alphabetical.
TAGS = (
    "ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM",
    "VERB", "X",
)  # fmt: skip
# Half of the texts are cut to at most this many tokens: people ask for the language of a few words.
SNIPPET_TOKENS = 8
HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class Example:
    """`</s> X </s>` and a label for each token, -100 where there is none; a label of the whole text stands first."""

    ids: Ids
    labels: Ids


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
    """Examples side by side, padded; languages not stated."""
    ids, mask = pad([example.ids for example in examples])
    targets = torch.full_like(ids, IGNORED)
    for place, example in enumerate(examples):
        targets[place, : len(example.labels)] = torch.from_numpy(example.labels.astype(np.int64))
    return Batch(ids=ids, targets=targets, mask=mask)


def language_examples(corpus: Aligned, lang2id: dict[str, int], max_positions: int) -> list[Example]:
    """Every sentence with its language as the label."""
    examples = []
    for lang in sorted(corpus):
        for index in np.flatnonzero(corpus[lang].lengths).tolist():
            words = corpus[lang][index][: max_positions - 2]
            examples.append(_example(words, np.full(1, lang2id[lang])))
    return examples


def _example(words: Ids, labels: Iterable[int]) -> Example:
    ids = np.concatenate([[EOS], words, [EOS]]).astype(np.int32)
    padded = np.full(len(ids), IGNORED, dtype=np.int32)
    given = np.fromiter(labels, dtype=np.int32)
    padded[: len(given)] = given
    return Example(ids, padded)


def _snippet(example: Example, rng: np.random.Generator) -> Example:
    words = example.ids[1:-1]
    size = int(rng.integers(1, SNIPPET_TOKENS + 1))
    start = int(rng.integers(0, max(1, len(words) - size + 1)))
    return _example(words[start : start + size], example.labels[:1])


def tag_examples(
    path: Path, tokenizer: XLMTokenizer, languages: Iterable[str], max_positions: int
) -> dict[str, dict[str, list[Example]]]:
    """Sentences with Universal Dependencies tags, as {"train" or "test": {language: examples}}.

    The file has a JSON object a line: `lang`, `id`, `tokens`, `upos`. The first piece of each word carries its tag.
    Every fifth sentence is held out, by its `id`, which translations share. Too long sentences are left out.
    """
    splits: dict[str, dict[str, list[Example]]] = {
        split: {lang: [] for lang in languages} for split in ("train", "test")
    }
    places: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            lang, words, tags = entry["lang"], entry["tokens"], [TAGS.index(tag) for tag in entry["upos"]]
            place = places.setdefault(entry["id"], len(places))
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{path}, line {number}: no sentence with tags: {error!r}") from error
        pieces: list[int] = []
        labels = [IGNORED]
        for word, tag in zip(words, tags, strict=True):
            cut = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word, lang=lang))
            labels.extend([tag, *[IGNORED] * (len(cut) - 1)] if cut else [])
            pieces.extend(cut)
        if lang in splits["train"] and len(pieces) <= max_positions - 2:
            split = "test" if place % HELD_OUT_EVERY == 0 else "train"
            splits[split][lang].append(_example(np.array(pieces, dtype=np.int32), labels))
    return splits
