"""From an original `.pth` file to a checkpoint directory."""

import json
from pathlib import Path

from .encoder_decoder import XLMEncoderDecoder
from .language_model import XLMWithLMHeadModel
from .original import is_translation_file, read_original, read_original_translation


def convert_original(source: str | Path, directory: str | Path) -> None:
    """Write `config.json`, `model.safetensors` and, if the file has a dictionary, `vocab.json` into `directory`.

    Language models and translation models convert alike. The merges are not in a `.pth` file: copy the BPE codes
    published beside it to `merges.txt`. Raises CheckpointError if `source` is no original checkpoint.
    """
    file, target = Path(source), Path(directory)
    if is_translation_file(file):
        XLMEncoderDecoder.from_pretrained(file).save_pretrained(target)
        vocab = read_original_translation(file).vocab
    else:
        XLMWithLMHeadModel.from_pretrained(file).save_pretrained(target)
        vocab = read_original(file).vocab
    if vocab:
        text = json.dumps(vocab, indent=2, sort_keys=True, ensure_ascii=False)
        (target / "vocab.json").write_text(text + "\n", encoding="utf-8")
