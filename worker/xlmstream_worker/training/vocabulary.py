"""Make the tokenizer of a new model from text: words counted, a vocabulary learned, a tokenizer directory written."""

import json
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from xlmstream_worker.xlm import XLMTokenizer
from xlmstream_worker.xlm.rewriting import PlainText
from xlmstream_worker.xlm.words import WordCutter

from .bpe import SPECIAL_TOKENS, VocabularyError, learn_vocabulary

# Letters of western European languages, digits and punctuation: what users type though a corpus may lack it.
ALPHABET = (
    string.ascii_letters
    + string.digits
    + string.punctuation
    + "àâäáæçéèêëíìîïñóòôöœúùûüßÿÀÂÄÁÆÇÉÈÊËÍÌÎÏÑÓÒÔÖŒÚÙÛÜ¿¡«»–—‘’“”„…°€"
)


def count_words(sentences: Iterable[tuple[str, str]]) -> Counter[str]:
    """How often each word occurs in (text, language) pairs, cut as the tokenizer will cut them, case kept."""
    cutter = WordCutter(fold=False)
    words: Counter[str] = Counter()
    for text, lang in sentences:
        words.update(word.value for word in cutter.words(PlainText(text), lang))
    return words


def make_tokenizer(
    words: Counter[str], size: int, lang2id: dict[str, int], max_positions: int, directory: Path
) -> XLMTokenizer:
    """Learn `size` tokens from counted words and write a cased tokenizer, as transformers reads it, to `directory`.

    Its sequences are `</s> A </s>`, XLM's own form, which all training here uses.
    """
    learn_vocabulary(words, size, ALPHABET).save(directory)
    tokenizer = XLMTokenizer(
        directory / "vocab.json",
        directory / "merges.txt",
        bos_token="</s>",  # noqa: S106 - a token, not a password
        # Without a role now, but still no text.
        additional_special_tokens=("<s>", *SPECIAL_TOKENS[4:]),
        lang2id=lang2id,
        id2lang={str(index): lang for lang, index in lang2id.items()},
        do_lowercase_and_remove_accent=False,
        model_max_length=max_positions,
    )
    tokenizer.save_pretrained(directory)
    return tokenizer


def cut_tokenizer(source: Path, size: int, directory: Path) -> None:
    """Write the tokenizer of `source` to `directory`, cut to its first merges so that `size` tokens are left, in their
    old order; as it is, where it has no more than that. Raises VocabularyError if `size` does not hold its characters.
    """
    whole = XLMTokenizer.from_pretrained(source)
    encoder = dict(sorted(whole.encoder.items(), key=lambda entry: entry[1]))
    lines = (source / "merges.txt").read_text(encoding="utf-8").splitlines()
    joined = ["".join(line.split()[:2]) for line in lines]
    kept = set(encoder) - set(joined)
    if len(kept) > size:
        raise VocabularyError(f"a vocabulary of {size} cannot hold the {len(kept)} characters and special tokens")
    merges = 0
    while merges < len(joined) and len(kept | {joined[merges]}) <= size:
        kept.add(joined[merges])
        merges += 1
    whole.save_pretrained(directory)
    ids = {token: index for index, token in enumerate(token for token in encoder if token in kept)}
    (directory / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    (directory / "merges.txt").write_text("".join(f"{line}\n" for line in lines[:merges]), encoding="utf-8")


def encode_words(tokenizer: XLMTokenizer, text: str, lang: str) -> list[int]:
    """Ids of a text without special tokens."""
    return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, lang=lang))
