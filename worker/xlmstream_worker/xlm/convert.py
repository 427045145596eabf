"""From an original `.pth` file to a checkpoint directory."""

import json
from pathlib import Path

from .language_model import XLMWithLMHeadModel
from .original import read_original


def convert_original(source: str | Path, directory: str | Path) -> None:
    """Write `config.json`, `model.safetensors` and, if the file has a dictionary, `vocab.json` into `directory`.

    The merges are not in a `.pth` file: copy the BPE codes published beside it to `merges.txt`. Raises
    CheckpointError if `source` is no original language model.
    """
    target = Path(directory)
    XLMWithLMHeadModel.from_pretrained(source).save_pretrained(target)
    vocab = read_original(Path(source)).vocab
    if vocab:
        text = json.dumps(vocab, indent=2, sort_keys=True, ensure_ascii=False)
        (target / "vocab.json").write_text(text + "\n", encoding="utf-8")
