"""Quality of a body on held-out text: perplexity, mask filling, translation retrieval. Every figure of a model card
is one of these numbers. Deterministic, float32."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xlmstream_worker.xlm import (
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMTokenizer,
    XLMWithLMHeadModel,
)

from .batches import EOS, FIRST_WORD_ID, IGNORED, MASK, causal_rows
from .bpe import END_OF_WORD
from .corpus import Aligned, Ids
from .labelled_batches import Example, labelled_batch
from .masked_batches import sentence_batch
from .objectives import hidden_states, language_model_loss, sentence_vectors

ROWS_PER_CALL = 32
MASK_SEED = 7

Item = TypeVar("Item")


@dataclass(frozen=True)
class Perplexity:
    """exp(mean negative log-likelihood) of held-out text: per token, `</s>` after each sentence included, and per word
    (all tokens' likelihood over the number of words), which does not depend on the vocabulary."""

    per_token: float
    per_word: float
    tokens: int


@torch.no_grad()
def perplexity(
    model: XLMWithLMHeadModel, tokenizer: XLMTokenizer, corpus: Aligned, lang: str, per_sentence: bool = False
) -> Perplexity:
    """Of all sentences of a language, each token counted once. Sentences come as they follow each other, as many as fit
    the model's positions (so the model has read about half of those before), or `per_sentence` each alone."""
    width = model.config.max_position_embeddings
    batches = causal_rows(corpus, lang, lang_ids(model)[lang], width, per_sentence)
    nats, tokens = 0.0, 0
    for batch in batches:
        asked = int((batch.targets >= 0).sum())
        nats += language_model_loss(model, batch).item() * asked
        tokens += asked
    ends = np.zeros(model.config.vocab_size, dtype=bool)
    ends[[index for token, index in tokenizer.encoder.items() if token.endswith(END_OF_WORD)]] = True
    words = int(ends[corpus[lang].ids].sum())
    return Perplexity(math.exp(nats / tokens), math.exp(nats / words), tokens)


@torch.no_grad()
def fill_mask_accuracy(
    model: XLMWithLMHeadModel, sentences: Sequence[Ids], tops: Sequence[int] = (1, 5)
) -> dict[int, float]:
    """One token of each sentence, drawn at random, is masked: how often it is among the best k. No language stated."""
    rng = np.random.default_rng(MASK_SEED)
    hits = dict.fromkeys(tops, 0)
    asked = 0
    for group in _groups(sentences):
        rows = [wrapped(ids, model.config.max_position_embeddings) for ids in group]
        places = [int(rng.choice(np.flatnonzero(row >= FIRST_WORD_ID))) for row in rows]
        hidden = [int(row[place]) for row, place in zip(rows, places, strict=True)]
        for row, place in zip(rows, places, strict=True):
            row[place] = MASK
        states = hidden_states(model.transformer, sentence_batch(rows))
        logits: Tensor = model.pred_layer(states[torch.arange(len(rows)), torch.tensor(places)])
        best = logits.topk(max(tops)).indices == torch.tensor(hidden)[:, None]
        for k in tops:
            hits[k] += int(best[:, :k].any(1).sum())
        asked += len(rows)
    return {k: count / asked for k, count in hits.items()}


@torch.no_grad()
def embed(model: XLMWithLMHeadModel, sentences: Sequence[Ids]) -> npt.NDArray[np.float32]:
    """(N, E) unit vectors, the mean over all tokens of the last layer; languages not stated."""
    limit = model.config.max_position_embeddings
    groups = [[wrapped(ids, limit) for ids in group] for group in _groups(sentences)]
    vectors = [sentence_vectors(model.transformer, sentence_batch(rows)).numpy() for rows in groups]
    return np.concatenate(vectors)


def retrieval_accuracy(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> float:
    """How often the nearest of all rows of `right` to row i of `left` is row i."""
    return float(((left @ right.T).argmax(1) == np.arange(len(left))).mean())


def label_accuracy(
    model: XLMForSequenceClassification | XLMForTokenClassification, examples: Sequence[Example]
) -> float:
    """How many of the labels the model's best guess hits."""
    labels, guesses = guessed_labels(model, examples)
    return float((labels == guesses).mean())


@torch.no_grad()
def guessed_labels(
    model: XLMForSequenceClassification | XLMForTokenClassification, examples: Sequence[Example]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(N,) each label of the examples, and the model's best guess for it."""
    labels, guesses = [], []
    for group in _groups(examples):
        batch = labelled_batch(group)
        found = model(batch.ids, attention_mask=batch.mask, langs=batch.langs, return_dict=True).logits.argmax(-1)
        asked = batch.targets[:, 0] if isinstance(model, XLMForSequenceClassification) else batch.targets
        labels.append(asked[asked != IGNORED].numpy())
        guesses.append(found[asked != IGNORED].numpy())
    return np.concatenate(labels), np.concatenate(guesses)


@dataclass(frozen=True)
class LabelQuality:
    """Precision, recall and their harmonic mean for one label; `count`: how often it is the right one."""

    precision: float
    recall: float
    f1: float
    count: int


def label_quality(labels: npt.NDArray[np.int64], guesses: npt.NDArray[np.int64], label: int) -> LabelQuality:
    """How well the guesses find one label. 0 where nothing was guessed or asked."""
    hits = int(((labels == label) & (guesses == label)).sum())
    guessed, count = int((guesses == label).sum()), int((labels == label).sum())
    precision, recall = hits / max(guessed, 1), hits / max(count, 1)
    return LabelQuality(precision, recall, 2 * hits / max(guessed + count, 1), count)


def snippets(examples: Sequence[Example], tokens: int) -> list[Example]:
    """The first `tokens` tokens of each text, under its label."""
    return [Example(np.append(example.ids[: tokens + 1], EOS), example.labels[:1]) for example in examples]


def held_out(corpus: dict[str, Aligned], languages: Sequence[str], count: int | None = None) -> dict[str, list[Ids]]:
    """The first `count` rows of valid and test, in this order, that every one of the languages has."""
    rows: dict[str, list[Ids]] = {lang: [] for lang in languages}
    for split in ("valid", "test"):
        texts = corpus[split]
        for index in range(len(texts[languages[0]])):
            sentence = {lang: texts[lang][index] for lang in languages}
            if all(len(ids) for ids in sentence.values()):
                for lang, ids in sentence.items():
                    rows[lang].append(ids)
    return {lang: sentences[:count] for lang, sentences in rows.items()}


def wrapped(ids: Ids, max_positions: int) -> Ids:
    """`</s> X </s>`, cut to the model's positions."""
    return np.concatenate([[EOS], ids[: max_positions - 2], [EOS]]).astype(np.int32)


def lang_ids(model: XLMWithLMHeadModel) -> dict[str, int]:
    """The languages of a model by code."""
    table: dict[str, int] = model.config.lang2id  # type: ignore[attr-defined]  # a field multilingual models have
    return table


def _groups(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[at : at + ROWS_PER_CALL] for at in range(0, len(items), ROWS_PER_CALL)]
