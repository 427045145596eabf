"""A small translation model that has learnt a toy parallel text by heart: English, French and German, any direction."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

import torch
from worker.toy import SPECIALS
from xlmstream_worker.xlm import XLMConfig, XLMEncoderDecoder, XLMEncoderDecoderConfig, XLMTokenizer

LANGUAGES = {"de": 0, "en": 1, "fr": 2}
POSITIONS = 80
END = 1
_PHRASES = {
    "en": [
        ["the king", "the woman", "a child", "my brother"],
        ["sees", "loves", "builds", "leaves"],
        ["a house .", "the city .", "the mountain .", "her garden ."],
    ],
    "fr": [
        ["le roi", "la femme", "un enfant", "mon frère"],
        ["voit", "aime", "construit", "quitte"],
        ["une maison .", "la ville .", "la montagne .", "son jardin ."],
    ],
    "de": [
        ["der König", "die Frau", "ein Kind", "mein Bruder"],
        ["sieht", "liebt", "baut", "verläßt"],
        ["ein Haus .", "die Stadt .", "den Berg .", "ihren Garten ."],
    ],
}
PAIRS = tuple(permutations(LANGUAGES, 2))


def parallel_text(count: int = 6) -> list[dict[str, str]]:
    """Texts of one to six sentences, each in every language."""
    rng = random.Random(4)
    texts = []
    for number in range(count):
        choices = [[rng.randrange(4) for _ in range(3)] for _ in range(1 + number)]
        texts.append(
            {
                language: " ".join(phrases[part][one] for choice in choices for part, one in enumerate(choice))
                for language, phrases in _PHRASES.items()
            }
        )
    return texts


LONGEST = max(parallel_text(), key=lambda text: len(text["fr"]))


def make_translator(directory: Path, **serving: object) -> Path:
    """Write a model directory; `serving` becomes its `xlmstream.json`. It trains: about 3 s of one core."""
    directory.mkdir(parents=True, exist_ok=True)
    words = sorted({word for text in parallel_text() for line in text.values() for word in line.split()})
    _write_tokenizer(directory, words)
    _trained(XLMTokenizer.from_pretrained(directory)).save_pretrained(directory)
    if serving:
        (directory / "xlmstream.json").write_text(json.dumps(serving))
    return directory


def _write_tokenizer(directory: Path, words: Iterable[str]) -> None:
    """Most words are one token."""
    pieces, merges = dict.fromkeys(SPECIALS), dict[str, None]()
    for word in words:
        symbols = [*word[:-1], word[-1] + "</w>"]
        pieces |= dict.fromkeys(symbols)
        for end in range(1, len(symbols)):
            merges[f"{''.join(symbols[:end])} {symbols[end]}"] = None
            pieces["".join(symbols[: end + 1])] = None
    (directory / "vocab.json").write_text(json.dumps({piece: place for place, piece in enumerate(pieces)}))
    (directory / "merges.txt").write_text("".join(f"{merge} 1\n" for merge in merges))
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lowercase_and_remove_accent": False}))


def _trained(tokenizer: XLMTokenizer) -> XLMEncoderDecoder:
    torch.manual_seed(3)
    settings = {
        "vocab_size": len(tokenizer.get_vocab()),
        "emb_dim": 32,
        "n_layers": 1,
        "n_heads": 4,
        "n_langs": len(LANGUAGES),
        "max_position_embeddings": POSITIONS,
        "lang2id": LANGUAGES,
        "id2lang": {str(index): code for code, index in LANGUAGES.items()},
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    config = XLMEncoderDecoderConfig(XLMConfig(**settings), XLMConfig(**settings, is_encoder=False, causal=True))
    model = XLMEncoderDecoder.from_config(config).train()

    def ids(text: dict[str, str], language: str) -> list[int]:
        found: list[int] = tokenizer(text[language], lang=language, add_special_tokens=False)["input_ids"]
        return found

    def padded(lists: list[list[int]], fill: int) -> torch.Tensor:
        width = max(map(len, lists))
        return torch.tensor([one + [fill] * (width - len(one)) for one in lists])

    pairs = [(text, *pair) for text in parallel_text() for pair in PAIRS]
    sources = [[END, *ids(text, source), END] for text, source, _ in pairs]
    targets = [ids(text, target) for text, _, target in pairs]
    given, asked = padded([[END, *one] for one in targets], 2), padded([[*one, END] for one in targets], -100)
    source, lengths = padded(sources, 2), torch.tensor(list(map(len, sources)))
    langs = torch.tensor([LANGUAGES[one] for _, one, _ in pairs])[:, None].expand_as(source)
    target_langs = torch.tensor([LANGUAGES[one] for _, _, one in pairs])[:, None].expand_as(given)
    target_lengths = torch.tensor([len(one) + 1 for one in targets])
    steps = 150
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        loss = model(source, given, lengths, langs, target_lengths, target_langs, labels=asked).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()
