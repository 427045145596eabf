"""Aligned text from tab-separated files, encoded into ids.

A file has a header line. Either its columns are named by language codes, one sentence and its translations a row,
with an optional `split` column (train, valid, test); or it has the columns `lang`, `<code>` and `translation`, one pair
a row, the code naming the other language. Rows without a split go to valid and test 1 in 50 each. Gzip is recognised
by the name's ending.
"""

import csv
import gzip
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SPLITS = ("train", "valid", "test")
EVERY_NTH_ROW_HELD_OUT = 50
# Files of sentences with their tags (see `treebank`), and of questions with their answers.
ANNOTATED = ".jsonl"

Ids = npt.NDArray[np.int32]
# (text, language) -> ids without special tokens
Encoder = Callable[[str, str], Sequence[int]]


class CorpusError(ValueError):
    """A corpus that cannot be read as described, or is too small; the message names the file where it can."""


@dataclass(frozen=True)
class Row:
    """A sentence in the languages it has, keyed by language code, and the split it belongs to."""

    split: str
    texts: dict[str, str]


def aligned_files(paths: Iterable[Path]) -> list[Path]:
    """Those of aligned text."""
    return [path for path in paths if path.suffix != ANNOTATED]


def read_rows(path: str | Path, languages: Iterable[str]) -> Iterator[Row]:
    """The rows of one file, in file order, with the texts of the given languages that are not empty."""
    file = Path(path)
    wanted = set(languages)
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        columns = table.fieldnames or ()
        pairs = "translation" in columns
        if not pairs and not wanted & set(columns):
            raise CorpusError(f"{file}: no column is named by one of the languages {', '.join(sorted(wanted))}")
        for number, record in enumerate(table):
            if pairs:
                record[record["lang"]] = record["translation"]
            split = record.get("split") or _split_of(number)
            if split not in SPLITS:
                raise CorpusError(f"{file}, row {number + 1}: split {split!r} is none of {', '.join(SPLITS)}")
            yield Row(split, {lang: record[lang] for lang in sorted(wanted) if record.get(lang)})


def _split_of(row: int) -> str:
    return {0: "valid", 1: "test"}.get(row % EVERY_NTH_ROW_HELD_OUT, "train")


@dataclass(frozen=True)
class Sentences:
    """N sentences of one language; number i is `ids[offsets[i]:offsets[i + 1]]`, empty where a row lacks it."""

    ids: Ids
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, sentences: Iterable[Sequence[int]]) -> "Sentences":
        """Pack sequences of ids."""
        arrays = [np.asarray(sentence, dtype=np.int32) for sentence in sentences]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, np.int32), *arrays]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Ids:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(N,) token counts."""
        return np.diff(self.offsets)


# Language code -> its sentences; row i of every language says the same.
Aligned = dict[str, Sentences]


def encode_files(
    paths: Sequence[str | Path], languages: Iterable[str], encode: Encoder, cache: Path | None = None
) -> dict[str, Aligned]:
    """All rows of all files as ids, per split. `cache` (.npz) is used if made from these files and this vocabulary."""
    langs = sorted(languages)
    mark = _fingerprint(paths, langs, encode)
    if cache is not None and cache.is_file():
        with np.load(cache) as arrays:
            if str(arrays["fingerprint"]) == mark:
                return {
                    split: {
                        lang: Sentences(arrays[f"{split}.{lang}.ids"], arrays[f"{split}.{lang}.offsets"])
                        for lang in langs
                    }
                    for split in SPLITS
                }
    collected: dict[str, dict[str, list[Sequence[int]]]] = {split: {lang: [] for lang in langs} for split in SPLITS}
    for path in paths:
        for row in read_rows(path, langs):
            for lang, sentences in collected[row.split].items():
                sentences.append(encode(row.texts[lang], lang) if lang in row.texts else ())
    corpus = {split: {lang: Sentences.of(rows) for lang, rows in texts.items()} for split, texts in collected.items()}
    if cache is not None:
        arrays = {"fingerprint": np.array(mark)}
        for split, aligned in corpus.items():
            for lang, text in aligned.items():
                arrays |= {f"{split}.{lang}.ids": text.ids, f"{split}.{lang}.offsets": text.offsets}
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, **arrays)
    return corpus


def _fingerprint(paths: Sequence[str | Path], languages: Sequence[str], encode: Encoder) -> str:
    """Changes with the files, the languages, and what the encoder does to a line of all sorts of characters."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes())
    for lang in languages:
        digest.update(lang.encode())
        digest.update(np.asarray(encode(_PROBE, lang), dtype=np.int32).tobytes())
    return digest.hexdigest()


_PROBE = "The children's 1,234 words: aujourd'hui l'été, Straßenbahn, ¿mañana? — creation of heavens and earth; König."
