"""Examples for a tagger: sentences with parts of speech made by rules, or by people."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xlmstream_worker.xlm import XLMTokenizer

from .batches import IGNORED
from .bpe import END_OF_WORD
from .corpus import SPLITS, Row
from .labelled_batches import Example, labelled, lang_ids
from .tagged_text import Tagged, TagRules, alike, dressed
from .treebank import pieces_of, read_annotated
from .word_classes import TAGS

HELD_OUT_EVERY = 5
SEED = 3
# The share of words that training shows in shorter pieces than the vocabulary's, so that the tagger reads endings, and
# how many characters these have at most.
CUT_SHORTER, SHORTER = 0.3, (1, 2, 3, 4)


def annotated_examples(
    path: Path,
    tokenizer: XLMTokenizer,
    languages: Iterable[str],
    max_positions: int,
    lang2id: Mapping[str, int] | None = None,
) -> dict[str, dict[str, list[Example]]]:
    """The sentences of a treebank (see `treebank`), as {"train" or "test": {language: examples}}.

    The first piece of each word carries its tag. Every fifth sentence is held out, by its key, which translations
    share. Too long sentences are left out. `lang2id`: of a model that is told the language.
    """
    splits: dict[str, dict[str, list[Example]]] = {
        split: {lang: [] for lang in languages} for split in ("train", "test")
    }
    places: dict[str, int] = {}
    for sentence in read_annotated(path):
        place = places.setdefault(sentence.key, len(places))
        ids, tags = pieces_of(sentence, tokenizer)
        if sentence.lang in splits["train"] and len(ids) <= max_positions - 2:
            labels = np.full(len(ids) + 1, IGNORED)
            for first, tag in tags:
                labels[first + 1] = TAGS.index(tag)
            split = "test" if place % HELD_OUT_EVERY == 0 else "train"
            splits[split][sentence.lang].append(
                labelled(np.array(ids, dtype=np.int32), labels, lang2id[sentence.lang] if lang2id else None)
            )
    return splits


def ruled_examples(
    rules: TagRules, rows: Sequence[Row], tokenizer: XLMTokenizer, max_positions: int
) -> dict[str, dict[str, list[Example]]]:
    """Sentences with tags made by rules (see `tag_rules`), as {split: {language: examples}}. The first piece of each
    word carries its tag; too long sentences are cut. Those to train on are dressed up (see `dressed`), and some of
    their words are cut into shorter pieces."""
    rng = np.random.default_rng(SEED)
    tagged = rules.tag_rows(rows)
    splits: dict[str, dict[str, list[Example]]] = {split: {} for split in SPLITS}
    for split in ("valid", "test"):
        for lang, sentences in tagged[split].items():
            cutter = _Cutter(tokenizer, lang_ids(tokenizer)[lang])
            splits[split][lang] = [cutter.example(sentence, max_positions, None) for sentence in sentences]
    for lang, sentences in tagged["train"].items():
        others, cutter = alike(sentences), _Cutter(tokenizer, lang_ids(tokenizer)[lang])
        splits["train"][lang] = [
            cutter.example(dressed(sentence, others, rng), max_positions, rng) for sentence in sentences
        ]
    return splits


class _Cutter:
    """Tagged words of one language to pieces."""

    def __init__(self, tokenizer: XLMTokenizer, lang_id: int) -> None:
        self._tokenizer = tokenizer
        self._lang_id = lang_id
        self._ids: dict[str, list[int]] = {}

    def example(self, sentence: Tagged, max_positions: int, rng: np.random.Generator | None) -> Example:
        """`rng`: cut some words shorter."""
        ids: list[int] = []
        labels = [IGNORED]
        shorter = rng.random(len(sentence.words)) < CUT_SHORTER if rng else np.zeros(len(sentence.words), dtype=bool)
        for word, tag, short in zip(sentence.words, sentence.tags, shorter, strict=True):
            cut = self._shorter(word, int(rng.choice(SHORTER))) if rng and short else self._cut(word)
            ids += cut
            labels += [TAGS.index(tag), *[IGNORED] * (len(cut) - 1)]
        room = max_positions - 2
        return labelled(np.array(ids[:room], dtype=np.int32), labels[: room + 1], self._lang_id)

    def _cut(self, word: str) -> list[int]:
        found = self._ids.get(word)
        if found is None:
            pieces = self._tokenizer.tokenize(word, bypass_tokenizer=True)
            found = self._ids[word] = self._tokenizer.convert_tokens_to_ids(pieces)
        return found

    def _shorter(self, word: str, longest: int) -> list[int]:
        """The longest pieces of at most `longest` characters, from the left; as usual if some character is none."""
        vocabulary = self._tokenizer.encoder
        ids: list[int] = []
        at = 0
        while at < len(word):
            for end in range(min(at + longest, len(word)), at, -1):
                piece = word[at:end] + (END_OF_WORD if end == len(word) else "")
                if piece in vocabulary:
                    ids.append(vocabulary[piece])
                    at = end
                    break
            else:
                return self._cut(word)
        return ids
