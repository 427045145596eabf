"""A tiny XLM with random weights and its own vocabulary: everything a served model needs, in milliseconds."""

import json
from pathlib import Path

import torch
from xlmstream_worker.xlm import XLMConfig, XLMWithLMHeadModel

SPECIALS = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{n}>" for n in range(10))]
LETTERS = "abcdefghijklmnopqrstuvwxyzéàü.,!?'<>/0123456789日本"
MERGES = ["t h", "th e</w>", "a n", "an d</w>", "i n", "in g</w>", "e r</w>", "o n</w>", "l o", "lo r", "lor d</w>"]
LANGUAGES = {"en": 0, "fr": 1}
POSITIONS = 96


def make_model(directory: Path, seed: int = 0, masked: bool = False, **serving: object) -> Path:
    """Write the directory of a causal or masked model; `serving` becomes its `xlmstream.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    pieces = [*SPECIALS, *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    pieces += [merge.replace(" ", "") for merge in MERGES]
    (directory / "vocab.json").write_text(json.dumps({piece: place for place, piece in enumerate(pieces)}))
    (directory / "merges.txt").write_text("".join(f"{merge} 1\n" for merge in MERGES))
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lowercase_and_remove_accent": False}))
    config = XLMConfig(
        vocab_size=len(pieces),
        emb_dim=32,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=POSITIONS,
        causal=not masked,
        n_langs=2,
        lang2id=LANGUAGES,
        id2lang={str(index): code for code, index in LANGUAGES.items()},
        # Large weights: attention matters, prompts continue differently, and the best token is seldom a tie.
        init_std=0.3,
        embed_init_std=0.5,
    )
    torch.manual_seed(seed)
    model = XLMWithLMHeadModel(config).eval()
    with torch.no_grad():
        # Special tokens are as unlikely as in a trained model.
        model.pred_layer.proj.bias[: len(SPECIALS)] -= 20.0
    model.save_pretrained(directory)
    if serving:
        (directory / "xlmstream.json").write_text(json.dumps(serving))
    return directory
